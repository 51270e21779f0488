"""Examples as a reader sees them: tokens around a token, or a problem and its thoughts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from thoughtlens.core import column_table
from thoughtlens.latents.codes.coded import Coded
from thoughtlens.latents.codes.examples import Examples, look_up, spread, windows
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.records import TextExample, ThoughtExample


def examples_table(cfg: InterpretConfig, coded: Coded, found: Examples) -> pa.Table:
    """A row for each example; for texts with its window of tokens, for thoughts with its problem's strip."""
    rows, problems, n_hooks = coded.rows, coded.problems, coded.fires.n_hooks
    place, hook = found.vector // n_hooks, found.vector % n_hooks
    line = pa.array(rows.problem[rows.unit[place]])
    common = {
        "member": coded.name,
        "latent": found.latent,
        **({} if found.decile is None else {"decile": found.decile}),
        "rank": found.rank,
        "value": found.value,
        "row": rows.row[place],
        "hook_name": pa.array(coded.hook_names, pa.string()).take(pa.array(hook)),
        "problem_id": problems["problem_id"].combine_chunks().take(line),
        "split": problems["split"].combine_chunks().take(line),
    }
    if coded.text:
        return column_table(TextExample, common | _text_windows(cfg, coded, found.latent, place, hook))
    text = next((c for c in ("question", "text") if c in problems.column_names), None)
    extra = {} if text is None else {"question": problems[text].combine_chunks().take(line)}
    return column_table(ThoughtExample, common | extra | _thought_strips(coded, found.latent, place))


def _text_windows(
    cfg: InterpretConfig, coded: Coded, latent: np.ndarray, center: np.ndarray, hook: np.ndarray
) -> dict[str, Any]:
    columns, n_hooks = coded.rows.columns, coded.fires.n_hooks
    start, stop = windows(center, columns.stretch, before=cfg.context_before, after=cfg.context_after)
    place, lengths = spread(start, stop), stop - start
    acts = look_up(coded.fires, np.repeat(latent, lengths), place * n_hooks + np.repeat(hook, lengths))
    tokens, which = np.unique(columns.token_id[place], return_inverse=True)
    texts = coded.token_names(tokens.tolist())
    names = pa.array([texts[t] for t in tokens.tolist()], pa.string())
    return {
        "position": columns.position[center],
        "peak": center - start,
        "token_ids": _lists(lengths, tokens[which]),
        "tokens": _lists(lengths, names.take(pa.array(which))),
        "acts": _lists(lengths, acts),
    }


def _thought_strips(coded: Coded, latent: np.ndarray, center: np.ndarray) -> dict[str, Any]:
    """The latent's activation on every (hook, thought) of the example's problem, hook-major."""
    rows, n_hooks = coded.rows, coded.fires.n_hooks
    unit = rows.unit[center]
    start, stop = rows.first[unit], rows.first[unit + 1]
    lengths = (stop - start) * n_hooks
    place = spread(np.repeat(start, n_hooks), np.repeat(stop, n_hooks))
    hook = np.repeat(np.tile(np.arange(n_hooks), len(unit)), np.repeat(stop - start, n_hooks))
    acts = look_up(coded.fires, np.repeat(latent, lengths), place * n_hooks + hook)
    thought = rows.columns.thought_idx
    names = pa.DictionaryArray.from_arrays(hook.astype(np.int32), pa.array(coded.hook_names, pa.string()))
    return {
        "thought_idx": thought[center],
        "strip_hook": _lists(lengths, names),
        "strip_thought": _lists(lengths, thought[place]),
        "acts": _lists(lengths, acts),
    }


def _lists(lengths: np.ndarray, values: np.ndarray | pa.Array) -> pa.Array:
    """A column of lists from their lengths and all their values."""
    offsets = pa.array(np.r_[0, np.cumsum(lengths)], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(values) if isinstance(values, np.ndarray) else values)
