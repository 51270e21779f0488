"""What in the vectors themselves looks like a slip of whoever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

SAME = 0.5
"""Share of rows from which on equal ones are no accident."""
FLAGGED = 0.1
"""Share of flagged rows from which on they are no outliers."""
ROUNDED = 0.01
"""Share of a row's length above which what rounding took is worth a word; of bfloat16 it is at most .004."""
UNIT = 1e-3
"""How far from 1 a length of rows that were normalised may be, for 16 bits."""


class Content:
    """Counts over the rows of a store, taken as they are written: they are as exact as the vectors."""

    def __init__(self, hook_names: list[str]) -> None:
        self.hook_names = hook_names
        self.zero = dict.fromkeys(hook_names, 0)
        self.unit = dict.fromkeys(hook_names, 0)
        self.lost = dict.fromkeys(hook_names, 0)
        self.equal = dict.fromkeys(combinations(hook_names, 2), 0)
        self.repeated = dict.fromkeys(hook_names, 0)
        self.n = self.n_followers = 0

    def add(self, acts: Mapping[str, Tensor], problem_id: np.ndarray, stored: torch.dtype) -> None:
        """Count rows of every hook, those of a problem one after the other.

        Args:
            acts: [rows, d] of each hook, as they were given.
            problem_id: Of each row.
            stored: The number format that they get.
        """
        follows = torch.from_numpy(problem_id[1:] == problem_id[:-1])
        self.n += len(problem_id)
        self.n_followers += int(follows.sum())
        for hook, x in acts.items():
            length, silent = x.float().norm(dim=1), (x == 0).all(1)
            self.zero[hook] += int(silent.sum())
            self.unit[hook] += int(((length - 1).abs() < UNIT).sum())
            if x.dtype != stored:
                self.lost[hook] += int(((x.to(stored).float() - x).norm(dim=1) > ROUNDED * length).sum())
            self.repeated[hook] += int(((x[1:] == x[:-1]).all(1) & follows & ~silent[1:]).sum())
        for one, other in self.equal:
            alike = (acts[one] == acts[other]).all(1) & (acts[one] != 0).any(1)
            self.equal[one, other] += int(alike.sum())

    def doubts(self, n_flagged: int, factor: float) -> list[str]:
        """What is to be said, a line for each kind."""
        said = [
            f"hooks {one} and {other} hold the same vectors in {n:,} of {self.n:,} rows: was one place "
            f"written under two names?"
            for (one, other), n in self.equal.items()
            if n > SAME * self.n
        ]
        for hook in self.hook_names:
            if n := self.zero[hook]:
                said.append(
                    f"hook {hook}: {n:,} of {self.n:,} rows are zeros throughout: were places filled up "
                    f"(padding)? Leave such rows out"
                )
            if n := self.lost[hook]:
                said.append(
                    f"hook {hook}: {n:,} of {self.n:,} rows change by more than {ROUNDED:.0%} of their "
                    f"length in the format that they are stored in, which their numbers are too small for; "
                    f"say --store-dtype float32, or scale them"
                )
            if self.n_followers and (n := self.repeated[hook]) > SAME * self.n_followers:
                said.append(
                    f"hook {hook}: {n:,} of {self.n_followers:,} rows repeat the row before them in their "
                    f"problem: was one step written several times?"
                )
            if self.unit[hook] == self.n:
                said.append(
                    f"hook {hook}: every row has length 1: rows that were normalised are no states of the "
                    f"model; an SAE learns them, and what puts them back or reads them as words goes wrong"
                )
        if n_flagged > FLAGGED * self.n:
            said.append(
                f"{n_flagged:,} of {self.n:,} rows are flagged as outliers, longer than {factor:g} times the "
                f"median, and left out by what follows: raise outlier_factor if they are none"
            )
        return said
