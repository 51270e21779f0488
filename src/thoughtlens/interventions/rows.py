"""From outcomes to table rows: every number beside its interval, n, verdict and proof that the edit bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from thoughtlens.interventions.run import Edit, Outcome
from thoughtlens.interventions.subject import CLASSES, Problems, says
from thoughtlens.numerics.stats.intervals import bootstrap_means, wilson
from thoughtlens.numerics.stats.significance import holm
from thoughtlens.numerics.stats.verdicts import compare

BEYOND = ("beyond_random", "beyond_random_low", "beyond_random_high", "beyond_random_verdict")
DEFINITIONS = {
    "accuracy": "right answers / problems; accuracy_low, _high: Wilson 95 %",
    "difference": "accuracy under the edit minus the untouched run's, same problems; low, high: paired 95 % "
    "interval (by group, where problems share one); p: exact McNemar or sign test over groups; p_holm: Holm "
    "over the edits of the stage; equivalent within 0.03",
    "answer_logprob": "log-probability of the answer that the untouched run gave, all its tokens, forced, "
    "nats, mean over problems; delta_logprob: minus the untouched run's",
    "kl": "KL(untouched || edited) of the answer's first token, nats, mean over problems",
    "clean": "share of answers equal to the problem's own right answer",
    "predicted": "share equal to the answer that follows if the edit replaces one value and all later "
    "operations are the problem's own",
    "corrupted": "share equal to the right answer of the donor or twin, and neither clean nor predicted; "
    "_low, _high of clean, predicted, corrupted: Wilson 95 %",
    "other": "share of other answers",
    "unparsable": "share without an answer, or without a number where the right answer is one",
    "changed_site": "|x' - x| / |x| where the edit was made, mean over places and problems; 0: no change",
    "changed_thoughts": "the same of what the next thoughts take in, mean over the thoughts after the edit; "
    "null: there are none",
    "moved": "share of problems in which a logit of the answer's first token moved by more than 1e-5",
    "beyond_random": "accuracy under the edit minus that under as large a random change, paired",
    "control": "random: as large a change in a direction drawn for each problem; latents: other latents of "
    "about the same density; elsewhere: the same edit at a pass that was not asked for",
}


def rows_of(
    problems: Problems, plain: Outcome, edits: Sequence[Edit], outcomes: Sequence[Outcome], seed: int
) -> list[dict[str, Any]]:
    """One row an edit, in order; a random control stands right behind the edit it belongs to."""
    untouched = says(plain, problems.answers)
    right = [says(outcome, problems.answers) for outcome in outcomes]
    intervals = _intervals(problems, plain, outcomes, seed)
    rows: list[dict[str, Any]] = []
    for i, (edit, outcome) in enumerate(zip(edits, outcomes, strict=True)):
        kept = {name: edit.about.get(name) for name in ("scope", "site", "layer", "thought_idx", "control")}
        row = {"edit": edit.name, **kept, **edit.about, **_accuracy(right[i], untouched, problems, seed)}
        row |= {"answer_logprob": _mean(outcome.logprob), **intervals[i]}
        row |= _classes(problems.classes(outcome))
        row |= _bite(edit, outcome)
        row |= dict.fromkeys(BEYOND)
        if edit.about.get("control") == "random":
            found = compare(right[i - 1], right[i], problems.groups, seed=seed)
            d = found.difference
            rows[-1] |= dict(zip(BEYOND, (d.estimate, d.low, d.high, found.verdict), strict=True))
        rows.append(row)
    return rows


def answers_of(problems: Problems, first_row: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """What was answered, one line a problem and row of the effects; `row` counts from 0, -1: untouched."""
    ids = problems.table["problem_id"].combine_chunks().cast(pa.string())
    parts = []
    for i, outcome in enumerate(outcomes):
        columns = {
            "row": pa.array(np.full(len(ids), first_row + i, dtype=np.int32)),
            "problem_id": ids,
            "text": pa.array(outcome.text, pa.string()),
            "class": pa.array([CLASSES[c] for c in problems.classes(outcome)], pa.string()),
            "logprob": pa.array(outcome.logprob.astype(np.float32)),
            "kl": pa.array(outcome.kl.astype(np.float32)),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def with_holm(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """p_holm over the edits; controls are not among the tests."""
    tested = [row for row in rows if row["control"] is None]
    adjusted = holm([row["p"] for row in tested]).tolist() if tested else []
    return (
        [row | {"p_holm": None} for row in rows]
        if not tested
        else [row | {"p_holm": adjusted.pop(0) if row["control"] is None else None} for row in rows]
    )


def _accuracy(right: np.ndarray, untouched: np.ndarray, problems: Problems, seed: int) -> dict[str, Any]:
    share, found = wilson(int(right.sum()), len(right)), compare(right, untouched, problems.groups, seed=seed)
    return {
        "n": found.n_rows,
        "n_groups": found.n_clusters,
        "accuracy": share.estimate,
        "accuracy_low": share.low,
        "accuracy_high": share.high,
        "accuracy_untouched": float(untouched.mean()),
        "difference": found.difference.estimate,
        "low": found.difference.low,
        "high": found.difference.high,
        "p": found.p,
        "test": found.test,
        "verdict": found.verdict,
        "minimal_detectable_difference": found.minimal_detectable_difference,
    }


def _classes(found: np.ndarray) -> dict[str, Any]:
    """Share of each class of answers; with Wilson's interval for those that an edit aims at."""
    shares: dict[str, Any] = {}
    for i, name in enumerate(CLASSES):
        share = wilson(int((found == i).sum()), len(found))
        shares[name] = share.estimate
        if name in ("clean", "predicted", "corrupted"):
            shares |= {f"{name}_low": share.low, f"{name}_high": share.high}
    return shares


def _intervals(
    problems: Problems, plain: Outcome, outcomes: Sequence[Outcome], seed: int
) -> list[dict[str, Any]]:
    """KL and change of the answer's log-probability with their intervals, all edits at once."""
    groups = np.array(problems.groups)
    kl = bootstrap_means(np.column_stack([o.kl for o in outcomes]), groups, seed=seed)
    here = np.isfinite(plain.logprob)
    log_p: list[Any] = [None] * len(outcomes)
    if len(np.unique(groups[here])) > 1:
        change = np.column_stack([o.logprob - plain.logprob for o in outcomes])
        log_p = bootstrap_means(change[here], groups[here], seed=seed)
    return [_named("kl", a) | _named("delta_logprob", b) for a, b in zip(kl, log_p, strict=True)]


def _named(name: str, interval: Any) -> dict[str, Any]:
    if interval is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _bite(edit: Edit, outcome: Outcome) -> dict[str, Any]:
    later = outcome.changed_thoughts[:, ~np.isnan(outcome.changed_thoughts).all(0)]
    return {
        "changed_site": float(outcome.changed_site.mean()) if edit.changes else None,
        "changed_thoughts": float(later.mean()) if later.size else None,
        "moved": float(outcome.moved.mean()),
    }


def _mean(values: np.ndarray) -> float | None:
    here = values[np.isfinite(values)]
    return float(here.mean()) if len(here) else None
