"""Which rows of a store belong to which SAE."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from thoughtlens.acts import ActivationStore, StoreSize, View
from thoughtlens.core import ConfigError
from thoughtlens.sae.kinds.config import SAEConfig, TranscoderConfig
from thoughtlens.sae.kinds.normalization import Cell
from thoughtlens.sae.train.config import Partition


@dataclass(frozen=True)
class Selection:
    """One SAE to train: its name, and the hooks and thoughts it sees."""

    name: str
    hook_names: tuple[str, ...]
    thoughts: tuple[int, ...] | None

    def cells(self, store: ActivationStore) -> list[Cell]:
        """The (hook_name, thought_idx) pairs of its rows, hook-major."""
        thoughts = store.thoughts if self.thoughts is None else self.thoughts
        return [(hook, thought) for hook in self.hook_names for thought in (thoughts or [None])]

    def view(self, store: ActivationStore, split: str | None, drop_outliers: bool) -> View:
        """Its vectors in a split (None: all); outliers dropped where asked and where the store flags them."""
        flagged = "outlier" in pq.read_schema(store.root / "rows.parquet").names
        return store.view(self.hook_names, split, self.thoughts, drop_outliers and flagged)


def plan_members(
    store: ActivationStore | StoreSize,
    partitions: Sequence[Partition],
    hook_names: Sequence[str] | None,
    thoughts: Sequence[int] | None,
    sae: SAEConfig,
) -> list[Selection]:
    """The SAEs to train on a store, in order; several partitions stand side by side.

    Raises:
        ConfigError: a partition by thought on a store of text, or a transcoder without its two hooks.
    """
    hooks = tuple(hook_names or store.hook_names)
    if isinstance(sae, TranscoderConfig):
        hooks = (_hook_in(sae, hook_names),)
    chosen = None if thoughts is None else tuple(thoughts)
    return [m for partition in partitions for m in _partition(store, partition, hooks, chosen)]


def _partition(
    store: ActivationStore | StoreSize,
    partition: Partition,
    hooks: tuple[str, ...],
    chosen: tuple[int, ...] | None,
) -> list[Selection]:
    if partition == "pooled":
        return [Selection("pooled", hooks, chosen)]
    if partition == "per_layer":
        return [Selection(_folder(hook), (hook,), chosen) for hook in hooks]
    each = chosen or tuple(store.thoughts)
    if not each:
        raise ConfigError(
            f"members = {partition!r} needs continuous thoughts, the store holds text; "
            f"use pooled or per_layer"
        )
    if partition == "per_thought":
        return [Selection(f"thought_{t}", hooks, (t,)) for t in each]
    return [Selection(f"{_folder(hook)}.thought_{t}", (hook,), (t,)) for hook in hooks for t in each]


def _hook_in(sae: TranscoderConfig, hook_names: Sequence[str] | None) -> str:
    sae.check_settings()
    if hook_names is not None:
        raise ConfigError(
            f"hook_names = {list(hook_names)}: a transcoder's hooks are sae.hook_in and sae.hook_out; "
            f"leave hook_names out"
        )
    return str(sae.hook_in)


def _folder(hook_name: str) -> str:
    """A hook's name without characters that some file systems refuse: layers.8:out -> layers.8-out."""
    return re.sub(r"[^\w.-]", "-", hook_name)
