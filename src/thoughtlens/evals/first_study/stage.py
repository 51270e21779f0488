"""The replay stage: the first study of CODI's thoughts as it was done, beside the same done with care.

The study trained an SAE on the thoughts of 600 problems, classified the operation from its latents and
from raw activations, and read the difference of the two accuracies as the price of sparsity. Here its
pipeline runs unchanged on any store of thoughts; then one choice after the other is corrected, and each
line says how much that moved the two numbers and their difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import Plan, progress, run_stage, say
from thoughtlens.evals.first_study.config import ReplayConfig
from thoughtlens.evals.first_study.data import Problems, load_problems
from thoughtlens.evals.first_study.protocol import Protocol, Replay, Scored, protocols
from thoughtlens.evals.first_study.table import markdown
from thoughtlens.evals.probing import comparisons, scores
from thoughtlens.numerics.stats.intervals import bootstrap_mean, wilson
from thoughtlens.problems.gsm8k import CLASSES

__all__ = ["ReplayConfig", "plan", "replay"]

FIRES = 1e-3
"""Activation above which the study counted a latent as active."""
DEFINITIONS = {
    "accuracy": "share of the tested problems whose operation is predicted; Wilson interval, over groups a "
    "bootstrap where a group has several problems",
    "moved": "change of the difference SAE - raw against the line above, in points",
    "explained_variance_of_residuals": "1 - mean over dimensions of var(x - x_hat) / that of var(x), all "
    "rows pooled: blind to a constant offset",
    "explained_variance": "1 - sum |x - x_hat|^2 / sum |x - mean x|^2, mean of the rows measured",
    "l0": "mean number of latents above 0.001 (as it was), or above 0",
    "dead": "latents that fire on no row of those measured",
}


def replay(cfg: ReplayConfig, out: str | Path) -> dict[str, Any]:
    """Replay the study on a store and correct it line by line; also writes `table.md`.

    Raises:
        ConfigError: the store has no thoughts 0 to 6 or no operation labels.
        DataError: a class with too few problems.
    """
    return run_stage("replay", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": Path(cfg.acts)})


def plan(cfg: ReplayConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where the store does not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file():
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    store = ActivationStore.open(cfg.acts)
    n, d = 3 * cfg.n_per_class * 6 * len(store.hook_names), max(store.meta.d_in.values())
    size = d * d * cfg.expansion
    return Plan(
        rows=n,
        memory_bytes=0.5e9 + 8.0 * n * d + 40.0 * size + 4.0 * 256 * d * cfg.expansion,
        disk_bytes=1e5,
        seconds=(1 + 3 * cfg.folds) * (12.0 * size * n * cfg.epochs / 3e10 + 1),
    )


def _work(cfg: ReplayConfig, tmp: Path) -> dict[str, Any]:
    data = load_problems(ActivationStore.open(cfg.acts), cfg.n_per_class)
    study = Replay(cfg, data)
    ladder, found = [], []
    with progress("replay", len(protocols()), "protocols") as bar:
        for name, what, protocol in protocols():
            arms = study.score(protocol)
            ladder.append(_line(cfg, data, name, what, arms, ladder))
            found.append(arms)
            bar.advance(1, name)
    (first, last), (was, now) = (found[0], found[-1]), (protocols()[0][2], protocols()[-1][2])
    result = {
        "n_problems": data.n,
        "n_groups": len(np.unique(data.groups)),
        "hook_names": data.hook_names,
        "labels_differ": sum(a != b for a, b in zip(data.first, data.checked, strict=True)),
        "unlabelled": sum(own is None for own in data.checked),
        "ladder": ladder,
        "sae": {"as it was": _as_measured(study, was), "corrected": _held_out(study, now)},
        "per_class": {
            "as it was": _per_class(first[1]),
            "corrected": _per_class(last[1]),
        },
        "headline": _headline(ladder),
        "definitions": DEFINITIONS,
        "warnings": [],
    }
    text = markdown(result)
    (tmp / "table.md").write_text(text, "utf-8")
    for line in text.splitlines():
        say(line)
    return result


def _line(
    cfg: ReplayConfig,
    data: Problems,
    name: str,
    what: str,
    arms: tuple[Scored, Scored],
    before: list[dict[str, Any]],
) -> dict[str, Any]:
    """Both accuracies and their difference under one protocol, and what it moved."""
    raw, sae = arms
    row: dict[str, Any] = {"change": name, "what": what}
    for arm, own in (("raw", raw), ("sae", sae)):
        right = own.pred == own.y
        groups = data.groups[own.tested]
        single = len(np.unique(groups)) == len(groups)
        found = (
            wilson(int(right.sum()), len(right)) if single else bootstrap_mean(right, groups, seed=cfg.seed)
        )
        row |= {arm: found.estimate, f"{arm}_low": found.low, f"{arm}_high": found.high}
    row |= {"n": len(sae.tested), "n_groups": len(np.unique(data.groups[sae.tested]))}
    row["difference"] = row["sae"] - row["raw"]
    row["n_tested_by_both"] = len(np.intersect1d(raw.tested, sae.tested))
    row["moved"] = row["difference"] - before[-1]["difference"] if before else None
    if np.array_equal(raw.tested, sae.tested):
        paired = comparisons.paired(
            sae.pred == sae.y, raw.pred == raw.y, data.groups[sae.tested], delta=cfg.delta, seed=cfg.seed
        )
        keys = ("low", "high", "p", "test", "minimal_detectable_difference", "verdict")
        return row | {key: paired[key] for key in keys}
    return row | {"low": None, "high": None, "p": None, "test": None, "verdict": "not paired"}


def _per_class(own: Scored) -> list[dict[str, Any]]:
    return scores.per_class(scores.confusion(own.y, own.pred, len(CLASSES)), CLASSES)


def _headline(ladder: list[dict[str, Any]]) -> dict[str, Any]:
    out = {}
    for key, row in (("as_it_was", ladder[0]), ("corrected", ladder[-1])):
        for arm in ("raw", "sae"):
            values = {"low": row[f"{arm}_low"], "high": row[f"{arm}_high"], "n": row["n"]}
            out[f"accuracy_{arm}_{key}"] = {"value": row[arm], **values}
    last = ladder[-1]
    keys = ("low", "high", "p", "n", "n_groups", "verdict")
    return out | {"sae_minus_raw": {"value": last["difference"], **{k: last[k] for k in keys}}}


@torch.no_grad()
def _as_measured(study: Replay, p: Protocol) -> dict[str, Any]:
    """The study's own measures, on the rows that the SAE was trained on."""
    x, cells = study.vectors(p)
    rows, sae = x.flatten(0, 2), study.sae(p, None)
    acts, x_hat = _through(sae, rows, cells)
    active = acts > FIRES
    return {
        "rows": len(rows),
        "measured_on": "training rows",
        "mse": float((rows - x_hat).square().mean()),
        "explained_variance_of_residuals": float(1 - (rows - x_hat).var(0).mean() / rows.var(0).mean()),
        "l0": float(active.sum(1).float().mean()),
        "dead": int((~active.any(0)).sum()),
        "d_sae": sae.d_sae,
    }


@torch.no_grad()
def _held_out(study: Replay, p: Protocol) -> dict[str, Any]:
    """The project's measures, on the rows of problems that each fold's SAE has not seen."""
    x, cells = study.vectors(p)
    error, l0, n, alive = 0.0, 0.0, 0, []
    mean = x.flatten(0, 2).double().mean(0)
    for fold in range(study.cfg.folds):
        held = torch.from_numpy(np.flatnonzero(study.folds["grouped folds"].outer == fold))
        rows, sae = x[held].flatten(0, 2), study.sae(p, fold)
        acts, x_hat = _through(sae, rows, cells)
        error += (rows - x_hat).double().square().sum().item()
        l0 += (acts > 0).sum().item()
        n += len(rows)
        alive.append(int((acts > 0).any(0).sum()))
    total = (x.flatten(0, 2).double() - mean).square().sum().item()
    d_sae = study.sae(p, 0).d_sae
    return {
        "rows": n,
        "measured_on": "rows of the test folds",
        "mse": error / (n * x.shape[-1]),
        "explained_variance": 1 - error / total,
        "l0": l0 / n,
        "dead": d_sae - round(float(np.mean(alive))),
        "d_sae": d_sae,
    }


def _through(sae: Any, rows: torch.Tensor, cells: list) -> tuple[torch.Tensor, torch.Tensor]:
    index = sae.cell_index(cells, np.tile(np.arange(len(cells)), len(rows) // len(cells)))
    acts = sae.encode(rows, index)
    return acts, sae.decode(acts, index)
