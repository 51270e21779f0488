"""dictionary_learning: a folder with `ae.pt` (a state dict) and `config.json`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError, Record, write_json
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.arithmetic import (
    Forward,
    held,
    largest,
    onto,
    onto_columns,
    weighted_columns,
    weighted_rows,
)
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import alone, read_pt
from thoughtlens.sae.formats.fitting import (
    as_jumprelu,
    as_transcoder,
    cannot_hold,
    refuse_norm,
    rule_of,
    unsigned,
    with_pre_bias,
    written,
)
from thoughtlens.sae.formats.portable import Names, Portable, Rule, checked, require_keys
from thoughtlens.sae.formats.says import Says
from thoughtlens.sae.formats.settings import TABLE, Count, Ours, OursOrNone, Switch, Text, read_settings

State = dict[str, Tensor]


def _linear(s: SimpleNamespace, x: Tensor) -> Tensor:
    return (onto(x, s.encoder_weight) + s.encoder_bias).relu()


def _auto_encoder(s: SimpleNamespace, x: Tensor) -> Forward:
    acts = _linear(s, x - s.bias)
    return Forward(acts, weighted_columns(acts, s.decoder_weight) + s.bias)


def _auto_encoder_new(s: SimpleNamespace, x: Tensor) -> Forward:
    acts = _linear(s, x)
    return Forward(acts, weighted_columns(acts, s.decoder_weight) + s.decoder_bias)


def _gated(s: SimpleNamespace, x: Tensor) -> Forward:
    encoded = onto(x - s.decoder_bias, s.encoder_weight)
    magnitude = s.r_mag.exp() * encoded + s.mag_bias
    acts = (encoded + s.gate_bias > 0) * magnitude.relu()
    return Forward(acts, weighted_columns(acts, s.decoder_weight) + s.decoder_bias)


def _topk(s: SimpleNamespace, x: Tensor) -> Forward:
    acts = _linear(s, x - s.b_dec)
    acts = acts * largest(acts, int(s.k))
    return Forward(acts, weighted_columns(acts, s.decoder_weight) + s.b_dec)


def _batch_topk(s: SimpleNamespace, x: Tensor) -> Forward:
    acts = _linear(s, x - s.b_dec)
    acts = acts * (acts > s.threshold)
    return Forward(acts, weighted_columns(acts, s.decoder_weight) + s.b_dec)


def _matryoshka(s: SimpleNamespace, x: Tensor) -> Forward:
    acts = (onto_columns(x - s.b_dec, s.W_enc) + s.b_enc).relu()
    acts = acts * (acts > s.threshold)
    return Forward(acts, weighted_rows(acts, s.W_dec) + s.b_dec)


def _jump_relu(s: SimpleNamespace, x: Tensor) -> Forward:
    pre = onto_columns(x, s.W_enc) + s.b_enc
    acts = (pre * (pre > s.threshold)).relu()
    return Forward(acts, weighted_rows(acts, s.W_dec) + s.b_dec)


@dataclass(frozen=True)
class _Class:
    """A class of dictionaries: who trains it, what it holds, and what it computes."""

    trainer: str
    rule: Rule
    names: Names
    forward: Callable[[SimpleNamespace, Tensor], Forward]
    extra: tuple[str, ...] = ()
    """What it holds beside the weights."""
    pre_bias: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        """Of its state dict."""
        return (*self.names.theirs.values(), *self.extra)


def _linears(**theirs: str) -> Names:
    """Names of what holds two `nn.Linear`, with those of its biases."""
    both = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
    return Names(both | theirs, transposed=("W_enc", "W_dec"))


MATRICES = Names({name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")})
CLASSES: dict[str, _Class] = {
    "AutoEncoder": _Class("StandardTrainer", "relu", _linears(b_dec="bias"), _auto_encoder),
    "AutoEncoderNew": _Class(
        "StandardTrainerAprilUpdate",
        "relu",
        _linears(b_dec="decoder.bias"),
        _auto_encoder_new,
        pre_bias=False,
    ),
    "GatedAutoEncoder": _Class(
        "GatedSAETrainer",
        "gated",
        _linears(b_dec="decoder_bias", b_enc="gate_bias", r_mag="r_mag", b_mag="mag_bias"),
        _gated,
    ),
    "AutoEncoderTopK": _Class("TopKTrainer", "topk", _linears(b_dec="b_dec"), _topk, ("k", "threshold")),
    "BatchTopKSAE": _Class(
        "BatchTopKTrainer", "batchtopk", _linears(b_dec="b_dec", threshold="threshold"), _batch_topk, ("k",)
    ),
    "MatryoshkaBatchTopKSAE": _Class(
        "MatryoshkaBatchTopKTrainer", "batchtopk", MATRICES, _matryoshka, ("k", "group_sizes")
    ),
    "JumpReluAutoEncoder": _Class("JumpReluTrainer", "jumprelu", MATRICES, _jump_relu, pre_bias=False),
}


@dataclass(frozen=True, kw_only=True)
class _Trainer(Record):
    dict_class: str | None = None
    submodule_name: Text = None
    lm_name: Text = None


@dataclass(frozen=True, kw_only=True)
class _Buffer(Record):
    io: Text = None
    ctx_len: Count = None
    remove_bos: Switch = None


@dataclass(frozen=True, kw_only=True)
class _Settings(Record):
    trainer: Annotated[_Trainer, TABLE] = field(default_factory=_Trainer)
    buffer: Annotated[_Buffer, TABLE] = field(default_factory=_Buffer)
    thoughtlens: OursOrNone = field(default_factory=Ours)


class _Loaded(NamedTuple):
    file: Path
    cls: _Class
    state: State
    settings: _Settings


class DictionaryLearning(Format):
    """The format of dictionary_learning: every class of dictionary that it trains."""

    name = "dictionary_learning"
    file = "ae.pt"

    def finds(self, path: Path) -> bool:
        """Whether there is one at a path: the folder, its `ae.pt` or an `ae_STEP.pt`."""
        return re.fullmatch(r"ae(_\d+)?\.pt", path.name) is not None or (path / self.file).is_file()

    def read(self, path: Path) -> Portable:
        """Any dictionary; which class it is says `config.json`, or the keys where they suffice."""
        file, cls, state, settings = self._load(path)
        trainer, buffer, ours = settings.trainer, settings.buffer, settings.thoughtlens
        transcoder = buffer.io == "in_and_out"
        name = trainer.submodule_name or _named_folder(file)
        sides = [hooks.from_dictionary(name, side, trainer.lm_name) for side in ("in", "out")]
        k, groups = (_integers(state, name, file) for name in ("k", "group_sizes"))
        sae = Portable(
            cls.rule,
            cls.names.read(state),
            k=k[0] if k else None,
            pre_bias=cls.pre_bias,
            groups=groups,
            hook=ours.hook_name or sides[buffer.io not in ("in", "in_and_out")],
            says=Says(
                model=trainer.lm_name, context_size=buffer.ctx_len, exclude_special_tokens=buffer.remove_bos
            ),
            provenance=ours.provenance,
        )
        if transcoder:
            sae = as_transcoder(sae, sides[1])
        return checked(unsigned(sae), file)

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the folder; returns what it holds."""
        refuse_norm(sae, "dictionary_learning")
        if sae.transcoder:
            raise cannot_hold("dictionary_learning", "a transcoder", "use --to sae_lens or sparsify")
        name, cls = _class_for(sae)
        sae = as_jumprelu(sae, "dictionary_learning") if cls.rule == "jumprelu" else sae
        sae = with_pre_bias(sae, cls.pre_bias)
        config = {
            "trainer": {
                "trainer_class": cls.trainer,
                "dict_class": name,
                "activation_dim": sae.d_in,
                "dict_size": sae.d_sae,
                "k": sae.k,
                "layer": hooks.layer_of(sae.hook),
                "lm_name": sae.model,
                "submodule_name": hooks.to_dictionary(sae.hook, sae.model),
            },
            "buffer": {
                "d_submodule": sae.d_in,
                "io": "in" if (sae.hook or "").endswith(":in") else "out",
                "ctx_len": sae.says.context_size,
            },
            "thoughtlens": written(sae),
        }
        extra = {
            "k": torch.tensor(sae.k or 0, dtype=torch.int32),
            "threshold": torch.tensor(-1.0, dtype=sae.dtype),
            "group_sizes": torch.tensor(sae.groups or ()),
        }
        state = {key: extra[key] for key in cls.extra} | cls.names.write(sae.weights)
        out.mkdir(parents=True, exist_ok=True)
        torch.save({key: alone(tensor) for key, tensor in state.items()}, out / self.file)
        write_json(out / "config.json", config)
        if name == "AutoEncoder" and bool(((sae.weights.W_dec.norm(dim=1) - 1).abs() > 1e-5).any()):
            return sae.noting(
                "dictionary_learning's loader brings decoder rows to length 1 and scales activations along; "
                "x_hat is the same"
            )
        return sae

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        found = self._load(path)
        return found.cls.forward(held(found.state), x)

    def _load(self, path: Path) -> _Loaded:
        file = self.weights_at(path)
        folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
        config = folder / "config.json"
        settings = read_settings(_Settings, config) if config.is_file() else _Settings()
        state, rest = read_pt(file)
        if "ae" in rest:
            raise CheckpointError(f"{file}: a backup of an unfinished training; take the final ae.pt")
        name = settings.trainer.dict_class
        fitting = [one for one, cls in CLASSES.items() if state.keys() == set(cls.keys)]
        if name is None and len(fitting) == 1:
            name = fitting[0]
        if name not in CLASSES:
            raise CheckpointError(
                f"{file}: expected trainer.dict_class in config.json, one of {', '.join(CLASSES)}; got "
                f"{name!r}" + (f", and the keys fit {' and '.join(fitting)}" if len(fitting) > 1 else "")
            )
        require_keys({**state, **rest}, CLASSES[name].keys, file)
        return _Loaded(file, CLASSES[name], state, settings)


def _named_folder(file: Path) -> str | None:
    """The module by a folder's name, as its demonstrations save: `resid_post_layer_8/trainer_0/ae.pt`."""
    names = [folder.name for folder in file.absolute().parents[:4]]
    return next((name for name in names if hooks.from_dictionary(name) not in (None, name)), None)


def _class_for(sae: Portable) -> tuple[str, _Class]:
    for name, cls in CLASSES.items():
        grouped = (name == "MatryoshkaBatchTopKSAE") == (sae.groups is not None)
        if cls.rule == sae.rule and grouped and (sae.rule != "relu" or cls.pre_bias == sae.pre_bias):
            return name, cls
    raise cannot_hold("dictionary_learning", rule_of(sae), "use --to sae_lens or thoughtlens")


def _integers(state: State, name: str, file: Path) -> tuple[int, ...] | None:
    if (value := state.get(name)) is None:
        return None
    if (
        value.is_floating_point()
        or value.dtype == torch.bool
        or value.ndim > 1
        or not 1 <= value.numel() <= 4096
    ):
        raise CheckpointError(
            f"{file}: expected whole numbers in {name}, got {value.dtype} {tuple(value.shape)}"
        )
    return tuple(int(v) for v in value.flatten())
