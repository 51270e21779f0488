"""From outcomes to table rows: every number beside its interval, n, verdict and proof that the edit acted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from thoughtlens.interventions.edits.run import Answers, Edit
from thoughtlens.interventions.effects.subject import CLASSES, Problems, says
from thoughtlens.interventions.intervene.records import EffectRow
from thoughtlens.numerics import (
    Interval,
    Tested,
    bootstrap_means,
    compare,
    doubts_of_means,
    family,
    proportion,
)

DEFINITIONS = {
    "accuracy": "right answers / problems; accuracy_low, _high: Wilson 95 %, by group where problems "
    "share one",
    "difference": "accuracy under the edit minus the untouched run's, same problems; low, high: paired 95 % "
    "interval (by group, where problems share one); p: exact McNemar or sign test over groups; p_holm: Holm "
    "over the edits of the stage",
    "verdict": "better, worse: p_holm is at most 0.05, and the interval does not hold 0; equivalent: within "
    "0.03 by two one-sided tests, adjusted for the number of edits too; else inconclusive. Controls are a "
    "family of their own",
    "answer_logprob": "log-probability of the answer that the untouched run gave, all its tokens, forced, "
    "nats, mean over problems; delta_logprob: minus the untouched run's",
    "kl": "KL(untouched || edited) of the answer's first token, nats, mean over problems",
    "kl_doubt, delta_logprob_doubt": "why the interval may be too narrow: few groups, or a long tail",
    "clean": "share of answers equal to the problem's own right answer",
    "predicted": "share equal to the answer that follows if the edit replaces one value and all later "
    "operations are the problem's own",
    "corrupted": "share equal to the right answer of the donor or twin, and neither clean nor predicted; "
    "_low, _high of clean, predicted, corrupted: Wilson 95 %",
    "other": "share of other answers",
    "unparsable": "share without an answer, or without a number where the right answer is one",
    "changed_site": "|x' - x| / |x| where the edit was made, mean over places and edited problems (cut: the "
    "share of the weights that it takes away); 0: no "
    "change",
    "changed_thoughts": "the same of what the next thoughts take in, mean over the thoughts after the edit; "
    "null: there are none",
    "n_edited": "problems in which the edit was made; fewer than n where some, or their donors, had stopped "
    "thinking by then: those are left as they are, and count in every other number",
    "moved": "share of the edited problems in which a logit of the answer's first token moved by more than "
    "1e-5",
    "beyond_random": "accuracy under the edit minus that under as large a random change, paired; its verdict "
    "is adjusted for all of them",
    "control": "random: as large a change in a direction drawn for each problem; latents: other latents of "
    "about the same density; elsewhere: the same edit at a pass that was not asked for",
}


def rows_of(
    problems: Problems, plain: Answers, edits: Sequence[Edit], answers: Sequence[Answers], seed: int
) -> list[EffectRow]:
    """One row per edit, in order; a random control stands right behind the edit it belongs to."""
    right = [says(one, problems.answers) for one in answers]
    intervals = _intervals(problems, plain, answers, seed)
    rows: list[EffectRow] = []
    for i, (edit, one) in enumerate(zip(edits, answers, strict=True)):
        rows.append(_row(problems, says(plain, problems.answers), edit, one, intervals[i]))
        if edit.about.control == "random":
            found = compare(right[i - 1], right[i], problems.groups)
            rows[i - 1] = replace(
                rows[i - 1],
                beyond_random=found.difference.estimate,
                beyond_random_low=found.difference.low,
                beyond_random_high=found.difference.high,
                beyond_random_verdict=found.verdict,
                beyond_random_p=found.p,
            )
    return rows


def answers_of(problems: Problems, first_row: int, answers: Sequence[Answers]) -> pa.Table:
    """What was answered, one line per problem and row of the effects; `row` counts from 0, -1: untouched."""
    ids = problems.table["problem_id"].combine_chunks().cast(pa.string())
    parts = []
    for i, one in enumerate(answers):
        columns = {
            "row": pa.array(np.full(len(ids), first_row + i, dtype=np.int32)),
            "problem_id": ids,
            "text": pa.array(one.text, pa.string()),
            "class": pa.array([CLASSES[c] for c in problems.classes(one)], pa.string()),
            "logprob": pa.array(one.logprob.astype(np.float32)),
            "kl": pa.array(one.kl.astype(np.float32)),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def numbered(rows: Sequence[EffectRow]) -> list[EffectRow]:
    """The rows of all runs, numbered, with verdicts that know how many there are, and p_holm of the edits."""
    out = [replace(row, row=i) for i, row in enumerate(rows)]
    for controls in (False, True):
        own = [row for row in out if (row.control is not None) == controls]
        tested = [Tested(row.low, row.high, row.n_groups, row.p) for row in own]
        for row, said in zip(own, family(tested), strict=True):
            out[row.row] = replace(row, verdict=said.verdict, p_holm=None if controls else said.p_holm)
    found = [(row, beyond) for row in out if (beyond := _beyond_random(row)) is not None]
    for (row, _), said in zip(found, family([beyond for _, beyond in found]), strict=True):
        out[row.row] = replace(row, beyond_random_verdict=said.verdict)
    return out


def _beyond_random(row: EffectRow) -> Tested | None:
    low, high, p = row.beyond_random_low, row.beyond_random_high, row.beyond_random_p
    return None if low is None or high is None else Tested(low, high, row.n_groups, p)


def _row(
    problems: Problems, untouched: np.ndarray, edit: Edit, answers: Answers, intervals: _Intervals
) -> EffectRow:
    right = says(answers, problems.answers)
    share, found = proportion(right, problems.groups), compare(right, untouched, problems.groups)
    classes = problems.classes(answers)
    clean, predicted, corrupted, other, unparsable = (
        proportion(classes == i, problems.groups) for i in range(len(CLASSES))
    )
    kl, log_p, kl_doubt, log_p_doubt = intervals
    later = answers.changed_thoughts[~np.isnan(answers.changed_thoughts)]
    reached = answers.reached if edit.changes or edit.cuts or edit.reads else np.ones_like(answers.reached)
    known = answers.logprob[np.isfinite(answers.logprob)]
    return EffectRow(
        row=0,
        **vars(edit.about),
        n=found.n_rows,
        n_groups=found.n_clusters,
        accuracy=share.estimate,
        accuracy_low=share.low,
        accuracy_high=share.high,
        accuracy_untouched=float(untouched.mean()),
        difference=found.difference.estimate,
        low=found.difference.low,
        high=found.difference.high,
        p=found.p,
        test=found.test,
        verdict=found.verdict,
        minimal_detectable_difference=found.minimal_detectable_difference,
        answer_logprob=float(known.mean()) if len(known) else None,
        kl=kl.estimate,
        kl_low=kl.low,
        kl_high=kl.high,
        delta_logprob=log_p and log_p.estimate,
        delta_logprob_low=log_p and log_p.low,
        delta_logprob_high=log_p and log_p.high,
        clean=clean.estimate,
        clean_low=clean.low,
        clean_high=clean.high,
        predicted=predicted.estimate,
        predicted_low=predicted.low,
        predicted_high=predicted.high,
        corrupted=corrupted.estimate,
        corrupted_low=corrupted.low,
        corrupted_high=corrupted.high,
        other=other.estimate,
        unparsable=unparsable.estimate,
        n_edited=int(reached.sum()),
        changed_site=float(answers.changed_site[reached].sum() / max(reached.sum(), 1))
        if edit.changes or edit.cuts or edit.reads
        else None,
        changed_thoughts=float(later.mean()) if later.size else None,
        moved=float(answers.moved[reached].sum() / max(reached.sum(), 1)),
        kl_doubt=kl_doubt,
        delta_logprob_doubt=log_p_doubt,
    )


_Intervals = tuple[Interval, Interval | None, str | None, str | None]


def _intervals(problems: Problems, plain: Answers, answers: Sequence[Answers], seed: int) -> list[_Intervals]:
    """KL and change of the answer's log-probability, all edits at once; and why each may be too narrow."""

    def of(values: np.ndarray, groups: np.ndarray) -> tuple[list[Interval], list[str | None]]:
        return bootstrap_means(values, groups, seed=seed), doubts_of_means(values, groups)

    groups, here = problems.groups, np.isfinite(plain.logprob)
    kl, kl_doubts = of(np.column_stack([one.kl for one in answers]), groups)
    if len(np.unique(groups[here])) < 2:
        return [(one, None, doubt, None) for one, doubt in zip(kl, kl_doubts, strict=True)]
    change = np.column_stack([one.logprob - plain.logprob for one in answers])
    log_p, log_p_doubts = of(change[here], groups[here])
    return list(zip(kl, log_p, kl_doubts, log_p_doubts, strict=True))
