"""Which suite to run on which model and SAE."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thoughtlens.core import Config
from thoughtlens.evals.probing.menu import GRID, Counts, Strengths
from thoughtlens.evals.probing.menu import KS as OWN_KS
from thoughtlens.models import ModelConfig
from thoughtlens.problems import Bos

KS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class SuiteConfig(Config):
    """Which suite to run on which model and SAE."""

    suite: Literal["sae-probes"] = "sae-probes"
    """sae-probes: the 113 labelled sets of two classes inside the package of that name (Kantamneni et al.
    2025, arXiv:2502.16681), read at each text's last token."""
    model: ModelConfig = ModelConfig()
    """The model that reads the texts."""
    sae: Path
    """The SAE, of any format that `convert` knows."""
    member: str | None = None
    """Which one of a directory with several; unset: the only one."""
    hook_name: str | None = None
    """Where the SAE stands, such as layers.8:out; unset: where it was trained."""
    datasets: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of the sets; unset: all."""
    context_length: int = Field(1024, ge=2)
    """Tokens of a text that are read at most, its last ones."""
    bos: Bos = "tokenizer"
    """Put the begin-of-sequence token before each text: if the `tokenizer` does so by itself, `always` (as
    sae-probes reads, through TransformerLens) or `never`."""
    batch_tokens: int = Field(8192, gt=0)
    """Tokens of one forward pass, padding included."""
    ks: Counts = KS
    """Numbers of latents that sae-probes' probes see."""
    penalty: Literal["l1", "l2"] = "l1"
    """Penalty of sae-probes' probes on latents; those on raw activations always have l2."""
    binarize: bool = False
    """Show sae-probes' probes only whether a latent fires."""
    probe_seed: int = Field(42, ge=0)
    """Seed of sae-probes' protocol: its split, folds and fits."""
    own: bool = True
    """Also compare latents with raw activations under this project's protocol."""
    own_rows: int = Field(2000, ge=0)
    """Rows of a set under that protocol at most; more are thinned by whole texts. 0: no limit."""
    own_ks: Counts = OWN_KS
    """Numbers of latents that the arm top_latents of that protocol chooses from."""
    folds: int = Field(5, ge=2)
    """Outer folds of that protocol."""
    inner_folds: int = Field(3, ge=2)
    """Folds inside a training fold, by which C is chosen."""
    c_grid: Strengths = GRID
    """Inverse regularisation strengths to choose from."""
    max_iter: int = Field(200, ge=1)
    """Steps of the optimizer for each fit."""
    delta: float = Field(0.03, ge=0)
    """Difference of accuracy (or of AUC) below which two arms count as equivalent."""
    n_resamples: int = Field(1000, ge=100)
    """Resamples behind each interval of an AUC."""
    seed: int = Field(0, ge=0)
    """Seed of folds and resampling."""
