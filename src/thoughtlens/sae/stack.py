"""SAEs of one shape as one tensor program: a leading member dimension on every tensor.

A stack of M SAEs with d_sae latents each is, seen from the decoder, one SAE with M * d_sae latents of
which a row can use one block: selection and sparse decoding are the single SAE's kernels on M * batch
rows, and the dense products are batched ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtlens import kernels
from thoughtlens.errors import MismatchError
from thoughtlens.sae.base import SAE, SAEConfig
from thoughtlens.sae.topk import dead_loss


@dataclass(frozen=True)
class StackTerms:
    """The losses of all members: `total` is the sum of `terms`, coefficients included."""

    terms: dict[str, Float[Tensor, " members"]]
    fired: Int[Tensor, "members d_sae"]
    """On how many rows of its batch each latent fires."""
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

    Raises:
        MismatchError: members that do not share `stack_key`, or of a kind that has no batched loss.
    """

    def __init__(self, members: Sequence[SAE]):
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

    def pre_acts(self, z: Float[Tensor, "members batch d_in"]) -> Float[Tensor, "members batch d_sae"]:
        """As `SAE.pre_acts`."""
        if self.cfg.pre_bias:
            z = z - self.b_dec[:, None]
        return self.linear(z, self.W_enc, self.b_enc)

    def linear(
        self,
        x: Float[Tensor, "members batch a"],
        W: Float[Tensor, "members a b"],
        b: Float[Tensor, "members b"],
    ) -> Float[Tensor, "members batch b"]:
        """`x @ W + b`, the product in the members' compute dtype."""
        dtype = self.members[0].compute_dtype or W.dtype
        if dtype == W.dtype:
            return torch.baddbmm(b[:, None], x, W)
        return (x.to(dtype) @ W.to(dtype)).to(W.dtype) + b[:, None]

    def per_member(self, values: Sequence[float]) -> Float[Tensor, " members"]:
        """One number a member, beside the weights."""
        return torch.tensor(values, dtype=self.W_enc.dtype, device=self.W_enc.device)

    @torch.no_grad()
    def share_gradients(self) -> None:
        """Let each member see its slice of the gradients; W_dec's only across unit rows."""
        if self.cfg.decoder_norm == "unit" and self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(dim=2, keepdim=True)
            self.W_dec.grad -= along * self.W_dec
        for name, parameter in self.parameters.items():
            for i, sae in enumerate(self.members):
                sae.get_parameter(name).grad = None if parameter.grad is None else parameter.grad[i]

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """As `SAE.normalize_decoder`."""
        if self.cfg.decoder_norm == "unit":
            self.W_dec /= self.W_dec.norm(dim=2, keepdim=True).clamp_min(1e-12)

    def _join(self, name: str) -> nn.Parameter:
        """The members' parameters as one, of which theirs become slices."""
        parts = [sae.get_parameter(name).detach() for sae in self.members]
        whole = torch.stack([p.T for p in parts]).mT if name == "W_enc" else torch.stack(parts)
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


def _topk(
    stack: Stack, z: Float[Tensor, "m batch d"], dead: Bool[Tensor, "m d_sae"], progress: Sequence[float]
) -> StackTerms:
    """As `TopKSAE.loss`."""
    pre_acts = stack.pre_acts(z)
    ks = [sae.cfg.k for sae in stack.members]
    values, indices = _first_k(*kernels.topk(pre_acts.flatten(0, 1), max(ks)), ks)
    blocks = stack.d_sae * torch.arange(len(ks), device=z.device).repeat_interleave(z.shape[1])
    indices = indices + blocks[:, None]
    decoded = kernels.decode(values, indices, stack.W_dec.flatten(0, 1)).view_as(z)
    residual = z - (decoded + stack.b_dec[:, None])
    terms = {"reconstruction": residual.square().mean((1, 2))}
    if stack.cfg.auxk > 0:
        weight = stack.per_member([sae.cfg.auxk for sae in stack.members])
        terms["auxk"] = weight * _auxk(stack, residual, pre_acts, dead)
    fired = torch.bincount(indices[values != 0], minlength=len(ks) * stack.d_sae)
    return StackTerms(terms, fired.view(len(ks), -1))


def _first_k(
    values: Float[Tensor, "rows k"], indices: Int[Tensor, "rows k"], ks: Sequence[int]
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """Each member's own k largest; what is beyond them becomes 0.

    Always sorted: the order of a member's sums must not depend on who else is in the stack.
    """
    values, order = values.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(values.shape[1], device=values.device)
    limit = torch.tensor(ks, device=values.device).repeat_interleave(len(values) // len(ks))
    return torch.where(rank < limit[:, None], values, 0), indices.gather(1, order)


def _auxk(
    stack: Stack,
    residual: Float[Tensor, "m batch d"],
    pre_acts: Float[Tensor, "m batch d_sae"],
    dead: Bool[Tensor, "m d_sae"],
) -> Float[Tensor, " m"]:
    """As `auxk_loss`, one by one for the members that have dead latents.

    Padded to one number of latents they could go together, but then a member's sums would depend on the
    others, and a resumed run would end with other bytes.
    """
    k_aux = stack.cfg.k_aux or max(1, stack.d_in // 2)
    dtype = stack.members[0].compute_dtype or stack.W_dec.dtype
    losses = list(residual.new_zeros(len(residual)))
    for i in dead.any(1).nonzero().squeeze(1).tolist():
        latents = dead[i].nonzero().squeeze(1)
        losses[i] = dead_loss(residual[i], pre_acts[i][:, latents], stack.W_dec[i][latents], k_aux, dtype)
    return torch.stack(losses)


def _relu(
    stack: Stack, z: Float[Tensor, "m batch d"], dead: Bool[Tensor, "m d_sae"], progress: Sequence[float]
) -> StackTerms:
    """As `ReLUSAE.loss`."""
    cfg = stack.cfg
    acts = stack.pre_acts(z).relu()
    squared = (z - stack.linear(acts, stack.W_dec, stack.b_dec)).square()
    weighted = acts * stack.W_dec.norm(dim=2)[:, None] if cfg.penalty_by_decoder_norm else acts
    penalty = weighted.mean((1, 2)) if cfg.penalty == "mean" else weighted.sum(2).mean(1)
    cfgs = [sae.cfg for sae in stack.members]
    l1 = [
        c.l1 * (min(1.0, done / c.l1_warmup) if c.l1_warmup > 0 else 1.0)
        for c, done in zip(cfgs, progress, strict=True)
    ]
    whole = cfg.reconstruction == "sum"
    return StackTerms(
        {
            "reconstruction": squared.sum(2).mean(1) if whole else squared.mean((1, 2)),
            "l1": stack.per_member(l1) * penalty,
        },
        (acts != 0).sum(1),
    )


LOSSES: dict[str, Callable[..., StackTerms]] = {"topk": _topk, "relu": _relu}
"""The kinds that can be stacked."""
OWN: dict[str, tuple[str, ...]] = {"topk": ("k",), "relu": ("l1", "l1_warmup")}
"""Settings in which the members of a stack may differ."""
