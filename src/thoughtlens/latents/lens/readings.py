"""The strongest tokens of every state, and their tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import column_table, progress
from thoughtlens.latents.codes.readout import LensInput, Readout
from thoughtlens.latents.lens.records import ReadingRow, TokenRow
from thoughtlens.latents.lens.rows import CellRows
from thoughtlens.latents.lens.tuned import Translator

COMMON = 10
"""Tokens listed for each lens, hook and thought."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What one lens reads at one hook and thought, strongest first."""

    lens: str
    cell: CellRows
    tokens: Int[np.ndarray, "n k"]
    probabilities: Float[np.ndarray, "n k"]

    @property
    def place(self) -> dict[str, Any]:
        """Columns that say what was read, and how."""
        return {"lens": self.lens, "hook_name": self.cell.hook_name, "thought_idx": self.cell.thought_idx}


@torch.no_grad()
def read_all(given: LensInput, found: list[CellRows], translators: list[Translator]) -> list[Reading]:
    """Every cell through every lens that it has; without translators, none through the tuned lens."""
    cfg, readings = given.cfg, []
    with progress("lens: reading", len(found), "cells") as bar:
        for i, cell in enumerate(found):
            x = given.store.read(cell.hook_name, cell.rows)
            if "logit" in cfg.lenses:
                readings.append(_read(given.readout, "logit", cell, x, cfg.top_k))
            if translators:
                readings.append(_read(given.readout, "tuned", cell, translators[i](x), cfg.top_k))
            bar.advance(1)
    return readings


def _read(readout: Readout, lens: str, cell: CellRows, x: Float[Tensor, "n d"], k: int) -> Reading:
    shape = len(x), min(k, readout.n_vocab)
    tokens, probabilities = torch.empty(shape, dtype=torch.long), torch.empty(shape)
    # Parts kept one by one would lie in the way of the next logits: the process would grow by all of them.
    for at in torch.arange(len(x)).split(readout.chunk):
        found = readout.logits(x[at], cell.hook_name).softmax(-1).topk(shape[1])
        tokens[at], probabilities[at] = found.indices.cpu(), found.values.cpu()
    return Reading(lens, cell, tokens.numpy(), probabilities.numpy())


def readings_table(given: LensInput, readings: list[Reading]) -> pa.Table:
    """A row for each lens, state and rank."""
    store = given.store
    ids = store.problems["problem_id"].combine_chunks()
    position = None if store.meta.kind == "thoughts" else store.rows["position"].to_numpy()
    texts = np.array(given.readout.texts, object)
    tables = []
    for r in readings:
        n, k = r.tokens.shape
        columns = {
            "problem_id": ids.take(pa.array(np.repeat(r.cell.line, k))),
            "rank": np.tile(np.arange(k), n),
            "token_id": r.tokens.reshape(-1),
            "token": texts[r.tokens.reshape(-1)],
            "probability": r.probabilities.reshape(-1),
        }
        if position is not None:
            columns["position"] = np.repeat(position[r.cell.rows], k)
        tables.append(column_table(ReadingRow, r.place | columns))
    return pa.concat_tables(tables).unify_dictionaries()


def tokens_table(readout: Readout, readings: list[Reading]) -> pa.Table:
    """The tokens that are strongest most often: a row for each lens, hook, thought and rank."""
    tables = []
    for r in readings:
        counts = np.bincount(r.tokens[:, 0], minlength=readout.n_vocab)
        common = np.argsort(-counts, kind="stable")[:COMMON]
        common = common[counts[common] > 0]
        columns = {
            "rank": np.arange(len(common)),
            "token_id": common,
            "token": [readout.texts[i] for i in common],
            "share": counts[common] / len(r.tokens),
            "n": len(r.tokens),
        }
        tables.append(column_table(TokenRow, r.place | columns))
    return pa.concat_tables(tables).unify_dictionaries()
