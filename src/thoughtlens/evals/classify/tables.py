"""From probes to the tables, comparisons and warnings of the stage's result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import ConfigError, warn
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.run import Found, Key
from thoughtlens.evals.probing import comparisons, probes, scores
from thoughtlens.evals.probing.coders import Cover
from thoughtlens.evals.probing.menu import ARMS, CELL_POOLINGS, TOKEN_POOLINGS
from thoughtlens.evals.probing.probes import Folds, Probe
from thoughtlens.evals.probing.samples import Units


def write_tables(
    cfg: ClassifyConfig,
    tmp: Path,
    units: Units,
    folds: Folds,
    cover: Cover,
    found: Found,
    seen: dict[str, Any],
) -> dict[str, Any]:
    """Tables on disk, and the stage's result."""
    metric = "accuracy" if units.classes is not None else "r2"
    rows = [
        _row(key, p, found.targets[key[0]], units, seed=cfg.seed, split=seen["split"])
        for key, p in found.probes.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp / "table.parquet")
    pq.write_table(_predictions(units, folds, found), tmp / "predictions.parquet", compression="zstd")
    compared = _compared(cfg, units, folds, found)
    main = [row for row in rows if row["hook_name"] is None]
    primary = next(row for row in compared if row["primary"])
    at = {a: found.probes.get((a, cfg.primary_pooling), found.probes.get((a, "none"))) for a in cfg.arms}
    warnings = _warnings(cfg, units, found.probes, seen, cover.store.meta.kind == "thoughts")
    for text in warnings:
        warn(text)
    return {
        "target": cfg.target or cfg.data,
        "task": "classification" if units.classes is not None else "regression",
        "metric": metric,
        "kind": cover.store.meta.kind,
        **_classes(units, found, at),
        "n": len(units.y),
        "n_groups": len(np.unique(units.groups)),
        "split": seen["split"],
        "transductive": seen,
        "protocol": _protocol(cfg, folds, cover, units),
        "arms": {a: ARMS[a].what for a in cfg.arms},
        "arms_left_out": [a for a in cfg.arms if at[a] is None],
        "table": main,
        "comparisons": compared,
        "primary_pooling": cfg.primary_pooling,
        "headline": _headline(main, primary, cfg.primary_pooling, metric),
        "definitions": {**scores.DEFINITIONS, **comparisons.DEFINITIONS},
        "warnings": warnings,
    }


def unit_scores(p: Probe, y: np.ndarray) -> np.ndarray:
    """Which units are right; of a number, each unit's skill."""
    return p.pred == y if p.proba.shape[1] else scores.unit_skill(y, p.pred)


def _classes(units: Units, found: Found, at: dict[str, Probe | None]) -> dict[str, Any]:
    """What there is to say of single classes."""
    if units.classes is None:
        y = units.y
        return {"target_mean": float(y.mean()), "target_std": float(y.std()), "classes": []}
    n = len(units.classes)
    matrices = {a: scores.confusion(found.targets[a], p.pred, n) for a, p in at.items() if p is not None}
    return {
        "classes": [{"class": name, "n": int((units.y == i).sum())} for i, name in enumerate(units.classes)],
        "per_class": {a: scores.per_class(m, units.classes) for a, m in matrices.items()},
        "confusion": {a: m.tolist() for a, m in matrices.items()},
    }


def _compared(cfg: ClassifyConfig, units: Units, folds: Folds, found: Found) -> list[dict[str, Any]]:
    right = {
        (a, n): unit_scores(p, found.targets[a])
        for (a, n), p in found.probes.items()
        if not ARMS[a].permuted and not n.startswith("cell:")
    }
    primary = ("sae", cfg.primary_pooling)
    if primary not in right:
        names = sorted({n for a, n in right if a == "sae"})
        raise ConfigError(f"primary_pooling: expected one of {', '.join(names)}, got {cfg.primary_pooling!r}")
    return comparisons.comparisons(
        right, units.groups, against="raw", primary=primary, delta=cfg.delta, seed=cfg.seed, outer=folds.outer
    )


def _headline(
    table: list[dict[str, Any]], primary: dict[str, Any], pooling: str, metric: str
) -> dict[str, Any]:
    """Score of every arm at the primary pooling, and the comparison named before looking."""
    out: dict[str, Any] = {
        f"{metric}_{row['arm']}": {
            "value": row[metric],
            **{k: row[k] for k in ("low", "high", "n", "split")},
        }
        for row in sorted(table, key=lambda row: list(ARMS).index(row["arm"]))
        if row["pooling"] in (pooling, "none")
    }
    keys = ("low", "high", "p", "n", "n_groups", "verdict")
    difference = {"value": primary["difference"], **{k: primary[k] for k in keys}}
    return out | {"sae_minus_raw": difference | {"split": table[0]["split"]}}


def _row(key: Key, p: Probe, y: np.ndarray, units: Units, *, seed: int, split: str) -> dict[str, Any]:
    arm, name = key
    hook, _, thought = (
        name.removeprefix("cell:").rpartition("/") if name.startswith("cell:") else (None, "", "")
    )
    if units.classes is None:
        scored = scores.skill(y, p.pred, units.groups, seed=seed)
    else:
        scored = scores.score(y, p.pred, p.proba, units.groups, seed=seed)
    return {
        "arm": arm,
        "pooling": "cell" if hook else name,
        "hook_name": hook,
        "thought_idx": int(thought) if hook else None,
        "split": split,
        **scored,
        "n_features": p.n_features,
        "c_median": None if np.isnan(p.c).any() else float(np.median(p.c)),
        "n_unconverged": p.n_unconverged,
    }


def _predictions(units: Units, folds: Folds, found: Found) -> pa.Table:
    tables = []
    for (arm, name), p in found.probes.items():
        n, y = len(p.pred), found.targets[arm]
        columns = {
            "arm": pa.array([arm] * n).dictionary_encode(),
            "pooling": pa.array([name] * n).dictionary_encode(),
            "id": pa.array(units.ids).dictionary_encode(),
            "group": units.groups.astype(np.int32),
            "fold": folds.outer.astype(np.int32),
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


def _protocol(cfg: ClassifyConfig, folds: Folds, cover: Cover, units: Units) -> dict[str, Any]:
    """What all arms have in common."""
    vectors = [a for a in cfg.arms if ARMS[a].kind == "vectors"]
    return {
        "same_for_every_arm": ["folds", "learner", "c_grid", "scaler", "choice of C", "seed"],
        "same_for_every_arm_of_vectors": ["poolings"],
        "arms_of_vectors": vectors,
        "arms_without_vectors": [a for a in cfg.arms if a not in vectors],
        "folds": cfg.folds,
        "inner_folds": cfg.inner_folds,
        "folds_digest": folds.digest,
        "group": cfg.group_column or ("copies of a text" if cfg.data else "group_id"),
        "learner": probes.LEARNER if units.classes is not None else probes.REGRESSOR,
        "c_grid": list(cfg.c_grid),
        "scaler": probes.SCALER,
        "chosen_by": "mean loss over the inner folds of each training fold: C, k, pooling and cell",
        "poolings": list(
            cfg.poolings or (CELL_POOLINGS if cover.store.meta.kind == "thoughts" else TOKEN_POOLINGS)
        ),
        "ks": list(cfg.ks),
        "cross_fit": cfg.cross_fit,
        "pca_k": {name: coders.k_l0 for (_, name), coders in cover.coders.items()},
        "pca_live_k": {name: coders.k_live for (_, name), coders in cover.coders.items()},
        "l0": dict(cover.l0),
        "delta": cfg.delta,
        "seed": cfg.seed,
    }


def _warnings(
    cfg: ClassifyConfig, units: Units, found: dict[Key, Probe], seen: dict[str, Any], thoughts: bool
) -> list[str]:
    out = []
    if seen["standing"] == "transductive":
        out.append(
            f"transductive: the SAE was trained on {seen['n_seen_by_sae']} of the {seen['n']} units "
            f"that are classified; cross_fit=true trains it anew on each training fold"
        )
    if seen["standing"] == "unknown":
        out.append("the SAE was trained on another store, so whether it saw these units is not known")
    fits = cfg.folds * (cfg.inner_folds + 1) * len(cfg.c_grid)
    late = [f"{a} {n}" for (a, n), p in found.items() if p.n_unconverged > 0.1 * fits]
    if late:
        out.append(
            f"more than a tenth of the fits stopped at max_iter = {cfg.max_iter} for {', '.join(late[:4])}"
            f"{' and others' if len(late) > 4 else ''}; raise max_iter to be sure of their scores"
        )
    left_out = [a for a in cfg.arms if not any(key[0] == a for key in found)]
    if left_out and (thoughts or "arms" in cfg.model_fields_set):
        out.append(f"arms without their vectors in this store, left out: {', '.join(left_out)}")
    return out
