"""The form between formats: what every library's SAE comes down to, in this project's words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError

Rule = Literal["relu", "jumprelu", "batchtopk", "topk", "abstopk", "groupmax", "identity", "gated", "pursuit"]
InputNorm = Literal["none", "layer_norm", "rescale"]

RULES: dict[str, str] = {
    "relu": "a ReLU",
    "jumprelu": "a threshold for each latent",
    "batchtopk": "one threshold for all latents",
    "topk": "the k largest of a row",
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
COUNTED = ("topk", "abstopk", "groupmax", "batchtopk")


@dataclass(frozen=True)
class Plain:
    """An SAE without a library.

    `acts = rule(norm(x) [- b_dec] @ W_enc + b_enc)`, `x_hat = norm^-1(acts @ W_dec + b_dec [+ x @ W_skip])`.
    """

    rule: Rule
    tensors: dict[str, Tensor]
    """`W_enc [d_in, d_sae]`, `b_enc [d_sae]`, `W_dec [d_sae, d_out]`, `b_dec [d_out]`; for some rules
    `threshold` ([d_sae], or [] for one), `r_mag` and `b_mag` ([d_sae]); `W_skip [d_in, d_out]`."""
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
    hook_out: str | None = None
    """Hook that a transcoder predicts."""
    model: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Other settings of the rule."""
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a user should know about the way here."""

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.tensors["W_enc"].shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.tensors["W_enc"].shape[1]

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return self.tensors["W_dec"].shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """d_in, d_sae and d_out."""
        return self.d_in, self.d_sae, self.d_out

    @property
    def dtype(self) -> torch.dtype:
        """Of all tensors."""
        return self.tensors["W_enc"].dtype

    def noting(self, *notes: str) -> Plain:
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *notes))


def checked(plain: Plain, file: Path) -> Plain:
    """The same SAE in one dtype, if its tensors fit together.

    Raises:
        CheckpointError: missing or unknown tensors, wrong shapes, NaN or Inf, k out of range.
    """
    names = ["W_enc", "b_enc", "W_dec", "b_dec", *EXTRA.get(plain.rule, ())]
    names += ["W_skip"] if plain.transcoder and "W_skip" in plain.tensors else []
    require_keys(plain.tensors, names, file)
    for name in ("W_enc", "W_dec"):
        if plain.tensors[name].ndim != 2 or 0 in plain.tensors[name].shape:
            raise CheckpointError(f"{file}: expected a matrix as {name}, got shape {_shape(plain, name)}")
    d_out = plain.d_out if plain.transcoder else plain.d_in
    shapes = {"W_enc": (plain.d_in, plain.d_sae), "W_dec": (plain.d_sae, d_out), "b_dec": (d_out,)}
    shapes["W_skip"] = (plain.d_in, d_out)
    if plain.rule == "batchtopk":
        shapes["threshold"] = ()
    for name in names:
        expected = shapes.get(name, (plain.d_sae,))
        if _shape(plain, name) != expected:
            raise CheckpointError(f"{file}: expected {name} of shape {expected}, got {_shape(plain, name)}")
        if not plain.tensors[name].is_floating_point():
            raise CheckpointError(f"{file}: expected floats in {name}, got {plain.tensors[name].dtype}")
        if not all(bool(torch.isfinite(bound)) for bound in torch.aminmax(plain.tensors[name].detach())):
            raise CheckpointError(f"{file}: {name} holds NaN or Inf; take another copy of this SAE")
    if plain.rule in COUNTED and not 1 <= (plain.k or 0) <= plain.d_sae:
        raise CheckpointError(f"{file}: expected k from 1 to d_sae = {plain.d_sae}, got {plain.k}")
    if plain.rule == "groupmax" and plain.d_sae % (plain.k or 1):
        raise CheckpointError(f"{file}: {plain.d_sae} latents do not fall into k = {plain.k} equal groups")
    if plain.groups is not None and (min(plain.groups, default=0) < 1 or sum(plain.groups) != plain.d_sae):
        raise CheckpointError(
            f"{file}: groups of {plain.groups} latents do not add up to d_sae = {plain.d_sae}"
        )
    dtype = plain.dtype
    for name in names:
        dtype = torch.promote_types(dtype, plain.tensors[name].dtype)
    tensors = {name: plain.tensors[name].detach().to(dtype) for name in names}
    return replace(plain, tensors=tensors)


def require_keys(
    tensors: dict[str, Any], names: Iterable[str], file: Path, ignored: Iterable[str] = ()
) -> None:
    """Raise CheckpointError unless exactly these tensors are there.

    `ignored` may be there too.
    """
    missing = sorted(set(names) - tensors.keys())
    unknown = sorted(tensors.keys() - set(names) - set(ignored))
    wrong = [name for name in names if name in tensors and not isinstance(tensors[name], Tensor)]
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{file}: keys missing: {missing}, keys not known: {unknown}"
            + (f", not tensors: {wrong}" if wrong else "")
        )


def require_int(table: dict[str, Any], name: str, file: Path, least: int = 1) -> int:
    """A whole number of a settings file.

    Raises:
        CheckpointError: missing, not a whole number, or below `least`.
    """
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise CheckpointError(f"{file}: expected {name} as a whole number from {least}, got {value!r}")
    return value


def text(value: Any) -> str | None:
    """A string of a settings file; anything else is not known."""
    return value if isinstance(value, str) and value else None


def _shape(plain: Plain, name: str) -> tuple[int, ...]:
    return tuple(plain.tensors[name].shape)


def table(value: Any) -> dict[str, Any]:
    """A table of a settings file; anything else is an empty one."""
    return value if isinstance(value, dict) else {}
