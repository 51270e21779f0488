"""This project's own format as one among others (docs/formats.md)."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError, validate_config
from thoughtlens.sae.base import SAE
from thoughtlens.sae.formats.files import read_json, read_safetensors
from thoughtlens.sae.formats.fitting import cannot_hold
from thoughtlens.sae.formats.native import FORMAT, read_native, write_header, write_tensors
from thoughtlens.sae.formats.plain import COUNTED, Plain, Rule, checked
from thoughtlens.sae.formats.plainly import Forward, largest, layer_norm, onto_columns, pursue, weighted_rows
from thoughtlens.sae.kinds.config import (
    BatchTopKConfig,
    GatedConfig,
    ImportedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    SAEConfig,
    TopKConfig,
    TranscoderConfig,
)
from thoughtlens.sae.kinds.imported import ImportedSAE
from thoughtlens.sae.kinds.matryoshka import MatryoshkaSAE
from thoughtlens.sae.kinds.registry import KINDS

RULES: dict[str, Rule] = {
    "topk": "topk",
    "relu": "relu",
    "p_anneal": "relu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka": "batchtopk",
    "jumprelu": "jumprelu",
    "transcoder": "topk",
}
ALONE = {
    "crosscoder": "a crosscoder (several sites at once)",
    "supervised": "a supervised SAE (latents tied to labels stand outside its k)",
}
TRAINING_ONLY = ("p", "scale")
"""Buffers of p-annealing, which change nothing outside of training."""
KIND_OF: dict[str, type[SAEConfig]] = {
    "relu": ReLUConfig,
    "gated": GatedConfig,
    "jumprelu": JumpReLUConfig,
    "topk": TopKConfig,
    "batchtopk": BatchTopKConfig,
}
"""Rules with a kind that can be trained here."""
PURSUIT = ("residual_threshold", "max_iterations", "stop_on_duplicate_support")


class Own:
    """The format of this project."""

    name = "thoughtlens"

    def finds(self, path: Path) -> bool:
        """Whether the folder holds one."""
        if not (path / "cfg.json").is_file() or not (path / "sae.safetensors").is_file():
            return False
        try:
            return read_json(path / "cfg.json").get("format") == FORMAT
        except CheckpointError:
            return False

    def read(self, path: Path) -> Plain:
        """Any kind whose rule another library could know."""
        sae, tensors = read_native(path)
        cfg = sae.cfg
        if sae.kind in ALONE:
            raise cannot_hold("No other format", ALONE[sae.kind], "keep it in this project's own")
        if sae.cells is not None:
            what = f"a per-cell normalisation table ({len(sae.cells)} cells)"
            raise cannot_hold("No other format", what, "train with sae.normalization=global to convert")
        tensors = {name: t for name, t in tensors.items() if name not in TRAINING_ONLY}
        imported = isinstance(sae, ImportedSAE)
        plain = Plain(
            cfg.rule if imported else RULES[sae.kind],
            tensors,
            k=getattr(cfg, "k", None),
            pre_bias=cfg.pre_bias,
            norm=cfg.input_norm if imported else "none",
            transcoder=not sae.reconstructs,
            groups=_groups(sae) if isinstance(sae, MatryoshkaSAE) else None,
            hook=getattr(cfg, "hook_in", None) or (sae.hook_names[0] if len(sae.hook_names) == 1 else None),
            hook_out=getattr(cfg, "hook_out", None),
            model=sae.provenance.get("model"),
            settings={key: getattr(cfg, key) for key in PURSUIT}
            if imported and cfg.rule == "pursuit"
            else {},
            provenance=sae.provenance,
        )
        if len(sae.hook_names) > 1 and plain.hook is None:
            plain = plain.noting(
                f"trained on {', '.join(sae.hook_names)} together; others know only one hook"
            )
        return checked(plain, path / "sae.safetensors")

    def write(self, plain: Plain, out: Path) -> Plain:
        """Write the folder; returns what it holds."""
        sae, tensors = _empty(plain)
        out.mkdir(parents=True, exist_ok=True)
        write_tensors(tensors, out / "sae.safetensors")
        write_header(sae, out)
        return plain

    def forward(self, path: Path, x: Tensor) -> Forward:
        """docs/formats.md on float64 rows, from the tensors and settings of the files."""
        header = read_json(path / "cfg.json")
        t, cfg = read_safetensors(path / "sae.safetensors"), header["config"]
        kind, k = header["kind"], cfg.get("k")
        rule = cfg["rule"] if kind == "imported" else RULES[kind]
        small = {name: tensor.double() for name, tensor in t.items() if tensor.ndim < 2}
        mean, std, z = torch.zeros(()), torch.ones(()), x
        norm = cfg.get("input_norm", "none")
        if norm == "layer_norm":
            z, mean, std = layer_norm(x)
        elif norm == "rescale":
            std = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
            z = x / std
        z = z - small["b_dec"] if cfg["pre_bias"] else z
        if rule == "pursuit":
            acts = pursue(z, t["W_dec"], *(cfg[key] for key in PURSUIT))
        else:
            acts = _fire(rule, onto_columns(z, t["W_enc"]) + small["b_enc"], k, small)
        x_hat = (weighted_rows(acts, t["W_dec"]) + small["b_dec"]) * std + mean
        return Forward(acts, x_hat + onto_columns(x, t["W_skip"]) if "W_skip" in t else x_hat)


def to_sae(plain: Plain) -> SAE:
    """The SAE as this project runs it, on the tensors of `plain`.

    Raises:
        MismatchError: it cannot be held, with what is missing.
    """
    sae, tensors = _empty(plain)
    sae.to_empty(device="cpu").load_state_dict(tensors)
    return sae.eval()


def _empty(plain: Plain) -> tuple[SAE, dict[str, Tensor]]:
    """An SAE without memory of the right kind, and the tensors that belong into it."""
    if plain.rule == "jumprelu" and bool((plain.tensors["threshold"] < 0).any()):
        raise cannot_hold(
            "thoughtlens", "thresholds below 0", "set them to 0 where that is what the SAE means"
        )
    cfg = _config(plain)
    with torch.device("meta"):
        sae = KINDS[cfg.kind](cfg, plain.d_in, plain.d_out)  # type: ignore[attr-defined]
    sae = sae.to(plain.dtype)
    sae.hook_names = [] if plain.hook is None else [plain.hook]
    sae.provenance = dict(plain.provenance)
    if plain.model is not None:
        sae.provenance.setdefault("model", plain.model)
    return sae, plain.tensors


def _config(plain: Plain) -> SAEConfig:
    """The settings of the kind that computes this; a trainable one where there is one."""
    table: dict[str, Any] = {
        "d_sae": plain.d_sae,
        "pre_bias": plain.pre_bias,
        "normalization": "none",
        "decoder_norm": "free",
    }
    counted = {} if plain.k is None else {"k": plain.k}
    skip = "W_skip" in plain.tensors
    if plain.norm == "none" and plain.transcoder and plain.rule == "topk":
        own = {"hook_in": plain.hook, "hook_out": plain.hook_out, "skip": skip}
        return validate_config(TranscoderConfig, table | counted | own)
    if plain.norm == "none" and not plain.transcoder and plain.rule in KIND_OF:
        if plain.groups is not None:
            shares = tuple(end / plain.d_sae for end in accumulate(plain.groups))
            return validate_config(MatryoshkaConfig, table | counted | {"prefixes": shares})
        if plain.rule == "jumprelu":
            return validate_config(JumpReLUConfig, table | {"target_l0": min(32, plain.d_sae)})
        return validate_config(KIND_OF[plain.rule], table | (counted if plain.rule in COUNTED else {}))
    own = {
        "rule": plain.rule,
        "input_norm": plain.norm,
        "transcoder": plain.transcoder,
        "hook_out": plain.hook_out,
        "skip": skip,
    }
    settings = {key: value for key, value in plain.settings.items() if value is not None}
    return validate_config(ImportedConfig, table | counted | own | settings)


def _groups(sae: MatryoshkaSAE) -> tuple[int, ...]:
    ends = [0, *sae.cfg.widths(sae.d_in)]
    return tuple(b - a for a, b in pairwise(ends))


def _fire(rule: str, pre: Tensor, k: Any, small: dict[str, Tensor]) -> Tensor:
    if rule in ("jumprelu", "batchtopk"):
        return torch.where(pre > small["threshold"], pre, 0).relu()
    if rule == "gated":
        magnitude = small["r_mag"].exp() * (pre - small["b_enc"]) + small["b_mag"]
        return (pre > 0) * magnitude.relu()
    if rule == "topk":
        return pre.relu() * largest(pre, k)
    if rule == "abstopk":
        return pre * largest(pre.abs(), k)
    if rule == "groupmax":
        groups = pre.relu().reshape(len(pre) * k, -1)
        return (groups * largest(groups, 1)).reshape(pre.shape)
    return pre if rule == "identity" else pre.relu()
