"""The first study's problems and vectors, out of any store of thoughts."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError, DataError
from thoughtlens.evals.probing.probes import require_groups
from thoughtlens.problems import CLASSES, SEED
from thoughtlens.sae import Cell

FIRST, CHECKED = "label_regex", "label_annotation"
N_THOUGHTS = 6


@dataclass(frozen=True, eq=False)
class Problems:
    """What is replayed: problems in the study's order, with all their vectors."""

    x: Float[Tensor, "n thoughts hooks d_in"]
    """At the store's thoughts in order, 0 the begin-of-thought position."""
    cells: list[Cell]
    """(hook, thought) of every vector, in the order of `x[0].flatten(0, 1)`."""
    hook_names: list[str]
    first: list[str]
    """Labels as the study made them."""
    checked: list[str | None]
    """Labels from the calculator annotations, or those of the generator; None where there are none."""
    groups: Int[np.ndarray, " n"]

    @property
    def n(self) -> int:
        """Number of problems."""
        return len(self.first)


def load_problems(store: ActivationStore, n_per_class: int) -> Problems:
    """Problems of `store` drawn as the study drew them: per class, in the order addition, multiplication,
    mixed, with its seed. A store of exactly these problems comes back in its own order.

    Raises:
        ConfigError: not a store of thoughts 0 to 6, or no operation labels.
        DataError: fewer than 20 problems of a class.
    """
    thoughts = list(store.own_thoughts)
    if thoughts[: N_THOUGHTS + 1] != list(range(N_THOUGHTS + 1)):
        raise ConfigError(
            f"The seed protocol needs thoughts 0 to {N_THOUGHTS} of every problem, {store.root} holds "
            f"{thoughts or 'no thoughts'}; extract a thought model with all its thoughts"
        )
    table = store.problems
    for name in ("operation", "group_id"):
        if name not in table.column_names:
            raise ConfigError(f"The seed protocol needs a column {name} in {store.root}; there is none")
    first = table[FIRST if FIRST in table.column_names else "operation"].to_pylist()
    checked = table[CHECKED if CHECKED in table.column_names else "operation"].to_pylist()
    lines = _draw(first, n_per_class)
    pick = lines.tolist()
    names = table["problem_id"].to_pylist(), table["group_id"].to_pylist()
    ids, groups = ([column[i] for i in pick] for column in names)
    row = _rows(store, lines)
    x = torch.stack(
        [store.read(hook, row.reshape(-1)).float().unflatten(0, row.shape) for hook in store.hook_names],
        dim=2,
    )
    return Problems(
        x,
        [(hook, thought) for thought in range(N_THOUGHTS + 1) for hook in store.hook_names],
        list(store.hook_names),
        [first[i] for i in pick],
        [checked[i] for i in pick],
        require_groups(ids, groups),
    )


def _draw(labels: list[str | None], n_per_class: int) -> Int[np.ndarray, " n"]:
    pools = {name: [i for i, own in enumerate(labels) if own == name] for name in CLASSES}
    short = {name: len(pool) for name, pool in pools.items() if len(pool) < 20}
    if short:
        raise DataError(
            f"The seed protocol needs 20 problems of each of {', '.join(CLASSES)}, got "
            f"{', '.join(f'{n} of {name}' for name, n in short.items())}; extract more problems"
        )
    n = min(n_per_class, *map(len, pools.values()))
    if all(len(pool) == n for pool in pools.values()):
        return np.array(sorted(i for pool in pools.values() for i in pool))
    rng = random.Random(SEED)
    return np.array([i for pool in pools.values() for i in rng.sample(pool, n)])


def _rows(store: ActivationStore, lines: np.ndarray) -> Int[np.ndarray, "n thoughts"]:
    row = np.full((len(store.problems), N_THOUGHTS + 1), -1)
    thought = store.thought_idx
    assert thought is not None
    kept = (thought >= 0) & (thought <= N_THOUGHTS)
    row[store.problem_idx[kept], thought[kept]] = np.flatnonzero(kept)
    if (row[lines] < 0).any():
        raise DataError(f"Expected every problem of {store.root} at every thought; extract the store again")
    return row[lines]
