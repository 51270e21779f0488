"""The replay stage: the first study of CODI's thoughts as it was done, beside the same done with care.

The study trained an SAE on the thoughts of 600 problems, classified the operation from its latents and
from raw activations, and read the difference of the two accuracies as the price of sparsity. Here its
pipeline runs unchanged on any store of thoughts; then one choice after the other is corrected, and each
line says how much that moved the two numbers and their difference.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import Number, Plan, Result, progress, run_stage, say
from thoughtlens.evals.first_study.config import ReplayConfig
from thoughtlens.evals.first_study.data import load_problems
from thoughtlens.evals.first_study.protocol import Change, Protocol, Replay, Scored, Scores, protocols
from thoughtlens.evals.first_study.records import Line, ReplayOutcome, SAEMeasures
from thoughtlens.evals.probing import comparisons, scores
from thoughtlens.evals.probing.folds import Folds
from thoughtlens.evals.probing.records import ClassReport
from thoughtlens.numerics import SHARED_TRAINING, Tested, family, proportion
from thoughtlens.problems import CLASSES

FIRES = 1e-3
"""Activation above which the study counted a latent as active."""
DEFINITIONS = {
    **{key: comparisons.DEFINITIONS[key] for key in ("p",)},
    "accuracy": scores.DEFINITIONS["accuracy"],
    "p_holm": "p adjusted over the lines in which both are tested on the same problems (Holm 1979); the "
    "verdict follows it",
    "moved": "change of the difference SAE - raw against the line above, in points",
    "explained_variance_of_residuals": "1 - mean over dimensions of var(x - x_hat) / that of var(x), all "
    "rows pooled: blind to a constant offset",
    "explained_variance": "1 - sum |x - x_hat|^2 / sum |x - mean x|^2, mean of the rows measured",
    "l0": "mean number of latents above 0.001 (as it was), or above 0",
    "dead": "latents that fire on no row of those measured",
}


def replay(cfg: ReplayConfig, out: str | Path) -> Result:
    """Replay the study on a store and correct it line by line; also writes `table.md`.

    Raises:
        ConfigError: the store has no thoughts 0 to 6 or no operation labels.
        DataError: a class with too few problems.
    """
    return run_stage("replay", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": Path(cfg.acts)})


def plan(cfg: ReplayConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where the store does not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    n, d = 3 * cfg.n_per_class * 6 * len(store.hook_names), max(store.d_in.values())
    size = d * d * cfg.expansion
    return Plan(
        rows=n,
        memory_bytes=0.5e9 + 8.0 * n * d + 40.0 * size + 4.0 * 256 * d * cfg.expansion,
        disk_bytes=1e5,
        seconds=(1 + 3 * cfg.folds) * (12.0 * size * n * cfg.epochs / 3e10 + 1),
    )


def _work(cfg: ReplayConfig, tmp: Path) -> ReplayOutcome:
    data = load_problems(ActivationStore.open(cfg.acts), cfg.n_per_class)
    study = Replay(cfg, data)
    ladder: list[Line] = []
    found: list[Scores] = []
    with progress("replay", len(protocols()), "protocols") as bar:
        for change in protocols():
            found.append(study.score(change.protocol))
            ladder.append(_line(study, change, found[-1], ladder[-1] if ladder else None))
            bar.advance(1, change.name)
    ladder = _adjusted(study, ladder, found)
    was, now = protocols()[0].protocol, protocols()[-1].protocol
    text = markdown(ladder)
    (tmp / "table.md").write_text(text, "utf-8")
    for line in text.splitlines():
        say(line)
    return ReplayOutcome(
        n_problems=data.n,
        n_groups=len(np.unique(data.groups)),
        hook_names=data.hook_names,
        labels_differ=sum(a != b for a, b in zip(data.first, data.checked, strict=True)),
        unlabelled=sum(own is None for own in data.checked),
        ladder=ladder,
        sae={"as it was": _as_measured(study, was), "corrected": _held_out(study, now)},
        per_class={
            "as it was": _per_class(study, found[0].sae, 1.0),
            "corrected": _per_class(study, found[-1].sae, SHARED_TRAINING),
        },
        headline=_headline(ladder),
        definitions=DEFINITIONS,
    )


def _line(study: Replay, change: Change, found: Scores, before: Line | None) -> Line:
    """Both accuracies and their difference under one protocol, and what it moved."""
    cfg, groups = study.cfg, study.data.groups
    folds = study.folds.get(change.protocol.test)
    inflation = 1.0 if folds is None else SHARED_TRAINING
    raw, sae = (proportion(own.pred == own.y, groups[own.tested], inflation=inflation) for own in found)
    difference = sae.estimate - raw.estimate
    paired = None
    if np.array_equal(found.raw.tested, found.sae.tested):
        right_sae, right_raw = found.sae.pred == found.sae.y, found.raw.pred == found.raw.y
        own = groups[found.sae.tested]
        paired = comparisons.paired(right_sae, right_raw, own, delta=cfg.delta, inflation=inflation)
    return Line(
        change=change.name,
        what=change.what,
        raw=raw.estimate,
        raw_low=raw.low,
        raw_high=raw.high,
        sae=sae.estimate,
        sae_low=sae.low,
        sae_high=sae.high,
        n=len(found.sae.tested),
        n_groups=len(np.unique(groups[found.sae.tested])),
        difference=difference,
        n_tested_by_both=len(np.intersect1d(found.raw.tested, found.sae.tested)),
        moved=None if before is None else difference - before.difference,
        low=paired and paired.low,
        high=paired and paired.high,
        p=paired and paired.p,
        test=paired and paired.test,
        minimal_detectable_difference=paired and paired.minimal_detectable_difference,
        verdict=paired.verdict if paired else "not paired",
    )


def _adjusted(study: Replay, ladder: list[Line], found: list[Scores]) -> list[Line]:
    """The ladder with verdicts that know how many lines are compared, and what either side knows."""
    tested = {
        line.change: Tested(line.low, line.high, line.n_groups, line.p)
        for line in ladder
        if line.low is not None and line.high is not None
    }
    said = dict(zip(tested, family(list(tested.values()), delta=study.cfg.delta), strict=True))
    out = []
    for change, line, both in zip(protocols(), ladder, found, strict=True):
        if line.change in said:
            folds, own = study.folds.get(change.protocol.test), said[line.change]
            knows = [_known(study, one, folds) for one in both]
            line = replace(line, p_holm=own.p_holm, verdict=comparisons.informed(own.verdict, knows))
        out.append(line)
    return out


def _known(study: Replay, own: Scored, folds: Folds | None) -> float | None:
    outer = None if folds is None else folds.outer[own.tested]
    return scores.above_guessing(own.y, own.pred, study.data.groups[own.tested], classes=True, outer=outer)


def _per_class(study: Replay, own: Scored, inflation: float) -> list[ClassReport]:
    groups = study.data.groups[own.tested]
    return scores.per_class(own.y, own.pred, CLASSES, groups, inflation=inflation)


def _headline(ladder: list[Line]) -> dict[str, Number]:
    out = {}
    for key, row in (("as_it_was", ladder[0]), ("corrected", ladder[-1])):
        raw = Number(value=row.raw, low=row.raw_low, high=row.raw_high, n=row.n)
        sae = Number(value=row.sae, low=row.sae_low, high=row.sae_high, n=row.n)
        out |= {f"accuracy_raw_{key}": raw, f"accuracy_sae_{key}": sae}
    return out | {
        "sae_minus_raw": Number(
            value=ladder[-1].difference,
            low=ladder[-1].low,
            high=ladder[-1].high,
            n=ladder[-1].n,
            verdict=ladder[-1].verdict,
            p=ladder[-1].p,
            n_groups=ladder[-1].n_groups,
        )
    }


@torch.no_grad()
def _as_measured(study: Replay, p: Protocol) -> SAEMeasures:
    """The study's own measures, on the rows that the SAE was trained on."""
    x, cells = study.vectors(p)
    rows, sae = x.flatten(0, 2), study.sae(p, None)
    acts, x_hat = _through(sae, rows, cells)
    active = acts > FIRES
    return SAEMeasures(
        rows=len(rows),
        measured_on="training rows",
        mse=float((rows - x_hat).square().mean()),
        explained_variance_of_residuals=float(1 - (rows - x_hat).var(0).mean() / rows.var(0).mean()),
        l0=float(active.sum(1).float().mean()),
        dead=int((~active.any(0)).sum()),
        d_sae=sae.d_sae,
    )


@torch.no_grad()
def _held_out(study: Replay, p: Protocol) -> SAEMeasures:
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
    return SAEMeasures(
        rows=n,
        measured_on="rows of the test folds",
        mse=error / (n * x.shape[-1]),
        explained_variance=1 - error / total,
        l0=l0 / n,
        dead=d_sae - round(float(np.mean(alive))),
        d_sae=d_sae,
    )


def _through(sae: Any, rows: torch.Tensor, cells: list) -> tuple[torch.Tensor, torch.Tensor]:
    index = sae.cell_index(cells, np.tile(np.arange(len(cells)), len(rows) // len(cells)))
    acts = sae.encode(rows, index)
    return acts, sae.decode(acts, index)


def markdown(ladder: list[Line]) -> str:
    """The ladder, to be read as text."""
    lines = [
        "| change, each on top of those above | raw | SAE | SAE - raw (points) | moved | n | says |",
        "| :-- | --: | --: | --: | --: | --: | :-- |",
    ]
    for row in ladder:
        cells = [
            f"**{row.change}**: {row.what}",
            f"{row.raw:.1%} [{row.raw_low:.1%}, {row.raw_high:.1%}]",
            f"{row.sae:.1%} [{row.sae_low:.1%}, {row.sae_high:.1%}]",
            _difference(row),
            "" if row.moved is None else f"{100 * row.moved:+.1f}",
            str(row.n),
            row.verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _difference(row: Line) -> str:
    """SAE minus raw in points, with its paired interval where there is one."""
    text = f"{100 * row.difference:+.1f}"
    if row.low is None or row.high is None:
        return f"{text} ({row.n_tested_by_both} of {row.n} problems tested by both)"
    return f"{text} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
