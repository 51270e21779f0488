"""OpenAI's sparse_autoencoder (Gao et al. 2024, arXiv:2406.04093): one `.pt` file, a flat state dict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError, Record
from thoughtlens.sae.formats.arithmetic import Forward, held, largest, layer_norm, onto, weighted_columns
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import alone, read_pt
from thoughtlens.sae.formats.fitting import cannot_hold, left_out, rule_of, with_pre_bias
from thoughtlens.sae.formats.portable import Names, Portable, Rule, checked, require_keys
from thoughtlens.sae.formats.settings import Whole, settings_of

NAMES = Names(
    {"b_dec": "pre_bias", "W_enc": "encoder.weight", "b_enc": "latent_bias", "W_dec": "decoder.weight"},
    transposed=("W_enc", "W_dec"),
)
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
IGNORED = (*STATISTICS, "activation", "activation_state_dict", "activation.k", "activation.postact_fn")
RULES: dict[str, Rule] = {"ReLU": "relu", "TopK": "topk", "Identity": "identity"}


@dataclass(frozen=True, kw_only=True)
class _TopK(Record):
    k: Whole = None
    postact_fn: str = "ReLU"


@dataclass(frozen=True, kw_only=True)
class _Activation(Record):
    activation: str = "ReLU"
    activation_state_dict: _TopK = field(default_factory=_TopK)

    @property
    def k(self) -> int | None:
        return self.activation_state_dict.k if self.activation == "TopK" else None


class OpenAI(Format):
    """The format of OpenAI's GPT-2 SAEs. TopK in it always means that each row is layer-normalised."""

    name = "openai"
    file = "openai.pt"

    def finds(self, path: Path) -> bool:
        """Whether the path is a `.pt` file that is not dictionary_learning's, or a folder with one."""
        return self._file(path) is not None

    def read(self, path: Path) -> Portable:
        """ReLU, TopK or no rule; the file does not name its hook."""
        file, rule, state = self._load(path)
        norm = "layer_norm" if rule.activation == "TopK" else "none"
        return checked(Portable(RULES[rule.activation], NAMES.read(state), k=rule.k, norm=norm), file)

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write `openai.pt` into a folder; returns what it holds."""
        rules = {ours: theirs for theirs, ours in RULES.items()}
        if sae.transcoder or sae.rule not in rules:
            what = "a transcoder" if sae.transcoder else rule_of(sae)
            raise cannot_hold("OpenAI's format", what, "it holds relu, topk with layer norm, and identity")
        if (sae.norm == "layer_norm") != (sae.rule == "topk") or sae.norm == "rescale":
            what = f"{sae.rule} with runtime norm {sae.norm}"
            raise cannot_hold(
                "OpenAI's format", what, "there, topk always has layer_norm and the others never"
            )
        sae = with_pre_bias(sae, True)
        state = {
            **{name: alone(tensor) for name, tensor in NAMES.write(sae.weights).items()},
            "stats_last_nonzero": torch.zeros(sae.d_sae, dtype=torch.long),
            "latents_activation_frequency": torch.ones(sae.d_sae, dtype=sae.dtype),
            "latents_mean_square": torch.zeros(sae.d_sae, dtype=sae.dtype),
            "activation": rules[sae.rule],
            "activation_state_dict": {"k": sae.k, "postact_fn": "ReLU"} if sae.rule == "topk" else {},
        }
        out.mkdir(parents=True, exist_ok=True)
        torch.save(state, out / self.file)
        return sae.noting("the file holds no statistics of the latents", *left_out(sae))

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        _, rule, tensors = self._load(path)
        s = held(tensors)
        mean, std = torch.zeros(()), torch.ones(())
        if rule.activation == "TopK":
            x, mean, std = layer_norm(x)
        acts = onto(x - s.pre_bias, s.encoder_weight) + s.latent_bias
        if rule.k is not None:
            acts = acts * largest(acts, rule.k)
        if rule.activation != "Identity":
            acts = acts.relu()
        return Forward(acts, (weighted_columns(acts, s.decoder_weight) + s.pre_bias) * std + mean)

    def _file(self, path: Path) -> Path | None:
        if path.is_file():
            return path if path.suffix == ".pt" and not path.name.startswith("ae") else None
        found = (
            [file for file in path.glob("*.pt") if not file.name.startswith("ae")] if path.is_dir() else []
        )
        return found[0] if len(found) == 1 else None

    def _load(self, path: Path) -> tuple[Path, _Activation, dict[str, Tensor]]:
        file = self._file(path)
        if file is None:
            raise CheckpointError(f"{path}: expected one .pt file")
        state, rest = read_pt(file)
        if "encoder.weight" in state:  # tied weights are kept once
            state.setdefault("decoder.weight", state["encoder.weight"].mT)
        require_keys({**state, **rest}, NAMES.theirs.values(), file, IGNORED)
        rule = settings_of(_Activation, rest, file)
        if rule.activation not in RULES:
            raise CheckpointError(
                f"{file}: expected an activation among {', '.join(RULES)}, got {rule.activation!r}"
            )
        if rule.activation == "TopK" and (rule.k is None or rule.activation_state_dict.postact_fn != "ReLU"):
            raise CheckpointError(
                f"{file}: expected TopK with its k, followed by a ReLU, got {rule.activation_state_dict}"
            )
        return file, rule, state
