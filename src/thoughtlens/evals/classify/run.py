"""Every arm under every pooling: the probes of the stage, finished ones read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thoughtlens.core import ConfigError, Parts, progress, whole
from thoughtlens.evals.classify.conditions import Transfer, require_both
from thoughtlens.evals.classify.config import CELL_ARMS, SELECTED, SELECTED_CELL, ClassifyConfig
from thoughtlens.evals.classify.records import Seen
from thoughtlens.evals.probing import attention, probes, scores, topk
from thoughtlens.evals.probing.attention import Bags
from thoughtlens.evals.probing.matrices import rows
from thoughtlens.evals.probing.menu import ARMS
from thoughtlens.evals.probing.probes import Folds, Probe
from thoughtlens.evals.probing.records import ClassScores, ValueScores
from thoughtlens.evals.probing.samples import TextSamples, ThoughtSamples, Units
from thoughtlens.evals.probing.text import bag_of_words, text_counts
from thoughtlens.evals.probing.topk import AtK
from thoughtlens.numerics import SHARED_TRAINING

Samples = ThoughtSamples | TextSamples
Key = tuple[str, str]
"""(arm, pooling)."""
FITTED_ARMS = ("sae", "sae_reconstruction", "top_latents")
"""Arms that a cross-fitted SAE changes."""
WHOLE = 0
"""Number under which a probe on all features is kept."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is classified, from what, and who is tested when."""

    cfg: ClassifyConfig
    units: Units
    seen: Seen
    folds: Folds
    samples: Samples
    by_fold: Sequence[Samples] | None
    """For a cross-fitted SAE, the features that count in each outer fold."""
    transfer: Transfer | None = None
    """Where it is fitted under one condition and scored under another: `units` and `folds` are of what is
    scored."""
    prefix: str = ""
    """Before the names of its parts."""

    @property
    def every(self) -> Units:
        """All units that the samples hold."""
        return self.units if self.transfer is None else self.transfer.every

    def between(self, fitted: np.ndarray, scored: np.ndarray, prefix: str = "") -> Task:
        """Fitted on some of all units, and scored on some."""
        every, folds = self.every, self.folds if self.transfer is None else self.transfer.folds
        require_both(self.cfg, every, fitted, scored)
        found = Transfer(every, fitted, scored, folds, self.cfg.seed)
        own = Folds(folds.outer[scored], folds.inner[:, scored])
        seen = replace(self.seen, n=int(scored.sum()))
        return replace(self, units=found.units, folds=own, seen=seen, transfer=found, prefix=prefix)


@dataclass(eq=False)
class Found:
    """All probes of a comparison."""

    probes: dict[Key, Probe] = field(default_factory=dict)
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    """What each arm was scored on; shuffled for the arm `permuted`."""
    at_k: dict[Key, AtK] = field(default_factory=dict)


def probe_all(task: Task, parts: Parts) -> Found:
    """Every (arm, pooling) of the config; those that are finished already are read back."""
    cfg, every = task.cfg, task.every
    folds = task.folds if task.transfer is None else task.transfer.folds
    wanted = {arm: _wanted(task, arm) for arm in cfg.arms}
    found = Found()
    with progress("classify", sum(map(len, wanted.values())), "probes") as bar:
        for arm, names in wanted.items():
            shuffled = ARMS[arm].permuted
            y = every.y
            if shuffled:
                y = probes.permute_labels(y, every.groups, folds, seed=cfg.seed)
            found.targets[arm] = y if task.transfer is None else y[task.transfer.scored]
            of = {name: task.prefix + part(arm, name) for name in names}
            missing = [name for name in names if list(parts.todo([of[name]]))]
            for name, X in _features(task, arm, missing):
                save(_score(task, arm, X, y), parts, of[name])
                bar.advance(1, f"{arm} {name}")
            for name in names:
                _keep(found, (arm, name), _load(parts.path(of[name], "npz")), task.folds)
    for arm in cfg.arms:
        _select(found.probes, arm, task.folds)
    return found


def scored(task: Task, p: Probe, y: np.ndarray) -> ClassScores | ValueScores:
    """A probe's scores on all units."""
    groups = task.units.groups
    if task.units.classes is None:
        return scores.skill(y, p.pred, groups, inflation=SHARED_TRAINING)
    return scores.score(y, p.pred, p.proba, groups, seed=task.cfg.seed, inflation=SHARED_TRAINING)


def known(task: Task, p: Probe) -> float | None:
    """`scores.above_guessing` of a probe."""
    units = task.units
    return scores.above_guessing(
        units.y, p.pred, units.groups, classes=units.classes is not None, outer=task.folds.outer
    )


def _wanted(task: Task, arm: str) -> list[str]:
    if ARMS[arm].kind != "vectors":
        return ["none"]
    cfg, samples = task.cfg, task.samples
    own = [n for n in samples.poolings_of(arm) if cfg.poolings is None or n in cfg.poolings]
    if not own and arm == "raw":
        raise ConfigError(f"poolings: expected some of {', '.join(samples.poolings)}, got {cfg.poolings}")
    cells = samples.cell_names() if cfg.per_cell and arm in CELL_ARMS else []
    return own + (cells if len(cells) > 1 else [])


def _features(task: Task, arm: str, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The arm's features under each pooling; a list of them, one for each outer fold, where they differ."""
    kind, units = ARMS[arm].kind, task.every
    if kind == "vectors" and task.by_fold is not None and arm in FITTED_ARMS:
        for several in zip(*(own.features(arm, names) for own in task.by_fold), strict=True):
            yield several[0][0], [X for _, X in several]
    elif kind == "vectors":
        yield from task.samples.features(arm, names)
    else:
        for name in names:
            if kind == "text":
                yield name, bag_of_words(units.texts)
            else:
                yield name, text_counts(units.texts, units.n_steps) if kind == "counts" else None


def _score(task: Task, arm: str, X: Any, y: np.ndarray) -> Probe | AtK:
    if task.transfer is not None:
        several = [task.transfer.rows(fold) for fold in range(task.transfer.folds.n_splits)]
        return task.transfer.joined([_fit(task, arm, _cut(X, i), y[i], part) for i, part in several])
    if isinstance(X, list):
        return _merged([_fit(task, arm, own, y, task.folds, only=(fold,)) for fold, own in enumerate(X)])
    return _fit(task, arm, X, y, task.folds)


def _cut(X: Any, index: np.ndarray) -> Any:
    """The features of some units."""
    if X is None or not isinstance(X, Bags):
        return None if X is None else rows(X, index)
    return Bags([[rows(cell, index) for cell in group] for group in X.groups])


def _fit(
    task: Task, arm: str, X: Any, y: np.ndarray, folds: Folds, *, only: tuple[int, ...] | None = None
) -> Probe | AtK:
    if X is None:
        return probes.constant(y, folds, n_classes=task.units.n_classes)
    fit, cfg = _learner(task, arm, X), task.cfg
    n_classes, grid, max_iter = task.units.n_classes, cfg.c_grid, cfg.max_iter
    return fit(X, y, folds, n_classes=n_classes, grid=grid, max_iter=max_iter, only=only)


def _learner(task: Task, arm: str, X: Any) -> Callable[..., Probe | AtK]:
    if ARMS[arm].top:
        return partial(topk.at_k, ks=task.cfg.ks)
    return attention.probe if isinstance(X, Bags) else probes.probe


def _merged(found: Sequence[Probe | AtK]) -> Probe | AtK:
    whole = [f for f in found if isinstance(f, Probe)]
    if whole:
        return probes.merge(whole)
    several = [f for f in found if isinstance(f, AtK)]
    merged = {k: probes.merge([f.probes[k] for f in several]) for k in several[0].probes}
    return AtK(merged, np.max([f.chosen for f in several], axis=0))


def _keep(found: Found, key: Key, one: Probe | AtK, folds: Folds) -> None:
    if isinstance(one, AtK):
        found.at_k[key] = one
        chosen = probes.select(list(one.probes.values()), folds)[0]
        one = replace(chosen, n_features=max(one.probes))
    found.probes[key] = one


def _select(found: dict[Key, Probe], arm: str, folds: Folds) -> None:
    """Add the arm's best pooling, and best cell, as its inner folds see them."""
    own = {name: p for (a, name), p in found.items() if a == arm and name != "none"}
    cells = {name: p for name, p in own.items() if name.startswith("cell:")}
    whole = {name: p for name, p in own.items() if name not in cells}
    for name, menu in ((SELECTED, whole), (SELECTED_CELL, cells)):
        if menu:
            found[arm, name] = probes.select(list(menu.values()), folds)[0]


def part(arm: str, pooling: str) -> str:
    """Name of the part that holds one arm and pooling."""
    return f"{arm}.{pooling.replace('/', '_').replace(':', '_')}"


def save(found: Probe | AtK, parts: Parts, name: str) -> None:
    """Write a probe, or those on k features for each k."""
    several: Mapping[int, Probe] = found.probes if isinstance(found, AtK) else {WHOLE: found}
    arrays = {f"{k}.{name}": value for k, p in several.items() for name, value in vars(p).items()}
    if isinstance(found, AtK):
        arrays["chosen"] = found.chosen
    with whole(parts.path(name, "npz")) as file, file.open("wb") as handle:
        np.savez(handle, **arrays)
    parts.finish(name, {})


def _load(file: Path) -> Probe | AtK:
    """What `save` wrote."""
    fields: dict[int, dict[str, Any]] = {}
    with np.load(file, allow_pickle=False) as table:
        arrays = {name: table[name] for name in table.files}
    chosen = arrays.pop("chosen", None)
    for name, value in arrays.items():
        k, key = name.split(".")
        fields.setdefault(int(k), {})[key] = value if value.ndim else value.item()
    several = {k: Probe(**own) for k, own in fields.items()}
    return several[WHOLE] if chosen is None else AtK(several, chosen)
