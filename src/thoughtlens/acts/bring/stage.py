"""Make an activation store of arrays that somebody has already."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtlens.acts.bring.arrays import Vectors
from thoughtlens.acts.bring.cells import Cells, cells, digest_of
from thoughtlens.acts.bring.columns import Read, read
from thoughtlens.acts.bring.config import ImportConfig
from thoughtlens.acts.bring.content import Content
from thoughtlens.acts.bring.files import Named, flat, opened, parts_of, tidy
from thoughtlens.acts.bring.records import Example, ImportOutcome
from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import (
    DTYPES,
    ConfigError,
    DataError,
    MismatchError,
    Plan,
    Result,
    progress,
    run_stage,
    say,
    validate_config,
    warn,
)
from thoughtlens.models import CONVENTION

SCRATCH = "unpacked"
CALIBRATION_ROWS = 4096
CHUNK_BYTES = 1 << 25
N_EXAMPLES = 4
STORED = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
ALONE = "one state of every problem, called 0"


def import_activations(
    arrays: Mapping[str, Any] | Tensor | np.ndarray, out: str | Path, **settings: Any
) -> Result:
    """Make a store of arrays and columns in memory.

    Args:
        arrays: As a file of this stage: an array [rows, d] or [problems, hooks, thoughts, d], or a table with
            it and columns by name.
        out: The store's directory, `RUN/acts`.
        settings: Those of `ImportConfig`: `first_thought=1, columns={"problem": "idx"}`.

    Returns:
        The stage's result.

    Raises:
        DataError: what the arrays are cannot be told, or they do not fit; see `bring`.
    """
    table = tidy(flat({"activations": arrays} if isinstance(arrays, Tensor | np.ndarray) else dict(arrays)))
    cfg = validate_config(ImportConfig, {**settings, "content": digest_of(table)})
    return _bring(cfg, out, table)


def bring(cfg: ImportConfig, out: str | Path) -> Result:
    """Make a store of files with arrays and columns; an interrupted call continues.

    Raises:
        NotThereError: no such file.
        DataError: a format that is not known, objects that would run code, ragged rows, NaN, values too large
            for `store_dtype`, columns of another length, a problem in two splits, hooks of several widths.
    """
    if not cfg.files:
        raise ConfigError("files: expected at least one file of activations")
    return _bring(cfg, out, None)


def plan(cfg: ImportConfig) -> Plan:
    """Disk and time by the files' sizes."""
    size = sum(part.stat().st_size for file in cfg.files for part in parts_of(file))
    return Plan(rows=0, memory_bytes=6e8, disk_bytes=2.0 * size, seconds=2 + size / 5e7)


def _bring(cfg: ImportConfig, out: str | Path, table: Named | None) -> Result:
    out = Path(out)
    parts = [part for file in cfg.files for part in parts_of(Path(file).expanduser())]
    if twice := [part for part, n in Counter(part.resolve() for part in parts).items() if n > 1]:
        raise DataError(f"{twice[0]} is given twice: its rows would be in the store twice")
    try:
        return run_stage(
            "import",
            cfg,
            out,
            lambda tmp: _work(cfg, tmp, parts, table),
            inputs={f"file_{i}": part for i, part in enumerate(parts)},
        )
    except (DataError, MismatchError):
        shutil.rmtree(out.with_name(out.name + ".tmp"), ignore_errors=True)  # nothing half imported
        raise


def _work(cfg: ImportConfig, tmp: Path, parts: Sequence[Path], table: Named | None) -> ImportOutcome:
    scratch = tmp / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    files = [(part, opened(part, scratch)) for part in parts] if table is None else [(Path("arrays"), table)]
    found = read(files, cfg)
    made = cells(found, cfg)
    del files
    arrays = [Vectors(parts, name) for name, parts in found.arrays.items()]
    meta = _meta(cfg, found, made)
    writer = StoreWriter.begin(tmp, meta, cfg.shard_rows)
    medians = _medians(arrays, made)
    content = Content(made.hook_names)
    flagged = _write(cfg, writer, arrays, made, medians, content=content)
    writer.finish(made.problems)
    made.notes.extend(content.doubts(int(flagged.sum()), cfg.outlier_factor))
    outcome = _outcome(cfg, found, made, medians, flagged=flagged, examples=_examples(found, arrays, made))
    shutil.rmtree(scratch)
    return outcome


def _meta(cfg: ImportConfig, found: Read, made: Cells) -> StoreMeta:
    first = next(iter(found.arrays.values()))[0].x
    convention = CONVENTION if made.given is not None else ALONE
    return StoreMeta(
        kind=made.kind,  # pyright: ignore[reportArgumentType]
        model=cfg.model or "",
        hook_names=made.hook_names,
        unresolved=made.unresolved,
        d_in=dict.fromkeys(made.hook_names, found.d_in),
        dtype=cfg.store_dtype or _stored(first),  # pyright: ignore[reportArgumentType]
        thought_convention=convention if made.kind == "thoughts" else None,
    )


def _stored(x: Any) -> str:
    if isinstance(x.dtype, torch.dtype):
        return STORED.get(x.dtype, "float32")
    return "float16" if x.dtype.itemsize == 2 else "float32"


def _rows_at(arrays: Sequence[Vectors], made: Cells, rows: slice) -> dict[str, Tensor]:
    """Vectors of some rows of the store, by hook."""
    at = made.at[rows]
    if len(arrays) > 1:
        return {hook: x.take(at[:, 0]) for hook, x in zip(made.hook_names, arrays, strict=True)}
    together = arrays[0].take(at.reshape(-1))  # hooks of a thought often lie side by side
    return {hook: together[h :: len(made.hook_names)] for h, hook in enumerate(made.hook_names)}


def _require_finite(arrays: Sequence[Vectors], made: Cells, start: int, acts: Mapping[str, Tensor]) -> None:
    for h, (hook, x) in enumerate(acts.items()):
        if not torch.stack(torch.aminmax(x)).isfinite().all():
            i = int((~x.isfinite()).any(dim=1).nonzero()[0, 0])
            what, row = "NaN" if x[i].isnan().any() else "infinite numbers", start + i
            several = len(arrays) > 1
            where = arrays[h if several else 0].where(int(made.at[row, 0 if several else h]))
            problem = made.columns["problem_id"][row]
            raise DataError(
                f"{what} in {where} (problem {problem!r}, hook {hook}); leave such rows out, or mend them"
            )


def _medians(arrays: Sequence[Vectors], made: Cells) -> dict[str, float]:
    first = _rows_at(arrays, made, slice(0, CALIBRATION_ROWS))
    norms = {hook: x.float().norm(dim=1) for hook, x in first.items()}
    return {hook: float(norm[norm.isfinite()].median()) if len(norm) else 0.0 for hook, norm in norms.items()}


def _write(
    cfg: ImportConfig,
    writer: StoreWriter,
    arrays: Sequence[Vectors],
    made: Cells,
    medians: Mapping[str, float],
    *,
    content: Content,
) -> np.ndarray:
    """Write what is not there yet, and count what all rows are.

    Returns:
        Whether each row is an outlier.
    """
    width = max(writer.meta.d_in.values())
    step = max(1, CHUNK_BYTES // (4 * width * len(made.hook_names)))
    flagged, done = np.zeros(len(made.at), bool), writer.rows_done
    with progress("import", len(made.at)) as bar:
        for start in range(0, len(made.at), step):
            rows = slice(start, min(start + step, len(made.at)))
            acts = _rows_at(arrays, made, rows)
            far = [x.float().norm(dim=1) > cfg.outlier_factor * medians[hook] for hook, x in acts.items()]
            flagged[rows] = torch.stack(far).any(0).numpy()
            _require_finite(arrays, made, start, acts)
            content.add(acts, made.columns["problem_id"][rows], DTYPES[writer.meta.dtype])
            new = slice(max(start, done), rows.stop)
            if new.start < new.stop:
                columns = {name: values[new] for name, values in made.columns.items()}
                acts = {hook: x[new.start - start :] for hook, x in acts.items()}
                writer.append(acts, columns | {"outlier": flagged[new]})
            bar.advance(rows.stop - rows.start)
    return flagged


def _examples(found: Read, arrays: Sequence[Vectors], made: Cells) -> list[Example]:
    """The first rows of the store, at hooks in turn, and what they were taken for."""
    split = dict(
        zip(made.problems["problem_id"].to_pylist(), made.problems["split"].to_pylist(), strict=True)
    )
    names = list(found.arrays)
    examples = []
    for i in range(min(N_EXAMPLES, len(made.at))):
        h = i % len(made.hook_names)
        x = _rows_at(arrays, made, slice(i, i + 1))[made.hook_names[h]]
        problem = str(made.columns["problem_id"][i])
        examples.append(
            Example(
                array=names[h] if len(names) > 1 else names[0],
                row=int(made.at[i, 0 if len(names) > 1 else h]),
                problem_id=problem,
                hook_name=made.hook_names[h],
                thought_given=None if made.given is None else int(made.given[i]),
                thought_idx=int(made.columns["thought_idx"][i]) if made.kind == "thoughts" else None,
                split=split[problem],
                norm=float(x.float().norm()),
            )
        )
        one = examples[-1]
        given = "" if one.thought_given is None else f", number {one.thought_given} in the files"
        count = "" if one.thought_idx is None else f", thought {one.thought_idx} here"
        say(
            f"row {one.row} of {one.array}: problem {problem}, hook {one.hook_name}{given}{count}, "
            f"split {one.split}, norm {one.norm:.4g}"
        )
    return examples


def _splits(made: Cells) -> dict[str, str]:
    """The split of every problem."""
    ids, splits = (made.problems[name].to_pylist() for name in ("problem_id", "split"))
    return dict(zip(ids, splits, strict=True))


def _outcome(
    cfg: ImportConfig,
    found: Read,
    made: Cells,
    medians: dict[str, float],
    *,
    flagged: np.ndarray,
    examples: list[Example],
) -> ImportOutcome:
    table, split_of = made.problems, _splits(made)
    rows = Counter({split: 0 for split in ("train", "validation", "test")})
    for problem, n in Counter(made.columns["problem_id"].tolist()).items():
        rows[split_of[problem]] += n
    index = made.columns["thought_idx" if made.kind == "thoughts" else "position"]
    at_first = int((flagged & (index == 0)).sum())
    warnings = [*made.notes, *_warnings(cfg, found, made, medians)]
    warnings += [f"split {split} has no rows" for split, n in rows.items() if not n]
    for line in warnings:
        warn(line)
    return ImportOutcome(
        kind=made.kind,
        n_rows=len(made.at),
        n_problems=len(table),
        n_groups=len(table["group_id"].unique()),
        rows_by_split=dict(rows),
        hook_names=made.hook_names,
        d_in=dict.fromkeys(made.hook_names, found.d_in),
        n_outliers=int(flagged.sum()),
        n_outliers_at_position_0=at_first if made.kind == "text" else None,
        n_outliers_at_thought_idx_0=at_first if made.kind == "thoughts" else None,
        median_norm=medians,
        n_norm_rows=min(CALIBRATION_ROWS, len(made.at)),
        layout=found.layout,
        read_as=found.named,
        splits_made=made.splits_made,
        unresolved=made.unresolved,
        examples=examples,
        definitions={
            "n_outliers": f"rows with |x| > {cfg.outlier_factor} x median_norm at any hook",
            "median_norm": f"median of |x| over the first {CALIBRATION_ROWS} rows, by hook",
            "thought_idx": CONVENTION if made.given is not None else ALONE,
            "thought_given": "the number that the files give it",
            "splits_made": "by a hash of group_id and seed, where the files give no split",
        },
        warnings=warnings,
    )


def _warnings(cfg: ImportConfig, found: Read, made: Cells, medians: Mapping[str, float]) -> list[str]:
    """What nobody said, and what follows from that."""
    lines = [f"{hook}: most of the first vectors are zeros" for hook, norm in medians.items() if not norm]
    if "problem" not in {*found.named, *found.axes}:
        lines.append(
            "no column says which problem a row belongs to: every row counts as a problem of its own"
        )
    if made.splits_made:
        lines.append(f"the files give no split: groups were divided by a hash, seed {cfg.seed}")
    if made.unresolved:
        first = made.unresolved[0]
        lines.append(
            f"nobody said which places of a model {', '.join(made.unresolved)} are: what runs the model is "
            f"left out; --hook {first}=layers.3:out says it"
        )
    return lines
