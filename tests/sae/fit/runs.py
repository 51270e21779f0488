"""Small runs: their settings, and entries of a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thoughtlens.acts.store.view import View
from thoughtlens.core import DataError, Progress
from thoughtlens.sae import SAE
from thoughtlens.sae.fit.checkpoint import Checkpoints
from thoughtlens.sae.fit.loop import fit
from thoughtlens.sae.fit.track import Row
from thoughtlens.sae.fit.trainer import Settings, Trainer


def settings(**changes) -> Settings:
    """Settings of a run of 30 steps."""
    return Settings(
        **{
            "n_steps": 30, "batch_size": 50, "lr": 3e-3, "warmup": 0.1, "decay": 0.2, "grad_clip": 1.0,
            "dead_after_rows": 200, "eval_every": 7, "checkpoint_every_s": 1e9, "seed": 4,
        }
        | changes
    )  # fmt: skip


def size(sae: SAE) -> Row:
    """What is measured."""
    return {"norm": float(sae.W_enc.detach().norm())}


def _raise(reason: str) -> None:
    raise DataError(reason)


@dataclass
class Member:
    """An entry of `fit`."""

    trainer: Trainer
    source: View
    checkpoints: Checkpoints
    offending: Path
    evaluate: Callable[[SAE], Row] = size
    finish: Callable[[], object] = lambda: None
    fail: Callable[[str], object] = _raise


def run(trainer: Trainer, view: View, root: Path, checkpoints: Checkpoints | None = None) -> list[Row]:
    """Train an SAE alone and return its curve."""
    kept = checkpoints or Checkpoints(root / "checkpoints")
    fit([Member(trainer, view, kept, root / "offending.safetensors")], Progress("test", 1))
    return trainer.curve
