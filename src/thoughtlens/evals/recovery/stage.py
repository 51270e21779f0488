"""Does the dictionary hold the variables that the states hold, and does anything simpler hold them too?

For each label column, the place where a linear probe reads it and which it organises most; there, for each
value, the latent (and the two latents) that speak for it, chosen on validation problems and scored on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import Number, Plan, Result, ThoughtlensError, run_stage, write_rows
from thoughtlens.evals.heldout.subject import check_model
from thoughtlens.evals.recovery.arms import Dictionaries, dictionaries
from thoughtlens.evals.recovery.config import RecoveryConfig
from thoughtlens.evals.recovery.made import below, can_make, candidates, enough, open_model, think_again
from thoughtlens.evals.recovery.numbers import acts_of, follow, neurons
from thoughtlens.evals.recovery.places import Held, Located, locate
from thoughtlens.evals.recovery.questions import Question, Wanted, kinds, questions, tokens
from thoughtlens.evals.recovery.records import (
    RIVALS,
    At,
    Followed,
    Kinds,
    PlaceRow,
    Recovered,
    RecoveryOutcome,
    ValueRow,
    Variable,
    VariableBy,
)
from thoughtlens.evals.recovery.recover import Judge, Told, recover
from thoughtlens.evals.recovery.scores import Fired, Score, choose, layered, splitting
from thoughtlens.evals.recovery.taught import AtBest, at_best
from thoughtlens.latents import encode_numbers, number_columns, pick
from thoughtlens.models import Place
from thoughtlens.numerics import (
    Tested,
    bootstrap_means,
    bootstrap_ratio,
    family,
    holm,
    proportion,
)
from thoughtlens.sae import SAE, differences, load_members

SAE_ARM, PERMUTED = "sae", "permuted"
ALIKE = 0.05
"""Shares of values found that differ by less count as equal."""
WORDS = {
    "better": "more of the values of",
    "worse": "fewer of",
    "equivalent": f"as many (within {ALIKE}) of",
    "inconclusive": "perhaps more, perhaps fewer of",
    "neither": "like k-means, no value of",
}
OBJECTIONS = {
    "worse": "this dictionary holds shreds of the values; try a smaller k",
    "equivalent": "no superposition is needed to explain these states",
}
ALONE = " Of raw neurons, PCA directions and a random SAE, none is shown to tell as many of any variable."
NOTHING = "no label column has two values with enough problems in each split: nothing was looked for"

DEFINITIONS = {
    "found": "share of the values for which the latent chosen on validation problems fires on test problems "
    "with F1 = 2 TP / (firings + rows of the value) >= found_at; a latent fires where it is not 0",
    "found_by_two": "the same where the union of two latents speaks for a value, if it was better on "
    "validation problems",
    "best_f1": "mean over the values of that F1, one latent per value",
    "place": "of the places where a linear probe is within 0.02 of the best accuracy on validation problems, "
    "the one with the largest variance_share there",
    "probe": "accuracy of a ridge classifier on standardised states, penalty 1, fitted on training problems",
    "likeliest": "accuracy of always saying the value that is most frequent in training problems",
    "variance_share": "eta squared: 1 - squared distances from the mean of the value / from the mean of all, "
    "means of training problems",
    "permuted": "the same choice and scores with the values dealt to other problems",
    "kmeans": "as many centroids as the SAE has latents, of rows centred by place; one code per row",
    "kmeans_residual": "the same centroids, as many codes per row as the SAE's L0, each for what is left",
    "neurons, pca": "the L0 coordinates furthest out, in standard deviations, each side a latent",
    "random": "random directions with the SAE's width, rule and L0",
    "supervised": "fitted with the labels: a latent per value, which fires where the probe's score of its "
    "value is the largest of all and above the threshold of the best F1 on validation problems",
    "more_than_kmeans": "found_by_two less that of k-means on the same problems, resampled together; verdict "
    f"with delta {ALIKE}, adjusted (Holm) over the variables of a condition",
    "as_well": "those of neurons, pca and random than whose found_by_two the SAE's is at most "
    f"{ALIKE} larger at the upper end of the 95 % interval, resampled together; none where it finds no value",
    "n_latents": "latents that a value is split into, mean: half of their firings or more are the value, and "
    "they tell a tenth of it or more",
    "shared": "share of the values whose latent speaks for another value too: a tenth of its firings or more",
    "absorbed, composed": "share of rows on which the value's latent fires without, and with, its kind's",
    "rank_correlation": "Spearman's on test problems; p: of the largest one of all places and latents on "
    "validation problems, with numbers dealt to other groups",
    "interval": "low, high: 95 %, whole groups of test problems resampled, choices held; of a probe Wilson's",
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
    name, sae = pick(load_members(cfg.sae, hooks=store.meta.d_in), cfg.member)
    check_model(store, sae, name)
    asked, left_out = _questions(cfg, store)
    arms = dictionaries(store, name, sae, cfg.seed)
    held = Held(store, cfg.max_rows, cfg.seed)
    located = locate(held, asked, arms.places)
    held, located, doubts = _with_more(cfg, held, located)
    judged = _judged(cfg, held, located, arms)
    variables = _by_variable(cfg, held, located, judged)
    write_rows(tmp / "values.parquet", ValueRow, _values(located, judged.arms[SAE_ARM]))
    write_rows(tmp / "places.parquet", PlaceRow, _places(held, located, arms))
    return RecoveryOutcome(
        member=name,
        d_sae=sae.d_sae,
        l0=arms.l0,
        kind=sae.cfg.kind,
        split="test",
        found_at=cfg.found_at,
        variables=variables,
        numbers=_numbers(cfg, held, arms.places, sae),
        conclusion=_conclusion(variables),
        n_made=0 if held.made is None else len(held.made.problems),
        left_out=left_out,
        headline={f"{v}_found": one.found for v, one in variables.items()},
        definitions=DEFINITIONS,
        warnings=[
            *differences({name: sae}, store),
            *doubts,
            *_crowded(variables, sae),
            *(_objections(variables) if variables else [NOTHING]),
        ],
    )


def _wanted(cfg: RecoveryConfig, columns: tuple[str, ...] | None) -> Wanted:
    return Wanted(columns, cfg.by, cfg.max_values, cfg.min_count)


def _questions(cfg: RecoveryConfig, store: ActivationStore) -> tuple[list[Question], list[str]]:
    """About label columns; of texts also about the tokens themselves."""
    token = tokens(store, _wanted(cfg, cfg.columns))
    named = cfg.columns
    if named is not None and token is not None:
        named = tuple(name for name in named if name != token.variable)
    asked, left_out = questions(store.problems, _wanted(cfg, named), where=str(store.root))
    return [*asked, *([] if token is None else [token])], left_out


def _numbers(cfg: RecoveryConfig, held: Held, places: Sequence[Place], sae: SAE) -> dict[str, Followed]:
    """What follows numbers of too many values to be listed."""
    problems = held.problems
    named = None if cfg.columns is None else tuple(c for c in cfg.columns if c in problems.column_names)
    found: dict[str, Followed] = {}
    search = {"n_permutations": cfg.n_permutations, "n_resamples": cfg.n_resamples}
    for column in number_columns(problems, named, cfg.max_values):
        number = encode_numbers(problems[column])
        own, rival = (follow(held, number, places, acts, **search) for acts in (acts_of(sae), neurons))
        if own is None:
            continue
        found[column] = Followed(
            place=At(hook_name=own.place.hook_name, thought_idx=own.place.thought),
            latent=own.latent,
            rank_correlation=replace(own.correlation.number("test"), p=own.p),
            neurons=None if rival is None else replace(rival.correlation.number("test"), p=rival.p),
        )
    return _adjusted(found)


def _adjusted(found: dict[str, Followed]) -> dict[str, Followed]:
    """With p adjusted for the number of columns."""
    p = holm([one.rank_correlation.p or 0.0 for one in found.values()])
    return {
        name: replace(one, rank_correlation=replace(one.rank_correlation, p_holm=float(own)))
        for (name, one), own in zip(found.items(), p, strict=True)
    }


def _with_more(
    cfg: RecoveryConfig, held: Held, located: list[Located]
) -> tuple[Held, list[Located], list[str]]:
    """With further test problems until each value has `per_value`; or as they are, and why."""
    store, n_own = held.store, held.store.problems.num_rows
    if not (cfg.per_value and located and can_make(store)):
        return held, located, []
    try:
        model = open_model(store)
    except ThoughtlensError as error:
        return held, located, [f"no further test problems were made: {error}"]
    pool = candidates(store, model, cfg.most_made)
    longer = below(store.problems, pool)
    asked = {q.key: q for q in questions(longer, _wanted(cfg, cfg.columns), where=str(store.root))[0]}
    split = np.array(longer["split"])
    known = {key: asked[key] for key in asked.keys() & {one.question.key for one in located}}
    n = enough(list(known.values()), split, n_own, cfg.per_value)
    if not n:
        return held, located, []
    hooks = sorted({one.place.hook_name for one in located})
    held = replace(held, made=think_again(store, model, pool.slice(0, n), hooks))
    cut = {key: replace(one, codes=one.codes[: n_own + n]) for key, one in known.items()}
    return held, [replace(one, question=cut[one.question.key]) for one in located], []


@dataclass(frozen=True, eq=False)
class _Judged:
    """What each dictionary tells of each question, in their order."""

    judge: Judge
    arms: Mapping[str, list[Told]]
    best: list[AtBest]


def _judged(cfg: RecoveryConfig, held: Held, located: Sequence[Located], arms: Dictionaries) -> _Judged:
    judge = Judge(cfg.found_at, cfg.n_resamples, cfg.seed)
    once, number = _without_twins(located)
    dealt = [replace(one, question=_dealt(one.question, cfg.seed)) for one in once]
    told = recover(held, once, {SAE_ARM: arms.sae, **arms.baselines}, judge)
    told[PERMUTED] = recover(held, dealt, {SAE_ARM: arms.sae}, judge)[SAE_ARM]
    best = at_best(held, once, judge)
    told["supervised"] = [one.supervised for one in best]
    return _Judged(
        judge, {arm: [own[i] for i in number] for arm, own in told.items()}, [best[i] for i in number]
    )


def _without_twins(located: Sequence[Located]) -> tuple[list[Located], list[int]]:
    """Questions that differ in their rows or values, and which of them each question is."""
    first: dict[tuple[bytes, int], int] = {}
    keys = [(one.question.codes.tobytes(), len(one.question.values)) for one in located]
    number = [first.setdefault(key, len(first)) for key in keys]
    return [located[number.index(i)] for i in range(len(first))], number


def _by_variable(
    cfg: RecoveryConfig, held: Held, located: Sequence[Located], judged: _Judged
) -> dict[str, VariableBy]:
    """Each variable over all problems, with those of each condition below it."""
    verdicts = _verdicts(located, judged)
    asked = [one.question for one in located]
    found: dict[str, VariableBy] = {}
    for i, one in enumerate(located):
        variable = _variable(cfg, one, {arm: own[i] for arm, own in judged.arms.items()}, judged.best[i])
        kind = kinds(asked, one.question)
        variable = replace(
            variable,
            more_than_kmeans=verdicts[i],
            as_well=_as_well(judged, i),
            kinds=None if kind is None else _kinds(judged.judge, judged.arms[SAE_ARM][i], kind),
        )
        if not one.question.condition:
            found[one.question.variable] = VariableBy(**vars(variable))
            continue
        column, _, value = one.question.condition.partition("=")
        whole = found[one.question.variable]
        by = {**whole.by, column: {**whole.by.get(column, {}), value: variable}}
        found[one.question.variable] = replace(whole, by=by)
    return found


def _verdicts(located: Sequence[Located], judged: _Judged) -> list[Number]:
    """Of each question, what the SAE finds more than k-means; those of one condition are a family."""
    pairs = zip(judged.arms[SAE_ARM], judged.arms["kmeans"], strict=True)
    gaps = [judged.judge.difference(a, b) for a, b in pairs]
    conditions = np.array([one.question.condition for one in located], str)
    found: dict[int, Number] = {}
    for condition in np.unique(conditions):
        which = np.flatnonzero(conditions == condition)
        said = family([Tested(gaps[i].low, gaps[i].high, gaps[i].n) for i in which], delta=ALIKE)
        for i, one in zip(which.tolist(), said, strict=True):
            found[i] = replace(gaps[i].number("test"), verdict=one.verdict, p_holm=one.p_holm)
    return [found[i] for i in range(len(located))]


def _as_well(judged: _Judged, i: int) -> list[str]:
    """Baselines without labels that tell about as many values of a question as the SAE, if it tells any."""
    own = judged.arms[SAE_ARM][i]
    close = [
        arm
        for arm in RIVALS
        if own.score.found_by_two.estimate - judged.arms[arm][i].score.found_by_two.estimate <= ALIKE
    ]
    if not own.score.found_by_two.estimate:
        return []
    return [arm for arm in close if judged.judge.difference(own, judged.arms[arm][i]).high <= ALIKE]


def _variable(cfg: RecoveryConfig, one: Located, told: Mapping[str, Told], best: AtBest) -> Variable:
    ceiling, groups, own = best.ceiling, best.groups, told[SAE_ARM]
    between = bootstrap_ratio(ceiling.within, ceiling.total, groups, n_resamples=cfg.n_resamples)
    into, sharing = splitting(own.fired, own.choice)
    return Variable(
        **vars(_recovered(own.score)),
        place=At(hook_name=one.place.hook_name, thought_idx=one.place.thought),
        n_values=len(one.question.values),
        probe=proportion(ceiling.right, groups).number("test"),
        likeliest=proportion(ceiling.likeliest, groups).number("test"),
        variance_share=Number(
            value=1 - between.estimate, low=1 - between.high, high=1 - between.low, n=between.n, split="test"
        ),
        permuted=_recovered(told[PERMUTED].score),
        baselines={arm: _recovered(t.score) for arm, t in told.items() if arm not in (SAE_ARM, PERMUTED)},
        n_latents=Number(value=float(into.mean()), n=len(into), split="test"),
        shared=Number(value=float((sharing > 1).mean()), n=len(into), split="test"),
    )


def _kinds(judge: Judge, told: Told, kind: Int[np.ndarray, " v"]) -> Kinds:
    """Of values that come in kinds."""

    def of_kinds(fired: Fired) -> Fired:
        return Fired(fired.fires, np.where(fired.y >= 0, kind[fired.y], fired.y))

    n_kinds = int(kind.max()) + 1
    above = judge.told(of_kinds(told.seen), of_kinds(told.fired), told.groups, n_kinds)
    fires = layered(told.fired, told.choice, kind, above.choice.one)
    groups = told.groups[told.fired.y >= 0]
    absorbed, composed = bootstrap_means(fires, groups, n_resamples=judge.n_resamples, seed=judge.seed)
    return Kinds(
        n_kinds=n_kinds,
        found=above.score.found.number("test"),
        absorbed=absorbed.number("test"),
        composed=composed.number("test"),
    )


def _values(located: Sequence[Located], told: Sequence[Told]) -> list[ValueRow]:
    rows = []
    for one, own in zip(located, told, strict=True):
        into, sharing = splitting(own.fired, own.choice)
        choice, found, values = own.choice, own.score, one.question.values
        second = np.where(choice.two[:, 0] == choice.one, choice.two[:, 1], choice.two[:, 0])
        n = np.bincount(own.fired.y[own.fired.y >= 0], minlength=len(values))
        rows += [
            ValueRow(
                variable=one.question.variable,
                condition=one.question.condition,
                value=value,
                hook_name=one.place.hook_name,
                thought_idx=one.place.thought,
                latent=int(choice.one[v]),
                precision=float(found.precision[v]),
                recall=float(found.recall[v]),
                f1=float(found.f1[v]),
                second=int(second[v]),
                f1_of_two=float(found.f1_of_two[v]),
                n_latents=int(into[v]),
                n_sharing=int(sharing[v]),
                n=int(n[v]),
                split="test",
            )
            for v, value in enumerate(values)
        ]
    return rows


def _places(held: Held, located: Sequence[Located], arms: Dictionaries) -> list[PlaceRow]:
    rows: dict[tuple[int, int], PlaceRow] = {}
    for at, place in enumerate(arms.places):
        own = held.rows(place, "validation")
        fires = arms.sae(own.x, place)
        for i, one in enumerate(located):
            fired = Fired.asked(fires, one.question.own(own))
            choice = choose(fired, len(one.question.values))
            rows[i, at] = PlaceRow(
                variable=one.question.variable,
                condition=one.question.condition,
                hook_name=place.hook_name,
                thought_idx=place.thought,
                probe=float(one.probe[at]),
                variance_share=float(one.variance_share[at]),
                best_f1=float(choice.f1.mean()),
                best_f1_of_two=float(choice.f1_of_two.mean()),
                chosen=at == one.at,
                n=len(fired.y),
            )
    return [row for _, row in sorted(rows.items())]


def _dealt(question: Question, seed: int) -> Question:
    """The values dealt anew to the problems that are asked about."""
    dealt, asked = question.codes.copy(), np.flatnonzero(question.codes != -2)
    dealt[asked] = question.codes[np.random.default_rng((seed, 6)).permutation(asked)]
    return replace(question, codes=dealt)


def _recovered(found: Score) -> Recovered:
    return Recovered(
        found=found.found.number("test"),
        found_by_two=found.found_by_two.number("test"),
        best_f1=found.best_f1.number("test"),
    )


def _conclusion(variables: Mapping[str, VariableBy]) -> str:
    """Whether the SAE finds more of the values than k-means does, and which other plain rivals do as well."""
    said: dict[str, list[str]] = {}
    for name, one in variables.items():
        assert one.more_than_kmeans is not None and one.more_than_kmeans.verdict is not None
        none = not (one.found_by_two.value or one.baselines["kmeans"].found_by_two.value)
        said.setdefault("neither" if none else one.more_than_kmeans.verdict, []).append(name)
    parts = [f"{WORDS[word]} {', '.join(said[word])}" for word in WORDS if word in said]
    if not parts:
        return ""
    plain = {
        words: [name for name, one in variables.items() if arm in one.as_well]
        for arm, words in RIVALS.items()
    }
    also = [f"{words} of {', '.join(names)}" for words, names in plain.items() if names]
    found = any(one.found_by_two.value for one in variables.values())
    rest = f" As many (within {ALIKE}) are told by {'; '.join(also)}." if also else ALONE if found else ""
    return f"Beside k-means with as many centroids, this SAE finds {'; '.join(parts)}.{rest}"


def _crowded(variables: Mapping[str, VariableBy], sae: SAE) -> list[str]:
    return [
        f"{name}: {one.n_values} values, and the SAE has {sae.d_sae} latents: they cannot have one each"
        for name, one in variables.items()
        if one.n_values > sae.d_sae
    ]


def _objections(variables: Mapping[str, VariableBy]) -> list[str]:
    """Where the SAE finds no more than k-means does, and k-means finds at least half of the values."""
    said = []
    for name, one in variables.items():
        rival, ours = one.baselines["kmeans"].found_by_two.value, one.found_by_two.value
        word = None if one.more_than_kmeans is None else one.more_than_kmeans.verdict
        if rival is None or rival < 0.5 or word not in OBJECTIONS:
            continue
        said.append(
            f"{name}: the SAE tells {ours:.0%} of the values, k-means {rival:.0%}: {OBJECTIONS[word]}"
        )
    return said
