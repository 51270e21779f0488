"""dictionary_learning: a folder with `ae.pt` (a state dict) and `config.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.files import read_json, read_pt
from thoughtlens.sae.formats.fitting import (
    as_jumprelu,
    cannot_hold,
    refuse_norm,
    rule_of,
    unsigned,
    with_pre_bias,
)
from thoughtlens.sae.formats.plain import Plain, Rule, checked, require_keys, table, text
from thoughtlens.sae.formats.plainly import (
    Forward,
    largest,
    onto,
    onto_columns,
    weighted_columns,
    weighted_rows,
)

LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
KEYS: dict[str, tuple[str, ...]] = {
    "AutoEncoder": ("bias", *LINEAR),
    "AutoEncoderNew": (*LINEAR, "decoder.bias"),
    "GatedAutoEncoder": (
        "decoder_bias",
        "encoder.weight",
        "r_mag",
        "gate_bias",
        "mag_bias",
        "decoder.weight",
    ),
    "AutoEncoderTopK": ("b_dec", "k", "threshold", *LINEAR),
    "BatchTopKSAE": ("b_dec", "k", "threshold", *LINEAR),
    "MatryoshkaBatchTopKSAE": (*MATRICES, "k", "threshold", "group_sizes"),
    "JumpReluAutoEncoder": (*MATRICES, "threshold"),
}
TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
    "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}
RULES: dict[str, Rule] = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "batchtopk",
    "JumpReluAutoEncoder": "jumprelu",
}
OURS = {
    "bias": "b_dec",
    "decoder.bias": "b_dec",
    "decoder_bias": "b_dec",
    "encoder.bias": "b_enc",
    "gate_bias": "b_enc",
    "mag_bias": "b_mag",
    "encoder.weight": "W_enc",
    "decoder.weight": "W_dec",
}
NO_SUBTRACTION = ("AutoEncoderNew", "JumpReluAutoEncoder")


class DictionaryLearning:
    """The format of dictionary_learning: every class of dictionary that it trains."""

    name = "dictionary_learning"
    file = "ae.pt"

    def finds(self, path: Path) -> bool:
        """Whether there is one at a path: the folder, its `ae.pt` or an `ae_STEP.pt`."""
        return re.fullmatch(r"ae(_\d+)?\.pt", path.name) is not None or (path / self.file).is_file()

    def read(self, path: Path) -> Plain:
        """Any dictionary; which class it is says `config.json`, or the keys where they suffice."""
        cls, state, config = self._load(path)
        file = self._file(path)
        trainer = table(config.get("trainer"))
        ours = table(config.get("thoughtlens"))
        tensors = {OURS.get(name, name): t for name, t in state.items()}
        if "encoder.weight" in state:
            tensors |= {"W_enc": state["encoder.weight"].mT, "W_dec": state["decoder.weight"].mT}
        k, groups = tensors.pop("k", None), tensors.pop("group_sizes", None)
        if cls == "AutoEncoderTopK":
            tensors.pop("threshold")
        plain = Plain(
            RULES[cls],
            tensors,
            k=None if k is None else _integers(k, "k", file)[0],
            pre_bias=cls not in NO_SUBTRACTION,
            groups=None if groups is None else tuple(_integers(groups, "group_sizes", file)),
            hook=text(ours.get("hook_name")) or hooks.from_dictionary(text(trainer.get("submodule_name"))),
            model=text(trainer.get("lm_name")),
            provenance=table(ours.get("provenance")),
        )
        return checked(unsigned(plain), file)

    def write(self, plain: Plain, out: Path) -> Plain:
        """Write the folder; returns what it holds."""
        refuse_norm(plain, "dictionary_learning")
        if plain.transcoder:
            raise cannot_hold("dictionary_learning", "a transcoder", "use --to sae_lens or sparsify")
        cls = _class_for(plain)
        plain = as_jumprelu(plain, "dictionary_learning") if cls == "JumpReluAutoEncoder" else plain
        plain = with_pre_bias(plain, cls not in NO_SUBTRACTION)
        config = {
            "trainer": {
                "trainer_class": TRAINERS[cls],
                "dict_class": cls,
                "activation_dim": plain.d_in,
                "dict_size": plain.d_sae,
                "k": plain.k,
                "layer": hooks.layer_of(plain.hook),
                "lm_name": plain.model,
                "submodule_name": hooks.to_dictionary(plain.hook),
            },
            "buffer": {
                "d_submodule": plain.d_in,
                "io": "in" if (plain.hook or "").endswith(":in") else "out",
            },
            "thoughtlens": {"hook_name": plain.hook, "provenance": plain.provenance},
        }
        out.mkdir(parents=True, exist_ok=True)
        torch.save(_theirs(plain, cls), out / self.file)
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        if cls == "AutoEncoder" and bool(((plain.tensors["W_dec"].norm(dim=1) - 1).abs() > 1e-5).any()):
            return plain.noting(
                "dictionary_learning's loader brings decoder rows to length 1 and scales activations along; "
                "x_hat is the same"
            )
        return plain

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        cls, state, _ = self._load(path)
        return FORWARD[cls](state, x)

    def _file(self, path: Path) -> Path:
        return path if path.suffix == ".pt" else path / self.file

    def _load(self, path: Path) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        file = self._file(path)
        folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
        settings = folder / "config.json"
        config = read_json(settings) if settings.is_file() else {}
        state = read_pt(file)
        if "ae" in state:
            raise CheckpointError(f"{file}: a backup of an unfinished training; take the final ae.pt")
        trainer = config.get("trainer")
        cls = trainer.get("dict_class") if isinstance(trainer, dict) else None
        fitting = [name for name, keys in KEYS.items() if state.keys() == set(keys)]
        if cls is None and len(fitting) == 1:
            cls = fitting[0]
        if not isinstance(cls, str) or cls not in KEYS:
            raise CheckpointError(
                f"{file}: expected trainer.dict_class in config.json, one of {', '.join(KEYS)}; got {cls!r}"
                + (f", and the keys fit {' and '.join(fitting)}" if len(fitting) > 1 else "")
            )
        require_keys(state, KEYS[cls], file)
        return cls, state, config


def _class_for(plain: Plain) -> str:
    if plain.rule == "relu":
        return "AutoEncoder" if plain.pre_bias else "AutoEncoderNew"
    for cls, rule in RULES.items():
        if rule == plain.rule and (cls == "MatryoshkaBatchTopKSAE") == (plain.groups is not None):
            return cls
    raise cannot_hold("dictionary_learning", rule_of(plain), "use --to sae_lens or thoughtlens")


def _theirs(plain: Plain, cls: str) -> dict[str, Tensor]:
    t = dict(plain.tensors)
    if cls in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        t["k"] = torch.tensor(plain.k, dtype=torch.int32)
        t.setdefault("threshold", torch.tensor(-1.0, dtype=plain.dtype))
    if plain.groups is not None:
        t["group_sizes"] = torch.tensor(plain.groups)
    if "encoder.weight" in KEYS[cls]:
        t |= {"W_enc": t["W_enc"].mT.contiguous(), "W_dec": t["W_dec"].mT.contiguous()}
    back = {OURS.get(name, name): name for name in KEYS[cls]}
    return {theirs: _own(t[ours]) for ours, theirs in back.items()}


def _own(t: Tensor) -> Tensor:
    """Without what else its storage holds, which torch.save would write along."""
    return t if t.untyped_storage().nbytes() == t.numel() * t.element_size() else t.clone()


def _integers(value: Tensor, name: str, file: Path) -> list[int]:
    if (
        value.is_floating_point()
        or value.dtype == torch.bool
        or value.ndim > 1
        or not 1 <= value.numel() <= 4096
    ):
        raise CheckpointError(
            f"{file}: expected whole numbers in {name}, got {value.dtype} {tuple(value.shape)}"
        )
    return [int(v) for v in value.flatten()]


def _linear(s: dict[str, Tensor], x: Tensor, bias: str) -> tuple[Tensor, Tensor]:
    b = s[bias].double()
    return (onto(x - b, s["encoder.weight"]) + s["encoder.bias"].double()).relu(), b


def _auto_encoder(s: dict[str, Tensor], x: Tensor) -> Forward:
    acts, b = _linear(s, x, "bias")
    return Forward(acts, weighted_columns(acts, s["decoder.weight"]) + b)


def _auto_encoder_new(s: dict[str, Tensor], x: Tensor) -> Forward:
    acts = (onto(x, s["encoder.weight"]) + s["encoder.bias"].double()).relu()
    return Forward(acts, weighted_columns(acts, s["decoder.weight"]) + s["decoder.bias"].double())


def _gated(s: dict[str, Tensor], x: Tensor) -> Forward:
    b = s["decoder_bias"].double()
    encoded = onto(x - b, s["encoder.weight"])
    magnitude = s["r_mag"].double().exp() * encoded + s["mag_bias"].double()
    acts = (encoded + s["gate_bias"].double() > 0) * magnitude.relu()
    return Forward(acts, weighted_columns(acts, s["decoder.weight"]) + b)


def _topk(s: dict[str, Tensor], x: Tensor) -> Forward:
    acts, b = _linear(s, x, "b_dec")
    acts = acts * largest(acts, int(s["k"]))
    return Forward(acts, weighted_columns(acts, s["decoder.weight"]) + b)


def _batch_topk(s: dict[str, Tensor], x: Tensor) -> Forward:
    acts, b = _linear(s, x, "b_dec")
    acts = acts * (acts > s["threshold"].double())
    return Forward(acts, weighted_columns(acts, s["decoder.weight"]) + b)


def _matryoshka(s: dict[str, Tensor], x: Tensor) -> Forward:
    acts = (onto_columns(x - s["b_dec"].double(), s["W_enc"]) + s["b_enc"].double()).relu()
    acts = acts * (acts > s["threshold"].double())
    return Forward(acts, weighted_rows(acts, s["W_dec"]) + s["b_dec"].double())


def _jump_relu(s: dict[str, Tensor], x: Tensor) -> Forward:
    pre = onto_columns(x, s["W_enc"]) + s["b_enc"].double()
    acts = (pre * (pre > s["threshold"].double())).relu()
    return Forward(acts, weighted_rows(acts, s["W_dec"]) + s["b_dec"].double())


FORWARD: dict[str, Callable[[dict[str, Tensor], Tensor], Forward]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
}
