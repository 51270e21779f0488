"""Does the dictionary hold the variables that the states hold, and does anything simpler hold them too?

For each label column, the place where a linear probe reads it and which it organises most; there, for each
value, the latent (and the two latents) that speak for it, chosen on validation problems and scored on test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import ConfigError, DataError, Number, Plan, Result, progress, run_stage, write_rows
from thoughtlens.evals.recovery.arms import Dictionaries, dictionaries
from thoughtlens.evals.recovery.config import RecoveryConfig
from thoughtlens.evals.recovery.readable import Ceiling, ceilings
from thoughtlens.evals.recovery.records import (
    At,
    PlaceRow,
    Recovered,
    RecoveryOutcome,
    ValueRow,
    Variable,
    VariableBy,
)
from thoughtlens.evals.recovery.scores import Choice, Fired, Score, choose, score, splitting
from thoughtlens.latents import Label, not_told_apart, pick, read_labels
from thoughtlens.models import Place
from thoughtlens.numerics import Interval, bootstrap_mean, bootstrap_ratio
from thoughtlens.sae import load_members

SPLITS = ("train", "validation", "test")
NEAR_BEST = 0.02
"""A place reads a variable as well as the best one up to this accuracy."""
SAE_ARM = "sae"
NOTHING = "no label column has two values with enough problems in each split: nothing was looked for"
STEPS = "n_steps"

DEFINITIONS = {
    "found": "share of the values for which the latent chosen on validation problems fires on test problems "
    "with F1 = 2 TP / (firings + rows of the value) >= found_at; a latent fires where it is not 0",
    "found_by_two": "the same where the value may be spoken for by the union of two latents, chosen likewise",
    "best_f1": "mean over the values of that F1, one latent per value",
    "place": "of the places where a linear probe is within 0.02 of the best accuracy on validation problems, "
    "the one with the largest variance_share there",
    "probe": "accuracy of a ridge classifier on standardised states, penalty 1, fitted on training problems",
    "variance_share": "eta squared: 1 - squared distances from the mean of the value / from the mean of all, "
    "means of training problems",
    "permuted": "the same choice and scores with the values dealt to other problems",
    "kmeans": "as many centroids as the SAE has latents, of rows centred by place; one code per row",
    "kmeans_residual": "the same centroids, as many codes per row as the SAE's L0, each for what is left",
    "neurons, pca": "the L0 coordinates furthest out, in standard deviations, each side a latent",
    "random": "random directions with the SAE's width, rule and L0",
    "interval": "low, high: 95 %, whole groups of test problems resampled, choices held",
}


def plan(cfg: RecoveryConfig) -> Plan:
    """Rows, memory and time of the stage; zeros where the store does not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    per_place = min(store.n_rows // store.n_cells, 3 * cfg.max_rows)
    return Plan(
        rows=per_place * store.n_cells,
        memory_bytes=1e9 + 12.0 * per_place * max(store.d_in.values()),
        disk_bytes=1e6,
        seconds=5 + 2e-5 * per_place * store.n_cells,
    )


def recovery(cfg: RecoveryConfig, out: Path) -> Result:
    """Write `values.parquet`, `places.parquet` and the result.

    Raises:
        NotThereError: no such store or SAE.
        ConfigError: a column that is not there, is constant, or has too few problems per value.
        MismatchError: an SAE of another model than the store's.
    """
    return run_stage(
        "recovery", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": cfg.acts, "sae": cfg.sae}
    )


def _work(cfg: RecoveryConfig, tmp: Path) -> RecoveryOutcome:
    store = ActivationStore.open(cfg.acts)
    members = load_members(cfg.sae, hooks=store.meta.d_in)
    name, sae = pick(members, cfg.member)
    labels = read_labels(
        store.problems, cfg.columns, max_levels=cfg.max_values, min_count=cfg.min_count, most=cfg.max_values
    )
    asked, left_out = _questions(cfg, store, labels)
    arms = dictionaries(store, name, sae, cfg.seed)
    seen = list(_look(arms, store, cfg, asked)) if asked else []
    variables, values, places = {}, [], []
    for question in asked:
        found, own_values, own_places = _answer(cfg, question, arms, seen)
        values += own_values
        places += own_places
        if not question.condition:
            variables[question.label.name] = VariableBy(**vars(found))
        else:
            column, _, value = question.condition.partition("=")
            by = dict(variables[question.label.name].by)
            by[column] = {**by.get(column, {}), value: found}
            variables[question.label.name] = replace(variables[question.label.name], by=by)
    write_rows(tmp / "values.parquet", ValueRow, values)
    write_rows(tmp / "places.parquet", PlaceRow, places)
    return RecoveryOutcome(
        member=name,
        d_sae=sae.d_sae,
        l0=arms.l0,
        kind=sae.cfg.kind,
        split="test",
        found_at=cfg.found_at,
        variables=variables,
        left_out=left_out,
        headline={f"{v}_found": one.found for v, one in variables.items()},
        definitions=DEFINITIONS,
        warnings=_objections(variables) or ([] if variables else [NOTHING]),
    )


def _by(cfg: RecoveryConfig, store: ActivationStore) -> tuple[str, ...]:
    return cfg.by if cfg.by is not None else tuple({STEPS} & set(store.problems.column_names))


@dataclass(frozen=True, eq=False)
class Question:
    """A variable, over all problems or those of one condition; values with too few problems are others."""

    index: int
    label: Label
    condition: str
    codes: Int[np.ndarray, " problems"]
    """Value of each problem; -1: another value; -2: not asked about."""
    values: list[str]


def _questions(
    cfg: RecoveryConfig, store: ActivationStore, labels: Sequence[Label]
) -> tuple[list[Question], list[str]]:
    split = np.array(store.problems["split"])
    for missing in set(SPLITS) - set(split.tolist()):
        raise DataError(f"Expected problems of the split {missing} in {store.root}, found none")
    asked, left_out = [], not_told_apart(labels)
    conditions = [("", np.ones(len(split), bool))]
    for one in read_labels(store.problems, _by(cfg, store), max_levels=cfg.max_values, min_count=1):
        conditions += [(f"{one.name}={v}", one.codes == i) for i, v in enumerate(one.levels)]
    for label in labels:
        for condition, among in conditions:
            if condition.partition("=")[0] == label.name:
                continue
            question = _question(
                cfg, len(asked), label, condition, np.where(among, label.codes, -1), split=split
            )
            if question is None and not condition:
                why = f"label {label.name}: fewer than two values with {cfg.min_count} problems in each split"
                if cfg.columns is not None:
                    raise ConfigError(f"{why}; leave it out of columns")
                left_out.append(why)
                break
            if question is not None:
                asked.append(question)
    return asked, left_out


def _question(
    cfg: RecoveryConfig, index: int, label: Label, condition: str, codes: np.ndarray, *, split: np.ndarray
) -> Question | None:
    count = np.array(
        [np.bincount(codes[(codes >= 0) & (split == s)], minlength=len(label.levels)) for s in SPLITS]
    )
    kept = np.flatnonzero((count >= cfg.min_count).all(0))
    if len(kept) < 2:
        return None
    number = np.full(len(label.levels) + 1, -1)
    number[kept], number[-1] = np.arange(len(kept)), -2
    return Question(index, label, condition, number[codes], [label.levels[i] for i in kept])


@dataclass(frozen=True, eq=False)
class Seen:
    """One place: what every dictionary does there, and what a probe reads for each question."""

    place: Place
    problem: dict[str, np.ndarray]
    """By split: the problem of each row."""
    group: np.ndarray
    """Of each problem."""
    fires: dict[str, dict[str, sp.csr_array]]
    """By dictionary and split."""
    ceilings: list[dict[str, Ceiling]]
    """By question: by split."""

    def fired(self, arm: str, split: str, codes: np.ndarray) -> tuple[Fired, np.ndarray]:
        """The rows that a question asks about, and their groups."""
        problem = self.problem[split]
        asked = np.flatnonzero(codes[problem] != -2)
        return Fired(self.fires[arm][split][asked], codes[problem[asked]]), self.group[problem[asked]]


def _look(
    arms: Dictionaries, store: ActivationStore, cfg: RecoveryConfig, asked: Sequence[Question]
) -> Iterator[Seen]:
    """Every place once: its rows are read, encoded by every dictionary, probed for every question."""
    codes = {SAE_ARM: arms.sae} | dict(arms.baselines)
    group = np.unique(np.array(store.problems["group_id"]), return_inverse=True)[1]
    with progress("recovery", len(arms.places), "places") as bar:
        for place in arms.places:
            x, problem = {}, {}
            for split in SPLITS:
                x[split], problem[split] = _rows(store, place, split, cfg)
            fires = {
                arm: {split: code(x[split], place) for split in SPLITS[1:]} for arm, code in codes.items()
            }
            states = {split: rows.numpy().astype(np.float64) for split, rows in x.items()}
            read = [_ceilings(states, problem, question.codes) for question in asked]
            yield Seen(place, problem, group, fires, read)
            bar.advance(1)


def _rows(store: ActivationStore, place: Place, split: str, cfg: RecoveryConfig):
    view = store.view([place.hook_name], split=split, thoughts=place.thought)
    idx = np.sort(np.random.default_rng((cfg.seed, 5)).permutation(view.n)[: cfg.max_rows])
    return view.read(idx), store.problem_idx[view.rows_of(idx)]


def _ceilings(
    states: dict[str, np.ndarray], problem: dict[str, np.ndarray], codes: np.ndarray
) -> dict[str, Ceiling]:
    own = {split: codes[problem[split]] for split in SPLITS}
    x, y = {s: states[s][own[s] >= 0] for s in SPLITS}, {s: own[s][own[s] >= 0] for s in SPLITS}
    held_out = [(x[split], y[split]) for split in SPLITS[1:]]
    return dict(zip(SPLITS[1:], ceilings(x["train"], y["train"], held_out), strict=True))


def _answer(
    cfg: RecoveryConfig, question: Question, arms: Dictionaries, seen: Sequence[Seen]
) -> tuple[Variable, list[ValueRow], list[PlaceRow]]:
    n_values = len(question.values)
    read = [one.ceilings[question.index] for one in seen]
    probe = np.array([float(r["validation"].right.mean()) for r in read])
    between = np.array([r["validation"].variance_share for r in read])
    at = int(np.argmax(np.where(probe >= probe.max() - NEAR_BEST, between, -np.inf)))
    place, ceiling = seen[at], read[at]["test"]

    def scored(arm: str, codes: np.ndarray) -> tuple[Fired, Choice, Score]:
        choice = choose(place.fired(arm, "validation", codes)[0], n_values)
        fired, groups = place.fired(arm, "test", codes)
        found = score(
            fired, choice, groups, found_at=cfg.found_at, n_resamples=cfg.n_resamples, seed=cfg.seed
        )
        return fired, choice, found

    fired, choice, found = scored(SAE_ARM, question.codes)
    groups = place.group[place.problem["test"][question.codes[place.problem["test"]] >= 0]]
    between_test = bootstrap_ratio(ceiling.within, ceiling.total, groups, n_resamples=cfg.n_resamples)
    variable = Variable(
        **vars(_recovered(found)),
        place=At(hook_name=place.place.hook_name, thought_idx=place.place.thought),
        n_values=n_values,
        probe=_number(bootstrap_mean(ceiling.right, groups, n_resamples=cfg.n_resamples)),
        variance_share=Number(
            value=1 - between_test.estimate,
            low=1 - between_test.high,
            high=1 - between_test.low,
            n=between_test.n,
            split="test",
        ),
        permuted=_recovered(scored(SAE_ARM, _dealt(question.codes, cfg.seed))[2]),
        baselines={arm: _recovered(scored(arm, question.codes)[2]) for arm in arms.baselines},
    )
    into, sharing = splitting(fired, choice)
    rows = [
        ValueRow(
            variable=question.label.name,
            condition=question.condition,
            value=value,
            hook_name=place.place.hook_name,
            thought_idx=place.place.thought,
            latent=int(choice.one[v]),
            precision=float(found.precision[v]),
            recall=float(found.recall[v]),
            f1=float(found.f1[v]),
            second=int(choice.two[v, 1] if choice.two[v, 0] == choice.one[v] else choice.two[v, 0]),
            f1_of_two=float(found.f1_of_two[v]),
            n_latents=int(into[v]),
            n_sharing=int(sharing[v]),
            n=int((fired.y == v).sum()),
            split="test",
        )
        for v, value in enumerate(question.values)
    ]
    return variable, rows, _places(question, seen, probe, between, at)


def _places(
    question: Question, seen: Sequence[Seen], probe: np.ndarray, between: np.ndarray, at: int
) -> list[PlaceRow]:
    rows = []
    for i, one in enumerate(seen):
        fired, _ = one.fired(SAE_ARM, "validation", question.codes)
        choice = choose(fired, len(question.values))
        rows.append(
            PlaceRow(
                variable=question.label.name,
                condition=question.condition,
                hook_name=one.place.hook_name,
                thought_idx=one.place.thought,
                probe=float(probe[i]),
                variance_share=float(between[i]),
                best_f1=float(choice.f1.mean()),
                best_f1_of_two=float(choice.f1_of_two.mean()),
                chosen=i == at,
                n=len(fired.y),
            )
        )
    return rows


def _dealt(codes: Int[np.ndarray, " problems"], seed: int) -> Int[np.ndarray, " problems"]:
    """The values dealt anew to the problems that are asked about."""
    dealt, asked = codes.copy(), np.flatnonzero(codes != -2)
    dealt[asked] = codes[np.random.default_rng((seed, 6)).permutation(asked)]
    return dealt


def _recovered(found: Score) -> Recovered:
    return Recovered(
        found=_number(found.found), found_by_two=_number(found.found_by_two), best_f1=_number(found.best_f1)
    )


def _number(interval: Interval) -> Number:
    return Number(value=interval.estimate, low=interval.low, high=interval.high, n=interval.n, split="test")


def _objections(variables: dict[str, VariableBy]) -> list[str]:
    """Where the SAE finds no more than k-means does, and k-means finds at least half of the values."""
    said = []
    for name, one in variables.items():
        rival, ours = one.baselines["kmeans"].found_by_two.value, one.found_by_two
        assert rival is not None and ours.low is not None and ours.high is not None
        if rival < max(ours.low, 0.5):
            continue
        so = (
            "this dictionary holds shreds of the values; try a smaller k"
            if rival > ours.high
            else "no superposition is needed to explain these states"
        )
        said.append(f"{name}: the SAE tells {ours.value:.0%} of the values, k-means {rival:.0%}: {so}")
    return said
