"""What a report is made of, before it is a page: sections of paragraphs, tables, figures and latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from matplotlib.figure import Figure

from thoughtlens.core import DataError, Record
from thoughtlens.sae import POOLED

T = TypeVar("T")
Column = tuple[str, Callable[[Any], str]]
MEMBER: Column = ("SAE", attrgetter("member"))
"""The first column of rows of SAEs; left out where there is only one."""


@runtime_checkable
class HasVerdict(Protocol):
    """A comparison: its verdict and the interval behind it."""

    @property
    def verdict(self) -> str | None:
        """better, worse, equivalent, inconclusive."""

    @property
    def low(self) -> float | None:
        """Lower end of the interval of the difference."""

    @property
    def high(self) -> float | None:
        """Its upper end."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: Literal["text"] = "text"


def under(record: type[Record], name: str, show: Callable[[Any], str]) -> Column:
    """A column of a table of records: its head is the record's title of a field, its cells that field."""
    heads = dict(zip((one.name for one in fields(record)), record.heads(), strict=True))
    return heads[name], lambda row: show(getattr(row, name))


def through(pick: Callable[[Any], Any], columns: Iterable[Column]) -> list[Column]:
    """Columns of what `pick` takes out of a row, as columns of that row."""
    return [(head, lambda row, show=show: show(pick(row))) for head, show in columns]


@dataclass(frozen=True)
class Table:
    """Columns and rows of plain strings; all but the first `n_words` columns are numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    n_words: int = 1
    open: bool = False
    """Shown at once; else folded under its caption."""
    kind: Literal["table"] = "table"

    @classmethod
    def facts(cls, caption: str, rows: Sequence[tuple[str, str]]) -> Table:
        """Names and what they are, without heads."""
        return cls(caption, ("", ""), rows, n_words=2)

    @classmethod
    def of(
        cls,
        caption: str,
        rows: Iterable[T],
        columns: Sequence[tuple[str, Callable[[T], str]]],
        *,
        note: str = "",
        n_words: int = 1,
        open: bool = False,
    ) -> Table:
        """A line for each of `rows`; of each column, its head and what it shows of a row."""
        cells = [[show(row) for _, show in columns] for row in rows]
        return cls(caption, [head for head, _ in columns], cells, note, n_words, open)

    def __post_init__(self) -> None:
        heads = [head for head in self.columns if head]
        if twice := {head for head in heads if heads.count(head) > 1}:
            raise ValueError(f"{self.caption}: two columns are called {', '.join(sorted(twice))}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{self.caption}: expected {len(self.columns)} cells under {', '.join(self.columns)}, "
                    f"got {len(row)}: {', '.join(row)}"
                )

    def without_lone_sae(self) -> Table:
        """Without the column that names the SAE, where a directory holds only one."""
        if self.columns[0] != "SAE" or {row[0] for row in self.rows} - {POOLED}:
            return self
        rest = [row[1:] for row in self.rows]
        return replace(self, columns=self.columns[1:], rows=rest, n_words=max(self.n_words - 1, 1))


@dataclass(frozen=True)
class Picture:
    """A figure, saved under `name` beside the page."""

    name: str
    figure: Figure
    caption: str
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True)
class Points:
    """Sentences under each other."""

    caption: str
    lines: Sequence[str]
    kind: Literal["points"] = "points"


@dataclass(frozen=True)
class Token:
    """A token of an example with its activation, and that as a share of the latent's maximum."""

    text: str
    act: float
    share: float
    peak: bool = False


@dataclass(frozen=True)
class Example:
    """A strong example of a latent."""

    caption: str
    tokens: Sequence[Token]


@dataclass(frozen=True)
class Latent:
    """What is known of one latent."""

    title: str
    facts: Sequence[str]
    examples: Sequence[Example]
    place: str = ""
    """Its page within the explorer's address."""


@dataclass(frozen=True)
class Latents:
    """Several latents under one heading."""

    caption: str
    items: Sequence[Latent]
    kind: Literal["latents"] = "latents"


Block = Text | Table | Picture | Points | Latents


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        kept = [b.without_lone_sae() if isinstance(b, Table) else b for b in self.blocks]
        object.__setattr__(self, "blocks", kept)


def verdict_of(row: HasVerdict) -> str:
    """A comparison's verdict, which must agree with its interval.

    Raises:
        DataError: a direction is claimed although 0 lies within the interval.
    """
    word, low, high = row.verdict or "", row.low, row.high
    if word in ("better", "worse") and (low is None or high is None or low <= 0 <= high):
        raise DataError(
            f"A comparison says {word!r} with the interval [{low}, {high}], which holds 0; run it again"
        )
    return word


def unique(items: Iterable[T]) -> list[T]:
    """In order, each once."""
    return list(dict.fromkeys(items))
