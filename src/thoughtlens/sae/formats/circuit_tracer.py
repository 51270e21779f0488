"""circuit-tracer's transcoders of single layers: `layer_N.safetensors`, and `config.yaml` for all of them.

`acts = rule(x @ W_enc.T + b_enc)`, `x_hat = acts @ W_dec + b_dec`, with a skip `+ x @ W_skip.T`. The rule is
a ReLU, or holds what is above a file's threshold, or, where `config.yaml` has `activation: topk`, the k
largest, even those below 0. An older layout holds W_dec transposed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from thoughtlens.core import CheckpointError, MismatchError
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.arithmetic import Forward, held, largest, onto, weighted_rows
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import read_safetensors, write_tensors
from thoughtlens.sae.formats.fitting import as_jumprelu, cannot_hold, left_out, unsigned
from thoughtlens.sae.formats.portable import Names, Portable, checked, require_keys
from thoughtlens.sae.formats.says import Says

FILE = re.compile(r"layer_(\d+)\.safetensors")
THRESHOLDS = ("activation_function.threshold", "threshold")
PLAIN = {name: name for name in ("b_enc", "W_dec", "b_dec", "W_enc")}
NAMES = Names(PLAIN | {"threshold": THRESHOLDS[0], "W_skip": "W_skip"}, transposed=("W_enc", "W_skip"))
HOOKS = ("feature_input_hook", "feature_output_hook")
KIND, OF_ONE_LAYER = "model_kind", "transcoder_set"
USUAL = ("mlp.hook_in", "mlp.hook_out")
"""What a hook is taken for that is not known: circuit-tracer's own names of an MLP's two sides."""


class Held(NamedTuple):
    """What a file and the `config.yaml` beside it hold."""

    file: Path
    tensors: dict[str, Tensor]
    said: dict[str, str]
    k: int | None
    """Of the k largest; None: a ReLU or thresholds."""

    @property
    def n_blank(self) -> int:
        """Latents at the end that were added for a top k without values below 0 (`_with_blanks`)."""
        k, names = self.k or 0, ("W_enc", "b_enc", "W_dec")
        return 0 if not k or any(bool(self.tensors[name][-k:].any()) for name in names) else k


class CircuitTracer(Format):
    """The format of circuit-tracer."""

    name = "circuit_tracer"
    file = "layer_0.safetensors"
    one_folder = True

    def finds(self, path: Path) -> bool:
        """Whether the path is such a file, or a folder with some."""
        return bool(_files(path))

    def parts(self, path: Path) -> dict[str, Path]:
        """Each layer's file."""
        files = _files(path)
        return {file.stem: file for file in files} if len(files) > 1 else {}

    def read(self, path: Path) -> Portable:
        """A transcoder; its model and hooks where `config.yaml` is beside it."""
        held_there = _held(path)
        file, tensors, said, k = held_there
        model, block, blank = said.get("model_name"), _layer(file), held_there.n_blank
        if blank:
            tensors = {
                name: t[:-blank] if name in PLAIN and name != "b_dec" else t for name, t in tensors.items()
            }
        hook, hook_out = (
            hooks.from_lens(f"blocks.{block}.{said[key]}", model) if key in said else None for key in HOOKS
        )
        sae = Portable(
            "topk" if blank else "signed_topk" if k else "jumprelu" if THRESHOLDS[0] in tensors else "relu",
            NAMES.read(tensors),
            k=k,
            pre_bias=False,
            transcoder=True,
            hook=hook,
            hook_out=hook_out,
            says=Says(model=model),
        )
        return checked(unsigned(sae), file)

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the file, and `config.yaml` where it is the first of a folder; returns what they hold."""
        sae = _held_there(sae)
        file, lines = self.weights_of(sae, out), _settings_of(sae)
        out.mkdir(parents=True, exist_ok=True)
        _require_alike(file, lines)
        write_tensors(NAMES.write(sae.weights), file)
        (out / "config.yaml").write_text(
            "".join(f"{key}: {value}\n" for key, value in lines.items()), "utf-8"
        )
        sides = zip((sae.hook, sae.hook_out), USUAL, strict=True)
        return sae.noting(
            *left_out(sae, "hook", "model"),
            *(f"{usual} was written for a hook that is not known" for h, usual in sides if not h),
        )

    def weights_of(self, sae: Portable, out: Path) -> Path:
        """The file of its layer."""
        return out / f"layer_{hooks.layer_of(sae.hook) or 0}.safetensors"

    def doubts(self, out: Path) -> list[str]:
        """Layers that circuit-tracer misses, and widths that it refuses."""
        files = _files(out)
        missing = sorted({*range(max(map(_layer, files)) + 1)} - {*map(_layer, files)})
        widths = {file.stem: read_safetensors(file)["b_enc"].numel() for file in files}
        notes = []
        if missing:
            notes.append(
                f"circuit-tracer takes transcoders of every layer from 0 on: those of layer "
                f"{', '.join(map(str, missing))} are missing, add them to this folder"
            )
        if len({*widths.values()}) > 1:
            notes.append(f"circuit-tracer takes transcoders of one width, and here they differ: {widths}")
        return notes

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        there = _held(path)
        tensors, k, t = there.tensors, there.k, held(there.tensors)
        pre = onto(x, t.W_enc) + t.b_enc
        acts = pre * largest(pre, k) if k else torch.relu(pre)
        if THRESHOLDS[0] in tensors:
            acts = acts * (pre > tensors[THRESHOLDS[0]].double())
        x_hat = weighted_rows(acts, t.W_dec) + t.b_dec
        acts = acts[:, : acts.shape[1] - there.n_blank]
        return Forward(acts, x_hat + onto(x, t.W_skip) if hasattr(t, "W_skip") else x_hat)


def _layer(file: Path) -> int:
    found = FILE.fullmatch(file.name)
    return int(found[1]) if found else 0


def _files(path: Path) -> list[Path]:
    """Files of layers at a path, by layer."""
    found = [path] if path.is_file() else path.glob("layer_*.safetensors") if path.is_dir() else []
    return sorted((file for file in found if FILE.fullmatch(file.name)), key=_layer)


def _held(path: Path) -> Held:
    files = _files(path)
    if len(files) != 1:
        raise CheckpointError(f"{path}: expected one layer_N.safetensors, found {len(files)}")
    (file,) = files
    said, tensors = _settings(file.with_name("config.yaml")), read_safetensors(file)
    if (kind := said.get(KIND, OF_ONE_LAYER)) != OF_ONE_LAYER:
        raise CheckpointError(f"{path}: {KIND} {kind!r} of config.yaml is not read here, only {OF_ONE_LAYER}")
    if THRESHOLDS[1] in tensors:
        tensors[THRESHOLDS[0]] = tensors.pop(THRESHOLDS[1])
    k = _k(tensors.pop("k", None), said, file)
    require_keys(tensors, PLAIN, file, ("W_skip",) if k else (THRESHOLDS[0], "W_skip"))
    W_dec, d_sae = tensors["W_dec"], tensors["b_enc"].numel()
    if W_dec.ndim == 2 and W_dec.shape[0] != d_sae == W_dec.shape[1]:
        tensors["W_dec"] = W_dec.mT
    return Held(file, tensors, said, k)


def _k(kept: Tensor | None, said: dict[str, str], file: Path) -> int | None:
    """How many of the largest are held: `config.yaml` says it, or a tensor of the file."""
    if said.get("activation") != "topk" and kept is None:
        return None
    k = said.get("k", "") if kept is None or kept.numel() != 1 else str(int(kept))
    if not k.isdigit() or int(k) < 1:
        raise CheckpointError(
            f"{file}: activation topk needs k, a whole number from 1, in config.yaml; got {k!r}"
        )
    return int(k)


def _held_there(sae: Portable) -> Portable:
    """With a rule that circuit-tracer knows."""
    if not sae.transcoder:
        raise cannot_hold("circuit-tracer", "a reconstruction of its own input", "use --to sae_lens")
    if sae.rule == "topk":
        return _with_blanks(sae, sae.k or 0)
    return sae if sae.rule in ("relu", "signed_topk") else as_jumprelu(sae, "circuit-tracer")


def _with_blanks(sae: Portable, k: int) -> Portable:
    """With k latents more that are always 0, and taken where fewer than k others are above 0."""
    w = sae.weights
    weights = replace(
        w,
        W_enc=pad(w.W_enc, (0, k)),
        b_enc=pad(w.b_enc, (0, k)),
        W_dec=pad(w.W_dec, (0, 0, 0, k)),
    )
    return replace(sae, weights=weights, rule="signed_topk").noting(
        f"{k} latents that are always 0 were added: circuit-tracer's top k would else hold values below 0"
    )


def _settings_of(sae: Portable) -> dict[str, str]:
    """The lines of `config.yaml`."""
    sides = zip(HOOKS, (sae.hook, sae.hook_out), USUAL, strict=True)
    counted = {} if sae.k is None or "topk" not in sae.rule else {"activation": '"topk"', "k": str(sae.k)}
    return {
        "model_name": f'"{sae.model or ""}"',
        KIND: f'"{OF_ONE_LAYER}"',
        **{key: f'"{_named(hook, sae.model) or usual}"' for key, hook, usual in sides},
        **counted,
    }


def _named(hook: str | None, model: str | None) -> str | None:
    """A hook as circuit-tracer calls it, without its block: TransformerLens's name, or a side of the MLP."""
    if hook is None:
        return None
    block = hooks.layer_of(hook)
    names = [hooks.to_lens(hook, model), *(f"blocks.{block}.{usual}" for usual in USUAL)]
    for name in names:
        theirs = hooks.from_lens(name, model) if name else None
        if name and name.startswith("blocks.") and theirs and hooks.meaning(theirs) == hooks.meaning(hook):
            return name.split(".", 2)[2]
    raise MismatchError(
        f"circuit-tracer has no name for the hook {hook}" + ("" if model else " of a model that is not named")
    )


def _require_alike(file: Path, lines: dict[str, str]) -> None:
    """Raise MismatchError where other layers of the folder have other settings, or the layer is there."""
    there = _settings(file.with_name("config.yaml"))
    mine = {key: value.strip('"') for key, value in lines.items() if value != '""'}
    if file.exists():
        raise MismatchError(
            f"circuit-tracer holds one transcoder a layer: two of these read layer {_layer(file)}"
        )
    if there and there != mine:
        wrong = sorted(key for key in {*there, *mine} if there.get(key) != mine.get(key))
        raise MismatchError(
            f"circuit-tracer holds one set of settings for all layers: {file.stem} has another "
            f"{', '.join(wrong)} than the others; convert them into folders of their own"
        )


def _settings(file: Path) -> dict[str, str]:
    """The texts at the top of a YAML file: nothing else of it is read."""
    if not file.is_file():
        return {}
    lines = file.read_text("utf-8", errors="replace").splitlines()
    found = (re.fullmatch(r"""(\w+):\s*["']?([^"'#]+?)["']?\s*(?:#.*)?""", line) for line in lines)
    return {one[1]: one[2] for one in found if one}
