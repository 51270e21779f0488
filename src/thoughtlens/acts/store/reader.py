"""Read an activation store: memory-mapped, checked, in a seeded order that is never loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thoughtlens.acts.store import tables
from thoughtlens.acts.store.contents import Contents
from thoughtlens.acts.store.meta import PROBLEMS, ROWS, load_meta
from thoughtlens.acts.store.rowset import RowSet
from thoughtlens.acts.store.shard import layout
from thoughtlens.acts.store.view import View
from thoughtlens.core import (
    DataError,
    HookError,
    MismatchError,
    NotThereError,
    StoreError,
    Verified,
    digest,
    removed,
    require_sound,
)
from thoughtlens.core import verify as verify_files


class ActivationStore(Contents):
    """A finished activation store; opening it checks every file's size and header.

    Make one with `ActivationStore.open(root)`.
    """

    @classmethod
    def open(cls, root: str | Path, verify: bool = False) -> ActivationStore:
        """Open the store at `root`, its tables compared with their digests; shards are when first read.

        Args:
            root: Its directory.
            verify: Also read every shard and compare it now.

        Raises:
            NotThereError: nothing there, an unfinished store, or a missing file.
            StoreError: something else, another schema, or a damaged file.
        """
        root = Path(root)
        self = cls(root, load_meta(root))
        for index in range(len(self.meta.shards)):
            self._check_shard(index)
        self._check_tables()
        require_sound([root / name for name in self.meta.tables])
        if verify:
            verify_files(root)
        return self

    def view(
        self,
        hook_names: Sequence[str] | None = None,
        split: str | None = None,
        thoughts: Sequence[int] | int | None = None,
        drop_outliers: bool = False,
    ) -> View:
        """The vectors of some hooks and rows as one set; every hook of it has the same width.

        Args:
            hook_names: Hooks to pool; None means all of the store.
            split: Rows of the problems of this split; None means all.
            thoughts: Rows with these values of `thought_idx`, or this one; None means all.
            drop_outliers: Leave out rows whose column `outlier` is true.

        Raises:
            HookError: a hook or thought the store does not have.
            MismatchError: hooks of different widths.
            DataError: no rows are left, or there is no column `outlier`.
        """
        names = self.hook_names if hook_names is None else hook_names
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise HookError(f"Expected at least one hook of {self.root}, got none")
        indices = [self.hook_idx(name) for name in names]
        if len(set(names)) < len(names):
            raise DataError(f"Expected each hook once, got {', '.join(names)}")
        widths = {name: self.meta.d_in[name] for name in names}
        if len(set(widths.values())) > 1:
            raise MismatchError(f"Expected hooks of one width to pool, got {widths}; take one at a time")
        thoughts = [thoughts] if isinstance(thoughts, int) else thoughts
        if thoughts is not None and len(set(thoughts)) < len(thoughts):
            raise DataError(f"Expected each thought once, got {', '.join(map(str, thoughts))}")
        if thoughts is not None and (unknown := sorted(set(thoughts) - set(self.thoughts))):
            have = f"thoughts {self.thoughts}" if self.thoughts else "no thoughts, it is a text store"
            raise HookError(f"Expected thoughts that are in {self.root}, got {unknown}: it has {have}")
        rows = RowSet(self.masks(split, thoughts, drop_outliers))
        if not rows.n:
            raise DataError(f"Expected rows, found none in {self.root} for {self.describe(split, thoughts)}")
        return View(self, names, indices, rows)

    def _check_shard(self, index: int) -> None:
        shard = self.meta.shards[index]
        path = self.root / shard.file
        plan = layout(self.meta, shard.rows)
        if shard.file in removed(self.root):
            return  # whoever reads it is told
        if not path.is_file():
            raise NotThereError(f"Expected the shard {path}, found none: the store is damaged; extract again")
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(len(plan.header))
        if size == shard.bytes == plan.size and header == plan.header:
            return
        if size != plan.size:
            how = "cut off" if size < plan.size else "extended"
            what = f"has {size} bytes, expected {plan.size}: it was {how}"
        else:
            what = "has a header that disagrees with meta.json"
        same = "agrees, so meta.json is wrong" if digest(path) == shard.sha256 else "differs too"
        raise StoreError(f"{path} {what} (its sha256 {same}); extract again, or restore the file")

    def _check_tables(self) -> None:
        with tables.open_parquet(self.root / ROWS) as file:
            n = file.metadata.num_rows
            tables.check_schema(self.root / ROWS, file.schema_arrow, ["row", *tables.KEYS[self.meta.kind]])
        if n != self.n_rows:
            raise StoreError(
                f"{self.root / ROWS} is inconsistent: expected {self.n_rows} rows as meta.json says, got {n}"
            )
        with tables.open_parquet(self.root / PROBLEMS) as file:
            tables.check_schema(self.root / PROBLEMS, file.schema_arrow, tables.PROBLEM_KEYS)


@dataclass(frozen=True, kw_only=True)
class VerifiedStore(Verified):
    """A store that is whole."""

    n_rows: int
    hook_names: list[str]


def verify(root: str | Path) -> VerifiedStore:
    """Compare every file of the store at `root` with its digest.

    Raises:
        NotThereError, StoreError: as `ActivationStore.open`; every damaged file is named.
    """
    store = ActivationStore.open(root)
    found = verify_files(root)
    return VerifiedStore(**vars(found), n_rows=store.n_rows, hook_names=store.hook_names)
