"""circuit-tracer's transcoders of single layers: `layer_N.safetensors`, and `config.yaml` for all of them.

`acts = relu(x @ W_enc.T + b_enc)`, where a threshold is held only above it; `x_hat = acts @ W_dec + b_dec`,
with a skip `+ x @ W_skip.T`. An older layout holds W_dec transposed.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from thoughtlens.core import CheckpointError
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.arithmetic import Forward, held, onto, weighted_rows
from thoughtlens.sae.formats.base import Format
from thoughtlens.sae.formats.files import read_safetensors, write_tensors
from thoughtlens.sae.formats.fitting import as_jumprelu, cannot_hold, unsigned
from thoughtlens.sae.formats.portable import Names, Portable, checked, require_keys
from thoughtlens.sae.formats.says import Says

FILE = re.compile(r"layer_(\d+)\.safetensors")
THRESHOLDS = ("activation_function.threshold", "threshold")
PLAIN = {name: name for name in ("b_enc", "W_dec", "b_dec", "W_enc")}
NAMES = Names(PLAIN | {"threshold": THRESHOLDS[0], "W_skip": "W_skip"}, transposed=("W_enc", "W_skip"))
HOOKS = ("feature_input_hook", "feature_output_hook")
USUAL = ("mlp.hook_in", "hook_mlp_out")


class CircuitTracer(Format):
    """The format of circuit-tracer."""

    name = "circuit_tracer"
    file = "layer_0.safetensors"

    def finds(self, path: Path) -> bool:
        """Whether the path is such a file, or a folder with one."""
        return self._file(path) is not None

    def read(self, path: Path) -> Portable:
        """A transcoder; its model and hooks where `config.yaml` is beside it."""
        file, tensors = self._load(path)
        said = _settings(file.with_name("config.yaml"))
        model, block = said.get("model_name"), hooks.layer_of(file.name.removeprefix("layer_"))
        hook, hook_out = (
            hooks.from_lens(f"blocks.{block}.{said[key]}", model) if key in said else None for key in HOOKS
        )
        sae = Portable(
            "jumprelu" if THRESHOLDS[0] in tensors else "relu",
            NAMES.read(tensors),
            pre_bias=False,
            transcoder=True,
            hook=hook,
            hook_out=hook_out,
            says=Says(model=model),
        )
        return checked(unsigned(sae), file)

    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the file and `config.yaml`; returns what they hold."""
        if not sae.transcoder:
            raise cannot_hold("circuit-tracer", "a reconstruction of its own input", "use --to sae_lens")
        sae = sae if sae.rule == "relu" else as_jumprelu(sae, "circuit-tracer")
        out.mkdir(parents=True, exist_ok=True)
        block = hooks.layer_of(sae.hook) or 0
        write_tensors(NAMES.write(sae.weights), out / f"layer_{block}.safetensors")
        names = [hooks.to_lens(hook, sae.model) for hook in (sae.hook, sae.hook_out)]
        parts = [name.split(".", 2)[2] if name else usual for name, usual in zip(names, USUAL, strict=True)]
        lines = [
            f'model_name: "{sae.model or ""}"',
            *(f'{k}: "{v}"' for k, v in zip(HOOKS, parts, strict=True)),
        ]
        (out / "config.yaml").write_text("\n".join([*lines, ""]), "utf-8")
        unnamed = [usual for name, usual in zip(names, USUAL, strict=True) if name is None]
        return sae.noting(*(f"{usual} was written for a hook that has no name there" for usual in unnamed))

    def forward(self, path: Path, x: Tensor) -> Forward:
        """Its own rule on float64 rows."""
        _, tensors = self._load(path)
        t = held(tensors)
        pre = onto(x, t.W_enc) + t.b_enc
        acts = torch.relu(pre)
        if THRESHOLDS[0] in tensors:
            acts = acts * (pre > tensors[THRESHOLDS[0]].double())
        x_hat = weighted_rows(acts, t.W_dec) + t.b_dec
        return Forward(acts, x_hat + onto(x, t.W_skip) if hasattr(t, "W_skip") else x_hat)

    def _file(self, path: Path) -> Path | None:
        found = [path] if path.is_file() else list(path.glob("layer_*.safetensors")) if path.is_dir() else []
        found = [file for file in found if FILE.fullmatch(file.name)]
        return found[0] if len(found) == 1 else None

    def _load(self, path: Path) -> tuple[Path, dict[str, Tensor]]:
        file = self._file(path)
        if file is None:
            raise CheckpointError(f"{path}: expected one layer_N.safetensors")
        tensors = read_safetensors(file)
        if THRESHOLDS[1] in tensors:
            tensors[THRESHOLDS[0]] = tensors.pop(THRESHOLDS[1])
        require_keys(tensors, PLAIN, file, (THRESHOLDS[0], "W_skip"))
        W_dec, d_sae = tensors["W_dec"], tensors["b_enc"].numel()
        if W_dec.ndim == 2 and W_dec.shape[0] != d_sae == W_dec.shape[1]:
            tensors["W_dec"] = W_dec.mT
        return file, tensors


def _settings(file: Path) -> dict[str, str]:
    """The texts at the top of a YAML file: nothing else of it is read."""
    if not file.is_file():
        return {}
    lines = file.read_text("utf-8", errors="replace").splitlines()
    found = (re.fullmatch(r"""(\w+):\s*["']?([^"'#]+?)["']?\s*(?:#.*)?""", line) for line in lines)
    return {one[1]: one[2] for one in found if one}
