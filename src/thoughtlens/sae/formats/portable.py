"""The form between formats: what every library's SAE comes down to, in this project's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError, Json
from thoughtlens.sae.formats.says import Says

Rule = Literal[
    "relu",
    "jumprelu",
    "batchtopk",
    "topk",
    "signed_topk",
    "abstopk",
    "groupmax",
    "identity",
    "gated",
    "pursuit",
]
InputNorm = Literal["none", "layer_norm", "rescale"]

RULES: dict[str, str] = {
    "relu": "a ReLU",
    "jumprelu": "a threshold for each latent",
    "batchtopk": "one threshold for all latents",
    "topk": "the k largest of a row",
    "signed_topk": "the k largest of a row, even those below 0",
    "abstopk": "the k largest of a row by size, with their signs",
    "groupmax": "the largest of each of k groups",
    "identity": "no rule at all",
    "gated": "a gate and a magnitude",
    "pursuit": "matching pursuit",
}
"""Rules by what they do, for messages."""
EXTRA: dict[str, tuple[str, ...]] = {
    "jumprelu": ("threshold",),
    "batchtopk": ("threshold",),
    "gated": ("r_mag", "b_mag"),
}
"""Tensors that a rule has beside the four of every SAE."""
COUNTED = ("topk", "signed_topk", "abstopk", "groupmax", "batchtopk")


@dataclass(frozen=True)
class Weights:
    """The tensors of an SAE; those of another rule are None."""

    W_enc: Tensor
    """[d_in, d_sae]"""
    b_enc: Tensor
    """[d_sae]"""
    W_dec: Tensor
    """[d_sae, d_out]"""
    b_dec: Tensor
    """[d_out]"""
    threshold: Tensor | None = None
    """[d_sae], or [] for one threshold of all latents."""
    r_mag: Tensor | None = None
    """[d_sae]"""
    b_mag: Tensor | None = None
    """[d_sae]"""
    W_skip: Tensor | None = None
    """[d_in, d_out]"""

    def named(self) -> dict[str, Tensor]:
        """Those that are not None."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def map(self, change: Callable[[Tensor], Tensor]) -> Weights:
        """Each of them changed."""
        return Weights(**{name: change(tensor) for name, tensor in self.named().items()})


@dataclass(frozen=True)
class Names:
    """What a format calls the tensors of an SAE."""

    theirs: Mapping[str, str]
    """Its name of each of `Weights`."""
    transposed: tuple[str, ...] = ()
    """Those that it holds transposed."""

    def read(self, state: Mapping[str, Tensor]) -> Weights:
        """The weights among a format's tensors, of which the four of every SAE have to be there."""
        return Weights(
            **{
                ours: self._turned(ours, state[theirs])
                for ours, theirs in self.theirs.items()
                if theirs in state
            }
        )

    def write(self, weights: Weights) -> dict[str, Tensor]:
        """A format's tensors."""
        return {
            self.theirs[ours]: self._turned(ours, tensor).contiguous()
            for ours, tensor in weights.named().items()
            if ours in self.theirs
        }

    def _turned(self, ours: str, tensor: Tensor) -> Tensor:
        return tensor.mT if ours in self.transposed and tensor.ndim == 2 else tensor


class Pursuit(NamedTuple):
    """Settings of matching pursuit; None: its default."""

    residual_threshold: float | None
    max_iterations: int | None
    stop_on_duplicate_support: bool | None


@dataclass(frozen=True)
class Portable:
    """An SAE without a library.

    `acts = rule(norm(x) [- b_dec] @ W_enc + b_enc)`, `x_hat = norm^-1(acts @ W_dec + b_dec [+ x @ W_skip])`.
    """

    rule: Rule
    weights: Weights
    k: int | None = None
    pre_bias: bool = True
    """Whether b_dec is subtracted from the input."""
    norm: InputNorm = "none"
    """What is done to each row before, and undone after."""
    transcoder: bool = False
    """Whether it predicts another hook than the one it reads."""
    groups: tuple[int, ...] | None = None
    """Sizes of a Matryoshka SAE's groups of latents."""
    hook: str | None = None
    """Hook that is read, in this project's words where they are known."""
    hook_assumed: bool = False
    """Whether that stands on an architecture that nobody stated."""
    hook_out: str | None = None
    """Hook that a transcoder predicts."""
    says: Says = field(default_factory=Says)
    """What it says of the activations that it was trained on, its model among it."""
    pursuit: Pursuit | None = None
    provenance: Json = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a user should know about the way here."""

    @property
    def model(self) -> str | None:
        """The model that it was trained on."""
        return self.says.model

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.weights.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.weights.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return self.weights.W_dec.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of all tensors."""
        return self.weights.W_enc.dtype

    def noting(self, *notes: str) -> Portable:
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *notes))


def checked(sae: Portable, file: Path) -> Portable:
    """The same SAE in one dtype, if its tensors fit together.

    Raises:
        CheckpointError: missing or unknown tensors, wrong shapes, NaN or Inf, k out of range.
    """
    tensors = sae.weights.named()
    names = ["W_enc", "b_enc", "W_dec", "b_dec", *EXTRA.get(sae.rule, ())]
    require_keys(tensors, [*names, "W_skip"] if sae.transcoder and "W_skip" in tensors else names, file)
    for name, matrix in (("W_enc", sae.weights.W_enc), ("W_dec", sae.weights.W_dec)):
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise CheckpointError(f"{file}: expected a matrix as {name}, got shape {tuple(matrix.shape)}")
    d_in, d_sae, d_out = sae.d_in, sae.d_sae, sae.d_out if sae.transcoder else sae.d_in
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,), "W_skip": (d_in, d_out)}
    if sae.rule == "batchtopk":
        shapes["threshold"] = ()
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, shapes.get(name, (d_sae,)), file)
    _check_counts(sae, file)
    dtype = sae.dtype
    for tensor in tensors.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    return replace(sae, weights=sae.weights.map(lambda tensor: tensor.detach().to(dtype)))


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], file: Path) -> None:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(f"{file}: expected {name} of shape {shape}, got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise CheckpointError(f"{file}: expected floats in {name}, got {tensor.dtype}")
    if not all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor.detach())):
        raise CheckpointError(f"{file}: {name} holds NaN or Inf; take another copy of this SAE")


def _check_counts(sae: Portable, file: Path) -> None:
    if sae.rule in COUNTED and not 1 <= (sae.k or 0) <= sae.d_sae:
        raise CheckpointError(f"{file}: expected k from 1 to d_sae = {sae.d_sae}, got {sae.k}")
    if sae.rule == "groupmax" and sae.d_sae % (sae.k or 1):
        raise CheckpointError(f"{file}: {sae.d_sae} latents do not fall into k = {sae.k} equal groups")
    if sae.groups is not None and (min(sae.groups, default=0) < 1 or sum(sae.groups) != sae.d_sae):
        raise CheckpointError(f"{file}: groups of {sae.groups} latents do not add up to d_sae = {sae.d_sae}")


def require_keys(
    found: Mapping[str, object], names: Iterable[str], file: Path, ignored: Iterable[str] = ()
) -> None:
    """Raise CheckpointError unless exactly these tensors are there.

    `ignored` may be there too.
    """
    missing = sorted(set(names) - found.keys())
    unknown = sorted(found.keys() - set(names) - set(ignored))
    wrong = [name for name in names if name in found and not isinstance(found[name], Tensor)]
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{file}: keys missing: {missing}, keys not known: {unknown}"
            + (f", not tensors: {wrong}" if wrong else "")
        )
