"""From what each edge gave to a graph: effects, what flows through them, which are shown, and how surely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Bool, Float

from thoughtlens.numerics import bootstrap_ratio, resampled
from thoughtlens.tracing.circuit.config import CircuitConfig
from thoughtlens.tracing.circuit.paths import Edge
from thoughtlens.tracing.circuit.records import EdgeRow

COLUMNS = ("whole", "moved", "at_random", "slope", "astray", "size")
"""Of `Tried`, whose sums over a group of problems are kept."""
SHUFFLED = "shuffled"
PRESENT = 0.02
"""`varies` below which a variable does not reach a target."""
PASSED = 0.05
"""Flow from which on an edge counts in what flows through its source, shown or not."""
GUARD = 0.05
"""What an edge must turn its target by, times what flows on, to be shown though it carries little."""
CARRIES, GUARDS = "carries", "guards"
N_RESAMPLES = 500
N_GRAPHS = 200


class Columns(NamedTuple):
    """Sums over problems of what each edge gave, perhaps once per resample."""

    whole: Float[np.ndarray, "... edges"]
    moved: Float[np.ndarray, "... edges"]
    gain: Float[np.ndarray, "... edges"]
    """What was moved less what a random change moves."""
    squares: Float[np.ndarray, "... edges"]
    """Sum over groups of the gain's square."""
    turned: Float[np.ndarray, "... edges"]
    """The size of the change in any direction, less that of a random change."""
    turned_squares: Float[np.ndarray, "... edges"]


class Verdicts(NamedTuple):
    """Of each edge, perhaps once per resample."""

    p: Float[np.ndarray, "... edges"]
    q: Float[np.ndarray, "... edges"]
    flow: Float[np.ndarray, "... edges"]
    carries: Bool[np.ndarray, "... edges"]
    guards: Bool[np.ndarray, "... edges"]


@dataclass(frozen=True, eq=False)
class Trials:
    """Edges in the order of tables, and what each gave by group of problems."""

    edges: list[tuple[str, Edge]]
    sums: Float[np.ndarray, "groups edges columns"]
    n: int
    """Problems."""
    width: np.ndarray
    """By target, coordinates; the answer stands last."""

    @classmethod
    def of(
        cls, found: Mapping[tuple[str, Edge], Float[np.ndarray, "groups columns"]], n: int, width: np.ndarray
    ) -> Trials:
        """Without edges into targets that a variable does not move at all."""
        edges = [
            (variable, edge)
            for (variable, edge), sums in found.items()
            if sums[:, 0].sum() >= 1e-9 * n * width[edge.target]
        ]
        edges.sort(key=lambda one: (one[0], one[1].target, one[1].source, one[1].route))
        n_groups = len(next(iter(found.values()), ()))
        stacked = [found[one] for one in edges] or [np.zeros((n_groups, len(COLUMNS)))][:0]
        sums = np.stack(stacked, 1) if stacked else np.zeros((n_groups, 0, len(COLUMNS)))
        return cls(edges, sums, n, width)

    def shuffled(self) -> Trials:
        """With what each edge gave of another problem's change: nothing should be left."""
        sums = self.sums.copy()
        sums[..., 1], sums[..., 2], sums[..., 5] = sums[..., 4], 0, 0
        return Trials(self.edges, sums, self.n, self.width)

    def rows(self, cfg: CircuitConfig, arm: str) -> list[EdgeRow]:
        """The table, with what flows through each edge to the answer."""
        if not self.edges:
            return []
        by_group = self._by_group()
        totals = Columns(*by_group.sum(0))
        found, again = self._judged(cfg, totals), self._again(cfg, by_group)
        slope, chance = (self.sums[..., column].sum(0) for column in (3, 2))
        varies, groups = totals.whole / self.n / self._widths, np.arange(len(self.sums))
        out = []
        for j, (variable, edge) in enumerate(self.edges):
            whole, gain = by_group[:, 0, j], by_group[:, 2, j]
            effect = bootstrap_ratio(gain, whole, groups, n_resamples=N_RESAMPLES, seed=cfg.seed)
            out.append(
                EdgeRow(
                    arm=arm,
                    variable=variable,
                    source=edge.source,
                    target="answer" if edge.target == len(self.width) - 1 else f"thought {edge.target}",
                    route=edge.route,
                    varies=float(varies[j]),
                    attribution=float(slope[j] / totals.whole[j]),
                    effect=effect.estimate,
                    low=effect.low,
                    high=effect.high,
                    at_random=float(chance[j] / totals.whole[j]),
                    p=float(found.p[j]),
                    q=float(found.q[j]),
                    flow=float(found.flow[j]),
                    shown=bool(found.carries[j] | found.guards[j]),
                    n=self.n,
                    stability=float(again[j]),
                    turned=float(totals.turned[j] / totals.whole[j]),
                    does=CARRIES if found.carries[j] else GUARDS if found.guards[j] else None,
                )
            )
        return out

    @property
    def _widths(self) -> np.ndarray:
        return self.width[[edge.target for _, edge in self.edges]]

    def _by_group(self) -> Float[np.ndarray, "groups columns edges"]:
        whole, moved, chance = (self.sums[..., column] for column in range(3))
        gain, turned = moved - chance, self.sums[..., 5]
        return np.stack([whole, moved, gain, gain**2, turned, turned**2], 1)

    def _again(self, cfg: CircuitConfig, by_group: np.ndarray) -> Float[np.ndarray, " edges"]:
        """The share of graphs of resampled problems that show each edge."""
        n_groups, n_columns, n_edges = by_group.shape
        drawn = resampled(by_group.reshape(n_groups, -1), N_GRAPHS, cfg.seed)
        parts = drawn.reshape(N_GRAPHS, n_columns, n_edges).swapaxes(0, 1)
        found = self._judged(cfg, Columns(*parts))
        return (found.carries | found.guards).mean(0)

    def _judged(self, cfg: CircuitConfig, totals: Columns) -> Verdicts:
        n_groups = len(self.sums)
        p = _p(totals.gain, totals.squares, n_groups)
        q, turned_q = (
            scipy.stats.false_discovery_control(one, axis=-1)
            for one in (p, _p(totals.turned, totals.turned_squares, n_groups))
        )
        there = totals.whole / self.n / self._widths >= PRESENT
        sure, turns = (q <= cfg.q) & (totals.gain > 0) & there, (turned_q <= cfg.q) & there
        flow, carries, guards = np.zeros_like(p), np.zeros(p.shape, bool), np.zeros(p.shape, bool)
        share, turned = (
            np.divide(one, totals.whole, out=np.zeros_like(p), where=totals.whole > 0)
            for one in (totals.moved, totals.turned)
        )
        through: dict[tuple[str, str], np.ndarray | float] = {}
        for j in sorted(range(len(self.edges)), key=lambda j: -self.edges[j][1].target):
            variable, edge = self.edges[j]
            at_end = edge.target == len(self.width) - 1
            onward = 1.0 if at_end else through.get((variable, f"thought {edge.target}"), 0.0)
            flow[..., j] = share[..., j] * onward
            carries[..., j] = sure[..., j] & (flow[..., j] >= cfg.least)
            guards[..., j] = ~carries[..., j] & turns[..., j] & (turned[..., j] * onward >= GUARD)
            before = through.get((variable, edge.source), 0.0)
            passed = sure[..., j] & (flow[..., j] >= min(cfg.least, PASSED))
            through[variable, edge.source] = before + np.where(passed, flow[..., j], 0.0)
        return Verdicts(p, q, flow, carries, guards)


def _p(total: np.ndarray, squares: np.ndarray, n_groups: int) -> np.ndarray:
    """Student's t of a mean over groups against 0, two-sided, from its sum and that of its squares."""
    if n_groups < 2:
        return np.ones_like(total)
    mean = total / n_groups
    variance = (squares / n_groups - mean**2).clip(0) / (n_groups - 1)
    t = np.divide(np.abs(mean), np.sqrt(variance), out=np.zeros_like(mean), where=variance > 0)
    return np.where(variance > 0, 2 * scipy.special.stdtr(n_groups - 1, -t), 1.0)
