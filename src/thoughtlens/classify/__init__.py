"""The classify stage: labels from latents, raw activations and baselines, all under one protocol.

Every arm is scored on the same units with the same grouped folds, the same learner, grid and scaler,
and the same menu of poolings. C and pooling are chosen inside the training folds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thoughtlens.baselines import probes
from thoughtlens.baselines.probes import Folds, Probe
from thoughtlens.baselines.representations import ARMS
from thoughtlens.baselines.samples import Cover, TextSamples, ThoughtSamples, Units
from thoughtlens.baselines.text import bag_of_words
from thoughtlens.classify.config import CELL_ARMS, SELECTED, SELECTED_CELL, ClassifyConfig
from thoughtlens.classify.tables import Key, write_tables
from thoughtlens.classify.units import load_members, load_samples, load_units
from thoughtlens.errors import ConfigError
from thoughtlens.progress import progress
from thoughtlens.stage import Plan, run_stage
from thoughtlens.store import ActivationStore

__all__ = ["ClassifyConfig", "classify", "plan"]


def classify(cfg: ClassifyConfig, out: str | Path) -> dict[str, Any]:
    """Score a label with every arm and pooling; an interrupted call continues.

    Returns:
        The stage's result: the table of arms and poolings, comparisons with verdicts, per-class scores
        and confusion matrices at the primary pooling, and the protocol.

    Raises:
        ConfigError: no target, one the store does not have, or two SAEs for one cell.
        DataError: constant labels, a class in too few groups, fewer groups than folds, repeated ids.
    """
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    if cfg.data is not None and Path(cfg.data).expanduser().is_file():
        inputs["data"] = Path(cfg.data).expanduser()
    return run_stage("classify", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def plan(cfg: ClassifyConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file():
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    store = ActivationStore.open(cfg.acts)
    n = min(cfg.max_units or len(store.problems), len(store.problems))
    width = len(store.cells) * max(store.meta.d_in.values())
    fits = len(cfg.arms) * 4 * cfg.folds * (cfg.inner_folds + 1) * len(cfg.c_grid)
    return Plan(
        rows=n,
        memory_bytes=0.5e9 + 24.0 * n * max(n, width),
        disk_bytes=100.0 * n * len(cfg.arms) * 6,
        seconds=fits * 40 * 6.0 * n * min(n, width) / 1e10,
    )


def _work(cfg: ClassifyConfig, tmp: Path) -> dict[str, Any]:
    store = ActivationStore.open(cfg.acts)
    members = load_members(cfg)
    units, lines, seen = load_units(cfg, store, members)
    folds = probes.make_folds(
        units.y,
        units.groups,
        n_splits=cfg.folds,
        n_inner=cfg.inner_folds,
        seed=cfg.seed,
        classes=units.classes,
    )
    cover = Cover(store, members, cfg.pca_k, cfg.seed)
    found, targets = _probe_all(cfg, tmp, units, folds, load_samples(cfg, cover, units, lines))
    result = write_tables(cfg, tmp, units, folds, cover, found, targets, seen)
    shutil.rmtree(tmp / "parts")
    return result


def _probe_all(
    cfg: ClassifyConfig, tmp: Path, units: Units, folds: Folds, samples: ThoughtSamples | TextSamples
) -> tuple[dict[Key, Probe], dict[str, np.ndarray]]:
    """Every (arm, pooling), and the labels each arm was scored on; finished ones are read back."""
    wanted = {arm: _wanted(cfg, arm, samples) for arm in cfg.arms}
    targets, found = {}, {}
    with progress("classify", sum(map(len, wanted.values())), "probes") as bar:
        for arm, names in wanted.items():
            shuffled = ARMS[arm].permuted
            y = probes.permute_labels(units.y, units.groups, folds, seed=cfg.seed) if shuffled else units.y
            targets[arm] = y
            missing = [n for n in names if not _part(tmp, arm, n).is_file()]
            for name, X in _features(arm, missing, units, samples):
                _save(_probe_one(cfg, X, y, folds, len(units.classes)), _part(tmp, arm, name))
                bar.advance(1, f"{arm} {name}")
            for name in names:
                found[arm, name] = _load(_part(tmp, arm, name))
    for arm in cfg.arms:
        _select(found, arm, folds)
    return found, targets


def _wanted(cfg: ClassifyConfig, arm: str, samples: ThoughtSamples | TextSamples) -> list[str]:
    if ARMS[arm].kind != "vectors":
        return ["none"]
    own = [n for n in samples.poolings_of(arm) if cfg.poolings is None or n in cfg.poolings]
    if not own and arm == "raw":
        raise ConfigError(f"poolings: expected some of {', '.join(samples.poolings)}, got {cfg.poolings}")
    cells = samples.cell_names() if cfg.per_cell and arm in CELL_ARMS else []
    return own + (cells if len(cells) > 1 else [])


def _features(
    arm: str, names: Sequence[str], units: Units, samples: ThoughtSamples | TextSamples
) -> Iterator[tuple[str, Any]]:
    if ARMS[arm].kind == "vectors":
        return samples.features(arm, names) if names else iter(())
    if ARMS[arm].kind == "text":
        return ((name, bag_of_words(units.texts)) for name in names)
    return ((name, None) for name in names)


def _probe_one(cfg: ClassifyConfig, X: Any, y: np.ndarray, folds: Folds, n_classes: int) -> Probe:
    if X is None:
        return probes.constant(y, folds, n_classes=n_classes)
    return probes.probe(X, y, folds, n_classes=n_classes, grid=cfg.c_grid, max_iter=cfg.max_iter)


def _select(found: dict[Key, Probe], arm: str, folds: Folds) -> None:
    """Add the arm's best pooling, and best cell, as its inner folds see them."""
    own = {name: p for (a, name), p in found.items() if a == arm and name != "none"}
    cells = {name: p for name, p in own.items() if name.startswith("cell:")}
    whole = {name: p for name, p in own.items() if name not in cells}
    for name, menu in ((SELECTED, whole), (SELECTED_CELL, cells)):
        if menu:
            found[arm, name] = probes.select(list(menu.values()), folds)[0]


def _part(tmp: Path, arm: str, name: str) -> Path:
    safe = name.replace("/", "_").replace(":", "_")
    return tmp / "parts" / f"{arm}.{safe}.npz"


def _save(probe: Probe, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, **vars(probe))
    os.replace(part, file)


def _load(file: Path) -> Probe:
    with np.load(file, allow_pickle=False) as table:
        plain = {name: table[name] for name in table.files}
    return Probe(**{name: value if value.ndim else value.item() for name, value in plain.items()})
