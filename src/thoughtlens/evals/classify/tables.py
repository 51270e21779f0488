"""From probes to the tables, comparisons and warnings of the stage's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import ConfigError, Number, Parts, warn, write_rows
from thoughtlens.evals.classify import cells, curves, transfers
from thoughtlens.evals.classify.conditions import DEFINITIONS
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.records import (
    ChosenRow,
    ClassCount,
    ClassifyOutcome,
    ClassRow,
    Fitted,
    Protocol,
    Scored,
    ValueRow,
)
from thoughtlens.evals.classify.run import Found, Key, Task, known, scored
from thoughtlens.evals.probing import comparisons, probes, scores
from thoughtlens.evals.probing.menu import ARMS, CELL_POOLINGS, TOKEN_POOLINGS
from thoughtlens.evals.probing.probes import Probe
from thoughtlens.evals.probing.records import ClassReport, Comparison
from thoughtlens.evals.probing.samples import ThoughtSamples, Units
from thoughtlens.latents import as_numbers, doubtful_numbers, doubtful_values, followed
from thoughtlens.numerics import SHARED_TRAINING


def write_tables(task: Task, tmp: Path, found: Found, parts: Parts) -> ClassifyOutcome:
    """Tables on disk, and the stage's result; what a transfer is held against is fitted here."""
    cfg, units, cover = task.cfg, task.units, task.samples.cover
    rows = _rows(task, found)
    write_rows(tmp / "table.parquet", ValueRow if units.classes is None else ClassRow, rows)
    pq.write_table(_predictions(task, found), tmp / "predictions.parquet", compression="zstd")
    main, compared = [row for row in rows if row.hook_name is None], _compared(task, found)
    at = {a: found.probes.get((a, cfg.primary_pooling), found.probes.get((a, "none"))) for a in cfg.arms}
    points, chosen = curves.curves(task, found), curves.chosen(task, found)
    definitions = {**scores.DEFINITIONS, **comparisons.DEFINITIONS}
    if chosen:
        write_rows(tmp / "chosen.parquet", ChosenRow, chosen)
        definitions |= curves.DEFINITIONS
    tests = None
    transfer = None
    if task.transfer is not None:
        transfer = transfers.conditions(task, found, parts)
        definitions |= DEFINITIONS
    elif cfg.per_cell and isinstance(task.samples, ThoughtSamples) and len(cover.cells) > 1:
        tests = cells.cell_tests(task, task.samples, found)
        definitions |= cells.DEFINITIONS
    warnings = _warnings(task, found.probes)
    for text in warnings:
        warn(text)
    y, is_number = units.y, units.classes is None
    there = {a: p for a, p in at.items() if p is not None}
    confusion = {} if is_number else {a: _confusion(task, found.targets[a], p) for a, p in there.items()}
    return ClassifyOutcome(
        target=cfg.target or cfg.data,
        task="regression" if is_number else "classification",
        metric="r2" if is_number else "accuracy",
        kind=cover.store.meta.kind,
        target_mean=float(y.mean()) if is_number else None,
        target_std=float(y.std()) if is_number else None,
        classes=[ClassCount(name=name, n=int((y == i).sum())) for i, name in enumerate(units.classes or [])],
        per_class=None if is_number else {a: _per_class(task, found.targets[a], p) for a, p in there.items()},
        confusion=None if is_number else {a: m.tolist() for a, m in confusion.items()},
        n=len(y),
        n_groups=len(np.unique(units.groups)),
        split=task.seen.split,
        transductive=task.seen,
        protocol=_protocol(task),
        arms={a: ARMS[a].what for a in cfg.arms},
        arms_left_out=[a for a in cfg.arms if at[a] is None],
        table=main,
        comparisons=compared,
        primary_pooling=cfg.primary_pooling,
        curves=points,
        chosen=chosen,
        fewest=curves.fewest(points),
        cell_tests=tests,
        transfer=transfer,
        headline=_headline(cfg, main, next(row for row in compared if row.primary)),
        definitions=definitions,
        warnings=warnings,
    )


def _rows(task: Task, found: Found) -> list[ClassRow | ValueRow]:
    return [_row(task, key, p, found.targets[key[0]]) for key, p in found.probes.items()]


def _row(task: Task, key: Key, p: Probe, y: np.ndarray) -> ClassRow | ValueRow:
    cls = ValueRow if task.units.classes is None else ClassRow
    return cls(**vars(_scored(key, task.seen.split)), **vars(_fitted(p)), **vars(scored(task, p, y)))


def _scored(key: Key, split: str) -> Scored:
    arm, name = key
    if not name.startswith("cell:"):
        return Scored(arm=arm, pooling=name, hook_name=None, thought_idx=None, split=split)
    hook, _, thought = name.removeprefix("cell:").rpartition("/")
    return Scored(arm=arm, pooling="cell", hook_name=hook, thought_idx=int(thought), split=split)


def _fitted(p: Probe) -> Fitted:
    return Fitted(
        n_features=p.n_features,
        c_median=None if np.isnan(p.c).any() else float(np.median(p.c)),
        n_unconverged=p.n_unconverged,
    )


def _confusion(task: Task, y: np.ndarray, p: Probe) -> np.ndarray:
    return scores.confusion(y, p.pred, task.units.n_classes or 0)


def _per_class(task: Task, y: np.ndarray, p: Probe) -> list[ClassReport]:
    units = task.units
    return scores.per_class(y, p.pred, units.classes or [], units.groups, inflation=SHARED_TRAINING)


def _compared(task: Task, found: Found) -> list[Comparison]:
    cfg, units = task.cfg, task.units
    own = {
        (a, n): p for (a, n), p in found.probes.items() if not ARMS[a].permuted and not n.startswith("cell:")
    }
    right = {key: scores.unit_scores(p, units.y) for key, p in own.items()}
    primary = ("sae", cfg.primary_pooling)
    if primary not in right:
        names = sorted({n for a, n in right if a == "sae"})
        raise ConfigError(f"primary_pooling: expected one of {', '.join(names)}, got {cfg.primary_pooling!r}")
    return comparisons.comparisons(
        right, units.groups, against="raw", primary=primary, delta=cfg.delta, outer=task.folds.outer,
        knows={key: known(task, p) for key, p in own.items()},
    )  # fmt: skip


def _headline(
    cfg: ClassifyConfig, table: Sequence[ClassRow | ValueRow], primary: Comparison
) -> dict[str, Number]:
    """Score of every arm at the primary pooling, and the comparison named before looking."""
    out = {}
    for row in sorted(table, key=lambda row: list(ARMS).index(row.arm)):
        if row.pooling in (cfg.primary_pooling, "none"):
            name, value = ("accuracy", row.accuracy) if isinstance(row, ClassRow) else ("r2", row.r2)
            out[f"{name}_{row.arm}"] = Number(
                value=value, low=row.low, high=row.high, n=row.n, split=row.split
            )
    return out | {"sae_minus_raw": comparisons.number(primary, table[0].split)}


def _predictions(task: Task, found: Found) -> pa.Table:
    units, tables = task.units, []
    for (arm, name), p in found.probes.items():
        n, y = len(p.pred), found.targets[arm]
        columns = {
            "arm": pa.array([arm] * n).dictionary_encode(),
            "pooling": pa.array([name] * n).dictionary_encode(),
            "id": pa.array(units.ids).dictionary_encode(),
            "group": units.groups.astype(np.int32),
            "fold": task.folds.outer.astype(np.int32),
        }
        if units.classes is None:
            columns |= {"value": y, "predicted": p.pred}
        else:
            classes = pa.array(units.classes)
            columns |= {
                "label": pa.DictionaryArray.from_arrays(pa.array(y, pa.int32()), classes),
                "predicted": pa.DictionaryArray.from_arrays(pa.array(p.pred, pa.int32()), classes),
                "p_true": p.proba[np.arange(n), y],
            }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).unify_dictionaries()


def _protocol(task: Task) -> Protocol:
    """What all arms have in common."""
    cfg, cover = task.cfg, task.samples.cover
    vectors = [a for a in cfg.arms if ARMS[a].kind == "vectors"]
    own = CELL_POOLINGS if cover.store.meta.kind == "thoughts" else TOKEN_POOLINGS
    return Protocol(
        same_for_every_arm=["folds", "learner", "c_grid", "scaler", "choice of C", "seed"],
        same_for_every_arm_of_vectors=["poolings"],
        arms_of_vectors=vectors,
        arms_without_vectors=[a for a in cfg.arms if a not in vectors],
        folds=cfg.folds,
        inner_folds=cfg.inner_folds,
        folds_digest=task.folds.digest,
        group=cfg.group_column or ("copies of a text" if cfg.data else "group_id"),
        learner=probes.LEARNER if task.units.classes is not None else probes.REGRESSOR,
        c_grid=list(cfg.c_grid),
        scaler=probes.SCALER,
        chosen_by="mean loss over the inner folds of each training fold: C, k, pooling and cell",
        poolings=list(cfg.poolings or own),
        ks=list(cfg.ks),
        cross_fit=cfg.cross_fit,
        pca_k={name: coders.k_l0 for (_, name), coders in cover.coders.items()},
        pca_live_k={name: coders.k_live for (_, name), coders in cover.coders.items()},
        l0=dict(cover.l0),
        delta=cfg.delta,
        seed=cfg.seed,
    )


def _warnings(task: Task, found: Mapping[Key, Probe]) -> list[str]:
    cfg, seen, out = task.cfg, task.seen, []
    if seen.standing == "transductive":
        out.append(
            f"transductive: the SAE was trained on {seen.n_seen_by_sae} of the {seen.n} units "
            f"that are classified; cross_fit=true trains it anew on each training fold"
        )
    if seen.standing == "unknown":
        out.append("the SAE was trained on another store, so whether it saw these units is not known")
    if seen.n_unlabelled:
        out.append(f"{seen.n_unlabelled} units have no {cfg.target or 'label'} and are left out")
    if seen.n_copies:
        out.append(
            f"{seen.n_copies} units are copies of another in text or vectors, under another group: each "
            f"counts as one group with it"
        )
    if seen.n_contradicted:
        out.append(
            f"{seen.n_contradicted} units have the text of another unit and a different label: is the label "
            f"one of the text, and does each stand in its own line?"
        )
    if isinstance(task.samples, ThoughtSamples) and (n_short := task.samples.n_short):
        out.append(
            f"{n_short} units stopped thinking before others did; what they did not think counts as zeros in "
            f"every arm, which can tell that they stopped"
        )
    out += _doubts(cfg.target or cfg.label_column, task.units)
    if seen.out_of_step:
        out.append(seen.out_of_step)
    out += _twins(found)
    fits = cfg.folds * (cfg.inner_folds + 1) * len(cfg.c_grid)
    late = [f"{a} {n}" for (a, n), p in found.items() if p.n_unconverged > 0.1 * fits]
    if late:
        out.append(
            f"more than a tenth of the fits stopped at max_iter = {cfg.max_iter} for {', '.join(late[:4])}"
            f"{' and others' if len(late) > 4 else ''}; raise max_iter to be sure of their scores"
        )
    left_out = [a for a in cfg.arms if not any(key[0] == a for key in found)]
    thoughts = task.samples.cover.store.meta.kind == "thoughts"
    if left_out and (thoughts or "arms" in cfg.model_fields_set):
        out.append(f"arms without their vectors in this store, left out: {', '.join(left_out)}")
    return out


def _doubts(name: str, units: Units) -> list[str]:
    """What looks wrong about the label itself."""
    y, classes = units.y, units.classes
    numbers = y if classes is None else as_numbers(classes)[y]
    return [
        *doubtful_values(name, classes or []),
        *doubtful_numbers(name, numbers),
        *followed(name, y, units.texts, units.groups, classes=classes is not None),
    ]


def _twins(found: Mapping[Key, Probe]) -> list[str]:
    """Arms whose predictions are the same to the last digits under every pooling that both have."""
    arms = [
        arm for arm in dict.fromkeys(a for a, _ in found) if ARMS[arm].kind == "vectors" and not ARMS[arm].top
    ]
    out = []
    for a, b in combinations([arm for arm in arms if not ARMS[arm].permuted], 2):
        both = [(found[a, name], found[b, name]) for own, name in found if own == a and (b, name) in found]
        if both and all(_same(p, q) for p, q in both):
            out.append(f"arms {a} and {b} predict the same of every unit: do they see the same vectors?")
    return out


def _same(p: Probe, q: Probe) -> bool:
    own, other = (one.proba if one.proba.shape[1] else one.pred for one in (p, q))
    return np.ptp(p.pred) > 0 and np.allclose(own, other, rtol=0, atol=1e-6)
