"""The classify stage: labels from latents, raw activations and baselines, all under one protocol.

Every arm is scored on the same units with the same grouped folds, the same learner, grid and scaler,
and the same menu of poolings. C, k, pooling and cell are chosen inside the training folds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import ConfigError, Parts, Plan, Result, run_stage
from thoughtlens.evals.classify.conditions import masks
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.crossfit import cross_fitted
from thoughtlens.evals.classify.records import ClassifyOutcome
from thoughtlens.evals.classify.run import Samples, Task, probe_all
from thoughtlens.evals.classify.tables import write_tables
from thoughtlens.evals.classify.units import load_members, load_samples, load_units, same_vectors
from thoughtlens.evals.probing import probes
from thoughtlens.evals.probing.coders import Cover
from thoughtlens.evals.probing.menu import ARMS, USUAL_ARMS
from thoughtlens.evals.probing.probes import Folds
from thoughtlens.evals.probing.samples import ThoughtSamples, Units
from thoughtlens.sae import differences


def classify(cfg: ClassifyConfig, out: str | Path) -> Result:
    """Score a label with every arm and pooling; an interrupted call continues.

    Returns:
        The stage's result: the table of arms and poolings, comparisons with verdicts, per-class scores
        and confusion matrices at the primary pooling, tests of the cells, accuracy at k, and the protocol.

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
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    n = min(cfg.max_units or store.n_problems, store.n_problems)
    width = store.n_cells * max(store.d_in.values())
    axes = min(n, width)
    fits = len(cfg.arms) * 4 * cfg.folds
    return Plan(
        rows=n,
        memory_bytes=0.5e9 + 24.0 * n * max(n, width),
        disk_bytes=100.0 * n * len(cfg.arms) * 6,
        seconds=fits
        * (9.0 * axes**3 + 30 * len(cfg.c_grid) * 12.0 * (cfg.inner_folds + 1) * n * axes)
        / 2e10,
    )


def _work(cfg: ClassifyConfig, tmp: Path) -> ClassifyOutcome:
    store = ActivationStore.open(cfg.acts)
    members = load_members(cfg, store)
    cfg, without = _as_store_has(cfg, store)
    units, lines, seen = load_units(cfg, store, members)
    samples = load_samples(cfg, Cover(store, members, cfg.pca_k, cfg.seed, cfg.arms), units, lines)
    n_groups = len(np.unique(units.groups))
    units = same_vectors(units, samples)
    seen = replace(seen, n_copies=seen.n_copies + n_groups - len(np.unique(units.groups)))
    folds = _folds(cfg, units)
    by_fold = _by_fold(cfg, samples, folds)
    if by_fold is not None:
        seen = replace(seen, standing="cross-fitted", n_seen_by_sae=0)
    task = Task(cfg, units, seen, folds, samples, by_fold)
    if cfg.train_where and lines is not None:
        train, test = masks(cfg, store.problems)
        task = task.between(train[lines], test[lines])
    found = write_tables(task, tmp, probe_all(task, Parts(tmp)), Parts(tmp))
    return replace(found, warnings=[*differences(members, store), *without, *found.warnings])


def _as_store_has(cfg: ClassifyConfig, store: ActivationStore) -> tuple[ClassifyConfig, list[str]]:
    """Without arms that nobody named and whose texts the store does not have; and the line that says so."""
    words = [arm for arm in cfg.arms if ARMS[arm].kind in ("text", "counts")]
    has_texts = cfg.data or {"question", "text"} & set(store.problems.column_names)
    if has_texts or not words or cfg.arms != USUAL_ARMS:
        return cfg, []
    arms = tuple(arm for arm in cfg.arms if arm not in words)
    return cfg.model_copy(update={"arms": arms}), [
        f"arms left out, the store has no column question: {', '.join(words)}"
    ]


def _folds(cfg: ClassifyConfig, units: Units) -> Folds:
    options = {"n_splits": cfg.folds, "n_inner": cfg.inner_folds, "seed": cfg.seed}
    if units.classes is None:
        return probes.make_value_folds(units.y, units.groups, **options)
    return probes.make_folds(units.y, units.groups, classes=units.classes, **options)


def _by_fold(cfg: ClassifyConfig, samples: Samples, folds: Folds) -> list[ThoughtSamples] | None:
    """With `cross_fit`, what each outer fold sees."""
    if not cfg.cross_fit:
        return None
    if not isinstance(samples, ThoughtSamples):
        raise ConfigError("cross_fit needs a store of thoughts, whose units are its own problems; got texts")
    return cross_fitted(cfg.sae, samples, folds, cfg.seed)
