"""Settings of every architecture, and what can be refused or decided before there is an SAE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from thoughtlens.core import Config, ConfigError

LONG_RUN, MAX_BOOST, MAX_LR = 100_000, 8.0, 0.01
"""Steps from which on the default learning rate is the least; how far, and to what, it rises for fewer."""

EXPONENT = 0.75
"""How the default coefficient grows with the width. With 1/2, a code that is as sparse weighs as much against
its error; but wider rows of real models hold more directions, and then L0 grows like the width. With 1, L0
stayed and latents began to die (docs/log.md, "penalties that follow the width")."""

MAX_CLASSES = 64
"""Most different values of a label column; more are a measurement, not a label."""

ImportedRule = Literal[
    "relu", "jumprelu", "topk", "signed_topk", "abstopk", "groupmax", "identity", "gated", "pursuit"
]


class SAEConfig(Config):
    """What all architectures have in common; `kind` in a subclass names the architecture."""

    d_sae: int | None = Field(default=None, ge=1)
    """Number of latents; unset: `expansion` times d_in."""
    expansion: float = Field(default=8.0, gt=0)
    """Latents per input dimension, used where `d_sae` is unset."""
    normalization: Literal["auto", "none", "mean", "global", "per_cell"] = "auto"
    """How raw activations are brought to a common scale. global: one scale, folded into the saved
    weights. per_cell: centre and scale of each (hook, thought), saved as a table. mean: centred only.
    auto: per_cell where the SAE sees several cells, else global."""
    init: Literal["data", "linear", "xavier"] = "data"
    """data: unit decoder rows, encoder = decoder transposed times the factor with the least error,
    b_dec at the data's geometric median.
    linear: torch's default for linear layers, decoder = encoder transposed. xavier: both matrices
    Xavier-uniform, biases 0."""
    decoder_norm: Literal["unit", "free"] = "unit"
    """unit: decoder rows keep length 1 (gradient projected, rows renormalised). free: no constraint."""
    pre_bias: bool = True
    """Whether b_dec is subtracted from the input before encoding."""

    def width(self, d_in: int) -> int:
        """Number of latents on an input of width `d_in`."""
        return self.d_sae if self.d_sae is not None else max(1, round(self.expansion * d_in))

    def for_width(self, d_in: int) -> SAEConfig:
        """The same with what an input of width `d_in` decides where it is unset."""
        return self

    def check_settings(self) -> None:
        """Raise ConfigError where the config cannot be used on any data; known before there are any."""

    def check(self, d_in: int) -> None:
        """Raise ConfigError where the config cannot be used on this width."""

    def warnings(self, d_in: int) -> list[str]:
        """What can be trained but should not be believed."""
        return []

    def default_lr(self, d_sae: int, n_steps: int = LONG_RUN) -> float:
        """Adam's learning rate where none is given.

        2e-4 / sqrt(d_sae / 2^14) for runs of 100,000 steps or more (Gao et al. 2024, 3). A shorter run gets
        sqrt(100,000 / n_steps) times as much, at most 8 times and at most 0.01: it ends before a smaller
        rate has arrived anywhere (docs/log.md has the measurements).
        """
        boost = min(MAX_BOOST, max(1.0, (LONG_RUN / n_steps) ** 0.5))
        return min(MAX_LR, 2e-4 / (d_sae / 2**14) ** 0.5 * boost)


class AuxKConfig(SAEConfig):
    """Settings of the auxiliary loss that brings dead latents back."""

    auxk: float = Field(default=1 / 32, ge=0)
    """Coefficient of the auxiliary loss; 0 switches it off."""
    k_aux: int | None = Field(default=None, ge=1)
    """Dead latents that predict each row's residual; unset: half its width."""


class PenaltyConfig(SAEConfig):
    """Settings of a penalty on activations, beside a squared error."""

    l1_scale: ClassVar[float] = 0.026
    """The coefficient where none is given, over d_in^(3/4)."""
    l1: float | None = Field(default=None, ge=0)
    """Coefficient of the sparsity penalty. Unset: c * d_in^(3/4), with c 0.026 for relu and crosscoders,
    0.04 for gated and 0.016 for p_anneal: for a squared error summed over dimensions and a penalty summed
    over latents, of normalised activations. Averaged instead (relu): 1 / d_in and d_sae times as much."""
    l1_warmup: float = Field(default=0.3, ge=0, le=1)
    """Share of the training over which the coefficient rises linearly from 0."""

    def for_width(self, d_in: int) -> PenaltyConfig:
        """With the coefficient decided."""
        if self.l1 is not None or not self.penalised:
            return self
        return self.model_copy(update={"l1": self.l1_scale * d_in**EXPONENT * self.unit(d_in)})

    @property
    def penalised(self) -> bool:
        """Whether the coefficient is in use."""
        return True

    def unit(self, d_in: int) -> float:
        """What the default is multiplied by where the loss averages instead of summing."""
        return 1.0

    def penalty_at(self, progress: float) -> float:
        """The coefficient at a share of the training."""
        assert self.l1 is not None, "an SAE's config is for its width"
        return self.l1 * (min(1.0, progress / self.l1_warmup) if self.l1_warmup > 0 else 1.0)

    def warnings(self, d_in: int) -> list[str]:
        """The default means nothing in raw units."""
        if self.l1 is not None or not self.penalised or self.normalization not in ("none", "mean"):
            return super().warnings(d_in)
        return [
            *super().warnings(d_in),
            f"sae.l1 is unset and sae.normalization = {self.normalization!r}: its default, "
            f"{self.for_width(d_in).l1:.4g}, is for normalised activations and these are not; set sae.l1",
        ]


class TopKConfig(SAEConfig):
    """TopK with the auxiliary loss that brings dead latents back."""

    kind: Literal["topk"] = "topk"
    """Architecture."""
    k: int = Field(default=32, ge=1)
    """Latents that fire on each row (fewer where fewer are positive)."""
    auxk: float = Field(default=1 / 32, ge=0)
    """Coefficient of the auxiliary loss; 0 switches it off."""
    k_aux: int | None = Field(default=None, ge=1)
    """Dead latents that predict each row's residual; unset: d_in / 2."""

    def check(self, d_in: int) -> None:
        """Refuse k above the number of latents."""
        require_k("sae.k", self.k, self.width(d_in))

    def warnings(self, d_in: int) -> list[str]:
        """k is the L0: near d_in, any dictionary reconstructs."""
        return _crowded("sae.k", self.k, d_in)


class ReLUConfig(PenaltyConfig):
    """ReLU with an L1 penalty; the options cover the variants in use."""

    kind: Literal["relu"] = "relu"
    """Architecture."""
    reconstruction: Literal["sum", "mean"] = "sum"
    """Squared error summed or averaged over the dimensions of a row; rows are always averaged."""
    penalty: Literal["sum", "mean"] = "sum"
    """Activations summed or averaged over the latents of a row; rows are always averaged."""
    penalty_by_decoder_norm: bool = False
    """Whether an activation counts times the length of its decoder row (for decoder_norm = "free",
    where the penalty could otherwise be escaped by small activations on long rows)."""

    def unit(self, d_in: int) -> float:
        """1 / d_in for an averaged error, d_sae for an averaged penalty."""
        error = 1 / d_in if self.reconstruction == "mean" else 1.0
        return error * (self.width(d_in) if self.penalty == "mean" else 1)


class PAnnealConfig(PenaltyConfig):
    """ReLU SAE whose penalty is the sum of `acts ** p`, with p falling from 1."""

    kind: Literal["p_anneal"] = "p_anneal"
    """Architecture."""
    l1_scale: ClassVar[float] = 0.016
    p_end: float = Field(default=0.2, gt=0, le=1)
    """Exponent at the end of the annealing."""
    anneal_start: float = Field(default=0.2, ge=0, le=1)
    """Share of the training after which p starts to fall."""
    anneal_end: float = Field(default=1.0, ge=0, le=1)
    """Share of the training after which p stays at `p_end`."""

    @model_validator(mode="after")
    def _ordered(self) -> PAnnealConfig:
        if self.anneal_end <= self.anneal_start:
            raise ValueError(
                f"anneal_end must lie above anneal_start, got {self.anneal_end} and {self.anneal_start}"
            )
        return self

    def p_at(self, progress: float) -> float:
        """Exponent at a share of the training."""
        done = (progress - self.anneal_start) / (self.anneal_end - self.anneal_start)
        return 1 + min(1.0, max(0.0, done)) * (self.p_end - 1)


class GatedConfig(PenaltyConfig):
    """Gated SAE; the penalty falls on the gate alone, so that magnitudes do not shrink."""

    kind: Literal["gated"] = "gated"
    """Architecture."""
    l1_scale: ClassVar[float] = 0.04


class BatchTopKConfig(AuxKConfig):
    """BatchTopK with the auxiliary loss."""

    kind: Literal["batchtopk"] = "batchtopk"
    """Architecture."""
    k: int = Field(default=32, ge=1)
    """Latents that fire per row, on average over a batch."""
    threshold_decay: float = Field(default=0.95, ge=0, lt=1)
    """Weight of the past in the running mean of the least activation kept, per step."""

    def check(self, d_in: int) -> None:
        """Refuse k above the number of latents."""
        require_k("sae.k", self.k, self.width(d_in))

    def warnings(self, d_in: int) -> list[str]:
        """k is the L0: near d_in, any dictionary reconstructs."""
        return _crowded("sae.k", self.k, d_in)


class JumpReLUConfig(AuxKConfig):
    """JumpReLU, trained to a wanted number of latents per row or with a fixed coefficient."""

    kind: Literal["jumprelu"] = "jumprelu"
    """Architecture."""
    penalty: Literal["target", "l0", "tanh"] = "target"
    """target: (l0 / target_l0 - 1)^2, and a controller that closes the rest of the gap. l0: the mean number
    of latents that fire. tanh: sum of tanh(tanh_scale * act * norm of its decoder row)."""
    target_l0: float = Field(default=32.0, gt=0)
    """Latents that fire per row, on average; used by penalty = "target"."""
    coefficient: float | None = Field(default=None, ge=0)
    """Coefficient of the penalty; unset: 1 for "target", 0.001 for "l0" and "tanh"."""
    control: float = Field(default=0.05, ge=0, lt=1)
    """Share by which a step moves all thresholds together, times the relative gap to the target; 0 leaves
    L0 to the penalty."""
    tanh_scale: float = Field(default=4.0, gt=0)
    """Steepness of penalty = "tanh"."""
    pre_act: float = Field(default=0.0, ge=0)
    """Coefficient of relu(threshold - pre_act) summed over dead latents, times the norms of their decoder
    rows: another way to bring them back."""
    bandwidth: float = Field(default=0.5, gt=0)
    """Width of the rectangle around the threshold inside which it gets a gradient, in normalised units."""
    threshold_init: float | None = Field(default=None, ge=0)
    """Threshold of all latents at the start; unset: 0.1, or, for penalty = "target" with init = "data", the
    one at which the initial weights fire target_l0 times per row."""

    def check_settings(self) -> None:
        """As `check`, where the number of latents does not wait for the width."""
        if self.d_sae is not None:
            self._require_target(self.d_sae)

    def check(self, d_in: int) -> None:
        """Refuse a target above the number of latents."""
        self._require_target(self.width(d_in))

    def _require_target(self, d_sae: int) -> None:
        if self.penalty == "target" and self.target_l0 > d_sae:
            raise ConfigError(
                f"sae.target_l0: expected at most d_sae = {d_sae} latents per row, got {self.target_l0:g}; "
                f"lower sae.target_l0 or raise sae.d_sae"
            )

    def warnings(self, d_in: int) -> list[str]:
        """Near d_in, any dictionary reconstructs."""
        return _crowded("sae.target_l0", self.target_l0, d_in) if self.penalty == "target" else []


class MatryoshkaConfig(BatchTopKConfig):
    """BatchTopK whose first latents also reconstruct on their own."""

    kind: Literal["matryoshka"] = "matryoshka"  # type: ignore[assignment]
    """Architecture."""
    prefixes: tuple[float, ...] = Field(default=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), min_length=1)
    """Sizes of the nested dictionaries as shares of d_sae, ascending, the last one 1."""
    prefix_weights: tuple[float, ...] | None = None
    """Weight of each dictionary's error, scaled to sum to 1; unset: all equal."""

    @model_validator(mode="after")
    def _consistent(self) -> MatryoshkaConfig:
        if self.prefixes[-1] != 1 or any(b <= a for a, b in pairwise((0.0, *self.prefixes))):
            raise ValueError(f"prefixes must ascend from above 0 to 1, got {self.prefixes}")
        weights = self.prefix_weights
        if weights is not None and len(weights) != len(self.prefixes):
            raise ValueError(
                f"expected {len(self.prefixes)} prefix_weights, one a prefix, got {len(weights)}"
            )
        if weights is not None and (min(weights) < 0 or weights[-1] <= 0):
            raise ValueError(f"prefix_weights must be >= 0, the last above 0, got {weights}")
        return self

    def check(self, d_in: int) -> None:
        """Also refuse prefixes that fall on the same number of latents."""
        super().check(d_in)
        widths = self.widths(d_in)
        if len(set(widths)) < len(widths) or widths[0] < 1:
            raise ConfigError(
                f"sae.prefixes: expected different numbers of latents, at least 1 each, got {widths} of "
                f"d_sae = {self.width(d_in)}; use fewer prefixes or raise sae.d_sae"
            )

    def widths(self, d_in: int) -> list[int]:
        """Number of latents in each nested dictionary."""
        return [round(share * self.width(d_in)) for share in self.prefixes]

    def weights(self) -> list[float]:
        """Weight of each dictionary's error; they sum to 1."""
        raw = self.prefix_weights or (1.0,) * len(self.prefixes)
        return [w / sum(raw) for w in raw]


class HierarchicalTopKConfig(BatchTopKConfig):
    """BatchTopK that reconstructs with several numbers of latents at once."""

    kind: Literal["hierarchical_topk"] = "hierarchical_topk"  # type: ignore[assignment]
    """Architecture."""
    ks: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Latents per row with which it reconstructs, ascending, `k` among them; unset: half of `k`, `k`, and
    twice `k`, at most all."""
    fade: float | None = Field(default=None, gt=0, le=1)
    """Share of the training over which the other errors lose their weight, so that the rest is for `k` alone;
    unset: all count alike to the end, and it can be read at each of `ks`."""

    @model_validator(mode="after")
    def _ascending(self) -> HierarchicalTopKConfig:
        ks = self.ks
        if ks is not None and (ks[0] < 1 or any(b <= a for a, b in pairwise(ks)) or self.k not in ks):
            raise ValueError(f"ks must ascend from 1 or more and hold k = {self.k}, got {ks}")
        return self

    def for_width(self, d_in: int) -> HierarchicalTopKConfig:
        """With the numbers of latents decided."""
        if self.ks is not None:
            return self
        ks = {max(1, self.k // 2), self.k, min(2 * self.k, self.width(d_in))}
        return self.model_copy(update={"ks": tuple(sorted(ks))})

    @property
    def budgets(self) -> tuple[int, ...]:
        """The numbers of latents, ascending."""
        assert self.ks is not None, "an SAE's config is for its width"
        return self.ks

    def weights_at(self, progress: float) -> list[float]:
        """Weight of each error at a share of the training; they sum to 1."""
        others = 1.0 if self.fade is None else max(0.0, 1 - progress / self.fade)
        raw = [1.0 if k == self.k else others for k in self.budgets]
        return [weight / sum(raw) for weight in raw]

    def check(self, d_in: int) -> None:
        """Also refuse a largest k above the number of latents."""
        super().check(d_in)
        if self.ks is not None:
            require_k("sae.ks", self.ks[-1], self.width(d_in))


class SupervisedConfig(AuxKConfig):
    """TopK SAE with one more latent for each class of each label column."""

    kind: Literal["supervised"] = "supervised"
    """Architecture."""
    k: int = Field(default=32, ge=1)
    """Free latents that fire on each row (fewer where fewer are positive)."""
    label_columns: tuple[str, ...] = ()
    """Columns of the problems whose classes get a latent each; at least one."""
    label_classes: tuple[tuple[str, ...], ...] = ()
    """The classes of each column, in the order of the tied latents; training fills them in."""
    label: float = Field(default=0.1, ge=0)
    """Coefficient of the labels' loss; 0 trains the same SAE without labels."""

    @property
    def n_tied(self) -> int:
        """Latents tied to labels: the first ones."""
        return sum(len(classes) for classes in self.label_classes)

    def check_settings(self) -> None:
        """Refuse no column, or one twice."""
        require_columns(self.label_columns)

    def check(self, d_in: int) -> None:
        """Refuse missing columns or classes, and k above the number of free latents."""
        self.check_settings()
        if len(self.label_classes) != len(self.label_columns):
            raise ConfigError(
                f"sae.label_classes: expected the classes of {', '.join(self.label_columns)}, got "
                f"{len(self.label_classes)} lists; `encode_labels` finds them"
            )
        for column, classes in zip(self.label_columns, self.label_classes, strict=True):
            require_classes(column, len(classes))
        require_k("sae.k", self.k, self.width(d_in) - self.n_tied)


class TranscoderConfig(AuxKConfig):
    """TopK transcoder from `hook_in` to `hook_out`, typically the two sides of an MLP."""

    kind: Literal["transcoder"] = "transcoder"
    """Architecture."""
    hook_in: str | None = None
    """Hook that is read; training needs it."""
    hook_out: str | None = None
    """Hook that is predicted; training needs it."""
    k: int = Field(default=32, ge=1)
    """Latents that fire on each row (fewer where fewer are positive)."""
    skip: bool = False
    """Add a linear map from input to output beside the latents (Paulo et al. 2025)."""
    pre_bias: bool = False
    """Cannot be true: b_dec lives at the output, not at the input."""

    def check_settings(self) -> None:
        """Refuse missing hooks, and what `check` refuses whatever the width."""
        if self.hook_in is None or self.hook_out is None:
            raise ConfigError(
                f"kind = transcoder needs sae.hook_in and sae.hook_out, got {self.hook_in} and "
                f"{self.hook_out}"
            )
        self._require_two_sides()

    def check(self, d_in: int) -> None:
        """Refuse k above the number of latents, a pre-bias, and a hook predicted from itself."""
        require_k("sae.k", self.k, self.width(d_in))
        self._require_two_sides()

    def _require_two_sides(self) -> None:
        if self.pre_bias:
            raise ConfigError(
                "sae.pre_bias: expected false for a transcoder, whose b_dec lives at the output, got true"
            )
        if self.hook_in is not None and self.hook_in == self.hook_out:
            raise ConfigError(
                f"sae.hook_in and sae.hook_out are both {self.hook_in!r}; choose another, or kind = topk"
            )


class CrosscoderConfig(AuxKConfig, PenaltyConfig):
    """One dictionary over several layers, or over the successive thoughts of a problem."""

    kind: Literal["crosscoder"] = "crosscoder"
    """Architecture."""
    over: Literal["layers", "thoughts"] = "layers"
    """What the sites are: the hooks of a row, or the thoughts of a problem at one hook."""
    sites: tuple[str, ...] = ()
    """Names of the sites, in order; training fills them in."""
    sparsity: Literal["batchtopk", "l1"] = "batchtopk"
    """batchtopk: k latents per row on average, without shrinkage (Minder et al. 2025). l1: a penalty on
    each activation times the summed norms of what it writes at each site (Lindsey et al. 2024)."""
    k: int = Field(default=32, ge=1)
    """Latents that fire per row over all sites together, on average; for batchtopk."""
    threshold_decay: float = Field(default=0.95, ge=0, lt=1)
    """Weight of the past in the running mean of the least activation kept, per step; for batchtopk."""

    @property
    def penalised(self) -> bool:
        """Not with batchtopk."""
        return self.sparsity == "l1"

    def check(self, d_in: int) -> None:
        """Refuse fewer than two sites, sites of one name, and k above the number of latents."""
        if len(self.sites) < 2 or len(set(self.sites)) < len(self.sites):
            raise ConfigError(
                f"sae.sites: expected at least 2 different sites for a crosscoder, got {self.sites}"
            )
        if self.sparsity == "batchtopk":
            require_k("sae.k", self.k, self.width(d_in))


class ImportedConfig(SAEConfig):
    """What another library's SAE does, as far as no other kind says it."""

    kind: Literal["imported"] = "imported"
    """Architecture."""
    rule: ImportedRule = "relu"
    """What fires. signed_topk: the k largest, even those below 0. abstopk: the k largest by size, with their
    signs. groupmax: the largest of each of k groups. identity: everything. pursuit: matching pursuit. Others
    as the kinds of these names."""
    k: int | None = Field(default=None, ge=1)
    """For topk, signed_topk, abstopk and groupmax."""
    input_norm: Literal["none", "layer_norm", "rescale"] = "none"
    """Done to each row before and undone after. layer_norm: (x - mean) / (std + 1e-5). rescale: to
    length sqrt(d_in)."""
    hook_out: str | None = None
    """Hook that a transcoder predicts."""
    transcoder: bool = False
    """Whether another hook is predicted than is read."""
    skip: bool = False
    """Add a linear map from input to output beside the latents."""
    residual_threshold: float = Field(default=0.01, ge=0)
    """For pursuit: a row stops when its residual is shorter; 0: never for that."""
    max_iterations: int | None = Field(default=None, ge=1, le=2**16)
    """For pursuit: steps at most; unset: d_in."""
    stop_on_duplicate_support: bool = True
    """For pursuit: a row stops when a step brings no new latent."""

    def check(self, d_in: int) -> None:
        """Refuse a k that does not fit, and combinations without a meaning."""
        if self.rule in ("topk", "signed_topk", "abstopk", "groupmax"):
            require_k("sae.k", self.k or 0, self.width(d_in))
        if self.rule == "groupmax" and self.width(d_in) % (self.k or 1):
            raise ConfigError(
                f"sae.k = {self.k}: expected a divisor of d_sae = {self.width(d_in)} for groupmax"
            )
        if self.transcoder and (self.pre_bias or self.input_norm != "none" or self.rule == "pursuit"):
            raise ConfigError("An imported transcoder has neither pre_bias nor input_norm, and no pursuit")
        if self.skip and not self.transcoder:
            raise ConfigError("sae.skip: expected false for an SAE that reconstructs its own input")


AnySAEConfig = Annotated[
    TopKConfig
    | ReLUConfig
    | PAnnealConfig
    | GatedConfig
    | BatchTopKConfig
    | JumpReLUConfig
    | MatryoshkaConfig
    | HierarchicalTopKConfig
    | SupervisedConfig
    | TranscoderConfig
    | CrosscoderConfig,
    Field(discriminator="kind"),
]


CONFIGS: dict[str, type[SAEConfig]] = {
    cfg.model_fields["kind"].default: cfg for cfg in (*get_args(get_args(AnySAEConfig)[0]), ImportedConfig)
}
"""By kind."""


def require_k(name: str, k: int, d_sae: int) -> None:
    """Raise ConfigError unless 1 <= k <= d_sae."""
    if not 1 <= k <= d_sae:
        raise ConfigError(
            f"{name}: expected 1 to d_sae = {d_sae} latents per row, got {k}; lower {name} or raise sae.d_sae"
        )


def require_columns(columns: Sequence[str]) -> None:
    """Raise ConfigError unless there are label columns, each once."""
    if not columns:
        raise ConfigError(
            "sae.label_columns: expected at least one label column for kind = supervised, got none"
        )
    if len(set(columns)) < len(columns):
        raise ConfigError(f"sae.label_columns: expected each column once, got {', '.join(columns)}")


def require_classes(column: str, n: int) -> None:
    """Raise ConfigError unless a label column has 2 to 64 classes."""
    if not 2 <= n <= MAX_CLASSES:
        what = {0: "no row has a value", 1: "it is constant"}.get(n, "bin it, or take another column")
        raise ConfigError(
            f"sae.label_columns: expected 2 to {MAX_CLASSES} different values in {column!r}, got {n}: {what}"
        )


def _crowded(name: str, l0: float, d_in: int) -> list[str]:
    if l0 <= d_in / 4:
        return []
    return [f"{name} = {l0:g} is above d_in / 4 = {d_in / 4:g}: reconstruction says little at that L0"]
