"""Short-trained models: `distill` cut short where it answers so many problems of three steps.

    python bench/short.py DIR [--seed 5] [--at 0.3 0.5 0.7 0.9] [--recipe codi-tiny]

Writes `DIR/SHARE/`, a model directory for `bench/trace.py --short` and `bench/monitor.py --also`; about eight
minutes of training. What such a model computes where it is wrong, nobody knows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from thoughtlens.core import load_config
from thoughtlens.models import tiny
from thoughtlens.models.distill.config import DistillConfig
from thoughtlens.models.distill.stage import _trainer


def main() -> None:
    """Train, and save on the way."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("out", type=Path)
    options.add_argument("--seed", type=int, default=5)
    options.add_argument("--at", type=float, nargs="*", default=[0.3, 0.5, 0.7, 0.9])
    options.add_argument("--recipe", default="codi-tiny")
    args = options.parse_args()
    torch.set_num_threads(1)
    cfg = load_config(DistillConfig, args.recipe)
    trainer, left = _trainer(cfg, args.seed, "thoughts"), sorted(args.at)
    while left and not trainer.at.done and not trainer.at.stalled:
        trainer.update()
        if trainer.at.step % (cfg.loop.eval_every if trainer.at.phase == "teacher" else 10):
            continue
        row = trainer.measure()
        print(trainer.at.step, trainer.at.phase, {k: round(v, 3) for k, v in row.items()}, flush=True)
        while left and row.get("student_accuracy_3", 0.0) >= left[0]:
            where = args.out / f"{left.pop(0):g}"
            tiny.save(trainer.finished, where, {"seed": args.seed, "steps": trainer.at.step, "accuracy": {}})
        if trainer.at.step % cfg.loop.eval_every == 0:
            trainer.advance(row)


if __name__ == "__main__":
    main()
