"""The codes of one SAE together with what is known about the vectors they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from thoughtlens.latents.codes.codes import Codes
from thoughtlens.latents.codes.fires import Fires
from thoughtlens.latents.codes.labels import encode_groups
from thoughtlens.latents.codes.member import Member, Rows
from thoughtlens.latents.codes.tokens import load_tokenizer, token_texts

POSITION_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, eq=False)
class Coded:
    """Everything that statistics need; neither the SAE nor its activations."""

    name: str
    codes: Codes
    fires: Fires
    rows: Rows
    problems: pa.Table
    """All problems of the store; `rows.problem` says which line a unit is."""
    thoughts: list[int] | None
    """None for text."""
    token_names: Callable[[Iterable[int]], dict[int, str]]
    """Texts of these tokens, maybe among others."""

    @classmethod
    def of(cls, member: Member, codes: Codes) -> Coded:
        """The codes of a member on its rows."""
        meta, known = member.store.meta, dict[int, str]()
        tokenizer = cache(lambda: load_tokenizer(meta.model, meta.model_revision))

        def names(ids: Iterable[int]) -> dict[int, str]:
            known.update(token_texts(tokenizer(), sorted(set(ids) - known.keys())))
            return known

        return cls(
            member.name, codes, Fires.of(codes), member.rows, member.store.problems, member.thoughts, names
        )

    @cached_property
    def group(self) -> Int[np.ndarray, " units"]:
        """The group of each unit: those of one, such as copies, are not independent."""
        return encode_groups(self.problems)[self.rows.problem]

    @property
    def text(self) -> bool:
        """Whether vectors are of tokens, not thoughts."""
        return self.thoughts is None

    @property
    def hook_names(self) -> list[str]:
        """Hooks of a place, in the order of its vectors."""
        return self.codes.hook_names

    def inside(self) -> dict[str, tuple[Int[np.ndarray, " vectors"], list[str]]]:
        """Factors that vary inside a problem: the level of every vector, and the names of the levels."""
        n_hooks, rows = len(self.hook_names), self.rows
        found: dict[str, tuple[np.ndarray, list[str]]] = {}
        if self.text:
            bins = np.searchsorted(POSITION_EDGES, rows.columns.position, side="right") - 1
            found["position"] = np.repeat(bins, n_hooks), _position_names()[: int(bins.max(initial=0)) + 1]
        else:
            thoughts = self.thoughts or []
            codes = np.searchsorted(thoughts, rows.columns.thought_idx)
            found["thought"] = np.repeat(codes, n_hooks), [str(t) for t in thoughts]
        if n_hooks > 1:
            found["hook"] = np.tile(np.arange(n_hooks), len(rows.row)), self.hook_names
        return found


def _position_names() -> list[str]:
    ends = [*(e - 1 for e in POSITION_EDGES[1:]), None]
    return [
        f"{a}+" if b is None else str(a) if a == b else f"{a}-{b}"
        for a, b in zip(POSITION_EDGES, ends, strict=True)
    ]
