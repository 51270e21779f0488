"""Rules of at most three conditions, read off a decision tree; what is printed is what is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtlens.latents.explain.columns import Columns, Table
from thoughtlens.latents.explain.fitting import sample, screen

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeClassifier

N_COLUMNS = 40
DEPTH = 3
MIN_FIRES = 3.0
"""Vectors that a leaf must stand for."""
SHOWN = 3


Condition = tuple[tuple[str, str], str]
"""What it is about and in which direction, and its words."""


@dataclass(frozen=True, eq=False)
class Rules:
    """A tree over a few binary columns, then all number columns: some of its leaves, and the rest as one."""

    columns: Int[np.ndarray, " columns"]
    tree: DecisionTreeClassifier
    shown: dict[int, float]
    """Leaves in which the latent fires more often than overall, those with the most fires first, and the
    share of the fitting vectors on which it does."""
    rest: float
    """The same share of all other leaves together."""

    @classmethod
    def of(cls, columns: Int[np.ndarray, " columns"], tree: DecisionTreeClassifier, base: float) -> Rules:
        """The rules of a fitted tree, given how often the latent fires overall."""
        own = tree.tree_
        leaves = np.flatnonzero(own.children_left == own.children_right)
        share = own.value[leaves, 0, -1] / own.value[leaves, 0].sum(1)
        fires, weight = share * own.weighted_n_node_samples[leaves], own.weighted_n_node_samples[leaves]
        order = np.lexsort((leaves, -fires))
        kept = order[share[order] > base][:SHOWN]
        others = np.setdiff1d(order, kept)
        rest = float(fires[others].sum() / max(weight[others].sum(), 1e-12))
        shown = dict(zip(leaves[kept].tolist(), share[kept].tolist(), strict=True))
        return cls(columns, tree, shown, rest)

    def predict(self, table: Table) -> Float[np.ndarray, " n"]:
        """Share of fires among the fitting vectors for which the same rule holds, or none does."""
        leaf = self.tree.apply(_matrix(table, self.columns))
        share = np.full(self.tree.tree_.node_count, self.rest)
        share[list(self.shown)] = list(self.shown.values())
        return share[leaf]

    def render(self, columns: Columns) -> str:
        """The rules that are shown, and how often it fires where none of them holds."""
        paths = self._paths(columns)
        shown = [
            f"{' and '.join(_shortest(paths[leaf])) or 'always'} (fires on {share:.1%})"
            for leaf, share in self.shown.items()
        ]
        return "; or ".join(shown) + f"; else on {self.rest:.2%}" if shown else "no rule foretells it"

    def _paths(self, columns: Columns) -> dict[int, list[Condition]]:
        """Every leaf with the conditions that lead to it."""
        tree, paths, waiting = self.tree.tree_, {}, [(0, list[Condition]())]
        while waiting:
            node, conditions = waiting.pop()
            if tree.children_left[node] == tree.children_right[node]:
                paths[node] = conditions
                continue
            no, yes = self._condition(int(tree.feature[node]), float(tree.threshold[node]), columns)
            waiting.append((int(tree.children_left[node]), [*conditions, no]))
            waiting.append((int(tree.children_right[node]), [*conditions, yes]))
        return paths

    def _condition(self, column: int, threshold: float, columns: Columns) -> tuple[Condition, Condition]:
        """The condition at or below the threshold, and above it."""
        if column >= len(self.columns):
            name = columns.number_names[column - len(self.columns)]
            return ((name, "<="), f"{name} <= {threshold:.9g}"), ((name, ">"), f"{name} > {threshold:.9g}")
        name = columns.names[self.columns[column]]
        return ((name, "not"), f"not [{name}]"), ((name, "is"), name)


def fit(table: Table, fires: Bool[np.ndarray, " n"], rng: np.random.Generator) -> Rules:
    """CART (Breiman et al. 1984) of depth 3 on the clearest columns."""
    from sklearn.tree import DecisionTreeClassifier  # here: it takes a second to load

    columns = screen(table, fires, N_COLUMNS)
    chosen = sample(table, fires, columns, rng)
    share = MIN_FIRES / float(chosen.weight.sum())
    tree = DecisionTreeClassifier(max_depth=DEPTH, min_weight_fraction_leaf=min(share, 0.5), random_state=0)
    tree.fit(_matrix(table, columns, chosen.rows), chosen.fires, sample_weight=chosen.weight)
    return Rules.of(columns, tree, float(fires.mean()))


def _shortest(conditions: list[Condition]) -> list[str]:
    """The conditions' words; of two bounds on one side of a number the later, tighter one."""
    return list(dict(conditions).values())


def _matrix(
    table: Table, columns: Int[np.ndarray, " columns"], rows: Int[np.ndarray, " rows"] | None = None
) -> Float[np.ndarray, "n all_columns"]:
    binary, numbers = table.by_column[:, columns], table.numbers
    if rows is not None:
        binary, numbers = table.binary[rows][:, columns], numbers[rows]
    return np.hstack([binary.toarray(), numbers]).astype(np.float32)
