"""From single sets to the tables and the sums over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thoughtlens.evals.suites import ours, theirs
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.numerics.stats.intervals import bootstrap_mean
from thoughtlens.numerics.stats.significance import holm
from thoughtlens.numerics.stats.verdicts import compare_values

ALPHA = 0.05
MIN_SETS = 5
"""Sets below which a mean has no interval: resampling so few says nothing of others."""
BEST = "best"
DEFINITIONS = {
    "mean": "mean over the sets, every set counting the same; 95% interval: sets resampled, from 5 sets on",
    "best": "per set, the k with the best val_auc",
    "p_holm": "p adjusted over all sets (Holm 1979), one family for each arm",
    "n_better, n_worse": "sets on which the adjusted p is below 0.05, by the sign of the difference",
}


def tables(
    parts: Sequence[dict[str, Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Rows of `sae_probes.parquet`, `table.parquet` and `comparisons.parquet`, the set's name first."""
    their = [{"dataset": p["dataset"], **row} for p in parts for row in p["theirs"]["table"]]
    own = [p for p in parts if p["ours"] is not None]
    table = [{"dataset": p["dataset"], **row} for p in own for row in p["ours"]["table"]]
    return {"sae_probes": their, "table": table, "comparisons": _comparisons(parts)}


def _comparisons(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every paired comparison of accuracy, p adjusted over the sets."""
    rows: list[dict[str, Any]] = []
    for p in parts:
        their = p["theirs"]["sae_minus_raw"]["accuracy"]
        rows.append({"dataset": p["dataset"], "protocol": "sae-probes", "arm": "sae", **their})
    for p in parts:
        if p["ours"] is not None:
            keep = [{k: v for k, v in row.items() if k != "p_holm"} for row in p["ours"]["comparisons"]]
            rows += [{"dataset": p["dataset"], "protocol": "thoughtlens", **row} for row in keep]
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["protocol"], row["arm"]), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = float(p)
    return rows


def summary(
    parts: Sequence[dict[str, Any]], compared: Sequence[dict[str, Any]], cfg: SuiteConfig
) -> dict[str, Any]:
    """Means over the sets under both protocols, and what the differences allow to say."""
    scores: dict[str, list[float]] = {}
    for p in parts:
        for row in p["theirs"]["table"]:
            scores.setdefault(row["arm"] if row["k"] is None else f"k={row['k']}", []).append(row["auc"])
            if row["k"] == p["theirs"]["best_k"]:
                scores.setdefault(BEST, []).append(row["auc"])
    differences = [p["theirs"]["sae_minus_raw"]["auc"] for p in parts]
    found: dict[str, Any] = {
        "sae_probes": {
            "auc": {name: _mean(values, cfg.seed) for name, values in scores.items()},
            "sae_minus_raw": _over_sets(scores[BEST], scores["raw"], cfg)
            | {"verdicts": dict(Counter(d["verdict"] for d in differences))},
            "accuracy": _counts([row for row in compared if row["protocol"] == "sae-probes"]),
        }
    }
    own = [p for p in parts if p["ours"] is not None]
    return found | {"thoughtlens": _own(own, compared, cfg) if own else None}


def _own(
    parts: Sequence[dict[str, Any]], compared: Sequence[dict[str, Any]], cfg: SuiteConfig
) -> dict[str, Any]:
    by_arm: dict[str, dict[str, dict[str, Any]]] = {}
    for p in parts:
        for row in p["ours"]["table"]:
            by_arm.setdefault(row["arm"], {})[p["dataset"]] = row
    raw = by_arm["raw"]
    against = {}
    for arm, rows in by_arm.items():
        if arm != "raw":
            accuracy = [row["accuracy"] for row in rows.values()]
            of_raw = [raw[name]["accuracy"] for name in rows]
            own = [row for row in compared if row["protocol"] == "thoughtlens" and row["arm"] == arm]
            against[arm] = _over_sets(accuracy, of_raw, cfg) | _counts(own)
    means = {
        key: {arm: _mean([r[key] for r in rows.values()], cfg.seed) for arm, rows in by_arm.items()}
        for key in ("accuracy", "auc")
    }
    return {"arms": {arm: ours.ARMS[arm] for arm in by_arm}, **means, "against_raw": against}


def headline(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants first."""
    their, own = found["sae_probes"], found["thoughtlens"]
    shown = {"auc_sae_best_k": their["auc"][BEST], "auc_raw": their["auc"]["raw"]}
    out = {name: {**value, "split": "sae-probes test rows"} for name, value in shown.items()}
    out["auc_sae_minus_raw"] = {**their["sae_minus_raw"], "split": "sae-probes test rows"}
    if own is not None:
        out["accuracy_sae_minus_raw"] = {**own["against_raw"]["sae"], "split": "out of fold"}
    return out


def definitions() -> dict[str, str]:
    """Of everything in the tables."""
    return {**ours.DEFINITIONS, **theirs.DEFINITIONS, **DEFINITIONS}


def _mean(values: Sequence[float], seed: int) -> dict[str, Any]:
    if len(values) < MIN_SETS:
        return {"value": float(np.mean(values)), "low": None, "high": None, "n": len(values)}
    interval = bootstrap_mean(np.asarray(values), seed=seed)
    return {"value": interval.estimate, "low": interval.low, "high": interval.high, "n": len(values)}


def _over_sets(a: Sequence[float], b: Sequence[float], cfg: SuiteConfig) -> dict[str, Any]:
    """The mean difference over sets, with its verdict where there are enough."""
    if len(a) < MIN_SETS:
        return _mean(np.subtract(a, b).tolist(), cfg.seed) | {"p": None, "test": None, "verdict": None}
    found = compare_values(np.asarray(a), np.asarray(b), delta=cfg.delta, seed=cfg.seed)
    d = found.difference
    return {
        "value": d.estimate,
        "low": d.low,
        "high": d.high,
        "n": len(a),
        "p": found.p,
        "test": found.test,
        "verdict": found.verdict,
    }


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sets by verdict, and how many differ after correction for their number."""
    sure = [row["difference"] for row in rows if row["p_holm"] < ALPHA]
    return {
        "verdicts": dict(Counter(row["verdict"] for row in rows)),
        "n_better": sum(d > 0 for d in sure),
        "n_worse": sum(d < 0 for d in sure),
    }
