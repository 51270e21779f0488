"""How large a store is, or will be once it is extracted: what the stages after it plan by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from thoughtlens.acts.store.meta import META
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import Record, read_json, write_json

FILE = "size.json"


@dataclass(frozen=True, kw_only=True)
class StoreSize(Record):
    """Rows, widths and splits of an activation store."""

    kind: str
    n_rows: int
    n_problems: int
    d_in: dict[str, int]
    """By hook."""
    thoughts: list[int]
    """None of text."""
    shares: dict[str, float]
    """Share of the problems in each split."""

    @classmethod
    def of(cls, root: str | Path) -> StoreSize | None:
        """Of the store at `root`, or as `expect` foretold it there; None where there is neither."""
        root = Path(root)
        if (root / FILE).is_file():
            return cls.from_json(read_json(root / FILE))
        if not (root / META).is_file():
            return None
        store = ActivationStore.open(root)
        n = len(store.problems)
        return cls(
            kind=store.meta.kind,
            n_rows=store.n_rows,
            n_problems=n,
            d_in=store.meta.d_in,
            thoughts=list(store.thoughts),
            shares={name: k / n for name, k in Counter(store.problems["split"].to_pylist()).items()},
        )

    @property
    def hook_names(self) -> list[str]:
        """Hooks that are read."""
        return list(self.d_in)

    @property
    def n_cells(self) -> int:
        """Pairs of a hook and a thought; of text, hooks."""
        return len(self.d_in) * max(len(self.thoughts), 1)

    def rows(self, split: str | None) -> int:
        """Rows of a split; None: all."""
        return round(self.n_rows * (1.0 if split is None else self.shares.get(split, 0.0)))

    def expect(self, root: Path) -> None:
        """Foretell it at a place where no store is yet."""
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / FILE, self.to_json())
