"""SAELens 6: a folder with `cfg.json` and `sae_weights.safetensors`; older `cfg.json` are read too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from thoughtlens.core import CheckpointError, Json, Record
from thoughtlens.sae.formats import catalogue, hooks
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
from thoughtlens.sae.formats.files import read_safetensors, require_unscaled
from thoughtlens.sae.formats.fitting import (
    as_jumprelu,
    as_transcoder,
    cannot_hold,
    has_unit_decoder,
    refuse_negative,
    rule_of,
    unit_decoder,
    unsigned,
    written,
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
from thoughtlens.sae.formats.says import Says
from thoughtlens.sae.formats.settings import (
    TABLE,
    Count,
    Ids,
    Ours,
    OursOrNone,
    Switch,
    Table,
    Text,
    Whole,
    read_table,
    settings_of,
)

VERSION = "6.54.12"
"""Whose format is written; without a version in it, a `cfg.json` is read as one from before 6."""
FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
NORMS: dict[str, InputNorm] = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "rescale"}
UNFOLDED = ("expected_average_only_in", "covariance_whitening")
DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
MAX_PURSUIT = 2**16
HOOKED, MODULES = "HookedTransformer", "AutoModelForCausalLM"
"""Classes of models, by whose names hooks go."""
DEFAULTS = {"prepend_bos": True, "context_size": 128}
"""What SAELens trains with where nothing is set."""


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
    model_class_name: Text = None
    hook_name: Text = None
    hook_name_out: Text = None
    hook_head_index: Count = None
    prepend_bos: Switch = None
    context_size: Count = None
    exclude_special_tokens: Ids = None
    dataset_path: Text = None
    model_from_pretrained_kwargs: Table = field(default_factory=dict)
    thoughtlens: OursOrNone = field(default_factory=Ours)

    @property
    def says(self) -> Says:
        return Says(
            model=self.model_name,
            prepend_bos=self.prepend_bos,
            context_size=self.context_size,
            exclude_special_tokens=self.exclude_special_tokens,
            dataset=self.dataset_path,
            model_class=self.model_class_name,
            processing=self.model_from_pretrained_kwargs,
            head=self.hook_head_index,
        )

    @property
    def hook(self) -> str | None:
        """Where it reads, in our words; of a single head there are none."""
        if self.hook_head_index is not None:
            return f"{self.hook_name}[{self.hook_head_index}]"
        return self.thoughtlens.hook_name or hooks.from_lens(self.hook_name, self.model_name)

    @property
    def hook_out(self) -> str | None:
        """Where a transcoder writes."""
        return self.thoughtlens.hook_name_out or hooks.from_lens(self.hook_name_out, self.model_name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What its hooks stand on."""
        names = (self.hook_name, self.hook_name_out)
        return tuple(
            f"{name} was taken for that of a model without norms after its sublayers: the architecture of "
            f"{self.model_name or 'its model'} is not known"
            for name in names
            if self.thoughtlens.hook_name is None and hooks.assumes(name, self.model_name)
        )


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
        """By its class; before there was one, by an output of another name."""
        known, other = self.metadata.hook_name, self.metadata.hook_name_out
        return "transcoder" in (self.architecture or "") or (other is not None and other != known)

    @property
    def subtracts(self) -> bool:
        """Whether b_dec is taken off the input."""
        return "transcoder" not in (self.architecture or "") and self.apply_b_dec_to_input is not False

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
        metadata = settings.metadata
        if settings.transcoder and settings.norm != "none":
            raise CheckpointError(
                f"{path}: a transcoder that normalises only its input ({settings.norm}); not supported"
            )
        architecture = ARCHITECTURES[settings.architecture or ""]
        sae = Portable(
            architecture.rule,
            _weights(architecture, tensors, settings),
            k=settings.k if architecture.rule in ("topk", "abstopk") else None,
            pre_bias=architecture.rule == "pursuit" or settings.subtracts,
            norm=settings.norm,
            hook=metadata.hook,
            hook_assumed=bool(metadata.notes),
            says=metadata.says,
            pursuit=settings.pursuit,
            provenance=metadata.thoughtlens.provenance,
            notes=metadata.notes,
        )
        if settings.transcoder:
            sae = as_transcoder(sae, metadata.hook_out)
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
        metadata, notes = _metadata(sae, trained)
        by_norm = name == "topk" and has_unit_decoder(sae)
        settings = {
            "architecture": name,
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "dtype": str(sae.dtype).removeprefix("torch."),
            "device": "cpu",
            "apply_b_dec_to_input": sae.pre_bias,
            "normalize_activations": next(theirs for theirs, ours in NORMS.items() if ours == sae.norm),
            "reshape_activations": "hook_z" if "hook_z" in (metadata["hook_name"] or "") else "none",
            "metadata": metadata,
            **({"d_out": sae.d_out} if sae.transcoder else {}),
            **({"k": sae.k, "rescale_acts_by_decoder_norm": by_norm} if "topk" in name else {}),
            **{key: value for key, value in pursuit.items() if value is not None},
        }
        self.save(out, ARCHITECTURES[name].names.write(sae.weights), settings)
        return sae.noting(*notes)

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        cfg, tensors = self._load(path)
        t = held(tensors)
        mean, scale, x_in = torch.zeros(()), torch.ones(()), x
        if cfg.normalize_activations == "layer_norm":
            x_in, mean, scale = layer_norm(x)
        elif cfg.normalize_activations == "constant_norm_rescale":
            scale = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
            x_in = x / scale
        centred = x_in - t.b_dec if cfg.subtracts else x_in
        if cfg.pursuit:
            acts = pursue(centred, t.W_dec, cfg.pursuit)
            added = t.b_dec if cfg.subtracts else 0
            return Forward(acts, (weighted_rows(acts, t.W_dec) + added) * scale + mean)
        hidden = onto_columns(centred, t.W_enc)
        length = torch.ones(())
        if cfg.rescale_acts_by_decoder_norm:
            length = t.W_dec.double().norm(dim=1)
        if cfg.architecture == "gated":
            magnitude = hidden * t.r_mag.exp() + t.b_mag
            acts = (hidden + t.b_gate > 0) * magnitude.relu()
        else:
            hidden = (hidden + t.b_enc) * length
            if cfg.architecture == "topk":
                acts = hidden.relu() * largest(hidden, cfg.k or 1)
            elif cfg.architecture == "abstopk":
                acts = hidden * largest(hidden.abs(), cfg.k or 1)
            elif hasattr(t, "threshold"):
                acts = hidden.relu() * (hidden > t.threshold)
            else:
                acts = hidden.relu()
        x_hat = (weighted_rows(acts / length, t.W_dec) + t.b_dec) * scale + mean
        return Forward(acts, x_hat + onto_columns(x, t.W_skip.T) if hasattr(t, "W_skip") else x_hat)

    def _load(self, path: Path) -> tuple[_Settings, dict[str, Tensor]]:
        file, weights = path / "cfg.json", path / self.file
        known = catalogue.of(path)
        table = _modern(read_table(file)) | (known.release.settings if known else {})
        settings = settings_of(_Settings, table, file)
        scale = known.scale if known and settings.normalize_activations == UNFOLDED[0] else None
        if scale is not None:
            settings = replace(settings, normalize_activations="none")
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
        tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}
        return settings, tensors if scale is None else _folded(tensors, scale)


def _folded(tensors: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Weights on raw activations, of those on activations times `scale`, as SAELens folds them."""
    factors = {"W_enc": scale, "W_dec": 1 / scale, "b_dec": 1 / scale}
    return {name: (tensor.double() * factors.get(name, 1.0)).float() for name, tensor in tensors.items()}


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
    cfg = {"hook_head_index": cfg.get("hook_point_head_index"), "hook_name_out": _hook_out(cfg)} | cfg
    keys = _Metadata.__dataclass_fields__.keys() - {"thoughtlens"}
    return {"architecture": "standard", "metadata": {key: cfg.get(key) for key in keys}} | cfg


def _hook_out(cfg: Json) -> object:
    """Of transcoders in the layout that SAELens had before it knew any (Dunefsky et al. 2024)."""
    return cfg.get("out_hook_point", cfg.get("hook_point_out")) if cfg.get("is_transcoder", True) else None


def _metadata(sae: Portable, trained: str) -> tuple[Json, list[str]]:
    """What SAELens wants to know beside the weights, and what of it is not known.

    Its `ActivationsStore.from_sae` refuses an SAE without `context_size` and `prepend_bos`. Hooks that
    TransformerLens has no name for are named as in the Hugging Face model, whose class then stands beside.
    """
    says, notes = sae.says, []
    name, model_class = _written(sae.hook, sae)
    name_out, class_out = _written(sae.hook_out, sae) if sae.transcoder else (None, model_class)
    if model_class != class_out:
        name, model_class = hooks.to_module(sae.hook, sae.model), MODULES
        name_out = hooks.to_module(sae.hook_out, sae.model)
    for hook, theirs in ((sae.hook, name), (sae.hook_out, name_out)):
        if hook and theirs is None:
            notes.append(f"{hook} has no name in TransformerLens: none was written")
        elif hooks.assumes(theirs, sae.model):
            notes.append(f"{hook} became {theirs}, as in most models: the architecture is not known")
    for key, assumed in DEFAULTS.items():
        if getattr(says, key) is None:
            notes.append(f"{key} is not known: {json.dumps(assumed)} was written, SAELens's default")
    known = {key: getattr(says, key) for key in DEFAULTS}
    return {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "training_architecture": trained,
        "model_name": sae.model,
        "model_class_name": model_class,
        "hook_name": name,
        "hook_head_index": says.head,
        **({"hook_name_out": name_out} if sae.transcoder else {}),
        **{key: DEFAULTS[key] if value is None else value for key, value in known.items()},
        "exclude_special_tokens": says.exclude_special_tokens or False,
        "dataset_path": says.dataset,
        "model_from_pretrained_kwargs": says.processing,
        "seqpos_slice": [None],
        "thoughtlens": written(sae),
    }, notes


def _written(hook: str | None, sae: Portable) -> tuple[str | None, str]:
    """A hook's name, and the class of model that has it."""
    if hook is None or not hooks.is_ours(hook):
        return hook and hook.partition("[")[0], sae.says.model_class or HOOKED
    if theirs := hooks.to_lens(hook, sae.model):
        return theirs, HOOKED
    module = hooks.to_module(hook, sae.model)
    return module, HOOKED if module is None else MODULES


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
