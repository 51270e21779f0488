"""SAEs of one shape as one tensor program: a leading member dimension on every tensor.

A stack of M SAEs with d_sae latents each is, seen from the decoder, one SAE with M * d_sae latents of
which a row can use one block: selection, sparse decoding and the optimizer are the single SAE's kernels on
M times as many rows, and the dense products are batched ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from thoughtlens.core import MismatchError
from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE, SparseActs, counts
from thoughtlens.sae.kinds.config import SAEConfig
from thoughtlens.sae.kinds.topk import dead_loss


@dataclass(frozen=True)
class StackTerms:
    """The losses of all members: `total` is the sum of `terms`, coefficients included."""

    terms: dict[str, Float[Tensor, " members"]]
    fired: Int[Tensor, "members d_sae"]
    """On how many rows of its batch each latent fires."""
    idle: Bool[Tensor, "members d_sae"]
    """Latents without a part in the loss: the gradients of all they own are 0."""
    total: Float[Tensor, " members"] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", torch.stack(list(self.terms.values())).sum(0))


def stack_key(cfg: SAEConfig, d_in: int) -> object | None:
    """What SAEs must share to stand in one stack; None for kinds without a batched loss."""
    if cfg.kind not in LOSSES:  # type: ignore[attr-defined]
        return None
    table = cfg.model_dump(mode="json", exclude={"d_sae", "expansion", "init", *OWN[cfg.kind]})  # type: ignore[attr-defined]
    if "auxk" in type(cfg).model_fields:
        table["auxk"] = cfg.auxk > 0  # type: ignore[attr-defined]
    return d_in, cfg.width(d_in), tuple(sorted((name, repr(value)) for name, value in table.items()))


class Stack:
    """SAEs whose parameters are slices of common tensors `[members, ...]`.

    The members stay ordinary SAEs: what changes in the stack changes in them, so that each is measured,
    saved and restored by itself. Each keeps its own k, penalty and normalisation.

    Args:
        members: They share `stack_key`.
        ordered: Sum what a row's latents write in an order of their own, largest first, as is needed where
            others, with another k, may be in the stack at one time and not at another. None: where k differs.

    Raises:
        MismatchError: members that do not share `stack_key`, or of a kind that has no batched loss.
    """

    def __init__(self, members: Sequence[SAE], ordered: bool | None = None):
        keys = {stack_key(sae.cfg, sae.d_in) for sae in members}
        if len(keys) != 1 or None in keys:
            raise MismatchError(
                f"Expected SAEs of one shape and one kind among {', '.join(LOSSES)}, got "
                f"{', '.join(f'{sae.kind} {sae.d_in} x {sae.d_sae}' for sae in members)}; stack equal ones"
            )
        self.members = list(members)
        first = self.members[0]
        self.d_in, self.d_sae, self.cfg = first.d_in, first.d_sae, first.cfg
        self.parameters = {name: self._join(name) for name, _ in first.named_parameters()}
        self.W_enc, self.b_enc = self.parameters["W_enc"], self.parameters["b_enc"]
        self.W_dec, self.b_dec = self.parameters["W_dec"], self.parameters["b_dec"]
        ks = {getattr(sae.cfg, "k", None) for sae in members}
        self.ordered = len(ks) > 1 if ordered is None else ordered
        self._scale = self._joint_normalization()
        self._loss = LOSSES[first.kind]

    def loss(
        self,
        x: Float[Tensor, "members batch d_in"],
        cell: Sequence[Int[Tensor, " batch"] | None],
        dead: Bool[Tensor, "members d_sae"],
        progress: Sequence[float],
    ) -> StackTerms:
        """Every member's training objective on its own batch of raw activations, as `SAE.loss`."""
        return self._loss(self, self.normalize(x, cell), dead, progress)

    def normalize(
        self, x: Float[Tensor, "members batch d_in"], cell: Sequence[Int[Tensor, " batch"] | None]
    ) -> Float[Tensor, "members batch d_in"]:
        """As `SAE.normalize`, member by member."""
        if self._scale is None:
            pairs = zip(self.members, x, cell, strict=True)
            return torch.stack([sae.normalize(rows, index) for sae, rows, index in pairs])
        mean, scale = self._scale
        return (x.to(self.W_enc.dtype) - mean) * scale

    @property
    def compute_dtype(self) -> torch.dtype:
        """dtype of the dense products."""
        return self.members[0].compute_dtype

    def centred(self, z: Float[Tensor, "members batch d_in"]) -> Float[Tensor, "members batch d_in"]:
        """What the encoder's product takes."""
        return z - self.b_dec[:, None] if self.cfg.pre_bias else z

    def linear(
        self,
        x: Float[Tensor, "members batch a"],
        W: Float[Tensor, "members a b"],
        b: Float[Tensor, "members b"],
    ) -> Float[Tensor, "members batch b"]:
        """`x @ W + b`, the product in the members' compute dtype."""
        dtype = self.compute_dtype
        if dtype == W.dtype:
            return torch.baddbmm(b[:, None], x, W)
        return kernels.product(x, W, dtype) + b[:, None]

    def per_member(self, values: Sequence[float]) -> Float[Tensor, " members"]:
        """One number per member, beside the weights."""
        return torch.tensor(values, dtype=self.W_enc.dtype, device=self.W_enc.device)

    @property
    def unit(self) -> bool:
        """Whether decoder rows keep length 1."""
        return self.members[0].unit_from is not None

    def _join(self, name: str) -> nn.Parameter:
        """The members' parameters as one, of which theirs become slices."""
        whole = join([sae.get_parameter(name).detach() for sae in self.members])
        for sae, part in zip(self.members, whole, strict=True):
            sae.get_parameter(name).data = part
        return nn.Parameter(whole)

    def _joint_normalization(self) -> tuple[Tensor, Tensor] | None:
        """Mean and factor of every member, to be applied at once; None where rows have cells."""
        tables = [sae.normalization for sae in self.members]
        if any(table is None or table.cells is not None for table in tables):
            return None
        mean = torch.stack([table.mean[0] for table in tables if table is not None])
        spread = torch.stack([table.spread[0] for table in tables if table is not None])
        return mean[:, None], torch.where(spread > 0, 1 / spread, 0)[:, None, None]


def join(parts: Sequence[Tensor]) -> Shaped[Tensor, "members ..."]:
    """Tensors of one shape as one, which keeps the order in memory of matrices that lie transposed."""
    transposed = parts[0].ndim == 2 and not parts[0].is_contiguous()
    return torch.stack([part.T for part in parts]).mT if transposed else torch.stack(list(parts))


def _topk(
    stack: Stack, z: Float[Tensor, "m batch d"], dead: Bool[Tensor, "m d_sae"], progress: Sequence[float]
) -> StackTerms:
    """As `TopKSAE.loss`."""
    ks, dtype = [sae.cfg.k for sae in stack.members], stack.compute_dtype
    centre = stack.b_dec if stack.cfg.pre_bias else None
    values, indices = kernels.encode_topk(z, stack.W_enc, stack.b_enc, max(ks), dtype, centre)
    if stack.ordered:
        values, indices = _first_k(values, indices, ks)
    error, residual = kernels.decode_error(values, indices, stack.W_dec, z, stack.b_dec)
    terms = {"reconstruction": error / residual[0].numel()}
    fired = counts(SparseActs(values, indices), dead.numel()).view_as(dead)
    idle = fired == 0
    if stack.cfg.auxk > 0:
        weight = stack.per_member([sae.cfg.auxk for sae in stack.members])
        terms["auxk"] = weight * _auxk(stack, z, residual, dead)
        idle &= ~dead
    return StackTerms(terms, fired, idle)


def _first_k(
    values: Float[Tensor, "m batch k"], indices: Int[Tensor, "m batch k"], ks: Sequence[int]
) -> tuple[Float[Tensor, "m batch k"], Int[Tensor, "m batch k"]]:
    """Each member's own k largest, in order; what is beyond them becomes 0."""
    values, order = values.sort(dim=2, descending=True, stable=True)
    rank = torch.arange(values.shape[2], device=values.device)
    limit = torch.tensor(ks, device=values.device)[:, None, None]
    return torch.where(rank < limit, values, 0), indices.gather(2, order)


def _auxk(
    stack: Stack,
    z: Float[Tensor, "m batch d"],
    residual: Float[Tensor, "m batch d"],
    dead: Bool[Tensor, "m d_sae"],
) -> Float[Tensor, " m"]:
    """As `auxk_loss`, one by one for the members that have dead latents.

    Padded to one number of latents they could go together, but then a member's sums would depend on the
    others, and a resumed run would end with other bytes.
    """
    k_aux, dtype = stack.cfg.k_aux or max(1, stack.d_in // 2), stack.compute_dtype
    losses = list(residual.new_zeros(len(residual)).unbind())
    if not (n_dead := dead.sum(1).tolist()) or not any(n_dead):
        return torch.stack(losses)
    latents = dead.flatten().nonzero().squeeze(1)
    encoders = stack.W_enc.mT.flatten(0, 1)[latents].split(n_dead)
    biases, rows = stack.b_enc.flatten()[latents].split(n_dead), stack.W_dec.flatten(0, 1)[latents]
    members = zip(
        stack.centred(z).unbind(), residual.unbind(), encoders, biases, rows.split(n_dead), strict=True
    )
    for i, (x, target, W, b, own) in enumerate(members):
        if len(own):
            pre_acts = kernels.linear(x, W.T, b, dtype)
            losses[i] = dead_loss(target, pre_acts, own, k_aux, dtype)
    return torch.stack(losses)


def _relu(
    stack: Stack, z: Float[Tensor, "m batch d"], dead: Bool[Tensor, "m d_sae"], progress: Sequence[float]
) -> StackTerms:
    """As `ReLUSAE.loss`."""
    cfg = stack.cfg
    acts = stack.linear(stack.centred(z), stack.W_enc, stack.b_enc).relu()
    fired = (acts != 0).sum(1)
    squared = (z - stack.linear(acts, stack.W_dec, stack.b_dec)).square()
    weighted = acts * stack.W_dec.norm(dim=2)[:, None] if cfg.penalty_by_decoder_norm else acts
    penalty = weighted.mean((1, 2)) if cfg.penalty == "mean" else weighted.sum(2).mean(1)
    l1 = [sae.cfg.penalty_at(done) for sae, done in zip(stack.members, progress, strict=True)]
    whole = cfg.reconstruction == "sum"
    return StackTerms(
        {
            "reconstruction": squared.sum(2).mean(1) if whole else squared.mean((1, 2)),
            "l1": stack.per_member(l1) * penalty,
        },
        fired,
        fired == 0,
    )


LOSSES: dict[str, Callable[..., StackTerms]] = {"topk": _topk, "relu": _relu}
"""The kinds that can be stacked."""
OWN: dict[str, tuple[str, ...]] = {"topk": ("k",), "relu": ("l1", "l1_warmup")}
"""Settings in which the members of a stack may differ."""
