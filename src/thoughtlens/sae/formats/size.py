"""How large the SAEs of a directory are, or will be once they are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thoughtlens.acts import StoreSize
from thoughtlens.core import Record, read_json, write_json
from thoughtlens.sae.formats.io import load, member_names, member_path

FILE = "size.json"
FIRES = 32.0
"""Latents of a row that fire, where the kind does not say it."""


@dataclass(frozen=True, kw_only=True)
class SAESize(Record):
    """One SAE and the rows it is for."""

    hook_names: list[str]
    n_thoughts: int | None
    """None: all of the store."""
    d_in: int
    d_sae: int
    fires: float = FIRES
    """Latents of a row that fire, about."""

    @classmethod
    def all_of(cls, root: str | Path) -> list[SAESize]:
        """Of every SAE at `root`, or as `expect` foretold them there; none where there is neither."""
        root = Path(root)
        if (root / FILE).is_file():
            return [cls.from_json(row) for row in read_json(root / FILE)["members"]]
        return [cls._of(member_path(root, name)) for name in member_names(root)] if root.is_dir() else []

    @classmethod
    def _of(cls, path: Path) -> SAESize:
        sae = load(path)
        own = sae.provenance.get("thoughts")
        return cls(
            hook_names=list(sae.hook_names),
            n_thoughts=None if own is None else len(own),
            d_in=sae.d_in,
            d_sae=sae.d_sae,
            fires=float(getattr(sae.cfg, "k", None) or FIRES),
        )

    def vectors(self, store: StoreSize, split: str | None = None) -> int:
        """Vectors of a store that it reads; `split` None: all."""
        share = 1.0 if self.n_thoughts is None else self.n_thoughts / max(len(store.thoughts), 1)
        return round(store.rows(split) * share) * max(len(self.hook_names), 1)


def expect(root: Path, members: Iterable[SAESize]) -> None:
    """Foretell SAEs at a place where none are yet."""
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / FILE, {"members": [one.to_json() for one in members]})
