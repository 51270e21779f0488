"""A translator for every layer and thought, and what it gains on problems that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import progress, read_json, write_json
from thoughtlens.latents.lens import tuned
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.readout import Readout
from thoughtlens.latents.lens.rows import Cell, cells, group_numbers
from thoughtlens.models.thought.thoughts import ThoughtModel
from thoughtlens.numerics.stats.intervals import bootstrap_means


def fit_all(
    cfg: LensConfig,
    store: ActivationStore,
    model: ThoughtModel,
    readout: Readout,
    found: list[Cell],
    parts: Path,
) -> tuple[dict[int, tuned.Translator], list[dict[str, Any]]]:
    """The translator of each cell by its number, and a row for each: KL of both lenses on held-out rows.

    What lies in `parts` already is taken from there.
    """
    fitting = cells(store, cfg.fit_split, cfg.n_fit, cfg.seed)
    lines = np.concatenate([found[0].line, fitting[0].line])
    finals: tuned.Finals | None = None
    translators, gains = {}, []
    with progress("lens: translators", len(found), "cells") as bar:
        for i, (held_out, train) in enumerate(zip(found, fitting, strict=True)):
            file = parts / f"{i}.safetensors"
            if not (parts / f"{i}.json").is_file():
                finals = finals or tuned.finals(store, model, lines, batch_size=256)
                x, final = store.read(train.hook_name, train.rows), finals.of(train)
                translator = tuned.fit(readout, train.hook_name, x, final, finals.hook_name, cfg)
                save_file({"weight": translator.weight, "bias": translator.bias}, file)
                write_json(
                    parts / f"{i}.json", _gain(cfg, store, readout, held_out, finals, final, translator)
                )
            translators[i] = tuned.Translator(**load_file(file))
            gains.append(read_json(parts / f"{i}.json"))
            bar.advance(1)
    return translators, gains


def _gain(
    cfg: LensConfig,
    store: ActivationStore,
    readout: Readout,
    cell: Cell,
    finals: tuned.Finals,
    fitted: torch.Tensor,
    translator: tuned.Translator,
) -> dict[str, Any]:
    x, final = store.read(cell.hook_name, cell.rows), finals.of(cell)
    plain = tuned.identity(x.shape[1])
    kl = [
        tuned.divergence(readout, t, cell.hook_name, x, final, finals.hook_name).numpy()
        for t in (plain, translator)
    ]
    kl += [tuned.from_constant(readout, fitted, final, finals.hook_name).numpy(), kl[0] - kl[1]]
    intervals = bootstrap_means(np.column_stack(kl), group_numbers(store)[cell.line], seed=cfg.seed)
    row: dict[str, Any] = {"hook_name": cell.hook_name, "thought_idx": cell.thought_idx, "n": len(x)}
    row |= {"n_fit": len(fitted), "is_identity": not bool(translator.weight.any() or translator.bias.any())}
    names = ("kl_logit", "kl_tuned", "kl_constant", "kl_gain")
    for name, interval in zip(names, intervals, strict=True):
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def save_translators(found: list[Cell], translators: dict[int, tuned.Translator], file: Path) -> None:
    """One safetensors file: `layers.8:out/3/weight` [d, d] and `.../bias` [d] of hook and thought."""
    tensors = {}
    for i, translator in translators.items():
        place = f"{found[i].hook_name}/{found[i].thought_idx}"
        tensors |= {f"{place}/weight": translator.weight, f"{place}/bias": translator.bias}
    save_file(tensors, file)
