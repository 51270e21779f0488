"""Train a CODI on generated problems, with its controls."""

from __future__ import annotations

import numpy as np
import torch

from thoughtlens.models.distill.losses import Batch
from thoughtlens.problems import arithmetic


class ArithmeticTask:
    """Problems of `problems.arithmetic` as tensors of a tiny model."""

    def __init__(self, p: int, word_offset: int, n_contexts: int = 48, n_queries: int = 6) -> None:
        self.symbols = arithmetic.Symbols(p)
        self.offset, self.n_contexts, self.n_queries = word_offset, n_contexts, n_queries
        self.kept: dict[tuple[int, int, int], Batch] = {}

    def batch(self, rng: np.random.Generator, step_weights: tuple[float, ...]) -> Batch:
        """Training problems; the rows of held-out paths have `keep` False."""
        d = arithmetic.draw(self.n_contexts, self.n_queries, rng, self.symbols, step_weights)
        held = arithmetic.held_out(d.start, d.path, d.n_steps)
        return self.tensors(d, ~held)

    def test(self, n: int, seed: int, n_steps: int) -> Batch:
        """`n` problems of `n_steps` steps on held-out paths (any path for one step)."""
        key = (n, seed, n_steps)
        if key not in self.kept:
            rng = np.random.default_rng(key)
            weights = [float(k == n_steps) for k in range(1, arithmetic.N_STEPS + 1)]
            d = arithmetic.draw(n * 14, 1, rng, self.symbols, weights)
            held = arithmetic.held_out(d.start, d.path, d.n_steps)[:, 0] | (n_steps == 1)
            rows = np.flatnonzero(held)[:n]
            d = arithmetic.Draw(*(getattr(d, f)[rows] for f in d.__dataclass_fields__))
            self.kept[key] = self.tensors(d, np.ones((len(rows), 1), dtype=bool))
        return self.kept[key]

    def tensors(self, d: arithmetic.Draw, keep: np.ndarray) -> Batch:
        """Token ids of drawn problems."""
        context, query = arithmetic.question_ids(d, self.symbols)
        values = d.values(self.symbols)
        cot = np.stack([self.symbols.op_ids(d.path), values], -1).reshape(keep.size, -1)
        return Batch(
            context=torch.from_numpy(context + self.offset),
            query=torch.from_numpy(query.reshape(keep.size, -1) + self.offset),
            cot=torch.from_numpy(cot + self.offset),
            n_steps=torch.from_numpy(d.n_steps.reshape(-1)),
            keep=torch.from_numpy(keep.reshape(-1)),
        )
