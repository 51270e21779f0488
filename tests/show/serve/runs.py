"""A small run of codi-tiny's thoughts, and one of a tiny language model's text, with SAEs nobody trained."""

from __future__ import annotations

from pathlib import Path

from thoughtlens import sae as saes
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import validate_config
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret

QUESTION = "dan *2 *14 *18 hal +5 +4 +8 fay -5 *22 *3 fay 8 thrice"


def thought_run(root: Path, n: int = 40) -> Path:
    """Both layers of codi-tiny, one pooled SAE of 64 latents with k = 8."""
    table = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"kind": "problems", "n": n},
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    return _with_sae(root, ["layers.0:out", "layers.1:out"], 96)


def text_run(root: Path, model: Path) -> Path:
    """One hook of a tiny Llama."""
    texts = [f"This is document {i} about a {'cat' if i % 2 else 'dog'} and more." for i in range(40)]
    (root / "t.txt").write_text("\n\n".join(texts))
    table = {
        "model": {"name": str(model), "dtype": "float32"},
        "problems": {"source": str(root / "t.txt")},
        "hook_names": ["layers.1:out"],
        "context_length": 64,
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    return _with_sae(root, ["layers.1:out"], 32)


def _with_sae(root: Path, hooks: list[str], d_in: int) -> Path:
    sae = saes.create(saes.TopKConfig(d_sae=64, k=8, normalization="none"), d_in, seed=0)
    sae.hook_names, sae.provenance = hooks, {"split": "train", "thoughts": None}
    saes.save(sae, root / "sae")
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", top_k=3, n_permutations=2)
    interpret(cfg, root / "interpret")
    return root
