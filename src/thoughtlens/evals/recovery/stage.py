"""Does the dictionary hold the variables that the states hold, and does anything simpler hold them too?

For each label column, the place where a linear probe reads it and which it organises most; there, for each
value, the latent (and the two latents) that speak for it, chosen on validation problems and scored on test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import Number, Plan, Result, progress, run_stage, write_rows
from thoughtlens.evals.recovery.arms import Dictionaries, dictionaries
from thoughtlens.evals.recovery.config import RecoveryConfig
from thoughtlens.evals.recovery.records import (
    At,
    PlaceRow,
    Recovered,
    RecoveryOutcome,
    ValueRow,
    Variable,
    VariableBy,
)
from thoughtlens.evals.variables.ceilings import Ceiling
from thoughtlens.evals.variables.places import Held, Located, by_place, ceilings, locate
from thoughtlens.evals.variables.questions import Wanted, questions
from thoughtlens.evals.variables.recover import Told, recover
from thoughtlens.evals.variables.scores import Fired, Score, choose, splitting
from thoughtlens.latents import pick
from thoughtlens.numerics import Interval, bootstrap_mean, bootstrap_ratio
from thoughtlens.sae import load_members

SAE_ARM, PERMUTED = "sae", "permuted"
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
    name, sae = pick(load_members(cfg.sae, hooks=store.meta.d_in), cfg.member)
    wanted = Wanted(cfg.columns, cfg.by, cfg.max_values, cfg.min_count)
    asked, left_out = questions(store.problems, wanted, where=str(store.root))
    arms = dictionaries(store, name, sae, cfg.seed)
    held = Held(store, cfg.max_rows, cfg.seed)
    located = locate(held, asked, arms.places)
    judged = _judged(cfg, held, located, arms)
    variables = _by_variable(cfg, held, located, judged)
    write_rows(tmp / "values.parquet", ValueRow, _values(located, judged[SAE_ARM]))
    write_rows(tmp / "places.parquet", PlaceRow, _places(held, located, arms))
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


def _judged(
    cfg: RecoveryConfig, held: Held, located: Sequence[Located], arms: Dictionaries
) -> dict[str, list[Told]]:
    """By dictionary, and of the SAE on permuted labels: what it tells of each question."""
    dealt = [
        replace(one, question=replace(one.question, codes=_dealt(one.question.codes, cfg.seed)))
        for one in located
    ]
    jobs = {SAE_ARM: (located, arms.sae), PERMUTED: (dealt, arms.sae)}
    jobs |= {arm: (located, codes) for arm, codes in arms.baselines.items()}
    told = {}
    with progress("recovery", len(jobs), "dictionaries") as bar:
        for arm, (own, codes) in jobs.items():
            told[arm] = recover(held, own, codes, found_at=cfg.found_at, n_resamples=cfg.n_resamples)
            bar.advance(1)
    return told


def _by_variable(
    cfg: RecoveryConfig, held: Held, located: Sequence[Located], judged: dict[str, list[Told]]
) -> dict[str, VariableBy]:
    """Each variable over all problems, with those of each condition below it."""
    read = _ceilings(held, located)
    found: dict[str, VariableBy] = {}
    for i, one in enumerate(located):
        told = {arm: _recovered(own[i].score) for arm, own in judged.items()}
        variable = _variable(cfg, held, one, told, read[i])
        if not one.question.condition:
            found[one.question.variable] = VariableBy(**vars(variable))
            continue
        column, _, value = one.question.condition.partition("=")
        whole = found[one.question.variable]
        by = {**whole.by, column: {**whole.by.get(column, {}), value: variable}}
        found[one.question.variable] = replace(whole, by=by)
    return found


def _ceilings(held: Held, located: Sequence[Located]) -> dict[int, tuple[Ceiling, np.ndarray]]:
    """By question, on test problems at its place, with the group of each row."""
    found = {}
    number = {id(one.question): i for i, one in enumerate(located)}
    for place, own in by_place(located).items():
        train, test = (held.rows(place, split) for split in ("train", "test"))
        asked = [one.question for one in own]
        for at, ceiling in ceilings(train, test, asked):
            known = asked[at].codes[test.problem] >= 0
            found[number[id(asked[at])]] = (ceiling, held.group[test.problem[known]])
    return found


def _variable(
    cfg: RecoveryConfig,
    held: Held,
    one: Located,
    told: dict[str, Recovered],
    read: tuple[Ceiling, np.ndarray],
) -> Variable:
    ceiling, groups = read
    between = bootstrap_ratio(ceiling.within, ceiling.total, groups, n_resamples=cfg.n_resamples)
    return Variable(
        **vars(told[SAE_ARM]),
        place=At(hook_name=one.place.hook_name, thought_idx=one.place.thought),
        n_values=len(one.question.values),
        probe=_number(bootstrap_mean(ceiling.right, groups, n_resamples=cfg.n_resamples)),
        variance_share=Number(
            value=1 - between.estimate, low=1 - between.high, high=1 - between.low, n=between.n, split="test"
        ),
        permuted=told[PERMUTED],
        baselines={arm: own for arm, own in told.items() if arm not in (SAE_ARM, PERMUTED)},
    )


def _values(located: Sequence[Located], told: Sequence[Told]) -> list[ValueRow]:
    rows = []
    for one, own in zip(located, told, strict=True):
        into, sharing = splitting(own.fired, own.choice)
        choice, found, n = own.choice, own.score, np.bincount(own.fired.y[own.fired.y >= 0])
        second = np.where(choice.two[:, 0] == choice.one, choice.two[:, 1], choice.two[:, 0])
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
            for v, value in enumerate(one.question.values)
        ]
    return rows


def _places(held: Held, located: Sequence[Located], arms: Dictionaries) -> list[PlaceRow]:
    rows: dict[tuple[int, int], PlaceRow] = {}
    for at, place in enumerate(arms.places):
        own = held.rows(place, "validation")
        fires = arms.sae(own.x, place)
        for i, one in enumerate(located):
            fired = Fired.asked(fires, one.question.codes[own.problem])
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
