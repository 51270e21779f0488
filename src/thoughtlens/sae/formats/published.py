"""Layouts that publishers made for their own SAEs: read here, written nowhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError, Json, MismatchError, Record
from thoughtlens.sae.formats import catalogue, hooks
from thoughtlens.sae.formats.arithmetic import Forward, held, largest, onto, weighted_columns
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import read_pt, read_safetensors
from thoughtlens.sae.formats.fitting import as_transcoder, unsigned
from thoughtlens.sae.formats.portable import Names, Portable, Rule, Weights, checked, require_keys
from thoughtlens.sae.formats.says import Says
from thoughtlens.sae.formats.settings import TABLE, Text, Whole, read_settings

LINEAR = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "decoder.weight",
    "b_dec": "decoder.bias",
}
TURNED = ("W_enc", "W_dec")
NAMES = Names(LINEAR, transposed=TURNED)
LOG_THRESHOLD = "log_jumprelu_threshold"
NORM = "dataset_average_activation_norm"
RULES: dict[str, Rule] = {"relu": "relu", "jumprelu": "jumprelu", "topk": "topk"}
SAID = {"prepend_bos": True, "context_size": 1024}
"""How all of Llama Scope was trained."""
LLAMA = re.compile(r"Llama3_1-8B-Base-.*")
"""Folders of Llama Scope, whose files do not name the model."""


class Published(Format):
    """A layout that is only read."""

    def write(self, sae: Portable, out: Path) -> Portable:
        """Raise MismatchError: nobody reads it but its own publisher."""
        raise MismatchError(f"{self.name} is only read here, not written; use --to sae_lens")


class Scales(NamedTuple):
    """What activations are multiplied by before an SAE reads or predicts them."""

    read: float
    written: float


@dataclass(frozen=True, kw_only=True)
class _Llama(Record):
    """What both editions say."""

    hook_point_in: Text = None
    hook_point_out: Text = None
    act_fn: str = "relu"
    jump_relu_threshold: float = 0.0
    top_k: Whole = None
    norm_activation: str = "dataset-wise"
    dataset_average_activation_norm: Annotated[Json, TABLE] = field(default_factory=dict)
    apply_decoder_bias_to_pre_encoder: bool | None = False
    sparsity_include_decoder_norm: bool | None = True
    use_glu_encoder: bool | None = False

    @property
    def rule(self) -> Rule:
        """Its loader makes a threshold of a top k that has one."""
        thresholds = self.act_fn == "topk" and self.jump_relu_threshold > 0
        return "jumprelu" if thresholds else RULES[self.act_fn.lower()]


class LlamaScope(Published):
    """Llama Scope (He et al. 2024, arXiv:2410.20526): `hyperparams.json`, `checkpoints/final.safetensors`.

    Its loader (`SparseAutoEncoder.from_config` of OpenMOSS's Language-Model-SAEs, 2024-11) brings the
    weights from activations of mean length sqrt(d) to raw ones, then decoder rows to length 1, and compares
    what comes of that with the threshold.
    """

    name = "llama_scope"
    file = "checkpoints/final.safetensors"
    settings_file = "hyperparams.json"
    keys: tuple[str, ...] = tuple(LINEAR.values())

    def finds(self, path: Path) -> bool:
        """Whether the folder holds one."""
        return (path / self.settings_file).is_file() and (path / self.file).is_file()

    def read(self, path: Path) -> Portable:
        """An SAE or transcoder on raw activations."""
        settings, tensors, scales = self._load(path)
        weights = NAMES.read({name: tensor.float() for name, tensor in tensors.items() if name in self.keys})
        model = _llama_model(path)
        sides = [hooks.from_lens(one, model) for one in (settings.hook_point_in, settings.hook_point_out)]
        sae = Portable(
            settings.rule,
            self._raw(weights, tensors, settings, scales),
            k=settings.top_k if settings.rule == "topk" else None,
            pre_bias=False,
            hook=sides[0],
            says=Says(model=model, **SAID) if model else Says(),
        )
        if sides[1] not in (None, sides[0]):
            sae = as_transcoder(sae, sides[1])
        return checked(unsigned(sae), path / self.file)

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows, each step as its loader takes it."""
        settings, tensors, s = self._load(path)
        t = held(tensors)
        length = _lengths(tensors["decoder.weight"].double(), settings) * s.read / s.written
        scaled = x * s.read
        if settings.apply_decoder_bias_to_pre_encoder:
            scaled = scaled - t.decoder_bias
        pre = (onto(scaled, t.encoder_weight) + t.encoder_bias) / s.read
        if not settings.sparsity_include_decoder_norm:
            length = torch.ones_like(length)
        pre = pre * length
        if settings.rule == "jumprelu":
            acts = pre.relu() * (pre > settings.jump_relu_threshold)
        elif settings.rule == "topk":
            acts = pre.relu() * largest(pre.relu(), settings.top_k or 1)
        else:
            acts = pre.relu()
        rows = weighted_columns(acts / length * s.read, t.decoder_weight)
        return Forward(acts, (rows + t.decoder_bias) / s.written)

    def _raw(self, w: Weights, tensors: dict[str, Tensor], settings: _Llama, s: Scales) -> Weights:
        b_enc = _without(w, settings) / s.read
        W_dec = w.W_dec * (s.read / s.written)
        length = torch.ones(len(W_dec))
        if settings.sparsity_include_decoder_norm:
            length = W_dec.norm(dim=1)
        threshold = torch.full_like(b_enc, settings.jump_relu_threshold)
        return Weights(
            w.W_enc * length,
            b_enc * length,
            W_dec / length[:, None],
            w.b_dec / s.written,
            threshold if settings.rule == "jumprelu" else None,
        )

    def _load(self, path: Path) -> tuple[_Llama, dict[str, Tensor], Scales]:
        file, config = path / self.file, path / self.settings_file
        settings = read_settings(_Llama, config)
        tensors = read_safetensors(file)
        norms = {one.removeprefix(f"{NORM}."): tensors.pop(one) for one in [*tensors] if one.startswith(NORM)}
        if settings.act_fn.lower() not in RULES or settings.use_glu_encoder:
            what = "a gated linear encoder" if settings.use_glu_encoder else f"act_fn {settings.act_fn!r}"
            raise CheckpointError(f"{config}: {what} is not read here, only {', '.join(RULES)}")
        require_keys(tensors, self.keys, file)
        if tensors["encoder.weight"].ndim != 2 or tensors["decoder.weight"].ndim != 2:
            raise CheckpointError(f"{file}: expected matrices as encoder.weight and decoder.weight")
        return settings, tensors, _scales(settings, norms, tensors, path)


class LlamaScope2(LlamaScope):
    """Llama Scope's later edition, of R1-Distill: `config.json`, `sae_weights.safetensors`.

    A threshold for each latent, as it was trained: on activations of mean length sqrt(d), and on what a
    latent writes where `sparsity_include_decoder_norm` says so.
    """

    name = "llama_scope_2"
    file = "sae_weights.safetensors"
    settings_file = "config.json"
    keys = (*LINEAR.values(), LOG_THRESHOLD)

    def finds(self, path: Path) -> bool:
        """Whether the folder holds one, and not one of SAELens, which has a `cfg.json`."""
        return super().finds(path) and not (path / "cfg.json").is_file()

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        settings, tensors, s = self._load(path)
        t = held(tensors)
        scaled = x * s.read
        if settings.apply_decoder_bias_to_pre_encoder:
            scaled = scaled - t.decoder_bias
        pre = onto(scaled, t.encoder_weight) + t.encoder_bias
        score = pre * _lengths(tensors["decoder.weight"].double(), settings)
        acts = pre.relu() * (score > t.log_jumprelu_threshold.exp())
        return Forward(acts, (weighted_columns(acts, t.decoder_weight) + t.decoder_bias) / s.written)

    def _raw(self, w: Weights, tensors: dict[str, Tensor], settings: _Llama, s: Scales) -> Weights:
        length = _lengths(w.W_dec.T, settings)
        threshold = tensors[LOG_THRESHOLD].double().exp().float() / length.clamp(min=1e-12)
        b_enc = _without(w, settings)
        return Weights(w.W_enc * s.read, b_enc, w.W_dec / s.written, w.b_dec / s.written, threshold)

    def _load(self, path: Path) -> tuple[_Llama, dict[str, Tensor], Scales]:
        found = super()._load(path)
        if found[0].act_fn != "jumprelu":
            raise CheckpointError(f"{path}: act_fn {found[0].act_fn!r} is not read here, only jumprelu")
        return found


class QwenScope(Published):
    """Qwen Scope (arXiv:2605.11887): `layerN.sae.pt` of a repository that has k in its name."""

    name = "qwen_scope"
    file = "layer0.sae.pt"
    pattern = re.compile(r"layer(\d+)\.sae\.pt")
    repository = re.compile(r"(?:.*--)?SAE-Res-(?P<model>.+)-W\d+K-L0_(?P<k>\d+)")
    names = Names({name: name for name in LINEAR}, transposed=TURNED)

    def finds(self, path: Path) -> bool:
        """Whether the path is such a file, or a folder with some."""
        return bool(_matching(path, self.pattern))

    def parts(self, path: Path) -> dict[str, Path]:
        """Each layer's file."""
        files = _matching(path, self.pattern)
        return {file.name: file for file in files} if len(files) > 1 else {}

    def read(self, path: Path) -> Portable:
        """A TopK SAE of the stream behind a block."""
        file, tensors, k, model = self._load(path)
        says = Says(model=f"Qwen/{model}") if model else Says()
        layer = self.pattern.fullmatch(file.name)
        hook = layer and f"layers.{layer[1]}:out"
        weights = self.names.read(tensors)
        return checked(Portable("signed_topk", weights, k=k, pre_bias=False, hook=hook, says=says), file)

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows: the k largest are held, and nothing is done to their signs."""
        _, tensors, k, _ = self._load(path)
        t = held(tensors)
        pre = onto(x, t.W_enc) + t.b_enc
        acts = pre * largest(pre, k)
        return Forward(acts, weighted_columns(acts, t.W_dec) + t.b_dec)

    def _load(self, path: Path) -> tuple[Path, dict[str, Tensor], int, str | None]:
        file = _one(path, self.pattern)
        tensors, rest = read_pt(file)
        require_keys({**tensors, **rest}, LINEAR, file)
        named = [m for part in file.absolute().parts if (m := self.repository.fullmatch(part))]
        config = file.with_name("config.json")
        k = read_settings(_Qwen, config).k if config.is_file() else None
        if k is None and not named:
            raise CheckpointError(
                f"{file}: its k stands in the name of its repository alone; keep it in a folder of that "
                f"name, such as SAE-Res-Qwen3-8B-Base-W64K-L0_50"
            )
        return file, tensors, k or int(named[-1]["k"]), named[-1]["model"] if named else None


@dataclass(frozen=True, kw_only=True)
class _Qwen(Record):
    k: Whole = None


class Goodfire(Published):
    """Goodfire's and qresearch's: two `nn.Linear` with a ReLU between, in `MODEL-SAE-lN.pt` or `.pth`."""

    name = "goodfire"
    file = "model-SAE-l0.pt"
    pattern = re.compile(r"(?P<model>.+)-SAE-l(?P<layer>\d+)\.pth?")
    given = re.compile(r".+\.pth?")

    def finds(self, path: Path) -> bool:
        """Whether the path is a file of such a name, or a folder with one."""
        return len(_matching(path, self.pattern)) == 1

    def read(self, path: Path) -> Portable:
        """Its model and block where the file still has its name."""
        file, tensors = self._load(path)
        named = self.pattern.fullmatch(file.name)
        says = Says(model=catalogue.hub_model(named["model"])) if named else Says()
        hook = f"layers.{named['layer']}:out" if named else None
        return checked(Portable("relu", NAMES.read(tensors), pre_bias=False, hook=hook, says=says), file)

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        t = held(self._load(path)[1])
        acts = (onto(x, t.encoder_weight) + t.encoder_bias).relu()
        return Forward(acts, weighted_columns(acts, t.decoder_weight) + t.decoder_bias)

    def _load(self, path: Path) -> tuple[Path, dict[str, Tensor]]:
        file = _one(path, self.pattern if self.finds(path) else self.given)
        tensors, rest = read_pt(file)
        tensors = {name.replace("_linear.", "."): tensor for name, tensor in tensors.items()}
        require_keys({**tensors, **rest}, LINEAR.values(), file)
        return file, tensors


def _matching(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Files of a name at a path: itself, or those in the folder."""
    found = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in found if pattern.fullmatch(file.name)]


def _one(path: Path, pattern: re.Pattern[str]) -> Path:
    files = _matching(path, pattern)
    if len(files) != 1:
        raise CheckpointError(f"{path}: expected one file like {pattern.pattern}, found {len(files)}")
    return files[0]


def _llama_model(path: Path) -> str | None:
    known = catalogue.of(path)
    llama = any(LLAMA.fullmatch(part) for part in path.absolute().parts)
    return known.release.model if known else "meta-llama/Llama-3.1-8B" if llama else None


def _lengths(decoder: Tensor, settings: _Llama) -> Tensor:
    """Of what each latent writes, or 1 where thresholds do not look at it."""
    length = decoder.norm(dim=0)
    return length if settings.sparsity_include_decoder_norm else torch.ones_like(length)


def _without(w: Weights, settings: _Llama) -> Tensor:
    """b_enc, with what subtracting b_dec before the encoder adds to it."""
    if not settings.apply_decoder_bias_to_pre_encoder:
        return w.b_enc
    return (w.b_enc.double() - w.b_dec.double() @ w.W_enc.double()).float()


def _scales(settings: _Llama, norms: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> Scales:
    """By which activations of the data set get a mean length of sqrt(d), from files or the release."""
    if settings.norm_activation == "inference":
        return Scales(1.0, 1.0)
    if settings.norm_activation != "dataset-wise":
        raise CheckpointError(
            f"{path}: norm_activation {settings.norm_activation!r} is not read here, only dataset-wise and "
            f"inference"
        )
    said = settings.dataset_average_activation_norm | {name: float(norm) for name, norm in norms.items()}
    widths = tensors["encoder.weight"].shape[1], tensors["decoder.weight"].shape[0]
    sides = (("in", settings.hook_point_in), ("out", settings.hook_point_out or settings.hook_point_in))
    found = [said.get(side, said.get(hook or "")) for side, hook in sides]
    if (known := catalogue.of(path)) and (scale := known.scale) and None in found:
        return Scales(scale, scale)
    if not all(isinstance(norm, int | float) and norm > 0 for norm in found):
        raise CheckpointError(
            f"{path}: does not hold the {NORM} that its weights were scaled by; give it by its release, or "
            f"in a folder named as its repository"
        )
    read, written = (width**0.5 / norm for width, norm in zip(widths, found, strict=True))
    return Scales(read, written)
