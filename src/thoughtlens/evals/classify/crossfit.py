"""SAEs of single folds: trained as the one that is judged was, on the units of one training fold only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from thoughtlens.core import ConfigError, load_config, say
from thoughtlens.evals.probing.probes import Folds
from thoughtlens.evals.probing.samples import ThoughtSamples
from thoughtlens.sae import SAE, TrainConfig, settings, train_rows


def cross_fitted(sae: Path, samples: ThoughtSamples, folds: Folds, seed: int) -> list[ThoughtSamples]:
    """The samples of each outer fold, their SAEs trained on that fold's training units.

    Learning rate, passes, batch and schedule are those of the SAE's own training.

    Raises:
        ConfigError: the SAE does not say how it was trained, or is of a kind that takes more than rows.
    """
    if not (sae / "config.toml").is_file():
        raise ConfigError(
            f"cross_fit: expected the training's config.toml in {sae}, found none; train an SAE here, or "
            f"use cross_fit=false"
        )
    recipe = load_config(TrainConfig, sae / "config.toml")
    found = []
    for fold in range(folds.n_splits):
        say(f"classify: training the SAE of fold {fold + 1} of {folds.n_splits}")
        units = np.flatnonzero(folds.outer != fold)
        own = {
            name: _train(recipe, member, samples.vectors(name, units), samples, seed)
            for name, member in samples.cover.saes.items()
        }
        found.append(samples.with_saes(own))
    return found


def _train(
    recipe: TrainConfig, member: SAE, rows: tuple[Tensor, Tensor], samples: ThoughtSamples, seed: int
) -> SAE:
    cfg: Any = member.cfg
    x, cell = rows
    if not member.reconstructs or cfg.kind == "supervised":
        raise ConfigError(f"cross_fit: SAEs of kind {cfg.kind!r} cannot be trained on rows alone")
    s = settings(
        cfg, member.d_sae, len(x), lr=recipe.lr, epochs=recipe.epochs,
        batch_size=recipe.batch_size, seed=seed, warmup=recipe.warmup, decay=recipe.decay,
        grad_clip=recipe.grad_clip,
    )  # fmt: skip
    sae = train_rows(cfg, x, cell, samples.cover.store.cells, s)
    sae.provenance = dict(member.provenance)
    return sae
