"""Each thing that there is to notice: who notices it, and what that is worth beside simpler scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from thoughtlens.core import ConfigError, DataError, Number
from thoughtlens.numerics import DELTA, Aucs
from thoughtlens.tracing.monitor import rivals
from thoughtlens.tracing.monitor.config import Kind, MonitorConfig
from thoughtlens.tracing.monitor.judged import FEW, Sample, against, alarms
from thoughtlens.tracing.monitor.records import Against, Detector, ErrorRow, Truth
from thoughtlens.tracing.monitor.scores import Beyond, contradictions, explained
from thoughtlens.tracing.monitor.splits import Split
from thoughtlens.tracing.monitor.wordings import Told, keys_of, left_out, new_wordings

CONTRADICTS, BEYOND, MARGIN = "contradicts", "beyond", "margin"
PROBE, SHUFFLED, LEFT_OUT = "probe", "shuffled", "left out"
MADE_FOR: dict[Kind, str] = {"wrong": CONTRADICTS, "broken": CONTRADICTS, "label": BEYOND}
"""The score that a truth is the test of."""
ABOUT = {
    CONTRADICTS: "its thoughts contradict its answer",
    BEYOND: "its thoughts hold more than the answer's chain explains",
    MARGIN: "the answer's first token is hardly ahead of the next",
    "entropy": "the answer's first token is unsure",
    "text": "the question's words and pairs of neighbours, a linear model that was shown the labels",
    "words": "the question's single words and their places, a linear model that was shown the labels",
    "begin": "the state before any thought, a linear model that was shown the labels",
    PROBE: "the states of all thoughts, a linear model that was shown the labels: what there is to find",
    f"{CONTRADICTS} {SHUFFLED}": "the contradiction with the thoughts of another problem: must fail",
    f"{BEYOND} {SHUFFLED}": "the surplus of the thoughts of another problem: must fail",
}
IN_WORDS = {
    "better": "better than",
    "equivalent": "no better than",
    "inconclusive": "not shown to be better than",
    "no information": "nothing is known of either it or",
    "worse": "worse than",
}
"""What a verdict says of a score beside rivals."""


def surplus(cfg: MonitorConfig, splits: Mapping[str, Split]) -> dict[str, np.ndarray]:
    """The second score of every split, fitted on the first one's clean problems.

    `LEFT_OUT`: of the split that sets the thresholds, by a fit without the wordings of each problem, where
    the scored problems have wordings that no fitted one has.
    """
    fit = splits[cfg.fit_split]
    rows = np.flatnonzero(fit.sample("label").clean if cfg.label is not None else fit.own)
    usual = Beyond([[column[i] for i in rows] for column in fit.columns], fit.seen.take(rows))
    found = {name: usual.score(split.columns, split.seen) for name, split in splits.items()}
    test = splits[cfg.split]
    found[SHUFFLED] = usual.score(explained(test.who.rule, test.shuffled), test.shuffled)
    tables = {name: split.table for name, split in splits.items()}
    if names := wordings(cfg, tables):
        keys = keys_of(tables, names)
        told = {
            name: Told(split.columns, split.seen, keys[name][split.row]) for name, split in splits.items()
        }
        at_rest = splits[cfg.threshold_split]
        own = np.flatnonzero(at_rest.own)
        found[LEFT_OUT] = np.full(len(at_rest.row), np.nan)
        found[LEFT_OUT][own] = left_out(
            told[cfg.fit_split].take(rows),
            told[cfg.threshold_split].take(own),
            np.random.default_rng((cfg.seed, 73)),
        )
    return found


def wordings(cfg: MonitorConfig, problems: Mapping[str, pa.Table]) -> list[str]:
    """Columns that say how a problem is told, where the scored ones are told in new ways."""
    tables = [problems[name] for name in (cfg.fit_split, cfg.threshold_split, cfg.split)]
    if cfg.wordings is None:
        return [name for name in new_wordings(*tables) if name != cfg.label]
    if strange := [name for name in cfg.wordings if name not in tables[0].column_names]:
        raise ConfigError(
            f"wordings: the problems have no column {strange[0]!r}; they have "
            f"{', '.join(tables[0].column_names)}"
        )
    return list(cfg.wordings)


def truth_of(
    kind: Kind,
    cfg: MonitorConfig,
    splits: Mapping[str, Split],
    beyond: Mapping[str, np.ndarray],
    notes: list[str],
) -> Truth | None:
    """One truth, with everything that is held against it; None, and a note, where there is nothing of it.

    Raises:
        DataError: there is nothing of it, and it was asked for by name.
    """
    test, thresholds, own = splits[cfg.split], splits[cfg.threshold_split], MADE_FOR[kind]
    sample, usual = test.sample(kind), thresholds.sample(kind).clean
    if missing := _missing(kind, cfg, sample, len(test.table)):
        if cfg.truths is not None:
            raise DataError(f"monitor: {missing}; leave {kind} out of truths, or extract more problems")
        notes.append(missing)
        return None
    shown = _shown(kind, cfg, splits, notes)
    told_in = wordings(cfg, {name: split.table for name, split in splits.items()})
    at_rest, scores = (
        _scores(one, beyond[one.name]) | {name: told[one.name] for name, told in shown.items()}
        for one in (thresholds, test)
    )
    scores[f"{CONTRADICTS} {SHUFFLED}"] = contradictions(test.who.rule, test.shuffled, test.usual)
    scores[f"{BEYOND} {SHUFFLED}"] = beyond[SHUFFLED]
    scores = {name: one for name, one in scores.items() if np.isfinite(one[sample.rows]).all()}
    areas = sample.areas(scores, n_resamples=cfg.n_resamples, seed=cfg.seed)
    detectors = [
        Detector(
            name=name,
            about=ABOUT[name],
            role=_role(name),
            auroc=sample.area(areas, name),
            alarms=alarms(one, cfg.false_alarms, _usual(name, at_rest, usual, beyond), sample)
            if name in at_rest
            else [],
            wordings=told_in if name == BEYOND else [],
        )
        for name, one in scores.items()
    ]
    names = [name for name in scores if _role(name) == "rival"]
    pairs = [(score, rival) for score in (CONTRADICTS, BEYOND) if score in scores for rival in names]
    compared = against(areas, pairs, sample, delta=DELTA) if areas and pairs else []
    notes += _doubts(kind, cfg, sample, int(usual.sum())) + _objections(kind, own, areas, scores)
    notes += _broken_promises(kind, cfg, detectors)
    if told_in:
        notes.append(_few_wordings(kind, cfg, splits[cfg.fit_split], told_in))
    return Truth(
        name=kind,
        about=_about(kind, cfg),
        score=own,
        n_positive=int(sample.positive.sum()),
        n_clean=int(sample.clean.sum()),
        n_clean_thresholds=int(usual.sum()),
        detectors=detectors,
        against=compared,
        errors=_errors(test, sample, scores, cfg) if kind == "broken" else [],
        says=_says(own, detectors, compared, sample),
    )


def _usual(
    name: str, at_rest: Mapping[str, np.ndarray], usual: np.ndarray, beyond: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The clean problems' scores that set a threshold; of problems whose wording was left out, if any."""
    found = beyond[LEFT_OUT] if name == BEYOND and LEFT_OUT in beyond else at_rest[name]
    return found[usual & ~np.isnan(found)]


def _few_wordings(kind: Kind, cfg: MonitorConfig, fit: Split, names: Sequence[str]) -> str:
    """What thresholds for new wordings rest on: as exchangeable as problems are only the wordings."""
    counts = {name: len(set(fit.table[name].to_pylist())) for name in names}
    most, shown = min(counts.values()), ", ".join(f"{name}: {n}" for name, n in counts.items())
    lost = [f"{rate:.0%}" for rate in cfg.false_alarms if rate * (most + 1) < 1]
    promise = f"so few cannot promise {' or '.join(lost)} for others" if lost else "so many can promise it"
    return (
        f"{kind}: the problems of split {cfg.split} are worded as none of {cfg.fit_split} is ({shown} known "
        f"there), so that {BEYOND} has its thresholds from problems whose wording it was not fitted on; "
        f"{promise}"
    )


def _missing(kind: Kind, cfg: MonitorConfig, sample: Sample, n: int) -> str | None:
    """What a truth lacks, in a line."""
    there = f"among {n:,} problems of split {cfg.split}: there is nothing to tell apart"
    if not sample.positive.any():
        return f"{kind}: no {_about(kind, cfg)} {there}"
    return None if sample.clean.any() else f"{kind}: no clean problems {there}"


def _doubts(kind: Kind, cfg: MonitorConfig, sample: Sample, n_usual: int) -> list[str]:
    """Where there are too few problems for what is asked."""
    found = []
    if sample.few:
        found.append(
            f"{kind}: {int(sample.positive.sum()):,} with something to notice, {int(sample.clean.sum()):,} "
            f"clean, in fewer than {FEW} groups of one kind: too few for an AUROC"
        )
    if (n_usual + 1) * min(cfg.false_alarms) < 1:
        found.append(
            f"{kind}: {n_usual:,} clean problems of split {cfg.threshold_split} are too few to promise "
            f"{min(cfg.false_alarms):.0%} false alarms"
        )
    return found


def _about(kind: Kind, cfg: MonitorConfig) -> str:
    return {
        "wrong": "wrong answers of the model's own",
        "broken": "answers broken at a known thought",
        "label": " with ".join([f"problems whose {cfg.label} is {cfg.positive or 'true'}", *cfg.where]),
    }[kind]


def _role(name: str) -> str:
    if name in (CONTRADICTS, BEYOND):
        return "score"
    return "shown" if name == PROBE else "control" if name.endswith(SHUFFLED) else "rival"


def _scores(split: Split, beyond: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that no label was shown to; larger says more that there is something to notice."""
    found = {CONTRADICTS: split.contradicts, BEYOND: beyond}
    plain = {MARGIN: -split.seen.first.margin, "entropy": split.seen.first.entropy}
    return found | {name: one for name, one in plain.items() if name in split.who.cfg.rivals}


def _shown(
    kind: Kind, cfg: MonitorConfig, splits: Mapping[str, Split], notes: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """By linear model, the log-odds that it gives every split's runs."""
    names = [name for name in ("text", "words", "begin") if name in cfg.rivals]
    sample = splits[cfg.fit_split].sample(kind)
    if sample.few:
        n = f"{int(sample.positive.sum()):,} with something to notice and {int(sample.clean.sum()):,} clean"
        if names:
            notes.append(f"{kind}: {n} in split {cfg.fit_split}: too few to fit {', '.join(names)} on")
        return {}
    start = np.cumsum([0, *(len(one.row) for one in splits.values())])
    place = {name: slice(a, b) for name, a, b in zip(splits, start[:-1], start[1:], strict=True)}
    samples = [one.sample(kind) for one in splits.values()]
    y = np.concatenate([one.positive for one in samples])
    groups = np.concatenate([one.groups + 10**6 * i for i, one in enumerate(samples)])
    train = np.zeros(len(y), bool)
    train[place[cfg.fit_split]] = sample.positive | sample.clean
    questions = [one.questions[i] for one in splits.values() for i in one.row]
    states = np.concatenate([one.seen.states.double().cpu().numpy() for one in splits.values()])
    made = {
        "text": lambda: rivals.neighbours(questions),
        "words": lambda: rivals.places(questions),
        "begin": lambda: rivals.flat(states[:, 0]),
        PROBE: lambda: rivals.flat(states[:, 1:]),
    }
    found = {}
    for name in (*names, PROBE):
        told = rivals.told(made[name](), y, groups, train, seed=cfg.seed)
        found[name] = {split: told[where] for split, where in place.items()}
    return found


def _errors(
    test: Split, sample: Sample, scores: Mapping[str, np.ndarray], cfg: MonitorConfig
) -> list[ErrorRow]:
    """Every way to break an answer at every thought."""
    both = {name: scores[name] for name in (CONTRADICTS, MARGIN) if name in scores}
    rows = []
    for error, thought in sorted(set(zip(test.error[~test.own], test.at[~test.own].tolist(), strict=True))):
        here = (test.error == error) & (test.at == thought)
        own = sample.only(here)
        areas = own.areas(both, n_resamples=cfg.n_resamples, seed=cfg.seed)
        rows.append(
            ErrorRow(
                error=error,
                error_idx=thought,
                n_tried=int(here.sum()),
                n=int(own.positive.sum()),
                contradicts=own.area(areas, CONTRADICTS),
                margin=own.area(areas, MARGIN) if MARGIN in both else None,
            )
        )
    return rows


def _broken_promises(kind: Kind, cfg: MonitorConfig, detectors: Sequence[Detector]) -> list[str]:
    """Scores that flag more clean problems than they may, since those that are scored are of another kind."""
    return [
        f"{kind}: {one.name} flags {found.value:.0%} of the clean problems of split {cfg.split}, where "
        f"{alarm.rate:.0%} were allowed: they are of another kind than those of {cfg.threshold_split}, and "
        f"its thresholds do not hold"
        for one in detectors
        for alarm in one.alarms[:1]
        if one.role == "score" and (found := alarm.false_alarms) and (found.low or 0) > 2 * alarm.rate
    ]


def _objections(kind: str, own: str, areas: Aucs | None, scores: Mapping[str, np.ndarray]) -> list[str]:
    """Where a control tells what the score tells."""
    control = f"{own} {SHUFFLED}"
    if areas is None or not {own, control} <= set(scores):
        return []
    mine, other = areas.of(own), areas.of(control)
    if mine.low <= 0.5 or areas.difference(own, control).low > 0:
        return []
    return [
        f"{kind}: {own} is not shown to tell more than with the thoughts of other problems (AUROC "
        f"{mine.estimate:.3f}, with those {other.estimate:.3f}): it proves nothing about thoughts"
    ]


def _says(own: str, detectors: Sequence[Detector], compared: Sequence[Against], sample: Sample) -> str:
    """The outcome in a sentence."""
    mine = next((one.auroc for one in detectors if one.name == own), None)
    if mine is None or mine.low is None:
        n = int(sample.positive.sum())
        return f"{n:,} of {int(sample.rows.sum()):,}: too few to say how well they are told from clean ones"
    tells = "tells them from clean ones" if mine.low > 0.5 else "is not shown to tell them from clean ones"
    words = [f"{own} {tells} (AUROC {mine.value:.3f} [{mine.low:.3f}, {mine.high:.3f}])"]
    for verdict, text in IN_WORDS.items():
        named = [row.rival for row in compared if row.score == own and row.difference.verdict == verdict]
        words += [f"{text} {', '.join(named)}"] if named else []
    return "; ".join(words)


def headline_of(truths: Sequence[Truth]) -> tuple[dict[str, Number], dict[str, str]]:
    """The numbers that a reader sees first, and what they are."""
    numbers: dict[str, Number] = {}
    told: dict[str, str] = {}
    for truth in truths:
        for name in dict.fromkeys(
            (truth.score, MARGIN, *(("text", "words") if truth.name == "label" else ()))
        ):
            one = truth.detector(name)
            if one is not None and one.auroc is not None:
                numbers[key := f"{truth.name}_{name}"] = one.auroc
                told[key] = f"AUROC of {name} on {truth.about}"
        for row in truth.against:
            if row.score == truth.score and row.rival == MARGIN:
                numbers[key := f"{truth.name}_{truth.score}_minus_{MARGIN}"] = row.difference
                told[key] = f"AUROC of {truth.score} less that of {MARGIN} on {truth.about}"
        own = truth.detector(truth.score)
        for alarm in own.alarms if own else ():
            if alarm.recall is not None:
                numbers[key := f"{truth.name}_recall_at_{alarm.rate:g}"] = alarm.recall
                told[key] = f"recall of {truth.score} on {truth.about}, {alarm.rate:.0%} false alarms allowed"
    return numbers, told
