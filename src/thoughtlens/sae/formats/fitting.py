"""Bringing an SAE into the shape that a format can hold, without changing what it computes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thoughtlens.core import MismatchError
from thoughtlens.sae.formats.plain import RULES, Plain

BLOCK = 1024
UNIT = 2e-6
"""How far from 1 a length may be by rounding alone."""


def cannot_hold(fmt: str, what: str, instead: str) -> MismatchError:
    """The refusal of a target that would change what an SAE computes."""
    return MismatchError(f"{fmt} cannot hold {what}; {instead}")


def rule_of(plain: Plain) -> str:
    """Its rule, for refusals."""
    return f"the rule {plain.rule} ({RULES[plain.rule]})"


def with_pre_bias(plain: Plain, wanted: bool) -> Plain:
    """The same function with or without `- b_dec` at the input, moved into b_enc.

    A 16-bit SAE becomes float32, as its b_enc would be rounded too much.
    """
    if plain.pre_bias == wanted:
        return plain
    if plain.transcoder or plain.rule == "pursuit":
        raise MismatchError("b_dec cannot be moved through a transcoder or matching pursuit")
    if plain.dtype.itemsize < 4:
        plain = replace(plain, tensors={name: t.float() for name, t in plain.tensors.items()})
        plain = plain.noting("16-bit weights became float32, so that b_dec can be moved into b_enc")
    shift = _product(plain.tensors["b_dec"].double(), plain.tensors["W_enc"])
    sign = 1 if wanted else -1
    moved = {"b_enc": (plain.tensors["b_enc"].double() + sign * shift).to(plain.dtype)}
    if plain.rule == "gated":
        scaled = plain.tensors["r_mag"].double().exp() * shift
        moved["b_mag"] = (plain.tensors["b_mag"].double() + sign * scaled).to(plain.dtype)
    how = "added to" if wanted else "taken from"
    note = (
        f"b_dec @ W_enc was {how} b_enc, because the target {'always' if wanted else 'never'} subtracts b_dec"
    )
    return replace(plain, tensors=plain.tensors | moved, pre_bias=wanted).noting(note)


def _product(vector: Tensor, matrix: Tensor) -> Tensor:
    chunks = matrix.split(BLOCK, dim=1)
    return torch.cat([vector @ chunk.double() for chunk in chunks])


def unsigned(plain: Plain) -> Plain:
    """Thresholds below 0 as 0, which is the same next to a ReLU."""
    threshold = plain.tensors.get("threshold")
    if threshold is None or not threshold.is_floating_point() or not bool((threshold < 0).any()):
        return plain
    tensors = plain.tensors | {"threshold": threshold.clamp(min=0)}
    return replace(plain, tensors=tensors).noting("thresholds below 0 became 0: a ReLU stands before them")


def as_jumprelu(plain: Plain, fmt: str, *, pre_bias: bool | None = False) -> Plain:
    """An SAE with one threshold a latent, which ReLU and BatchTopK are, too.

    Raises:
        MismatchError: another rule, a runtime norm, or thresholds below 0.
    """
    refuse_norm(plain, fmt)
    if plain.rule == "relu":
        threshold = torch.zeros(plain.d_sae, dtype=plain.dtype)
    elif plain.rule in ("jumprelu", "batchtopk"):
        threshold = plain.tensors["threshold"]
    else:
        raise cannot_hold(fmt, rule_of(plain), "it holds relu, jumprelu and batchtopk")
    if bool((threshold < 0).any()):
        raise cannot_hold(fmt, "thresholds below 0", "set them to 0 where that is what the SAE means")
    tensors = plain.tensors | {"threshold": threshold.expand(plain.d_sae).contiguous()}
    plain = replace(plain, tensors=tensors, rule="jumprelu", groups=None)
    return plain if pre_bias is None or plain.transcoder else with_pre_bias(plain, pre_bias)


def refuse_norm(plain: Plain, fmt: str) -> None:
    """Raise MismatchError for an SAE that normalises each row."""
    if plain.norm != "none":
        raise cannot_hold(fmt, f"the runtime norm {plain.norm}", "use --to thoughtlens or sae_lens")


def unit_decoder(plain: Plain) -> Plain:
    """The same function with latents in units of what they write, for rules on `acts * |W_dec row|`.

    Rows that have length 1 already stay as they are, to the last bit.
    """
    length = plain.tensors["W_dec"].norm(dim=1).clamp(min=1e-8)
    if bool(((length - 1).abs() < UNIT).all()):
        return plain
    t = plain.tensors
    scaled = {
        "W_enc": t["W_enc"] * length,
        "b_enc": t["b_enc"] * length,
        "W_dec": t["W_dec"] / length[:, None],
    }
    return replace(plain, tensors=t | scaled).noting("decoder lengths were folded into the encoder")
