"""This project's own format as one among others (docs/formats.md)."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor

from thoughtlens.core import validate_config
from thoughtlens.sae.formats.arithmetic import (
    Forward,
    held,
    largest,
    layer_norm,
    onto_columns,
    pursue,
    weighted_rows,
)
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import read_safetensors, write_tensors
from thoughtlens.sae.formats.fitting import cannot_hold, refuse_negative
from thoughtlens.sae.formats.native import FORMAT, read_header, read_native, require_provenance, write_header
from thoughtlens.sae.formats.portable import COUNTED, Portable, Pursuit, Rule, Weights, checked
from thoughtlens.sae.formats.says import KEY, said
from thoughtlens.sae.formats.settings import peek
from thoughtlens.sae.kinds.base import SAE
from thoughtlens.sae.kinds.config import (
    BatchTopKConfig,
    GatedConfig,
    HierarchicalTopKConfig,
    ImportedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    SAEConfig,
    TopKConfig,
    TranscoderConfig,
)
from thoughtlens.sae.kinds.matryoshka import MatryoshkaSAE
from thoughtlens.sae.kinds.registry import KINDS

RULES: dict[str, Rule] = {
    "topk": "topk",
    "relu": "relu",
    "p_anneal": "relu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka": "batchtopk",
    "hierarchical_topk": "batchtopk",
    "jumprelu": "jumprelu",
    "transcoder": "topk",
}
ALONE = {
    "crosscoder": "a crosscoder (several sites at once)",
    "supervised": "a supervised SAE (latents tied to labels stand outside its k)",
}
LEFT_HERE = ("p", "scale", "thresholds")
"""Buffers of p-annealing, which change nothing outside of training, and the thresholds of other k."""
KIND_OF: dict[str, type[SAEConfig]] = {
    "relu": ReLUConfig,
    "gated": GatedConfig,
    "jumprelu": JumpReLUConfig,
    "topk": TopKConfig,
    "batchtopk": BatchTopKConfig,
}
"""Rules with a kind that can be trained here."""


class Own(Format):
    """The format of this project."""

    name = "thoughtlens"
    file = "sae.safetensors"

    def finds(self, path: Path) -> bool:
        """Whether the folder holds one."""
        return peek(path, self.file).get("format") == FORMAT

    def read(self, path: Path) -> Portable:
        """Any kind whose rule another library could know."""
        sae, tensors = read_native(path)
        if sae.kind in ALONE:
            raise cannot_hold("Another format", ALONE[sae.kind], "keep it in this project's own")
        if sae.cells is not None:
            what = f"a per-cell normalisation table ({len(sae.cells)} cells)"
            raise cannot_hold("Another format", what, "train with sae.normalization=global to convert")
        cfg, hooks = sae.cfg, sae.hook_names
        imported, own = cfg if isinstance(cfg, ImportedConfig) else None, said(sae.provenance)
        portable = Portable(
            _rule(sae.kind, cfg),
            Weights(**{name: t for name, t in tensors.items() if name not in LEFT_HERE}),
            k=getattr(cfg, "k", None),
            pre_bias=cfg.pre_bias,
            norm=imported.input_norm if imported else "none",
            transcoder=not sae.reconstructs,
            groups=_groups(sae) if isinstance(sae, MatryoshkaSAE) else None,
            hook=getattr(cfg, "hook_in", None) or (hooks[0] if len(hooks) == 1 else None),
            hook_out=getattr(cfg, "hook_out", None),
            says=replace(own, model=own.model or sae.provenance.get("model")),
            pursuit=_pursuit(cfg),
            provenance=sae.provenance,
        )
        if isinstance(cfg, HierarchicalTopKConfig):
            portable = portable.noting(f"read with k = {cfg.k} alone; others know one threshold")
        if len(hooks) > 1 and portable.hook is None:
            portable = portable.noting(f"trained on {', '.join(hooks)} together; others know only one hook")
        return checked(portable, path / self.file)

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the folder; returns what it holds."""
        empty = _empty(sae)
        out.mkdir(parents=True, exist_ok=True)
        write_tensors(sae.weights.named(), out / self.file)
        write_header(empty, out)
        return sae

    def forward(self, path: Path, x: Tensor) -> Forward:
        """docs/formats.md on float64 rows, from the tensors and settings of the files."""
        header = read_header(path)
        t, cfg = held(read_safetensors(path / self.file)), header.settings
        mean, std, z = torch.zeros(()), torch.ones(()), x
        norm = getattr(cfg, "input_norm", "none")
        if norm == "layer_norm":
            z, mean, std = layer_norm(x)
        elif norm == "rescale":
            std = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
            z = x / std
        z = z - t.b_dec if cfg.pre_bias else z
        if pursuit := _pursuit(cfg):
            acts = pursue(z, t.W_dec, pursuit)
        else:
            pre = onto_columns(z, t.W_enc) + t.b_enc
            acts = _fire(_rule(header.kind, cfg), pre, getattr(cfg, "k", None) or 1, t)
        x_hat = (weighted_rows(acts, t.W_dec) + t.b_dec) * std + mean
        return Forward(acts, x_hat + onto_columns(x, t.W_skip) if hasattr(t, "W_skip") else x_hat)


def to_sae(portable: Portable) -> SAE:
    """The SAE as this project runs it, on the tensors of `portable`.

    Raises:
        MismatchError: it cannot be held, with what is missing.
    """
    sae = _empty(portable)
    sae.to_empty(device="cpu").load_state_dict(portable.weights.named())
    return sae.eval()


def _empty(portable: Portable) -> SAE:
    """An SAE of the right kind without memory."""
    if portable.rule == "jumprelu":
        refuse_negative(portable, "thoughtlens")
    cfg = _config(portable)
    with torch.device("meta"):
        sae = KINDS[cfg.kind](cfg, portable.d_in, portable.d_out)  # type: ignore[attr-defined]
    sae = sae.to(portable.dtype)
    sae.hook_names = [] if portable.hook is None else [portable.hook]
    sae.provenance = dict(require_provenance(portable.provenance, "an SAE with settings of this project"))
    if portable.model is not None:
        sae.provenance.setdefault("model", portable.model)
    if kept := portable.says.kept():
        sae.provenance.setdefault(KEY, kept)
    return sae


def _config(sae: Portable) -> SAEConfig:
    """The settings of the kind that computes this; a trainable one where there is one."""
    table = {"d_sae": sae.d_sae, "pre_bias": sae.pre_bias, "normalization": "none", "decoder_norm": "free"}
    counted = {} if sae.k is None else {"k": sae.k}
    two_sided = {"hook_out": sae.hook_out, "skip": sae.weights.W_skip is not None}
    if sae.norm == "none" and sae.transcoder and sae.rule == "topk":
        return validate_config(TranscoderConfig, table | counted | two_sided | {"hook_in": sae.hook})
    if sae.norm == "none" and not sae.transcoder and sae.rule in KIND_OF:
        if sae.groups is not None:
            shares = tuple(end / sae.d_sae for end in accumulate(sae.groups))
            return validate_config(MatryoshkaConfig, table | counted | {"prefixes": shares})
        if sae.rule == "jumprelu":
            return validate_config(JumpReLUConfig, table | {"target_l0": min(32, sae.d_sae)})
        return validate_config(KIND_OF[sae.rule], table | (counted if sae.rule in COUNTED else {}))
    own = {"rule": sae.rule, "input_norm": sae.norm, "transcoder": sae.transcoder}
    pursuit = sae.pursuit._asdict() if sae.pursuit else {}
    settings = {key: value for key, value in pursuit.items() if value is not None}
    return validate_config(ImportedConfig, table | counted | two_sided | own | settings)


def _rule(kind: str, cfg: SAEConfig) -> Rule:
    return cast(Rule, cfg.rule) if isinstance(cfg, ImportedConfig) else RULES[kind]


def _pursuit(cfg: SAEConfig) -> Pursuit | None:
    if not isinstance(cfg, ImportedConfig) or cfg.rule != "pursuit":
        return None
    return Pursuit(cfg.residual_threshold, cfg.max_iterations, cfg.stop_on_duplicate_support)


def _groups(sae: MatryoshkaSAE) -> tuple[int, ...]:
    ends = [0, *sae.cfg.widths(sae.d_in)]
    return tuple(b - a for a, b in pairwise(ends))


def _fire(rule: Rule, pre: Tensor, k: int, t: SimpleNamespace) -> Tensor:
    if rule in ("jumprelu", "batchtopk"):
        return torch.where(pre > t.threshold, pre, 0).relu()
    if rule == "gated":
        magnitude = t.r_mag.exp() * (pre - t.b_enc) + t.b_mag
        return (pre > 0) * magnitude.relu()
    if rule in ("topk", "signed_topk"):
        return (pre.relu() if rule == "topk" else pre) * largest(pre, k)
    if rule == "abstopk":
        return pre * largest(pre.abs(), k)
    if rule == "groupmax":
        groups = pre.relu().reshape(len(pre) * k, -1)
        return (groups * largest(groups, 1)).reshape(pre.shape)
    return pre if rule == "identity" else pre.relu()
