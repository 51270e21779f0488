"""Settings of small runs."""

from __future__ import annotations

from thoughtlens.sae.fit.loop import Settings


def settings(**changes) -> Settings:
    """Settings of a run of 30 steps."""
    return Settings(
        **{
            "n_steps": 30, "batch_size": 50, "lr": 3e-3, "warmup": 0.1, "decay": 0.2, "grad_clip": 1.0,
            "dead_after_rows": 200, "eval_every": 7, "checkpoint_every_s": 1e9, "seed": 4,
        }
        | changes
    )  # fmt: skip
