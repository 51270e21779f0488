"""sparsify (eai-sparsify): a folder with `cfg.json` and `sae.safetensors`, named by the module it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.files import read_json, read_safetensors
from thoughtlens.sae.formats.fitting import cannot_hold, refuse_norm, rule_of, with_pre_bias
from thoughtlens.sae.formats.native import write_tensors
from thoughtlens.sae.formats.plain import Plain, checked, require_int, require_keys, table, text
from thoughtlens.sae.formats.plainly import Forward, largest, onto, weighted_rows

NAMES = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


class Sparsify:
    """The format of sparsify: TopK and GroupMax SAEs, transcoders, and these with a linear skip."""

    name = "sparsify"
    file = "sae.safetensors"

    def finds(self, path: Path) -> bool:
        """Whether the folder holds one, and not one of this project's own."""
        if not (path / self.file).is_file() or not (path / "cfg.json").is_file():
            return False
        try:
            cfg = read_json(path / "cfg.json")
        except CheckpointError:
            return False
        return "format" not in cfg and "d_in" in cfg

    def read(self, path: Path) -> Plain:
        """SAE or transcoder; its hook is the folder's name where that is a module's."""
        cfg, t = self._load(path)
        transcoder = bool(cfg.get("transcode", False))
        hook, hook_out = hooks.from_folder(path.resolve().name, transcoder=transcoder)
        ours = table(cfg.get("thoughtlens"))
        weight = t["encoder.weight"]
        tensors = {"W_enc": weight.mT, "b_enc": t["encoder.bias"], "W_dec": t["W_dec"], "b_dec": t["b_dec"]}
        if "W_skip" in t:
            tensors["W_skip"] = t["W_skip"].mT
        plain = Plain(
            cfg["activation"],
            tensors,
            k=require_int(cfg, "k", path / "cfg.json"),
            pre_bias=not transcoder,
            transcoder=transcoder,
            hook=text(ours.get("hook_name")) or hook,
            hook_out=text(ours.get("hook_name_out")) or hook_out,
            provenance=table(ours.get("provenance")),
        )
        if "W_skip" in t and not transcoder:
            raise CheckpointError(
                f"{path}: an SAE with a linear skip from its input; no other format holds that"
            )
        return checked(plain, path / self.file)

    def write(self, plain: Plain, out: Path) -> Plain:
        """Write the folder; returns what it holds."""
        refuse_norm(plain, "sparsify")
        if plain.rule not in ("topk", "groupmax"):
            raise cannot_hold("sparsify", rule_of(plain), "it holds topk and groupmax")
        if plain.d_in != plain.d_out:
            raise cannot_hold(
                "sparsify", f"an output of width {plain.d_out} for d_in {plain.d_in}", "both are d_in"
            )
        plain = plain if plain.transcoder else with_pre_bias(plain, True)
        cfg = {
            "activation": plain.rule,
            "expansion_factor": max(1, plain.d_sae // plain.d_in),
            "normalize_decoder": not plain.transcoder,
            "num_latents": plain.d_sae,
            "k": plain.k,
            "multi_topk": False,
            "skip_connection": "W_skip" in plain.tensors,
            "transcode": plain.transcoder,
            "d_in": plain.d_in,
            "thoughtlens": {
                "hook_name": plain.hook,
                "hook_name_out": plain.hook_out,
                "provenance": plain.provenance,
            },
        }
        t = plain.tensors
        tensors = {"encoder.weight": t["W_enc"].mT, "encoder.bias": t["b_enc"], "W_dec": t["W_dec"]}
        tensors |= {"b_dec": t["b_dec"], **({"W_skip": t["W_skip"].mT} if "W_skip" in t else {})}
        out.mkdir(parents=True, exist_ok=True)
        write_tensors(tensors, out / self.file)
        (out / "cfg.json").write_text(json.dumps(cfg, indent=2) + "\n", "utf-8")
        folder = hooks.to_folder(plain.hook)
        return plain.noting(f"sparsify finds an SAE by its folder's name: {folder or 'the module it reads'}")

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        cfg, t = self._load(path)
        b_dec = t["b_dec"].double()
        pre = onto(x if cfg.get("transcode", False) else x - b_dec, t["encoder.weight"])
        pre = (pre + t["encoder.bias"].double()).relu()
        if cfg["activation"] == "topk":
            acts = pre * largest(pre, cfg["k"])
        else:
            grouped = pre.unflatten(1, (cfg["k"], -1))
            acts = torch.stack([group * largest(group, 1) for group in grouped.unbind(1)], 1).flatten(1)
        x_hat = weighted_rows(acts, t["W_dec"]) + b_dec
        return Forward(acts, x_hat + onto(x, t["W_skip"]) if "W_skip" in t else x_hat)

    def _load(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        cfg = read_json(path / "cfg.json")
        cfg.setdefault("activation", "topk")
        if cfg["activation"] not in ("topk", "groupmax"):
            raise CheckpointError(f"{path}: expected activation topk or groupmax, got {cfg['activation']!r}")
        if cfg.get("signed", False):
            raise CheckpointError(
                f"{path}: a signed SAE of an early sparsify, whose rule is no longer defined"
            )
        tensors = read_safetensors(path / self.file)
        skip = ("W_skip",) if cfg.get("skip_connection", False) else ()
        require_keys(tensors, (*NAMES, *skip), path / self.file)
        return cfg, tensors
