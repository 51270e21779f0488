"""What the rows of a training run carry: pairs of hooks, several sites at once, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore, View, ViewBatch
from thoughtlens.core import ConfigError, DataError
from thoughtlens.sae.fit.members import Selection
from thoughtlens.sae.kinds.config import (
    CrosscoderConfig,
    ImportedConfig,
    SAEConfig,
    SupervisedConfig,
    TranscoderConfig,
)
from thoughtlens.sae.kinds.normalization import Cell
from thoughtlens.sae.kinds.supervised import encode_labels


@dataclass(frozen=True)
class Joined(ViewBatch):
    """Rows of a view and what belongs to them."""

    x: Float[Tensor, "n ..."]
    """`[n, d_in]`, or `[n, n_sites, d_in]` for a crosscoder."""
    y: Float[Tensor, "n d_out"] | None = None
    """A transcoder's target."""
    labels: Int[Tensor, "n n_columns"] | None = None
    """Class in each label column; -1: not labelled."""


@dataclass(frozen=True)
class Rows:
    """A fixed sample: raw activations, and each row's index into `cells`."""

    x: Float[Tensor, "n ..."]
    cell: Int[Tensor, " n"]
    cells: list[Cell]
    y: Float[Tensor, "n d_out"] | None = None
    """Target, where it is not x."""

    def head(self, n: int) -> Rows:
        """A copy of the first n rows."""
        y = None if self.y is None else self.y[:n].clone()
        return Rows(self.x[:n].clone(), self.cell[:n].clone(), self.cells, y)


class JoinedView:
    """The rows of a view, in the view's order, each joined with what its architecture needs.

    Args:
        view: One hook's rows; their number and order are kept.
        join: What to make of a batch of them.
        d_out: Width of the target.
        n_sites: Vectors in one x.
    """

    def __init__(self, view: View, join: Callable[[ViewBatch], Joined], d_out: int, n_sites: int = 1):
        self.n, self.d_in, self.d_out, self.n_sites = view.n, view.d_in, d_out, n_sites
        self._view, self._join = view, join

    @property
    def cells(self) -> list[Cell]:
        """What a batch's `cell` indexes."""
        return self._view.cells

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        epochs: int | None = 1,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Joined]:
        """As `View.batches`."""
        for batch in self._view.batches(batch_size, seed=seed, start=start, epochs=epochs, share=share):
            yield self._join(batch)

    def sample(self, n: int, seed: int) -> Joined:
        """As `View.sample`."""
        return self._join(self._view.sample(n, seed))

    def sequential(self, batch_size: int) -> Iterator[Joined]:
        """As `View.sequential`."""
        for batch in self._view.sequential(batch_size):
            yield self._join(batch)

    def read(self, idx: np.ndarray) -> Joined:
        """Rows by number, in the order given."""
        return self._join(ViewBatch(self._view.read(idx), idx, self._view.cell_of(idx)))

    def rows_of(self, idx: np.ndarray) -> np.ndarray:
        """Row of the store of each; of a problem's thoughts, the first one's."""
        return self._view.rows_of(idx)


def resolve(cfg: SAEConfig, store: ActivationStore, member: Selection, split: str) -> SAEConfig:
    """The config with what only the data can say: a crosscoder's sites, the classes of label columns.

    Raises:
        ConfigError: a label column that is missing or constant on the problems of `split`, or a
            crosscoder over the thoughts of several hooks.
    """
    if isinstance(cfg, CrosscoderConfig):
        return cfg.model_copy(update={"sites": _sites(cfg, store, member)})
    if isinstance(cfg, SupervisedConfig):
        problems = store.problems
        chosen = problems.filter(np.array([s == split for s in problems["split"].to_pylist()], bool))
        classes, _ = encode_labels(chosen.to_pydict(), cfg.label_columns)
        return cfg.model_copy(update={"label_classes": classes})
    return cfg


def open_source(
    cfg: SAEConfig, store: ActivationStore, member: Selection, split: str | None, drop_outliers: bool
) -> View | JoinedView:
    """The rows of a split (None: all) for a member of this (resolved) architecture.

    Raises:
        HookError: a hook or thought that the store does not have.
        MismatchError: sites of different widths.
        DataError: no rows, or thoughts that some problems lack.
    """
    view = member.view(store, split, drop_outliers)
    if isinstance(cfg, TranscoderConfig) or (isinstance(cfg, ImportedConfig) and cfg.transcoder):
        out = replace(member, hook_names=(str(cfg.hook_out),)).view(store, split, drop_outliers)
        return JoinedView(view, lambda batch: Joined(**vars(batch), y=out.read(batch.idx)), out.d_in)
    if isinstance(cfg, CrosscoderConfig):
        return _crosscoder_source(cfg, store, member, split, drop_outliers)
    if isinstance(cfg, SupervisedConfig):
        _, codes = encode_labels(store.problems.to_pydict(), cfg.label_columns, cfg.label_classes)

        def label(batch: ViewBatch) -> Joined:
            return Joined(**vars(batch), labels=codes[store.problem_idx[view.rows_of(batch.idx)]])

        return JoinedView(view, label, view.d_in)
    return view


def sample_rows(source: View | JoinedView, cells: list[Cell], n: int, seed: int) -> Rows:
    """`min(n, source.n)` rows to measure on; their cells become indices into `cells`."""
    taken = source.sample(n, seed)
    lookup = np.array([cells.index(c) if c in cells else -1 for c in source.cells])
    y = taken.y if isinstance(taken, Joined) else None
    return Rows(taken.x, torch.from_numpy(lookup[taken.cell]), cells, y)


def weights(source: View | JoinedView) -> int:
    """Weights of a latent: what it reads and what it writes."""
    if isinstance(source, JoinedView):
        return source.n_sites * (source.d_in + source.d_out)
    return 2 * source.d_in


def _sites(cfg: CrosscoderConfig, store: ActivationStore, member: Selection) -> tuple[str, ...]:
    if cfg.over == "layers":
        return member.hook_names
    if len(member.hook_names) != 1:
        raise ConfigError(
            f"sae.over = 'thoughts' takes the thoughts of one hook, got {', '.join(member.hook_names)}; "
            f"name one in hook_names, or set members = 'per_layer'"
        )
    thoughts = store.thoughts if member.thoughts is None else member.thoughts
    return tuple(f"{member.hook_names[0]} thought {t}" for t in thoughts)


def _crosscoder_source(
    cfg: CrosscoderConfig, store: ActivationStore, member: Selection, split: str | None, drop_outliers: bool
) -> JoinedView:
    n_sites = len(cfg.sites)
    if cfg.over == "layers":
        whole = member.view(store, split, drop_outliers)
        first = replace(member, hook_names=member.hook_names[:1]).view(store, split, drop_outliers)
        return JoinedView(
            first,
            lambda batch: Joined(whole.read_aligned(batch.idx), batch.idx, batch.cell),
            whole.d_in,
            n_sites,
        )
    thoughts = store.thoughts if member.thoughts is None else member.thoughts
    views = [replace(member, thoughts=(t,)).view(store, split, drop_outliers) for t in thoughts]
    rows = _aligned_rows(store, views)

    def stack(batch: ViewBatch) -> Joined:
        x = store.read(member.hook_names[0], rows[batch.idx].reshape(-1))
        return Joined(x.view(len(batch.idx), n_sites, -1), batch.idx, batch.cell)

    return JoinedView(views[0], stack, views[0].d_in, n_sites)


def _aligned_rows(store: ActivationStore, views: list[View]) -> np.ndarray:
    """Row of each thought of each problem, [n_problems, n_thoughts], in the order of the first view."""
    rows = [view.rows_of(np.arange(view.n)) for view in views]
    problems = [store.problem_idx[r] for r in rows]
    order = [np.argsort(p, kind="stable") for p in problems]
    found = [p[o] for p, o in zip(problems, order, strict=True)]
    if any(not np.array_equal(f, found[0]) for f in found) or len(np.unique(found[0])) < len(found[0]):
        raise DataError(
            f"A crosscoder over thoughts needs each thought exactly once for every problem, {store.root} has "
            f"{', '.join(str(len(f)) for f in found)} rows of them; choose thoughts that all problems have, "
            f"or set drop_outliers = false"
        )
    back = np.argsort(order[0])
    return np.stack([r[o][back] for r, o in zip(rows, order, strict=True)], axis=1)
