"""SAELens 6: a folder with `cfg.json` and `sae_weights.safetensors`; older `cfg.json` are read too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from thoughtlens.core import CheckpointError, Json, Record
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.arithmetic import (
    Forward,
    largest,
    layer_norm,
    onto_columns,
    pursue,
    weighted_rows,
)
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import read_safetensors, require_unscaled
from thoughtlens.sae.formats.fitting import (
    as_jumprelu,
    cannot_hold,
    refuse_negative,
    rule_of,
    unit_decoder,
    unsigned,
)
from thoughtlens.sae.formats.portable import (
    InputNorm,
    Names,
    Portable,
    Pursuit,
    Rule,
    Weights,
    checked,
    require_keys,
)
from thoughtlens.sae.formats.settings import TABLE, Ours, OursOrNone, Text, Whole, read_table, settings_of

VERSION = "6.54.12"
"""Whose format is written; without a version in it, a `cfg.json` is read as one from before 6."""
FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
NORMS: dict[str, InputNorm] = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "rescale"}
UNFOLDED = ("expected_average_only_in", "covariance_whitening")
DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
MAX_PURSUIT = 2**16


def _same(*names: str, **theirs: str) -> Names:
    return Names({**{name: name for name in names}, **theirs}, transposed=("W_skip",))


@dataclass(frozen=True)
class _Architecture:
    rule: Rule
    names: Names


PLAIN, THRESHOLD = _same(*FOUR), _same(*FOUR, "threshold")
ARCHITECTURES: dict[str, _Architecture] = {
    "standard": _Architecture("relu", PLAIN),
    "topk": _Architecture("topk", PLAIN),
    "abstopk": _Architecture("abstopk", PLAIN),
    "jumprelu": _Architecture("jumprelu", THRESHOLD),
    "gated": _Architecture("gated", _same("W_enc", "W_dec", "b_dec", "b_mag", "r_mag", b_enc="b_gate")),
    "matching_pursuit": _Architecture("pursuit", _same("W_dec", "b_dec")),
    "transcoder": _Architecture("relu", PLAIN),
    "skip_transcoder": _Architecture("relu", _same(*FOUR, "W_skip")),
    "jumprelu_transcoder": _Architecture("jumprelu", THRESHOLD),
    "jumprelu_skip_transcoder": _Architecture("jumprelu", _same(*FOUR, "threshold", "W_skip")),
}


@dataclass(frozen=True, kw_only=True)
class _Metadata(Record):
    sae_lens_version: Text = None
    model_name: Text = None
    hook_name: Text = None
    hook_name_out: Text = None
    thoughtlens: OursOrNone = field(default_factory=Ours)


@dataclass(frozen=True, kw_only=True)
class _Settings(Record):
    architecture: str | None = None
    normalize_activations: str | None = "none"
    dtype: str = "float32"
    k: Whole = None
    apply_b_dec_to_input: bool | None = True
    rescale_acts_by_decoder_norm: bool | None = False
    residual_threshold: float | None = None
    max_iterations: Annotated[int | None, Field(ge=1, le=MAX_PURSUIT)] = None
    stop_on_duplicate_support: bool | None = None
    metadata: Annotated[_Metadata, TABLE] = field(default_factory=_Metadata)

    @property
    def transcoder(self) -> bool:
        return "transcoder" in (self.architecture or "")

    @property
    def subtracts(self) -> bool:
        """Whether b_dec is taken off the input."""
        return not self.transcoder and self.apply_b_dec_to_input is not False

    @property
    def norm(self) -> InputNorm:
        return NORMS[self.normalize_activations or ""]

    @property
    def pursuit(self) -> Pursuit | None:
        if self.architecture != "matching_pursuit":
            return None
        return Pursuit(self.residual_threshold, self.max_iterations, self.stop_on_duplicate_support)


class SAELens(Format):
    """The format of SAELens."""

    name = "sae_lens"
    file = "sae_weights.safetensors"

    def finds(self, path: Path) -> bool:
        """Whether the folder holds one."""
        return (path / self.file).is_file() and (path / "cfg.json").is_file()

    def read(self, path: Path) -> Portable:
        """Any architecture but `temporal` and unfinished training checkpoints."""
        settings, tensors = self._load(path)
        transcoder, metadata = settings.transcoder, settings.metadata
        if transcoder and settings.norm != "none":
            raise CheckpointError(
                f"{path}: a transcoder that normalises only its input ({settings.norm}); not supported"
            )
        architecture = ARCHITECTURES[settings.architecture or ""]
        sae = Portable(
            architecture.rule,
            _weights(architecture, tensors, settings),
            k=settings.k if architecture.rule in ("topk", "abstopk") else None,
            pre_bias=not transcoder and (architecture.rule == "pursuit" or settings.subtracts),
            norm=settings.norm,
            transcoder=transcoder,
            hook=hooks.from_lens(metadata.hook_name),
            hook_out=hooks.from_lens(metadata.hook_name_out) if transcoder else None,
            model=metadata.model_name,
            pursuit=settings.pursuit,
            provenance=metadata.thoughtlens.provenance,
        )
        sae = checked(unsigned(sae), path / self.file)
        return unit_decoder(sae) if settings.rescale_acts_by_decoder_norm else sae

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the folder; returns what it holds."""
        if sae.rule in ("groupmax", "identity"):
            raise cannot_hold("SAELens", rule_of(sae), "use --to thoughtlens")
        if sae.transcoder and sae.rule not in ("relu", "jumprelu", "batchtopk"):
            raise cannot_hold("SAELens", f"a transcoder with {rule_of(sae)}", "use --to sparsify")
        trained = sae.rule
        refuse_negative(sae, "SAELens")
        if sae.rule == "batchtopk":
            sae = as_jumprelu(sae, "SAELens", pre_bias=None)
        name = _architecture(sae)
        pursuit = sae.pursuit._asdict() if sae.pursuit else {}
        settings = {
            "architecture": name,
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "dtype": str(sae.dtype).removeprefix("torch."),
            "device": "cpu",
            "apply_b_dec_to_input": sae.pre_bias,
            "normalize_activations": next(theirs for theirs, ours in NORMS.items() if ours == sae.norm),
            "reshape_activations": "none",
            "metadata": {
                "sae_lens_version": VERSION,
                "sae_lens_training_version": None,
                "training_architecture": trained,
                "model_name": sae.model,
                "hook_name": hooks.to_lens(sae.hook),
                **({"hook_name_out": hooks.to_lens(sae.hook_out)} if sae.transcoder else {}),
                "thoughtlens": {"provenance": sae.provenance},
            },
            **({"d_out": sae.d_out} if sae.transcoder else {}),
            **({"k": sae.k, "rescale_acts_by_decoder_norm": False} if "topk" in name else {}),
            **{key: value for key, value in pursuit.items() if value is not None},
        }
        self.save(out, ARCHITECTURES[name].names.write(sae.weights), settings)
        return sae

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        cfg, t = self._load(path)
        small = {name: tensor.double() for name, tensor in t.items() if tensor.ndim < 2}
        mean, scale, x_in = torch.zeros(()), torch.ones(()), x
        if cfg.normalize_activations == "layer_norm":
            x_in, mean, scale = layer_norm(x)
        elif cfg.normalize_activations == "constant_norm_rescale":
            scale = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
            x_in = x / scale
        b_dec = small["b_dec"]
        centred = x_in - b_dec if cfg.subtracts else x_in
        if cfg.pursuit:
            acts = pursue(centred, t["W_dec"], cfg.pursuit)
            added = b_dec if cfg.subtracts else 0
            return Forward(acts, (weighted_rows(acts, t["W_dec"]) + added) * scale + mean)
        hidden = onto_columns(centred, t["W_enc"])
        length = torch.ones(())
        if cfg.rescale_acts_by_decoder_norm:
            length = t["W_dec"].double().norm(dim=1)
        if cfg.architecture == "gated":
            magnitude = hidden * small["r_mag"].exp() + small["b_mag"]
            acts = (hidden + small["b_gate"] > 0) * magnitude.relu()
        else:
            hidden = (hidden + small["b_enc"]) * length
            if cfg.architecture == "topk":
                acts = hidden.relu() * largest(hidden, cfg.k or 1)
            elif cfg.architecture == "abstopk":
                acts = hidden * largest(hidden.abs(), cfg.k or 1)
            elif "threshold" in t:
                acts = hidden.relu() * (hidden > small["threshold"])
            else:
                acts = hidden.relu()
        x_hat = (weighted_rows(acts / length, t["W_dec"]) + b_dec) * scale + mean
        return Forward(acts, x_hat + onto_columns(x, t["W_skip"].T) if "W_skip" in t else x_hat)

    def _load(self, path: Path) -> tuple[_Settings, dict[str, Tensor]]:
        file, weights = path / "cfg.json", path / self.file
        settings = settings_of(_Settings, _modern(read_table(file)), file)
        architecture, norm = settings.architecture, settings.normalize_activations
        if architecture not in ARCHITECTURES:
            training = "; a checkpoint of its training: save the inference model"
            raise CheckpointError(
                f"{file}: expected an architecture among {', '.join(ARCHITECTURES)}, got {architecture!r}"
                + (training if "batch" in str(architecture) else "")
            )
        if norm in UNFOLDED:
            raise CheckpointError(
                f"{file}: normalize_activations is {norm!r}: a training checkpoint, whose weights live in "
                f"other units; take the final SAE, into which SAELens folds them"
            )
        if norm not in NORMS:
            raise CheckpointError(
                f"{file}: expected normalize_activations among {', '.join(NORMS)}, got {norm!r}"
            )
        tensors = require_unscaled(read_safetensors(weights), weights)
        require_keys(tensors, ARCHITECTURES[architecture].names.theirs.values(), weights)
        dtype = settings.dtype.removeprefix("torch.")
        if dtype not in DTYPES:
            raise CheckpointError(f"{file}: expected dtype among {', '.join(DTYPES)}, got {dtype!r}")
        return settings, {name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}


def _modern(cfg: Json) -> Json:
    """A `cfg.json` from before version 6 in the words of version 6, as SAELens itself reads it."""
    metadata = cfg.get("metadata")
    version = cfg.get("sae_lens_version") or (metadata if isinstance(metadata, dict) else {}).get(
        "sae_lens_version"
    )
    major = str(version).split(".")[0]
    if major.isdecimal() and int(major) >= 6:
        return cfg
    cfg = {"hook_name": cfg.get("hook_point"), "activation_fn": cfg.get("activation_fn_str")} | cfg
    extra = cfg.get("activation_fn_kwargs")
    if cfg.get("activation_fn") == "topk" and isinstance(extra, dict) and "k" in extra:
        cfg |= {"architecture": "topk", "k": extra.get("k")}
    norm = cfg.get("normalize_activations")
    if norm is None or isinstance(norm, bool):
        cfg |= {"normalize_activations": "expected_average_only_in" if norm else "none"}
    keys = ("model_name", "hook_name", "hook_name_out")
    return {"architecture": "standard", "metadata": {key: cfg.get(key) for key in keys}} | cfg


def _architecture(sae: Portable) -> str:
    if not sae.transcoder:
        return next(name for name, one in ARCHITECTURES.items() if one.rule == sae.rule)
    parts = ["jumprelu"] if sae.rule == "jumprelu" else []
    return "_".join([*parts, *(["skip"] if sae.weights.W_skip is not None else []), "transcoder"])


def _weights(architecture: _Architecture, tensors: dict[str, Tensor], settings: _Settings) -> Weights:
    if architecture.rule != "pursuit":
        return architecture.names.read(tensors)
    W_dec, b_dec = tensors["W_dec"], tensors["b_dec"]
    W_enc = W_dec.mT if W_dec.ndim == 2 else W_dec
    b_dec = b_dec if settings.subtracts else torch.zeros_like(b_dec)
    return Weights(W_enc, W_dec.new_zeros(W_dec.shape[:1]), W_dec, b_dec)
