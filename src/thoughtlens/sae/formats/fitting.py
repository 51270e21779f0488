"""Bringing an SAE into the shape that a format can hold, without changing what it computes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thoughtlens.core import Json, MismatchError
from thoughtlens.sae.formats.portable import RULES, Portable

BLOCK = 1024
WIDE, UNRELATED = 64, 0.05
"""Width from which on directions can be told to be unrelated, and the mean cosine below which they are."""
UNIT = 2e-6
"""How far from 1 a length may be by rounding alone."""


def cannot_hold(fmt: str, what: str, instead: str) -> MismatchError:
    """The refusal of a target that would change what an SAE computes."""
    return MismatchError(f"{fmt} cannot hold {what}; {instead}")


def rule_of(sae: Portable) -> str:
    """Its rule, for refusals."""
    return f"the rule {sae.rule} ({RULES[sae.rule]})"


def written(sae: Portable) -> Json:
    """An SAE's `settings.Ours`, for the settings file of another library."""
    return {"hook_name": sae.hook, "hook_name_out": sae.hook_out, "provenance": sae.provenance}


def left_out(sae: Portable, *kept: str) -> list[str]:
    """What is known of an SAE and has no place in a file: one line, or nothing."""
    own = sae.provenance
    known = {"hook": sae.hook, "model": sae.model, "thoughts": own.get("thoughts")}
    known |= {"convention of thoughts": own.get("thought_convention"), "store": own.get("acts_digest")}
    lost = [what for what, value in known.items() if value is not None and what not in kept]
    return [f"the file has no place for its {', '.join(lost)}"] if lost else []


def in_float32(sae: Portable) -> Portable:
    """The same with float32 weights."""
    return replace(sae, weights=sae.weights.map(Tensor.float))


def with_pre_bias(sae: Portable, wanted: bool) -> Portable:
    """The same function with or without `- b_dec` at the input, moved into b_enc.

    A 16-bit SAE becomes float32, as its b_enc would be rounded too much.
    """
    if sae.pre_bias == wanted:
        return sae
    if sae.transcoder or sae.rule == "pursuit":
        raise MismatchError("b_dec cannot be moved through a transcoder or matching pursuit")
    if sae.dtype.itemsize < 4:
        sae = in_float32(sae).noting("16-bit weights became float32, so that b_dec can be moved into b_enc")
    w = sae.weights
    shift = _product(w.b_dec.double(), w.W_enc) * (1 if wanted else -1)
    moved = replace(w, b_enc=(w.b_enc.double() + shift).to(sae.dtype))
    if w.r_mag is not None and w.b_mag is not None:
        moved = replace(moved, b_mag=(w.b_mag.double() + w.r_mag.double().exp() * shift).to(sae.dtype))
    note = (
        f"b_dec @ W_enc was {'added to' if wanted else 'taken from'} b_enc, because the target "
        f"{'always' if wanted else 'never'} subtracts b_dec"
    )
    return replace(sae, weights=moved, pre_bias=wanted).noting(note)


def _product(vector: Tensor, matrix: Tensor) -> Tensor:
    return torch.cat([vector @ chunk.double() for chunk in matrix.split(BLOCK, dim=1)])


def unsigned(sae: Portable) -> Portable:
    """Thresholds below 0 as 0, which is the same next to a ReLU."""
    threshold = sae.weights.threshold
    if threshold is None or not threshold.is_floating_point() or not bool((threshold < 0).any()):
        return sae
    weights = replace(sae.weights, threshold=threshold.clamp(min=0))
    return replace(sae, weights=weights).noting("thresholds below 0 became 0: a ReLU stands before them")


def refuse_negative(sae: Portable, fmt: str) -> None:
    """Raise MismatchError for thresholds below 0."""
    if sae.weights.threshold is not None and bool((sae.weights.threshold < 0).any()):
        raise cannot_hold(fmt, "thresholds below 0", "set them to 0 where that is what the SAE means")


def as_jumprelu(sae: Portable, fmt: str, *, pre_bias: bool | None = False) -> Portable:
    """An SAE with one threshold per latent, which ReLU and BatchTopK are, too.

    Raises:
        MismatchError: another rule, a runtime norm, or thresholds below 0.
    """
    refuse_norm(sae, fmt)
    if sae.rule not in ("relu", "jumprelu", "batchtopk"):
        raise cannot_hold(fmt, rule_of(sae), "it holds relu, jumprelu and batchtopk")
    refuse_negative(sae, fmt)
    threshold = sae.weights.threshold
    if threshold is None:
        threshold = torch.zeros((), dtype=sae.dtype)
    weights = replace(sae.weights, threshold=threshold.expand(sae.d_sae).contiguous())
    sae = replace(sae, weights=weights, rule="jumprelu", groups=None)
    return sae if pre_bias is None or sae.transcoder else with_pre_bias(sae, pre_bias)


def refuse_norm(sae: Portable, fmt: str) -> None:
    """Raise MismatchError for an SAE that normalises each row."""
    if sae.norm != "none":
        raise cannot_hold(fmt, f"the runtime norm {sae.norm}", "use --to thoughtlens or sae_lens")


def as_transcoder(sae: Portable, hook_out: str | None) -> Portable:
    """What predicts another hook than it reads; a b_dec that it takes off its input moves into b_enc."""
    if sae.rule == "pursuit" or sae.norm != "none":
        raise MismatchError("a transcoder that normalises its input, or by matching pursuit: not supported")
    w = sae.weights
    if sae.pre_bias and w.b_dec.shape == w.W_enc.shape[:1]:
        sae = with_pre_bias(sae, False)
    return replace(sae, pre_bias=False, transcoder=True, hook_out=hook_out)


def has_unit_decoder(sae: Portable) -> bool:
    """Whether all decoder rows have length 1, but for rounding."""
    return bool(((sae.weights.W_dec.float().norm(dim=1) - 1).abs() < UNIT).all())


def doubts(sae: Portable) -> list[str]:
    """Whether something that does not say what it is looks like a transcoder: a note, or nothing.

    An SAE's latents write about what they read; a transcoder's two sides have nothing to do with each other.
    """
    w = sae.weights
    if w.W_enc.T.shape != w.W_dec.shape or sae.d_in < WIDE:
        return []
    cosine = torch.nn.functional.cosine_similarity(w.W_enc.T.float(), w.W_dec.float(), dim=1)
    if float(cosine.mean()) > UNRELATED:
        return []
    return [
        f"its encoder and decoder point in unrelated directions (mean cosine {float(cosine.mean()):.2f}), as "
        f"those of a transcoder do: if it is one, do not use it as an SAE"
    ]


def unit_decoder(sae: Portable) -> Portable:
    """The same function with latents in units of what they write, for rules on `acts * |W_dec row|`.

    Rows that have length 1 already stay as they are, to the last bit; 16-bit weights become float32 else, as
    rounding would let other latents fire.
    """
    if has_unit_decoder(sae):
        return sae
    if sae.dtype.itemsize < 4:
        sae = in_float32(sae).noting("16-bit weights became float32, so that decoder lengths can be folded")
    w = sae.weights
    length = w.W_dec.norm(dim=1).clamp(min=1e-8)
    scaled = replace(w, W_enc=w.W_enc * length, b_enc=w.b_enc * length, W_dec=w.W_dec / length[:, None])
    return replace(sae, weights=scaled).noting("decoder lengths were folded into the encoder")
