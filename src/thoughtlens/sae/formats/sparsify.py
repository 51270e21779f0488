"""sparsify (eai-sparsify): a folder with `cfg.json` and `sae.safetensors`, named by the module it reads."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError, NotThereError, Record
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.arithmetic import Forward, held, largest, onto, weighted_rows
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import read_safetensors
from thoughtlens.sae.formats.fitting import (
    as_transcoder,
    cannot_hold,
    refuse_norm,
    rule_of,
    with_pre_bias,
    written,
)
from thoughtlens.sae.formats.portable import Names, Portable, Rule, checked, require_keys
from thoughtlens.sae.formats.says import Says, said
from thoughtlens.sae.formats.settings import (
    Count,
    Ours,
    OursOrNone,
    Switch,
    Table,
    Text,
    Whole,
    peek,
    read_settings,
)

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
    transcode: bool | None = None
    normalize_decoder: bool | None = True
    skip_connection: bool | None = False
    signed: bool | None = False
    thoughtlens: OursOrNone = field(default_factory=Ours)


@dataclass(frozen=True, kw_only=True)
class _Training(Record):
    """`config.json` beside the folders: how all of them were trained."""

    model: Text = None
    dataset: Text = None
    ctx_len: Count = None
    transcode: Switch = None
    sae: Table = field(default_factory=dict)


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
        training, ours, folder = _training(path), settings.thoughtlens, _hook_folder(path)
        transcoder, why = _transcodes(settings, training, state, path)
        hook, hook_out = hooks.from_folder(folder.name, transcoder=transcoder)
        sae = Portable(
            cast(Rule, settings.activation),
            NAMES.read(state),
            k=settings.k,
            pre_bias=not settings.transcode,
            hook=ours.hook_name or hook,
            says=Says(model=training.model, context_size=training.ctx_len, dataset=training.dataset).over(
                said(ours.provenance)
            ),
            provenance=ours.provenance,
            notes=why,
        )
        if transcoder:
            sae = as_transcoder(sae, ours.hook_name_out or hook_out)
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
            "thoughtlens": written(sae),
        }
        self.save(out, NAMES.write(sae.weights), settings)
        folder = hooks.to_folder(sae.hook)
        return sae.noting(f"sparsify finds an SAE by its folder's name: {folder or 'the module it reads'}")

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        settings, tensors = self._load(path)
        t, k = held(tensors), settings.k or 1
        pre = onto(x if settings.transcode else x - t.b_dec, t.encoder_weight)
        pre = (pre + t.encoder_bias).relu()
        if settings.activation == "topk":
            acts = pre * largest(pre, k)
        else:
            grouped = pre.unflatten(1, (k, -1))
            acts = torch.stack([group * largest(group, 1) for group in grouped.unbind(1)], 1).flatten(1)
        x_hat = weighted_rows(acts, t.W_dec) + t.b_dec
        return Forward(acts, x_hat + onto(x, t.W_skip) if hasattr(t, "W_skip") else x_hat)

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


def _hook_folder(path: Path) -> Path:
    """The folder that is named by the module: above `seed0` and the like, where several were trained."""
    path = path.resolve()
    return path.parent if re.fullmatch(r"seed\d+", path.name) else path


def _training(path: Path) -> _Training:
    """How it was trained; nothing where `config.json` is missing or somebody else's."""
    try:
        return read_settings(_Training, _hook_folder(path).with_name("config.json"))
    except (CheckpointError, NotThereError):
        return _Training()


def _transcodes(
    settings: _Settings, training: _Training, state: dict[str, Tensor], path: Path
) -> tuple[bool, tuple[str, ...]]:
    """Whether it predicts its module's output from its input, and what that stands on.

    Before February 2025 (f02711e) a folder's own settings did not say so: the training's did, and transcoders
    subtracted b_dec from their input like SAEs. SAEs alone keep decoder rows of length 1 and have no skip.
    """
    if settings.transcode is not None:
        if "W_skip" in state and not settings.transcode:
            raise CheckpointError(
                f"{path}: an SAE with a linear skip from its input; no other format holds that"
            )
        return settings.transcode, ()
    told = training.sae.get("transcode", training.transcode)
    length = state["W_dec"].float().norm(dim=1)
    tells = {
        "config.json beside it says so": told is True,
        "it has a linear skip": "W_skip" in state,
        "its folders are named so": told is None
        and any(re.search(r"(^|-)transcoders?(-|$)", part.lower()) for part in path.resolve().parts),
        "its decoder rows have other lengths than 1": told is None
        and settings.normalize_decoder is not False
        and bool(((length - 1).abs() > 0.05).any()),
    }
    found = [text for text, true in tells.items() if true]
    if found:
        return True, (f"a transcoder of an early sparsify: {found[0]}",)
    if told is None and settings.normalize_decoder is False:
        return False, ("its cfg.json is from before sparsify's key transcode: taken for an SAE",)
    return False, ()
