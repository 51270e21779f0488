"""What the validate stage gives back, and the rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class Reconstructed(Record):
    """Every definition of how well x_hat stands for x, over some rows; None where one has no value."""

    n: int = column("n vectors")
    l0: float | None = column("L0")
    fvu: float | None = column("FVU")
    explained_variance: float | None = column("explained variance")
    legacy_explained_variance: float | None
    residual_variance_ev: float | None
    uncentred_ev: float | None
    openai_normalized_mse: float | None
    scalar_r2: float | None
    mse: float | None = column("MSE (sum over d)")
    mse_mean: float | None
    cosine_similarity: float | None = column("cosine")
    l2_ratio: float | None
    relative_reconstruction_bias: float | None
    explained_variance_within: float | None = column("within cells")


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
    difference: float | None = column("difference of explained variance")
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Quantiles(Record):
    """Of the number of latents that fire on a row."""

    q05: int
    q25: int
    q50: int
    q75: int
    q95: int


@dataclass(frozen=True, kw_only=True)
class DensityBin(Record):
    """Latents with a log10 density between two limits."""

    low: float
    high: float
    n_latents: int


@dataclass(frozen=True, kw_only=True)
class Sparsity(Record):
    """How an SAE's latents fire on the held-out rows that are not flagged."""

    n: int
    l0: float
    l0_quantiles: Quantiles
    l1: float
    n_dead: int
    dead_share: float
    dead_window: int
    n_dense: int
    effective_latents: float | None
    rule_of_three: float
    density_histogram: list[DensityBin]


@dataclass(frozen=True, kw_only=True)
class NormBin(Record):
    """Explained variance of the rows with |x| between two limits; None: open."""

    low: float | None
    high: float | None
    n: int
    explained_variance: float | None


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
class OfMember(Record):
    """Which SAE of the directory a row is about."""

    member: str


@dataclass(frozen=True, kw_only=True)
class TextFidelity(Record):
    """A language model with x replaced at one hook, against itself untouched; nats per predicted token."""

    hook_name: str = column("hook")
    arm: str = column("replaced by")
    n: int = column("n tokens")
    n_documents: int = column("n documents")
    ce_clean: float
    ce: float
    delta_ce: float = column("Δ cross-entropy (nats)")
    kl: float = column("KL (nats)")
    top1_agreement: float = column("same top token")
    delta_ce_low: float | None
    delta_ce_high: float | None
    ce_loss_score_zero: float | None = column("CE score, zeroed")
    kl_score_zero: float | None
    ce_loss_score_zero_low: float | None
    ce_loss_score_zero_high: float | None
    ce_loss_score_mean: float | None = column("CE score, mean-ablated")
    kl_score_mean: float | None
    ce_loss_score_mean_low: float | None
    ce_loss_score_mean_high: float | None


@dataclass(frozen=True, kw_only=True)
class ThoughtFidelity(Record):
    """A thought model with its thoughts replaced, against itself untouched."""

    hook_name: str | None
    """None: at all places of the SAE."""
    thought_idx: int | None
    arm: str
    scope: str
    n: int
    n_groups: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_untouched: float
    difference: float
    low: float
    high: float
    p: float
    verdict: str
    answer_logprob: float | None
    delta_logprob: float | None
    delta_logprob_low: float | None
    delta_logprob_high: float | None
    kl: float
    kl_low: float
    kl_high: float
    changed_site: float | None
    moved: float


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


@dataclass(frozen=True, kw_only=True)
class ValidateOutcome(Outcome):
    """What the validate stage measured."""

    split: str
    kind: str
    n: int
    members: list[Validated]
