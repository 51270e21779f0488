"""Gemma Scope 1, `params.npz`, and 2, `params.safetensors` (Lieberum et al. 2024, arXiv:2408.05147).

Both hold JumpReLU SAEs on raw activations: `acts = pre * 1[pre > threshold]`, `pre = x @ W_enc + b_enc`
without subtraction of b_dec. The second also holds transcoders, with or without a linear skip.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtlens.core import CheckpointError
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.files import read_json, read_npz, read_safetensors
from thoughtlens.sae.formats.fitting import as_jumprelu, cannot_hold, unsigned
from thoughtlens.sae.formats.native import write_tensors
from thoughtlens.sae.formats.plain import Plain, checked, require_keys, text
from thoughtlens.sae.formats.plainly import Forward, onto_columns, weighted_rows

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
SKIP = "affine_skip_connection"


class GemmaScope:
    """Gemma Scope 1: a folder with `params.npz`."""

    name = "gemma_scope"
    file = "params.npz"

    def finds(self, path: Path) -> bool:
        """Whether there is one at a path: the folder or the file."""
        return path.name == self.file or (path / self.file).is_file()

    def read(self, path: Path) -> Plain:
        """The SAE, its model and hook where the path still has the names of the original repositories."""
        file = self._file(path)
        tensors = self._tensors(file)
        require_keys(tensors, NAMES, file)
        if tensors["W_dec"].ndim == 2 and tensors["W_enc"].shape[:1] != tensors["W_dec"].shape[1:]:
            raise CheckpointError(
                f"{file}: a transcoder; the file does not say what it predicts. Use its SAE"
            )
        model, hook = hooks.from_gemma_path(file.resolve().parts)
        return checked(unsigned(Plain("jumprelu", tensors, pre_bias=False, hook=hook, model=model)), file)

    def write(self, plain: Plain, out: Path) -> Plain:
        """Write the folder; returns what it holds."""
        if plain.transcoder:
            raise cannot_hold("Gemma Scope 1", "a transcoder", "use --to gemma_scope_2")
        plain = as_jumprelu(plain, "Gemma Scope 1")
        if plain.dtype == torch.bfloat16:
            tensors = {name: t.float() for name, t in plain.tensors.items()}
            plain = replace(plain, tensors=tensors).noting("bfloat16 became float32, which numpy has")
        out.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {name: plain.tensors[name].numpy() for name in NAMES}
        np.savez(out / self.file, **arrays)
        return plain.noting("the file holds no hook name")

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        return jumprelu_rows(self._tensors(self._file(path)), x)

    def _file(self, path: Path) -> Path:
        return path if path.name == self.file else path / self.file

    def _tensors(self, file: Path) -> dict[str, Tensor]:
        tensors = {f"W_{k[2:]}" if k.startswith("w_") else k: t for k, t in read_npz(file).items()}
        factor = tensors.pop("scaling_factor", None)
        if factor is not None and not bool((factor == 1).all()):
            raise CheckpointError(
                f"{file}: has a scaling_factor other than 1, which changes its output; fold it first"
            )
        return tensors


class GemmaScope2:
    """Gemma Scope 2: a folder with `params.safetensors` and `config.json`."""

    name = "gemma_scope_2"
    file = "params.safetensors"

    def finds(self, path: Path) -> bool:
        """Whether there is one at a path: the folder or the file."""
        return path.name == self.file or (path / self.file).is_file()

    def read(self, path: Path) -> Plain:
        """SAE or transcoder, told apart by the output hook of its settings."""
        folder = self._folder(path)
        file = folder / self.file
        tensors = self._tensors(file)
        config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        if config.get("architecture", "jump_relu") != "jump_relu":
            raise CheckpointError(
                f"{folder}: expected architecture jump_relu, got {config['architecture']!r}"
            )
        hook_in, hook_out = text(config.get("hf_hook_point_in")), text(config.get("hf_hook_point_out"))
        transcoder = SKIP in tensors or (hook_out is not None and hook_out != hook_in)
        require_keys(tensors, (*NAMES, SKIP) if SKIP in tensors else NAMES, file)
        if tensors["W_dec"].ndim != 2:
            shape = tuple(tensors["W_dec"].shape)
            raise CheckpointError(f"{file}: w_dec has shape {shape}: a cross-layer transcoder; take an SAE")
        if SKIP in tensors:
            tensors["W_skip"] = tensors.pop(SKIP)
        plain = Plain(
            "jumprelu",
            tensors,
            pre_bias=False,
            transcoder=transcoder or tensors["W_enc"].shape[:1] != tensors["W_dec"].shape[1:],
            hook=hooks.from_hf(hook_in),
            hook_out=hooks.from_hf(hook_out) if transcoder else None,
            model=text(config.get("model_name")),
        )
        return checked(unsigned(plain), file)

    def write(self, plain: Plain, out: Path) -> Plain:
        """Write the folder; returns what it holds."""
        plain = as_jumprelu(plain, "Gemma Scope 2")
        config = {
            "architecture": "jump_relu",
            "model_name": plain.model or "",
            "hf_hook_point_in": hooks.to_hf(plain.hook) or "",
            "hf_hook_point_out": hooks.to_hf(plain.hook_out if plain.transcoder else plain.hook) or "",
            "affine_connection": "W_skip" in plain.tensors,
        }
        if plain.transcoder and not plain.hook_out:
            config["hf_hook_point_out"] = "unknown"
        names = {"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": SKIP}
        out.mkdir(parents=True, exist_ok=True)
        write_tensors({names.get(name, name): t for name, t in plain.tensors.items()}, out / self.file)
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        return plain

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        return jumprelu_rows(self._tensors(self._folder(path) / self.file), x)

    def _folder(self, path: Path) -> Path:
        return path.parent if path.name == self.file else path

    def _tensors(self, file: Path) -> dict[str, Tensor]:
        return {f"W_{k[2:]}" if k.startswith("w_") else k: t for k, t in read_safetensors(file).items()}


def jumprelu_rows(tensors: dict[str, Tensor], x: Tensor) -> Forward:
    """What Gemma Scope's tutorial computes."""
    pre = onto_columns(x, tensors["W_enc"]) + tensors["b_enc"].double()
    acts = (pre > tensors["threshold"].double()) * torch.relu(pre)
    x_hat = weighted_rows(acts, tensors["W_dec"]) + tensors["b_dec"].double()
    if SKIP in tensors:
        x_hat = x_hat + onto_columns(x, tensors[SKIP])
    return Forward(acts, x_hat)
