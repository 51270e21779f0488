"""Every arm under every pooling: the probes of the stage, finished ones read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from thoughtlens.core import ConfigError, progress
from thoughtlens.evals.classify import parts
from thoughtlens.evals.classify.config import CELL_ARMS, SELECTED, SELECTED_CELL, ClassifyConfig
from thoughtlens.evals.probing import attention, probes, topk
from thoughtlens.evals.probing.attention import Bags
from thoughtlens.evals.probing.menu import ARMS
from thoughtlens.evals.probing.probes import Folds, Probe
from thoughtlens.evals.probing.samples import TextSamples, ThoughtSamples, Units
from thoughtlens.evals.probing.text import bag_of_words, text_counts
from thoughtlens.evals.probing.topk import AtK

Samples = ThoughtSamples | TextSamples
Key = tuple[str, str]
"""(arm, pooling)."""
FITTED_ARMS = ("sae", "sae_reconstruction", "top_latents")
"""Arms that a cross-fitted SAE changes."""


@dataclass(eq=False)
class Found:
    """All probes of a comparison."""

    probes: dict[Key, Probe] = field(default_factory=dict)
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    """What each arm was scored on; shuffled for the arm `permuted`."""
    at_k: dict[Key, AtK] = field(default_factory=dict)


def probe_all(
    cfg: ClassifyConfig,
    tmp: Path,
    units: Units,
    folds: Folds,
    samples: Samples,
    by_fold: Sequence[Samples] | None,
) -> Found:
    """Every (arm, pooling) of the config.

    Args:
        cfg: The stage's config.
        tmp: Where finished probes are kept.
        units: What is classified.
        folds: The folds of all arms.
        samples: The features of the arms.
        by_fold: For a cross-fitted SAE, the features that count in each outer fold.
    """
    wanted = {arm: _wanted(cfg, arm, samples) for arm in cfg.arms}
    found = Found()
    with progress("classify", sum(map(len, wanted.values())), "probes") as bar:
        for arm, names in wanted.items():
            shuffled = ARMS[arm].permuted
            y = probes.permute_labels(units.y, units.groups, folds, seed=cfg.seed) if shuffled else units.y
            found.targets[arm] = y
            missing = [n for n in names if not parts.part(tmp, arm, n).is_file()]
            for name, X in _features(arm, missing, units, samples, by_fold):
                parts.save(_score(cfg, arm, X, y, folds, units.n_classes), parts.part(tmp, arm, name))
                bar.advance(1, f"{arm} {name}")
            for name in names:
                _keep(found, arm, name, parts.load(parts.part(tmp, arm, name)), folds)
    for arm in cfg.arms:
        _select(found.probes, arm, folds)
    return found


def _wanted(cfg: ClassifyConfig, arm: str, samples: Samples) -> list[str]:
    if ARMS[arm].kind != "vectors":
        return ["none"]
    own = [n for n in samples.poolings_of(arm) if cfg.poolings is None or n in cfg.poolings]
    if not own and arm == "raw":
        raise ConfigError(f"poolings: expected some of {', '.join(samples.poolings)}, got {cfg.poolings}")
    cells = samples.cell_names() if cfg.per_cell and arm in CELL_ARMS else []
    return own + (cells if len(cells) > 1 else [])


def _features(
    arm: str, names: Sequence[str], units: Units, samples: Samples, by_fold: Sequence[Samples] | None
) -> Iterator[tuple[str, Any]]:
    """The arm's features under each pooling; a list of them, one for each outer fold, where they differ."""
    kind = ARMS[arm].kind
    if kind == "vectors" and by_fold is not None and arm in FITTED_ARMS:
        for several in zip(*(own.features(arm, names) for own in by_fold), strict=True):
            yield several[0][0], [X for _, X in several]
    elif kind == "vectors":
        yield from samples.features(arm, names)
    else:
        for name in names:
            if kind == "text":
                yield name, bag_of_words(units.texts)
            else:
                yield name, text_counts(units.texts, units.n_steps) if kind == "counts" else None


def _score(
    cfg: ClassifyConfig, arm: str, X: Any, y: np.ndarray, folds: Folds, n_classes: int | None
) -> Probe | AtK:
    if X is None:
        return probes.constant(y, folds, n_classes=n_classes)
    if isinstance(X, list):
        found = [_fit(cfg, arm, own, y, folds, n_classes, (fold,)) for fold, own in enumerate(X)]
        return _merged(found)
    return _fit(cfg, arm, X, y, folds, n_classes, None)


def _fit(
    cfg: ClassifyConfig,
    arm: str,
    X: Any,
    y: np.ndarray,
    folds: Folds,
    n_classes: int | None,
    only: tuple[int, ...] | None,
) -> Probe | AtK:
    options: dict[str, Any] = {
        "n_classes": n_classes,
        "grid": cfg.c_grid,
        "max_iter": cfg.max_iter,
        "only": only,
    }
    if ARMS[arm].top:
        return topk.at_k(X, y, folds, ks=cfg.ks, **options)
    if isinstance(X, Bags):
        return attention.probe(X, y, folds, **options)
    return probes.probe(X, y, folds, **options)


def _merged(found: Sequence[Probe | AtK]) -> Probe | AtK:
    whole = [f for f in found if isinstance(f, Probe)]
    if whole:
        return probes.merge(whole)
    several = [f for f in found if isinstance(f, AtK)]
    merged = {k: probes.merge([f.probes[k] for f in several]) for k in several[0].probes}
    return AtK(merged, np.max([f.chosen for f in several], axis=0))


def _keep(found: Found, arm: str, name: str, one: Probe | AtK, folds: Folds) -> None:
    if isinstance(one, AtK):
        found.at_k[arm, name] = one
        chosen = probes.select(list(one.probes.values()), folds)[0]
        one = replace(chosen, n_features=max(one.probes))
    found.probes[arm, name] = one


def _select(found: dict[Key, Probe], arm: str, folds: Folds) -> None:
    """Add the arm's best pooling, and best cell, as its inner folds see them."""
    own = {name: p for (a, name), p in found.items() if a == arm and name != "none"}
    cells = {name: p for name, p in own.items() if name.startswith("cell:")}
    whole = {name: p for name, p in own.items() if name not in cells}
    for name, menu in ((SELECTED, whole), (SELECTED_CELL, cells)):
        if menu:
            found[arm, name] = probes.select(list(menu.values()), folds)[0]
