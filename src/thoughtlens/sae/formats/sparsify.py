"""sparsify (eai-sparsify): a folder with `cfg.json` and `sae.safetensors`, named by the module it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError, Record
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.arithmetic import Forward, largest, onto, weighted_rows
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import read_safetensors
from thoughtlens.sae.formats.fitting import cannot_hold, refuse_norm, rule_of, with_pre_bias
from thoughtlens.sae.formats.portable import Names, Portable, Rule, checked, require_keys
from thoughtlens.sae.formats.settings import Ours, OursOrNone, Whole, peek, read_settings

NAMES = Names(
    {
        "W_enc": "encoder.weight",
        "b_enc": "encoder.bias",
        "W_dec": "W_dec",
        "b_dec": "b_dec",
        "W_skip": "W_skip",
    },
    transposed=("W_enc", "W_skip"),
)


@dataclass(frozen=True, kw_only=True)
class _Settings(Record):
    activation: str = "topk"
    k: Whole = None
    transcode: bool | None = False
    skip_connection: bool | None = False
    signed: bool | None = False
    thoughtlens: OursOrNone = field(default_factory=Ours)


class Sparsify(Format):
    """The format of sparsify: TopK and GroupMax SAEs, transcoders, and these with a linear skip."""

    name = "sparsify"
    file = "sae.safetensors"

    def finds(self, path: Path) -> bool:
        """Whether the folder holds one, and not one of this project's own."""
        cfg = peek(path, self.file)
        return "format" not in cfg and "d_in" in cfg

    def read(self, path: Path) -> Portable:
        """SAE or transcoder; its hook is the folder's name where that is a module's."""
        settings, state = self._load(path)
        transcoder, ours = bool(settings.transcode), settings.thoughtlens
        hook, hook_out = hooks.from_folder(path.resolve().name, transcoder=transcoder)
        sae = Portable(
            cast(Rule, settings.activation),
            NAMES.read(state),
            k=settings.k,
            pre_bias=not transcoder,
            transcoder=transcoder,
            hook=ours.hook_name or hook,
            hook_out=ours.hook_name_out or hook_out,
            provenance=ours.provenance,
        )
        if sae.weights.W_skip is not None and not transcoder:
            raise CheckpointError(
                f"{path}: an SAE with a linear skip from its input; no other format holds that"
            )
        return checked(sae, path / self.file)

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the folder; returns what it holds."""
        refuse_norm(sae, "sparsify")
        if sae.rule not in ("topk", "groupmax"):
            raise cannot_hold("sparsify", rule_of(sae), "it holds topk and groupmax")
        if sae.d_in != sae.d_out:
            raise cannot_hold(
                "sparsify", f"an output of width {sae.d_out} for d_in {sae.d_in}", "both are d_in"
            )
        sae = sae if sae.transcoder else with_pre_bias(sae, True)
        settings = {
            "activation": sae.rule,
            "expansion_factor": max(1, sae.d_sae // sae.d_in),
            "normalize_decoder": not sae.transcoder,
            "num_latents": sae.d_sae,
            "k": sae.k,
            "multi_topk": False,
            "skip_connection": sae.weights.W_skip is not None,
            "transcode": sae.transcoder,
            "d_in": sae.d_in,
            "thoughtlens": {
                "hook_name": sae.hook,
                "hook_name_out": sae.hook_out,
                "provenance": sae.provenance,
            },
        }
        self.save(out, NAMES.write(sae.weights), settings)
        folder = hooks.to_folder(sae.hook)
        return sae.noting(f"sparsify finds an SAE by its folder's name: {folder or 'the module it reads'}")

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        settings, t = self._load(path)
        k, b_dec = settings.k or 1, t["b_dec"].double()
        pre = onto(x if settings.transcode else x - b_dec, t["encoder.weight"])
        pre = (pre + t["encoder.bias"].double()).relu()
        if settings.activation == "topk":
            acts = pre * largest(pre, k)
        else:
            grouped = pre.unflatten(1, (k, -1))
            acts = torch.stack([group * largest(group, 1) for group in grouped.unbind(1)], 1).flatten(1)
        x_hat = weighted_rows(acts, t["W_dec"]) + b_dec
        return Forward(acts, x_hat + onto(x, t["W_skip"]) if "W_skip" in t else x_hat)

    def _load(self, path: Path) -> tuple[_Settings, dict[str, Tensor]]:
        settings = read_settings(_Settings, path / "cfg.json")
        if settings.activation not in ("topk", "groupmax"):
            raise CheckpointError(
                f"{path}: expected activation topk or groupmax, got {settings.activation!r}"
            )
        if settings.signed:
            raise CheckpointError(
                f"{path}: a signed SAE of an early sparsify, whose rule is no longer defined"
            )
        tensors = read_safetensors(path / self.file)
        optional = set() if settings.skip_connection else {"W_skip"}
        require_keys(tensors, {*NAMES.theirs.values()} - optional, path / self.file)
        return settings, tensors
