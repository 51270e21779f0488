"""The strongest tokens of every state, and their tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import progress
from thoughtlens.latents.lens import tuned
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.readout import Readout
from thoughtlens.latents.lens.rows import Cell

COMMON = 10
"""Tokens listed for each lens, hook and thought."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What one lens reads at one hook and thought, strongest first."""

    lens: str
    cell: Cell
    tokens: Int[np.ndarray, "n k"]
    probabilities: Float[np.ndarray, "n k"]


@torch.no_grad()
def read_all(
    cfg: LensConfig,
    store: ActivationStore,
    readout: Readout,
    found: list[Cell],
    translators: dict[int, tuned.Translator],
) -> list[Reading]:
    """Every cell through every lens that it has."""
    readings = []
    with progress("lens: reading", len(found), "cells") as bar:
        for i, cell in enumerate(found):
            x = store.read(cell.hook_name, cell.rows)
            if "logit" in cfg.lenses:
                readings.append(_read(readout, "logit", cell, x, cfg.top_k))
            if i in translators:
                readings.append(_read(readout, "tuned", cell, translators[i](x), cfg.top_k))
            bar.advance(1)
    return readings


def _read(readout: Readout, lens: str, cell: Cell, x: Float[Tensor, "n d"], k: int) -> Reading:
    parts = [
        readout.logits(rows, cell.hook_name).softmax(-1).topk(min(k, readout.n_vocab))
        for rows in x.split(readout.chunk)
    ]
    tokens = torch.cat([p.indices for p in parts]).cpu().numpy()
    return Reading(lens, cell, tokens, torch.cat([p.values for p in parts]).float().cpu().numpy())


def readings_table(store: ActivationStore, readout: Readout, readings: list[Reading]) -> pa.Table:
    """One line a lens, state and rank."""
    ids = store.problems["problem_id"].combine_chunks()
    position = None if store.meta.kind == "thoughts" else store.rows["position"].to_numpy()
    texts = np.array(readout.texts, object)
    tables = []
    for r in readings:
        n, k = r.tokens.shape
        columns = {
            **_where(r, n * k),
            "problem_id": ids.take(pa.array(np.repeat(r.cell.line, k))),
            "rank": np.tile(np.arange(k, dtype=np.int32), n),
            "token_id": r.tokens.reshape(-1).astype(np.int32),
            "token": pa.array(texts[r.tokens.reshape(-1)], pa.string()).dictionary_encode(),
            "probability": r.probabilities.reshape(-1).astype(np.float32),
        }
        if position is not None:
            columns["position"] = np.repeat(position[r.cell.rows], k)
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).unify_dictionaries()


def tokens_table(readout: Readout, readings: list[Reading]) -> pa.Table:
    """The tokens that are strongest most often: one line a lens, hook, thought and rank."""
    tables = []
    for r in readings:
        counts = np.bincount(r.tokens[:, 0], minlength=readout.n_vocab)
        common = np.argsort(-counts, kind="stable")[:COMMON]
        common = common[counts[common] > 0]
        columns = {
            **_where(r, len(common)),
            "rank": np.arange(len(common), dtype=np.int32),
            "token_id": common.astype(np.int32),
            "token": pa.array([readout.texts[i] for i in common], pa.string()),
            "share": counts[common] / len(r.tokens),
            "n": np.full(len(common), len(r.tokens)),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).unify_dictionaries()


def _where(r: Reading, n: int) -> dict[str, pa.Array]:
    return {
        "lens": pa.array([r.lens] * n, pa.string()).dictionary_encode(),
        "hook_name": pa.array([r.cell.hook_name] * n, pa.string()).dictionary_encode(),
        "thought_idx": pa.array([r.cell.thought_idx] * n, pa.int32()),
    }
