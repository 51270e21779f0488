"""Rows of the run's tables as the pages show them.

A view has the columns of a table that a page needs, under their names in that table. Pages get views as plain
lists; `COLUMNS`, which the overview holds once, says what stands where.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pyarrow as pa

from thoughtlens.core import Record, of_table
from thoughtlens.show.explorer.build import rounded, significant
from thoughtlens.show.pages.chain import Step


@dataclass(frozen=True, kw_only=True)
class View(Record):
    """A row that is sent as a list, its numbers rounded."""

    digits: ClassVar[int] = 3

    def line(self) -> list[Any]:
        """The values in the order of the fields."""
        return [significant(v, self.digits) if isinstance(v, float) else v for v in self.cells()]

    @classmethod
    def lines(cls, table: pa.Table) -> list[list[Any]]:
        """The same of every row of a table, column by column, which is fast where there are many.

        Raises:
            StoreError: a column is missing, or of another type.
        """
        of_table(cls, table.slice(0, 0))
        there = set(table.column_names)
        columns = (
            values(table[one.name], cls.digits) if one.name in there else [one.default] * len(table)
            for one in fields(cls)
        )
        return [list(row) for row in zip(*columns, strict=True)]


def values(column: pa.ChunkedArray, digits: int = 3) -> list[Any]:
    """A column in Python, its numbers rounded."""
    if pa.types.is_floating(column.type):
        return rounded(column.to_numpy(), digits)
    if pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type):
        whole = column.combine_chunks()
        flat, ends = (
            rounded(whole.flatten().to_numpy(zero_copy_only=False), digits),
            whole.offsets.to_pylist(),
        )
        return [flat[a - ends[0] : b - ends[0]] for a, b in itertools.pairwise(ends)]
    return (column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column).to_pylist()


@dataclass(frozen=True, kw_only=True)
class Association(View):
    """A preference of a latent."""

    digits: ClassVar[int] = 4
    factor: str
    level: str
    statistic: str
    estimate: float
    low: float
    high: float
    q_value: float
    n_fires: int
    n_problems: int


@dataclass(frozen=True, kw_only=True)
class Coactive(View):
    """A latent that fires together with another."""

    other: int
    n_both: int
    jaccard: float


@dataclass(frozen=True, kw_only=True)
class Neighbour(View):
    """A latent whose decoder row is near."""

    other: int
    cosine: float | None


@dataclass(frozen=True, kw_only=True)
class Logit(View):
    """A token that a latent speaks for (sign 1) or against (-1)."""

    sign: int
    token: str
    logit: float


@dataclass(frozen=True, kw_only=True)
class Match(View):
    """The latent of another SAE that is most like a latent."""

    latent: int
    by: str
    sae: str
    sae_idx: int | None
    """Number of the other SAE on the page; None: it is not shown."""
    other: int
    score: float
    null_score: float


@dataclass(frozen=True, kw_only=True)
class Effect(View):
    """What editing a latent did."""

    edit: str
    where: str
    dose: float | None
    difference: float
    low: float | None
    high: float | None
    verdict: str
    kl: float
    n: int
    split: str
    others: list[int]
    """Latents that were edited with it."""


@dataclass(frozen=True, kw_only=True)
class Edited(View):
    """A problem's answer under an edit; edits of everything at once have no thought."""

    intervention: str
    edit: str
    place: str
    thought: int | None
    text: str
    kind: str
    kl: float


@dataclass(frozen=True, kw_only=True)
class Traced(View):
    """A step that the problem's thoughts computed, and what its tests showed; `tracing.StepRow`."""

    step: int
    said: str
    thought: int
    read_by: str | None
    probability: float | None
    null: float | None
    label: str
    reading_follows: bool | None
    patched: bool | None
    next_follows: bool | None
    route: str | None


@dataclass(frozen=True, kw_only=True)
class Reading(View):
    """What a state reads as through a lens: (token, probability), strongest first."""

    lens: str
    hook_name: str
    thought: int | None
    tokens: list[list[Any]]


@dataclass(frozen=True, kw_only=True)
class Strongest(View):
    """The strongest latents of a vector: (latent, activation, `Claims.which`)."""

    hook: int
    at: int
    """The thought, or the number of the token."""
    n: int
    """Latents that fire."""
    latents: list[list[Any]]


@dataclass(frozen=True, kw_only=True)
class Said(View):
    """What a latent is said to be, and how well that holds on held-out rows."""

    method: str
    text: str
    n: int
    n_units: int
    split: str
    chosen: bool
    auprc: float | None
    auprc_low: float | None
    auprc_high: float | None
    random_auprc: float | None
    token_auprc: float | None
    precision_at_half_recall: float | None
    precision: float | None = None
    recall: float | None = None
    base_rate: float | None = None
    verdict: str | None = None
    says: str | None = None
    value: str | None = None
    thoughts: list[int] | None = None
    clauses: str | None = None
    """JSON."""


@dataclass(frozen=True, kw_only=True)
class ExampleLine(View):
    """An example on a latent's page."""

    value: float
    problem: str
    split: str
    hook: str
    decile: int | None


@dataclass(frozen=True, kw_only=True)
class TextLine(ExampleLine):
    """An example of text: its tokens and the activation on each."""

    position: int | None
    peak: int | None
    tokens: list[str]
    acts: list[float | None]


@dataclass(frozen=True, kw_only=True)
class ThoughtLine(ExampleLine):
    """An example of thoughts: activations [hooks, thoughts] of the problem."""

    thought: int | None
    question: str | None
    answers: Sequence[Any] | None
    """Right answer, the model's answer, and whether it is right."""
    hooks: list[str]
    strip: list[list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Spoken(View):
    """The latents that speak for a value of a variable."""

    variable: str
    condition: str
    value: str
    latent: int
    second: int
    precision: float
    recall: float
    f1: float
    f1_of_two: float
    n_latents: int
    n_sharing: int
    n: int


@dataclass(frozen=True, kw_only=True)
class Located(View):
    """A variable at a place, on validation problems."""

    variable: str
    condition: str
    hook_name: str
    thought_idx: int | None
    probe: float
    variance_share: float
    best_f1: float
    best_f1_of_two: float
    chosen: bool
    n: int


@dataclass(frozen=True, kw_only=True)
class Looks(View):
    """Where a position looks: weights of the question's tokens, the begin of thought, and on up to itself."""

    query: int
    layer: int | None
    """None: mean over layers and heads."""
    head: int | None
    """None: mean over the heads."""
    weights: list[float | None]


COLUMNS: dict[str, type[Record]] = {
    "values": Spoken,
    "places": Located,
    "chain": Step,
    "explanations": Said,
    "text_examples": TextLine,
    "thought_examples": ThoughtLine,
    "associations": Association,
    "coactivation": Coactive,
    "neighbours": Neighbour,
    "lens_latents": Logit,
    "matches": Match,
    "effects": Effect,
    "edits": Edited,
    "trace": Traced,
    "readings": Reading,
    "strongest": Strongest,
    "looks": Looks,
}
"""What stands where in the rows of each kind."""


def columns() -> dict[str, list[str]]:
    """Names of the columns of each kind of row."""
    return {kind: [one.name for one in fields(view)] for kind, view in COLUMNS.items()}


@dataclass(frozen=True, kw_only=True)
class Counted(Record):
    """How a latent fires."""

    n_fires: int
    n_problems: int
    density: float
    mean_active: float
    max_active: float
    everywhere_reason: str | None
    histogram: list[int] | None = None
    deciles: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Spread(Record):
    """How many tokens a latent's direction changes by how much, in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class Labelled(Record):
    """A latent's rate difference for a label."""

    latent: int
    factor: str
    level: str
    estimate: float
    q_value: float


@dataclass(frozen=True, kw_only=True)
class Graph(Record):
    """A latent's token graph, in JSON."""

    graph: str


@dataclass(frozen=True, kw_only=True)
class Matched(Record):
    """A row of `matches.parquet`."""

    latent: int
    other_sae: str
    other_member: str
    other: int
    by: str
    score: float
    null_score: float


@dataclass(frozen=True, kw_only=True)
class Example(Record):
    """An example of text (`tokens`), or of thoughts (`strip_hook`)."""

    value: float
    problem_id: str
    split: str
    hook_name: str
    acts: list[float]
    decile: int | None = None
    position: int | None = None
    peak: int | None = None
    tokens: list[str] | None = None
    thought_idx: int | None = None
    question: str | None = None
    strip_hook: list[str] | None = None
    strip_thought: list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Cell(Record):
    """Reconstruction of a (hook, thought) cell; None: of all of them."""

    reconstructor: str
    rows: str
    hook_name: str | None
    thought_idx: int | None
    n: int
    explained_variance: float | None
    l0: float | None


@dataclass(frozen=True, kw_only=True)
class ReadRate(Record):
    """How often a lens reads a problem's word at a place."""

    lens: str
    hook_name: str
    thought_idx: int
    column: str
    subset: str
    n: int
    rate: float
    null_high: float | None


@dataclass(frozen=True, kw_only=True)
class ReadToken(Record):
    """A token that a state of a problem reads as."""

    lens: str
    hook_name: str
    thought_idx: int | None
    problem_id: str
    token: str
    probability: float
