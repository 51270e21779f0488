"""OpenAI's sparse_autoencoder (Gao et al. 2024, arXiv:2406.04093): one `.pt` file, a flat state dict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError
from thoughtlens.sae.formats.files import read_pt
from thoughtlens.sae.formats.fitting import cannot_hold, rule_of, with_pre_bias
from thoughtlens.sae.formats.plain import Plain, Rule, checked, require_int, require_keys
from thoughtlens.sae.formats.plainly import Forward, largest, layer_norm, onto, weighted_columns

NAMES = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
IGNORED = (*STATISTICS, "activation", "activation_state_dict", "activation.k", "activation.postact_fn")
RULES: dict[str, Rule] = {"ReLU": "relu", "TopK": "topk", "Identity": "identity"}


class OpenAI:
    """The format of OpenAI's GPT-2 SAEs. TopK in it always means that each row is layer-normalised."""

    name = "openai"
    file = "openai.pt"

    def finds(self, path: Path) -> bool:
        """Whether the path is a `.pt` file that is not dictionary_learning's, or a folder with one."""
        return self._file(path) is not None

    def read(self, path: Path) -> Plain:
        """ReLU, TopK or no rule; the file does not name its hook."""
        file, activation, k, state = self._load(path)
        tensors = {
            "W_enc": state["encoder.weight"].mT,
            "b_enc": state["latent_bias"],
            "W_dec": state["decoder.weight"].mT,
            "b_dec": state["pre_bias"],
        }
        norm = "layer_norm" if activation == "TopK" else "none"
        return checked(Plain(RULES[activation], tensors, k=k, norm=norm), file)

    def write(self, plain: Plain, out: Path) -> Plain:
        """Write `openai.pt` into a folder; returns what it holds."""
        rules = {ours: theirs for theirs, ours in RULES.items()}
        if plain.transcoder or plain.rule not in rules:
            what = "a transcoder" if plain.transcoder else rule_of(plain)
            raise cannot_hold("OpenAI's format", what, "it holds relu, topk with layer norm, and identity")
        if (plain.norm == "layer_norm") != (plain.rule == "topk") or plain.norm == "rescale":
            what = f"{plain.rule} with runtime norm {plain.norm}"
            raise cannot_hold(
                "OpenAI's format", what, "there, topk always has layer_norm and the others never"
            )
        plain = with_pre_bias(plain, True)
        t = plain.tensors
        state: dict[str, Any] = {
            "pre_bias": t["b_dec"].clone(),
            "encoder.weight": t["W_enc"].mT.contiguous(),
            "latent_bias": t["b_enc"].clone(),
            "decoder.weight": t["W_dec"].mT.contiguous(),
            "stats_last_nonzero": torch.zeros(plain.d_sae, dtype=torch.long),
            "latents_activation_frequency": torch.ones(plain.d_sae, dtype=plain.dtype),
            "latents_mean_square": torch.zeros(plain.d_sae, dtype=plain.dtype),
            "activation": rules[plain.rule],
            "activation_state_dict": {"k": plain.k, "postact_fn": "ReLU"} if plain.rule == "topk" else {},
        }
        out.mkdir(parents=True, exist_ok=True)
        torch.save(state, out / self.file)
        return plain.noting("the file holds no hook name and no statistics of the latents")

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        _, activation, k, s = self._load(path)
        mean, std = torch.zeros(()), torch.ones(())
        if activation == "TopK":
            x, mean, std = layer_norm(x)
        bias = s["pre_bias"].double()
        acts = onto(x - bias, s["encoder.weight"]) + s["latent_bias"].double()
        if k is not None:
            acts = acts * largest(acts, k)
        if activation != "Identity":
            acts = acts.relu()
        return Forward(acts, (weighted_columns(acts, s["decoder.weight"]) + bias) * std + mean)

    def _file(self, path: Path) -> Path | None:
        if path.is_file():
            return path if path.suffix == ".pt" and not path.name.startswith("ae") else None
        found = (
            [file for file in path.glob("*.pt") if not file.name.startswith("ae")] if path.is_dir() else []
        )
        return found[0] if len(found) == 1 else None

    def _load(self, path: Path) -> tuple[Path, str, int | None, dict[str, Any]]:
        file = self._file(path)
        if file is None:
            raise CheckpointError(f"{path}: expected one .pt file")
        state = read_pt(file)
        if "encoder.weight" in state and "decoder.weight" not in state:
            state["decoder.weight"] = state["encoder.weight"].mT
        require_keys(state, NAMES, file, IGNORED)
        activation, settings = state.get("activation", "ReLU"), state.get("activation_state_dict", {})
        if not isinstance(activation, str) or activation not in RULES:
            raise CheckpointError(
                f"{file}: expected an activation among {', '.join(RULES)}, got {activation!r}"
            )
        if activation != "TopK":
            return file, activation, None, state
        if not isinstance(settings, dict) or settings.get("postact_fn", "ReLU") != "ReLU":
            raise CheckpointError(f"{file}: expected TopK followed by a ReLU, got {settings!r}")
        return file, activation, require_int(settings, "k", file), state
