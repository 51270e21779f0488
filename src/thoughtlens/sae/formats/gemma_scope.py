"""Gemma Scope 1, `params.npz`, and 2, `params.safetensors` (Lieberum et al. 2024, arXiv:2408.05147).

Both hold JumpReLU SAEs on raw activations: `acts = pre * 1[pre > threshold]`, `pre = x @ W_enc + b_enc`
without subtraction of b_dec. The second also holds transcoders, with or without a linear skip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thoughtlens.core import CheckpointError, Record
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.arithmetic import Forward, held, onto_columns, weighted_rows
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import read_npz, read_safetensors, require_unscaled
from thoughtlens.sae.formats.fitting import (
    as_jumprelu,
    as_transcoder,
    cannot_hold,
    doubts,
    in_float32,
    left_out,
    unsigned,
    written,
)
from thoughtlens.sae.formats.portable import Names, Portable, checked, require_keys
from thoughtlens.sae.formats.says import Says
from thoughtlens.sae.formats.settings import Ours, OursOrNone, Text, read_settings

SKIP = "affine_skip_connection"
FIRST = Names({name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")})
SECOND = Names({**FIRST.theirs, "W_skip": SKIP})
RELEASE = {"prepend_bos": True, "context_size": 1024, "exclude_special_tokens": True}
"""How all of Gemma Scope 1 was trained."""
GAINLESS = (
    "it reads the stream as its norm before the MLP leaves it without its gain (TransformerLens's "
    "ln2.hook_normalized), which no module gives here"
)
WRITTEN = Names({**SECOND.theirs, "W_enc": "w_enc", "W_dec": "w_dec"})


class GemmaScope(Format):
    """Gemma Scope 1: a folder with `params.npz`."""

    name = "gemma_scope"
    file = "params.npz"

    def read(self, path: Path) -> Portable:
        """The SAE, its model and hook where the path still has the names of the original repositories."""
        file = self.weights_at(path)
        tensors = self._tensors(file)
        require_keys(tensors, FIRST.theirs, file)
        weights = FIRST.read(tensors)
        if weights.W_dec.ndim == 2 and weights.W_enc.shape[:1] != weights.W_dec.shape[1:]:
            raise CheckpointError(
                f"{file}: a transcoder; the file does not say what it predicts. Use its SAE"
            )
        model, hook, transcoder = hooks.from_gemma_path(file.parent.resolve().parts)
        says = Says() if model is None else Says(model=model, **RELEASE)
        sae = Portable("jumprelu", weights, pre_bias=False, hook=hook, says=says)
        if transcoder:
            block = hooks.layer_of(hook)
            sae = as_transcoder(sae, hooks.from_lens(f"blocks.{block}.hook_mlp_out", model)).noting(GAINLESS)
        elif model is None:
            sae = sae.noting(*doubts(sae))
        return checked(unsigned(sae), file)

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the folder; returns what it holds."""
        if sae.transcoder:
            raise cannot_hold("Gemma Scope 1", "a transcoder", "use --to gemma_scope_2")
        sae = as_jumprelu(sae, "Gemma Scope 1")
        if sae.dtype == torch.bfloat16:
            sae = in_float32(sae).noting("bfloat16 became float32, which numpy has")
        out.mkdir(parents=True, exist_ok=True)
        arrays = {name: tensor.numpy() for name, tensor in FIRST.write(sae.weights).items()}
        np.savez(out / self.file, **arrays)  # type: ignore[arg-type]
        return sae.noting(*left_out(sae))

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        return jumprelu_rows(self._tensors(self.weights_at(path)), x)

    def _tensors(self, file: Path) -> dict[str, Tensor]:
        return require_unscaled(_capital(read_npz(file)), file)


@dataclass(frozen=True, kw_only=True)
class _Settings(Record):
    architecture: str | None = "jump_relu"
    model_name: Text = None
    hf_hook_point_in: Text = None
    hf_hook_point_out: Text = None
    thoughtlens: OursOrNone = field(default_factory=Ours)


class GemmaScope2(Format):
    """Gemma Scope 2: a folder with `params.safetensors` and `config.json`."""

    name = "gemma_scope_2"
    file = "params.safetensors"

    def read(self, path: Path) -> Portable:
        """SAE or transcoder, told apart by the output hook of its settings."""
        file = self.weights_at(path)
        config = file.with_name("config.json")
        settings = read_settings(_Settings, config) if config.is_file() else _Settings()
        if settings.architecture != "jump_relu":
            raise CheckpointError(
                f"{config.parent}: expected architecture jump_relu, got {settings.architecture!r}"
            )
        hook_in, hook_out, ours = settings.hf_hook_point_in, settings.hf_hook_point_out, settings.thoughtlens
        tensors = _capital(read_safetensors(file))
        require_keys(tensors, {*SECOND.theirs.values()} - ({SKIP} - tensors.keys()), file)
        weights = SECOND.read(tensors)
        transcoder = weights.W_skip is not None or (hook_out is not None and hook_out != hook_in)
        if weights.W_dec.ndim != 2:
            shape = tuple(weights.W_dec.shape)
            raise CheckpointError(f"{file}: w_dec has shape {shape}: a cross-layer transcoder; take an SAE")
        sae = Portable(
            "jumprelu",
            weights,
            pre_bias=False,
            transcoder=transcoder or weights.W_enc.shape[:1] != weights.W_dec.shape[1:],
            hook=ours.hook_name or hooks.from_hf(hook_in),
            hook_out=(ours.hook_name_out or hooks.from_hf(hook_out)) if transcoder else None,
            says=Says(model=settings.model_name),
            provenance=ours.provenance,
        )
        return checked(unsigned(sae), file)

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the folder; returns what it holds."""
        sae = as_jumprelu(sae, "Gemma Scope 2")
        hook_out = (sae.hook_out or "unknown") if sae.transcoder else sae.hook
        config = {
            "architecture": "jump_relu",
            "model_name": sae.model or "",
            "hf_hook_point_in": hooks.to_hf(sae.hook) or "",
            "hf_hook_point_out": hooks.to_hf(hook_out) or "",
            "affine_connection": sae.weights.W_skip is not None,
            "thoughtlens": written(sae),
        }
        self.save(out, WRITTEN.write(sae.weights), config, "config.json")
        return sae

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        return jumprelu_rows(_capital(read_safetensors(self.weights_at(path))), x)


def _capital(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`w_enc` as `W_enc`: both are found."""
    return {f"W_{name[2:]}" if name.startswith("w_") else name: t for name, t in tensors.items()}


def jumprelu_rows(tensors: dict[str, Tensor], x: Tensor) -> Forward:
    """What Gemma Scope's tutorial computes."""
    t = held(tensors)
    pre = onto_columns(x, t.W_enc) + t.b_enc
    acts = (pre > t.threshold) * torch.relu(pre)
    x_hat = weighted_rows(acts, t.W_dec) + t.b_dec
    if SKIP in tensors:
        x_hat = x_hat + onto_columns(x, tensors[SKIP])
    return Forward(acts, x_hat)
