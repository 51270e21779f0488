"""What the validate stage gives back, and the rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.core import Outcome, Record, column
from thoughtlens.evals.heldout.records import (
    CellSpread,
    NormBin,
    Reconstructed,
    Sparsity,
    TextFidelity,
    ThoughtFidelity,
)


@dataclass(frozen=True, kw_only=True)
class Judged(Record):
    """What was reconstructed by what, and where."""

    member: str
    reconstructor: str
    hook_name: str | None
    """None: all (hook, thought) cells of the SAE."""
    thought_idx: int | None
    rows: str
    """`kept`: those the SAE was trained for; `all`: flagged rows of massive norm, too."""
    d_sae: int


@dataclass(frozen=True, kw_only=True)
class ReconstructionRow(Reconstructed, Judged):
    """A row of `reconstruction.parquet`."""


@dataclass(frozen=True, kw_only=True)
class FiringRow(Record):
    """A row of `firing.parquet`: how often a latent fires on the held-out rows."""

    member: str
    latent: int
    fires: int
    density: float
    n_rows: int
    dead: bool


@dataclass(frozen=True, kw_only=True)
class ProblemRow(Record):
    """A row of `problems.parquet`: what an SAE leaves of one problem's, or document's, held-out rows."""

    member: str
    problem_id: str
    n: int
    """Rows that are not flagged."""
    error: float
    """Sum of |x - x_hat|^2 over them."""
    spread: float
    """Sum of |x - mean|^2 over them, the mean being that of all held-out rows."""


@dataclass(frozen=True, kw_only=True)
class Width(Record):
    """How many latents, or components, there are."""

    d_sae: int = column("width")


@dataclass(frozen=True, kw_only=True)
class Reconstructor(Reconstructed, Width):
    """An SAE or baseline over all rows of the SAE that are not flagged."""

    explained_variance_low: float | None
    explained_variance_high: float | None


@dataclass(frozen=True, kw_only=True)
class AgainstBaseline(Record):
    """The SAE's explained variance minus a baseline's, on the same rows."""

    baseline: str
    metric: str
    n_problems: int = column("n problems")
    n_groups: int | None = column("n groups", default=None)
    """Groups of problems, which are resampled whole; None in results of earlier versions."""
    difference: float | None = column("difference of explained variance")
    low: float | None
    high: float | None
    verdict: str
    p_holm: float | None = None
    """p adjusted for all comparisons of the stage, which the verdict follows."""


@dataclass(frozen=True, kw_only=True)
class LabelScore(Record):
    """How well a supervised SAE's tied latents know one label column, and what they carry."""

    column: str
    n: int
    n_problems: int
    accuracy: float
    low: float | None
    high: float | None
    majority: float
    fvu: float
    fvu_free: float


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Record):
    """A number as the library counts it that the SAE is from, beside the one that stands for it here."""

    library: str
    name: str = column("name there")
    value: float | None = column("as counted there")
    ours: str = column("name here")
    our_value: float | None = column("here")
    differs: str = column("what differs")
    """Empty: nothing."""


@dataclass(frozen=True, kw_only=True)
class OfMember(Record):
    """Which SAE of the directory a row is about."""

    member: str


@dataclass(frozen=True, kw_only=True)
class TextFidelityRow(TextFidelity, OfMember):
    """A row of `fidelity.parquet` of a store of text."""


@dataclass(frozen=True, kw_only=True)
class ThoughtFidelityRow(ThoughtFidelity, OfMember):
    """A row of `fidelity.parquet` of a store of thoughts."""


@dataclass(frozen=True, kw_only=True)
class Validated(Record):
    """One SAE on held-out rows."""

    member: str
    kind: str
    hook_names: list[str]
    thoughts: list[int] | None
    d_in: int
    d_sae: int
    n: int
    n_flagged_left_out: int
    n_problems: int
    n_train: int | None
    reconstruction: dict[str, Reconstructor]
    """By name: `sae`, then its baselines."""
    comparisons: list[AgainstBaseline]
    sparsity: Sparsity
    by_norm: list[NormBin]
    labels: list[LabelScore] | None
    fidelity: list[TextFidelity] | list[ThoughtFidelity] | None
    fidelity_skipped: str | None
    spreads: list[CellSpread] = field(default_factory=list)
    """How much the judged vectors vary, by cell."""
    notes: list[str] = field(default_factory=list)
    """What to think of before its numbers are believed."""
    elsewhere: list[Elsewhere] = field(default_factory=list)
    """Of another library's SAE: what that calls and counts."""


@dataclass(frozen=True, kw_only=True)
class ValidateOutcome(Outcome):
    """What the validate stage measured."""

    split: str
    kind: str
    n: int
    members: list[Validated]
