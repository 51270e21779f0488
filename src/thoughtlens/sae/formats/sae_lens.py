"""SAELens 6: a folder with `cfg.json` and `sae_weights.safetensors`; older `cfg.json` are read too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.files import read_json, read_safetensors
from thoughtlens.sae.formats.fitting import as_jumprelu, cannot_hold, rule_of, unit_decoder, unsigned
from thoughtlens.sae.formats.native import write_tensors
from thoughtlens.sae.formats.plain import (
    InputNorm,
    Plain,
    Rule,
    checked,
    require_int,
    require_keys,
    table,
    text,
)
from thoughtlens.sae.formats.plainly import Forward, largest, layer_norm, onto_columns, pursue, weighted_rows

VERSION = "6.54.12"
"""Whose format is written; without a version in it, a `cfg.json` is read as one from before 6."""
FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
TENSORS: dict[str, tuple[str, ...]] = {
    "standard": FOUR,
    "topk": FOUR,
    "abstopk": FOUR,
    "jumprelu": (*FOUR, "threshold"),
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"),
    "matching_pursuit": ("W_dec", "b_dec"),
    "transcoder": FOUR,
    "skip_transcoder": (*FOUR, "W_skip"),
    "jumprelu_transcoder": (*FOUR, "threshold"),
    "jumprelu_skip_transcoder": (*FOUR, "threshold", "W_skip"),
}
RULES: dict[str, Rule] = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abstopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "matching_pursuit": "pursuit",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
NORMS: dict[str, InputNorm] = {
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "rescale",
}
UNFOLDED = ("expected_average_only_in", "covariance_whitening")
DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
MAX_PURSUIT = 2**16
PURSUIT = ("residual_threshold", "max_iterations", "stop_on_duplicate_support")


class SAELens:
    """The format of SAELens."""

    name = "sae_lens"
    file = "sae_weights.safetensors"

    def finds(self, path: Path) -> bool:
        """Whether the folder holds one."""
        return (path / self.file).is_file() and (path / "cfg.json").is_file()

    def read(self, path: Path) -> Plain:
        """Any architecture but `temporal` and unfinished training checkpoints."""
        cfg, tensors = self._load(path)
        architecture, file = cfg["architecture"], path / self.file
        transcoder = "transcoder" in architecture
        norm = NORMS[cfg["normalize_activations"]]
        if transcoder and norm != "none":
            raise CheckpointError(
                f"{path}: a transcoder that normalises only its input ({norm}); not supported"
            )
        metadata = table(cfg.get("metadata"))
        ours = table(metadata.get("thoughtlens"))
        hook = text(metadata.get("hook_name"))
        plain = Plain(
            RULES[architecture],
            _ours(tensors, cfg),
            k=require_int(cfg, "k", path / "cfg.json") if architecture in ("topk", "abstopk") else None,
            pre_bias=not transcoder and (architecture == "matching_pursuit" or _subtracts(cfg)),
            norm=norm,
            transcoder=transcoder,
            hook=hooks.from_lens(hook),
            hook_out=hooks.from_lens(text(metadata.get("hook_name_out"))) if transcoder else None,
            model=text(metadata.get("model_name")),
            settings={key: cfg.get(key) for key in PURSUIT} if architecture == "matching_pursuit" else {},
            provenance=table(ours.get("provenance")),
        )
        plain = checked(unsigned(plain), file)
        return unit_decoder(plain) if cfg.get("rescale_acts_by_decoder_norm") else plain

    def write(self, plain: Plain, out: Path) -> Plain:
        """Write the folder; returns what it holds."""
        if plain.rule in ("groupmax", "identity"):
            raise cannot_hold("SAELens", rule_of(plain), "use --to thoughtlens")
        if plain.transcoder and plain.rule not in ("relu", "jumprelu", "batchtopk"):
            raise cannot_hold("SAELens", f"a transcoder with {rule_of(plain)}", "use --to sparsify")
        trained = plain.rule
        if plain.rule == "batchtopk":
            plain = as_jumprelu(plain, "SAELens", pre_bias=None)
        elif plain.rule == "jumprelu" and bool((plain.tensors["threshold"] < 0).any()):
            raise cannot_hold(
                "SAELens", "thresholds below 0", "set them to 0 where that is what the SAE means"
            )
        architecture = _architecture(plain)
        cfg: dict[str, Any] = {
            "architecture": architecture,
            "d_in": plain.d_in,
            "d_sae": plain.d_sae,
            "dtype": str(plain.dtype).removeprefix("torch."),
            "device": "cpu",
            "apply_b_dec_to_input": plain.pre_bias,
            "normalize_activations": next(theirs for theirs, ours in NORMS.items() if ours == plain.norm),
            "reshape_activations": "none",
            "metadata": {
                "sae_lens_version": VERSION,
                "sae_lens_training_version": None,
                "training_architecture": trained,
                "model_name": plain.model,
                "hook_name": hooks.to_lens(plain.hook),
                "thoughtlens": {"provenance": plain.provenance},
            },
        }
        if plain.k is not None and plain.rule in ("topk", "abstopk"):
            cfg |= {"k": plain.k, "rescale_acts_by_decoder_norm": False}
        if plain.rule == "pursuit":
            cfg |= {key: value for key, value in plain.settings.items() if value is not None}
        if plain.transcoder:
            cfg["d_out"] = plain.d_out
            cfg["metadata"]["hook_name_out"] = hooks.to_lens(plain.hook_out)
        out.mkdir(parents=True, exist_ok=True)
        write_tensors(_theirs(plain, architecture), out / self.file)
        (out / "cfg.json").write_text(json.dumps(cfg, indent=2) + "\n", "utf-8")
        return plain

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        cfg, t = self._load(path)
        architecture, norm = cfg["architecture"], cfg["normalize_activations"]
        small = {name: tensor.double() for name, tensor in t.items() if tensor.ndim < 2}
        mean, scale = torch.zeros(()), torch.ones(())
        x_in = x
        if norm == "layer_norm":
            x_in, mean, scale = layer_norm(x)
        elif norm == "constant_norm_rescale":
            scale = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
            x_in = x / scale
        centred = x_in - small["b_dec"] if _subtracts(cfg) else x_in
        if architecture == "matching_pursuit":
            acts = pursue(centred, t["W_dec"], *(cfg[key] for key in PURSUIT))
            added = small["b_dec"] if _subtracts(cfg) else 0
            return Forward(acts, (weighted_rows(acts, t["W_dec"]) + added) * scale + mean)
        hidden = onto_columns(centred, t["W_enc"])
        length = torch.ones(())
        if cfg.get("rescale_acts_by_decoder_norm"):
            length = t["W_dec"].double().norm(dim=1)
        if architecture == "gated":
            magnitude = hidden * small["r_mag"].exp() + small["b_mag"]
            acts = (hidden + small["b_gate"] > 0) * magnitude.relu()
        else:
            hidden = (hidden + small["b_enc"]) * length
            if architecture == "topk":
                acts = hidden.relu() * largest(hidden, cfg["k"])
            elif architecture == "abstopk":
                acts = hidden * largest(hidden.abs(), cfg["k"])
            elif "threshold" in t:
                acts = hidden.relu() * (hidden > small["threshold"])
            else:
                acts = hidden.relu()
        x_hat = (weighted_rows(acts / length, t["W_dec"]) + small["b_dec"]) * scale + mean
        return Forward(acts, x_hat + onto_columns(x, t["W_skip"].T) if "W_skip" in t else x_hat)

    def _load(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        file = path / "cfg.json"
        cfg = _modern(read_json(file))
        architecture, norm = cfg.get("architecture"), cfg.get("normalize_activations", "none")
        if not isinstance(architecture, str) or architecture not in TENSORS:
            raise CheckpointError(
                f"{file}: expected an architecture among {', '.join(TENSORS)}, got {architecture!r}"
                + (
                    "; a checkpoint of its training: save the inference model"
                    if "batch" in str(architecture)
                    else ""
                )
            )
        if norm in UNFOLDED:
            raise CheckpointError(
                f"{file}: normalize_activations is {norm!r}: a training checkpoint, whose weights live in "
                f"other units; take the final SAE, into which SAELens folds them"
            )
        if not isinstance(norm, str) or norm not in NORMS:
            raise CheckpointError(
                f"{file}: expected normalize_activations among {', '.join(NORMS)}, got {norm!r}"
            )
        tensors = read_safetensors(path / self.file)
        factor = tensors.pop("scaling_factor", None)
        if factor is not None and not bool((factor == 1).all()):
            raise CheckpointError(f"{path / self.file}: has a scaling_factor other than 1; fold it first")
        require_keys(tensors, TENSORS[architecture], path / self.file)
        dtype = str(cfg.get("dtype", "float32")).removeprefix("torch.")
        if dtype not in DTYPES:
            raise CheckpointError(f"{file}: expected dtype among {', '.join(DTYPES)}, got {dtype!r}")
        tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}
        if architecture == "matching_pursuit":
            _check_pursuit(cfg, file)
        return cfg | {"normalize_activations": norm}, tensors


def _modern(cfg: dict[str, Any]) -> dict[str, Any]:
    """A `cfg.json` from before version 6 in the words of version 6, as SAELens itself reads it."""
    metadata = table(cfg.get("metadata"))
    major = str(cfg.get("sae_lens_version") or metadata.get("sae_lens_version")).split(".")[0]
    if major.isdecimal() and int(major) >= 6:
        return cfg
    cfg = {"hook_name": cfg.get("hook_point"), "activation_fn": cfg.get("activation_fn_str")} | cfg
    extra = cfg.get("activation_fn_kwargs")
    if cfg["activation_fn"] == "topk" and isinstance(extra, dict) and "k" in extra:
        cfg |= {"architecture": "topk", "k": extra["k"]}
    norm = cfg.get("normalize_activations")
    if norm is None or isinstance(norm, bool):
        cfg["normalize_activations"] = "expected_average_only_in" if norm else "none"
    keys = ("model_name", "hook_name", "hook_name_out")
    return {"architecture": "standard", "metadata": {key: cfg.get(key) for key in keys}} | cfg


def _check_pursuit(cfg: dict[str, Any], file: Path) -> None:
    threshold, most, stop = (cfg.setdefault(key) for key in PURSUIT)
    if (
        not isinstance(threshold, float | int | None)
        or not isinstance(most, int | None)
        or not 1 <= (1 if most is None else most) <= MAX_PURSUIT
        or stop not in (None, True, False)
    ):
        raise CheckpointError(
            f"{file}: expected numbers as {', '.join(PURSUIT)}, got {threshold, most, stop}"
        )


def _subtracts(cfg: dict[str, Any]) -> bool:
    return "transcoder" not in cfg["architecture"] and cfg.get("apply_b_dec_to_input", True) is not False


def _architecture(plain: Plain) -> str:
    if not plain.transcoder:
        return next(theirs for theirs, rule in RULES.items() if rule == plain.rule)
    parts = ["jumprelu"] if plain.rule == "jumprelu" else []
    return "_".join([*parts, *(["skip"] if "W_skip" in plain.tensors else []), "transcoder"])


def _ours(t: dict[str, Tensor], cfg: dict[str, Any]) -> dict[str, Tensor]:
    if cfg["architecture"] == "matching_pursuit":
        b_dec = t["b_dec"] if _subtracts(cfg) else torch.zeros_like(t["b_dec"])
        zeros = torch.zeros(t["W_dec"].shape[0], dtype=t["W_dec"].dtype)
        return {"W_enc": t["W_dec"].mT, "b_enc": zeros, "W_dec": t["W_dec"], "b_dec": b_dec}
    t = {"b_enc" if name == "b_gate" else name: tensor for name, tensor in t.items()}
    return t | {"W_skip": t["W_skip"].mT} if "W_skip" in t else t


def _theirs(plain: Plain, architecture: str) -> dict[str, Tensor]:
    t = plain.tensors
    if plain.rule == "gated":
        t = {"b_gate" if name == "b_enc" else name: tensor for name, tensor in t.items()}
    if "W_skip" in t:
        t = t | {"W_skip": t["W_skip"].mT}
    return {name: t[name] for name in TENSORS[architecture]}
