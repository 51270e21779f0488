"""What the suite stage gives back, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Number, Outcome, Record, column
from thoughtlens.evals.probing.records import ClassScores, Comparison, Paired


@dataclass(frozen=True, kw_only=True)
class OfSet(Record):
    """Which set a row is about."""

    dataset: str


@dataclass(frozen=True, kw_only=True)
class TheirProbe(Record):
    """One probe under sae-probes' protocol."""

    arm: str
    k: int | None
    """Latents that it sees; None: all coordinates of the raw activations."""
    auc: float
    accuracy: float
    f1: float
    val_auc: float
    c: float
    converged: bool
    low: float
    """95 % interval of the AUC."""
    high: float
    n_train: int
    n_test: int
    n_leaked: int


@dataclass(frozen=True, kw_only=True)
class TheirRow(TheirProbe, OfSet):
    """A row of `sae_probes.parquet`."""


@dataclass(frozen=True, kw_only=True)
class AUCDifference(Record):
    """AUC of one probe minus that of another on the same rows."""

    difference: float
    low: float
    high: float
    n: int
    verdict: str
    p: float | None = None
    n_groups: int | None = None
    p_holm: float | None = None
    """p adjusted over the sets, which the verdict follows."""


@dataclass(frozen=True, kw_only=True)
class TheirComparison(Record):
    """The probe on the best k latents minus that on raw activations."""

    auc: AUCDifference
    accuracy: Paired


@dataclass(frozen=True, kw_only=True)
class Theirs(Record):
    """One set under sae-probes' protocol."""

    table: list[TheirProbe]
    best_k: int
    sae_minus_raw: TheirComparison
    latents: list[int]
    """As the protocol ranks them."""


@dataclass(frozen=True, kw_only=True)
class Arm(Record):
    """Which representation was scored."""

    arm: str


@dataclass(frozen=True, kw_only=True)
class OurProbe(ClassScores, Arm):
    """One representation under this project's protocol."""

    auc: float
    auc_low: float
    auc_high: float
    n_features: int
    n_unconverged: int


@dataclass(frozen=True, kw_only=True)
class OurRow(OurProbe, OfSet):
    """A row of `table.parquet`."""


@dataclass(frozen=True, kw_only=True)
class Ours(Record):
    """One set under this project's protocol."""

    table: list[OurProbe]
    comparisons: list[Comparison]
    folds_digest: str


@dataclass(frozen=True, kw_only=True)
class Family(Record):
    """Which comparison, under which protocol, on which set."""

    dataset: str
    protocol: str
    arm: str


@dataclass(frozen=True, kw_only=True)
class ComparisonRow(Paired, Family):
    """A row of `comparisons.parquet`."""

    p_holm: float


@dataclass(frozen=True, kw_only=True)
class SetResult(Record):
    """Both protocols on one set."""

    dataset: str
    n: int
    n_texts: int
    classes: list[str]
    model_digest: str
    theirs: Theirs
    ours: Ours | None


@dataclass(frozen=True, kw_only=True)
class SetLine(Record):
    """One set in short."""

    dataset: str
    n: int
    n_texts: int
    classes: list[str]
    best_k: int
    latents: list[int]
    n_leaked: int
    auc_sae_minus_raw: AUCDifference


@dataclass(frozen=True, kw_only=True)
class Mean(Number):
    """A mean over sets; no interval below five sets."""

    low: float | None = column(default=None, null=True)
    high: float | None = column(default=None, null=True)


@dataclass(frozen=True, kw_only=True)
class MeanDifference(Mean):
    """A mean difference over sets, with what it allows to say; no test below five sets."""

    verdict: str | None = column(default=None, null=True)
    p: float | None = column(default=None, null=True)
    test: str | None = column(default=None, null=True)
    verdicts: dict[str, int] | None = None
    """Sets by verdict."""
    n_better: int | None = None
    n_worse: int | None = None


@dataclass(frozen=True, kw_only=True)
class Counts(Record):
    """Sets by verdict, and how many differ after correction for their number."""

    verdicts: dict[str, int]
    n_better: int
    n_worse: int


@dataclass(frozen=True, kw_only=True)
class OverSets(Record):
    """sae-probes' protocol over all sets."""

    auc: dict[str, Mean]
    sae_minus_raw: MeanDifference
    accuracy: Counts


@dataclass(frozen=True, kw_only=True)
class OwnOverSets(Record):
    """This project's protocol over all sets."""

    arms: dict[str, str]
    accuracy: dict[str, Mean]
    auc: dict[str, Mean]
    against_raw: dict[str, MeanDifference]


@dataclass(frozen=True, kw_only=True)
class SuiteOutcome(Outcome):
    """What the suite stage measured."""

    suite: str
    model: str
    model_digest: str
    hook_name: str
    n: int
    split: str
    datasets: list[SetLine]
    sae_probes: OverSets
    thoughtlens: OwnOverSets | None
    headline: Mapping[str, MeanDifference | Mean] = field(default_factory=dict)
