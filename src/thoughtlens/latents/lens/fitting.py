"""A translator for every layer and thought, and what it gains on problems that it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from thoughtlens.core import Parts, progress
from thoughtlens.latents.codes.readout import LensInput
from thoughtlens.latents.codes.translator import Translator
from thoughtlens.latents.lens import tuned
from thoughtlens.latents.lens.records import KLRow
from thoughtlens.latents.lens.rows import CellRows, cell_rows, group_numbers
from thoughtlens.models import ThoughtModel
from thoughtlens.numerics import bootstrap_means, doubts_of_means


def fit_all(given: LensInput, model: ThoughtModel, found: list[CellRows], parts: Parts) -> list[Translator]:
    """The translator of each cell; what lies in `parts` already is taken from there.

    Each is a part whose summary is its row of `kl.parquet`: the KL of both lenses on held-out rows.
    """
    cfg, store = given.cfg, given.store
    fitting = cell_rows(store, cfg.fit_split, cfg.n_fit, cfg.seed)
    lines = np.concatenate([found[0].line, fitting[0].line])
    finals: tuned.Finals | None = None
    with progress("lens: translators", len(found), "cells") as bar:
        for i in parts.todo(range(len(found))):
            finals = finals or tuned.finals(store, model, lines, batch_size=256)
            train, held_out = finals.pairs(fitting[i]), finals.pairs(found[i])
            translator = tuned.fit(given.readout, train, cfg)
            save_file({"weight": translator.weight, "bias": translator.bias}, _file(parts, i))
            kl = np.column_stack(tuned.divergences(given.readout, translator, train, held_out))
            parts.finish(i, _gain(given, found[i], kl, translator, n_fit=len(train)))
            bar.advance(1)
    return [Translator(**load_file(_file(parts, i))) for i in range(len(found))]


def _file(parts: Parts, i: int) -> Path:
    return parts.path(i, "safetensors")


def _gain(given: LensInput, cell: CellRows, kl: np.ndarray, translator: Translator, n_fit: int) -> KLRow:
    """`kl` [rows, 3]: of the logit lens, the tuned lens and the constant."""
    columns = np.column_stack([kl, kl[:, 0] - kl[:, 1]])
    groups = group_numbers(given.store)[cell.line]
    intervals = bootstrap_means(columns, groups, seed=given.cfg.seed)
    numbers: dict[str, float] = {}
    for name, one in zip(("kl_logit", "kl_tuned", "kl_constant", "kl_gain"), intervals, strict=True):
        numbers |= {name: one.estimate, f"{name}_low": one.low, f"{name}_high": one.high}
    assert cell.thought_idx is not None
    return KLRow(
        hook_name=cell.hook_name,
        thought_idx=cell.thought_idx,
        n=len(kl),
        n_fit=n_fit,
        is_identity=translator.is_identity,
        kl_gain_doubt=doubts_of_means(columns[:, -1:], groups)[0],
        **numbers,
    )
