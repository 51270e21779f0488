"""Rules of at most three conditions, read off a decision tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.tree import DecisionTreeClassifier

from thoughtlens.latents.explain.columns import Columns, Table
from thoughtlens.latents.explain.fitting import sample, screen

N_COLUMNS = 40
DEPTH = 3
MIN_FIRES = 3.0
"""Vectors that a leaf must stand for."""
SHOWN = 3


Condition = tuple[tuple[str, str], str]
"""What it is about and in which direction, and its words."""


@dataclass(frozen=True, eq=False)
class Rules:
    """A tree over a few binary columns, then all number columns."""

    columns: Int[np.ndarray, " columns"]
    tree: DecisionTreeClassifier
    base: float

    def predict(self, table: Table) -> Float[np.ndarray, " n"]:
        """Share of fires among the fitting vectors for which the same conditions hold."""
        return np.asarray(self.tree.predict_proba(_matrix(table, self.columns)))[:, -1]

    def render(self, columns: Columns) -> str:
        """The leaves in which the latent fires more often than overall, the most frequent fires first."""
        tree = self.tree.tree_
        leaves = []
        for leaf, conditions in self._paths(columns):
            share = float(tree.value[leaf, 0, -1] / tree.value[leaf, 0].sum())
            if share > self.base:
                leaves.append((-share * float(tree.weighted_n_node_samples[leaf]), share, conditions))
        shown = [
            f"{' and '.join(_shortest(conditions)) or 'always'} (fires on {share:.1%})"
            for _, share, conditions in sorted(leaves)[:SHOWN]
        ]
        return "; or ".join(shown) or "no rule foretells it"

    def _paths(self, columns: Columns) -> list[tuple[int, list[Condition]]]:
        """Every leaf with the conditions that lead to it."""
        tree, paths, waiting = self.tree.tree_, [], [(0, [])]
        while waiting:
            node, conditions = waiting.pop()
            if tree.children_left[node] == tree.children_right[node]:
                paths.append((node, conditions))
                continue
            no, yes = self._condition(int(tree.feature[node]), float(tree.threshold[node]), columns)
            waiting.append((int(tree.children_left[node]), [*conditions, no]))
            waiting.append((int(tree.children_right[node]), [*conditions, yes]))
        return paths

    def _condition(self, column: int, threshold: float, columns: Columns) -> tuple[Condition, Condition]:
        """The condition at or below the threshold, and above it."""
        if column >= len(self.columns):
            name = columns.number_names[column - len(self.columns)]
            return ((name, "<="), f"{name} <= {threshold:.4g}"), ((name, ">"), f"{name} > {threshold:.4g}")
        name = columns.names[self.columns[column]]
        return ((name, "not"), f"not [{name}]"), ((name, "is"), name)


def fit(table: Table, fires: Bool[np.ndarray, " n"], rng: np.random.Generator) -> Rules:
    """CART (Breiman et al. 1984) of depth 3 on the clearest columns."""
    columns = screen(table, fires, N_COLUMNS)
    chosen = sample(table, fires, columns, rng)
    share = MIN_FIRES / float(chosen.weight.sum())
    tree = DecisionTreeClassifier(max_depth=DEPTH, min_weight_fraction_leaf=min(share, 0.5), random_state=0)
    tree.fit(_matrix(table, columns, chosen.rows), chosen.fires, sample_weight=chosen.weight)
    return Rules(columns, tree, float(fires.mean()))


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
