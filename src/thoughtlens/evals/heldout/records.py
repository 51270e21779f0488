"""What is measured of an SAE on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Record, column


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
class CellSpread(Record):
    """How much the vectors of a (hook, thought) vary."""

    hook_name: str
    thought_idx: int | None
    spread: float
    """Root mean square distance to their mean."""
    norm: float
    """Root mean square norm."""


@dataclass(frozen=True, kw_only=True)
class TextFidelity(Record):
    """A language model with x replaced at one hook, against itself untouched; nats per predicted token."""

    hook_name: str = column("hook")
    arm: str = column("replaced by")
    n: int = column("n tokens")
    n_documents: int = column("n documents")
    n_groups: int | None = column("n groups", default=None)
    """Groups of documents, which are resampled whole."""
    n_windows: int | None = column("n windows", default=None)
    n_tokens: int | None = column("n tokens read", default=None)
    n_uncovered: int | None = column("of them never replaced", default=None)
    """Without a row in the store (begin of sequence, special ones, roles of a chat), or flagged."""
    ce_clean: float
    ce: float
    delta_ce: float = column("Δ cross-entropy (nats)")
    kl: float = column("KL (nats)")
    top1_agreement: float = column("same top token")
    delta_ce_low: float | None
    delta_ce_high: float | None
    doubt: str | None = None
    """Why the interval may be too narrow."""
    ce_uniform: float | None = None
    """Of a guess that takes every token of the vocabulary for as likely."""
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
    kl_doubt: str | None = None
    """Why the interval of the KL may be too narrow."""
