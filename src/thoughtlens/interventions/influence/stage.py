"""The influence stage: which thought moves which, and the answer, and by which way out.

Each thought is edited alone, the model thinks on, and every later thought and the answer are compared with
the untouched run: what the lens reads there, how far the state moves, and how much of what distinguishes the
donor arrives. Total: all that follows; direct: the thoughts between are held as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from thoughtlens.acts import StoreSize, load_meta, open_thoughts
from thoughtlens.core import (
    ConfigError,
    DataError,
    HookError,
    Json,
    Number,
    Parts,
    Plan,
    Record,
    Result,
    progress,
    run_stage,
    validate_config,
    warn,
    write_rows,
)
from thoughtlens.interventions.edits import changes
from thoughtlens.interventions.edits.changes import derangement
from thoughtlens.interventions.edits.places import places_of
from thoughtlens.interventions.effects.subject import Problems, held_out, twin_tables
from thoughtlens.interventions.influence.config import InfluenceConfig
from thoughtlens.interventions.influence.measure import ANSWER, Donors, Moved, Run, Target, Untouched, moved
from thoughtlens.interventions.influence.records import (
    ALIKE,
    AS_RANDOM,
    CARRIES,
    MOVES,
    NOTHING,
    ROUTES,
    SOME,
    UNCLEAR,
    Handed,
    InfluenceOutcome,
    MoveRow,
)
from thoughtlens.interventions.intervene.config import InterveneConfig, of_store
from thoughtlens.models import Place, ThoughtModel, beside, in_words, not_stated, thoughts
from thoughtlens.numerics import Interval, Tested, bootstrap_sums, cluster_index, family

DELTA = 0.05
"""Share of the donor's difference below which nothing is carried."""
FEW = 20
DEFINITIONS = {
    "total, direct": "total: the thoughts after the edited one follow from it; direct: each of them leaves "
    "behind (thought_out, keys, values) what it left without the edit, so that none hands a change on",
    "kl": "KL(untouched || edited) of what the logit lens reads at the place, of the answer's first token, "
    "nats, mean over problems; low, high: 95 % cluster bootstrap; kl_random: as large a change of the same "
    "thought in directions drawn per problem",
    "change": "|x' - x| / sqrt(mean |x - mean|^2): in units of the place's spread over the problems, mean",
    "beyond_random": "change minus change_random, paired; of the answer kl minus kl_random",
    "carried": "sum <x' - x, donor - x> / sum |donor - x|^2: the share of what distinguishes the donor there "
    "that arrives; of the answer, of the problems whose donor answers something else, the share that answers "
    "what the donor does. Unset where donor and problem do not differ, and for the mean, which has no donor",
    "reading_changes": "share of problems in which the likeliest token there, or the answer, is another one",
    "reading_follows": "of those where the donor's likeliest token is another, the share in which it becomes "
    "the donor's",
    "apart": "sqrt(mean |donor - x|^2) at the place, in its spreads; of the answer the share of problems "
    "whose donor answers something else",
    "verdict": "with a donor: carries: carried above 0.5 with its interval; in part: above 0; nothing: "
    f"within {DELTA:g} of 0; alike: apart below {DELTA:g}; else, and on fewer than {FEW} groups with another "
    "donor, unclear. Without: moves: beyond_random above 0; as random: not. After Holm's correction over the "
    "rows of a chain and edit",
    "handed_on_*": "length of the longest way from thought to thought to the answer on which every direct "
    "move of thought_out, keys or values carries: how often something is handed on between thoughts; 0: no "
    "thought hands anything on that comes to the answer",
}


def influence(cfg: InfluenceConfig, out: str | Path) -> Result:
    """Edit each thought alone, and measure what becomes of every later one and of the answer.

    The directory holds `moves.parquet`: one row per chain, edit, part of the thought, path and place.

    Raises:
        NotThereError: no such store.
        ConfigError: a store of texts, or a thought, layer or site that the model does not have.
        DataError: none of the edits can be made.
    """
    return run_stage("influence", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": cfg.acts})


def plan(cfg: InfluenceConfig) -> Plan:
    """Rows and time expected, from the config alone; a row is a problem that was thought about once."""
    store = StoreSize.of(cfg.acts)
    n_thoughts = len(cfg.thoughts or range(store.n_cells if store else 0))
    rows = cfg.n * 4 * n_thoughts * len(cfg.edits) * len(cfg.sites) * len(cfg.chains)
    return Plan(rows=rows, memory_bytes=8e8 + cfg.n * 200_000, disk_bytes=rows * 1.0, seconds=rows * 3e-4)


@dataclass(frozen=True, kw_only=True)
class _Measured(Record):
    """What is kept of one chain and edit."""

    rows: list[MoveRow]


@dataclass(frozen=True, eq=False)
class _Trial:
    """One chain under one kind of edit."""

    chain: str
    edit: str
    problems: Problems
    own: Untouched
    donors: Donors

    @property
    def name(self) -> str:
        return f"{self.chain} {self.edit}".replace(" ", "_")


def _work(cfg: InfluenceConfig, tmp: Path) -> InfluenceOutcome:
    table = of_store(cfg.acts) | {"split": cfg.split, "n": cfg.n, "seed": cfg.seed}
    one = validate_config(InterveneConfig, table)
    model = open_thoughts(one.model, one)
    layers = _layers(cfg, model)
    if strange := [p for p in cfg.thoughts or () if p not in model.spec.thoughts]:
        raise ConfigError(f"thoughts: expected 0..{model.spec.n_thoughts} of this model, got {strange[0]}")
    models, notes = _chains(cfg, model)
    trials: list[_Trial] = []
    for edit in cfg.edits:
        try:
            problems, twins = _problems(one, model, edit, cfg)
        except (ConfigError, DataError) as error:
            notes.append(f"{edit} is left out: {error}")
            continue
        trials += [
            _trial(cfg, own, edit, problems, chain=chain, twins=twins, layers=layers)
            for chain, own in models.items()
        ]
    if not trials:
        raise DataError(f"None of the edits can be made on {cfg.acts}: {'; '.join(notes)}")
    parts = Parts(tmp)
    todo = set(parts.todo([trial.name for trial in trials]))
    with progress("influence", len(trials), "edits", len(trials) - len(todo)) as bar:
        for trial in (trial for trial in trials if trial.name in todo):
            parts.finish(trial.name, _Measured(rows=list(_rows(cfg, trial))))
            bar.advance(1)
    found = [
        row
        for one_part in parts.summaries([trial.name for trial in trials], _Measured)
        for row in _judged(one_part.rows)
    ]
    if not found:
        raise DataError(f"No thought of {model.name} comes after an edited one: there is nothing to move")
    write_rows(tmp / "moves.parquet", MoveRow, found)
    if min(row.n_groups for row in found) < FEW:
        notes.append(f"some rows rest on fewer than {FEW} groups, whose intervals are too narrow (n_groups)")
    for line in notes:
        warn(line)
    shown = [row for row in found if row.layer is None]
    return InfluenceOutcome(
        model=model.name,
        model_digest=model.digest,
        split=cfg.split,
        n=max(row.n for row in found),
        layers=list(layers),
        headline=_headline(shown, cfg.split),
        moves=shown,
        definitions=DEFINITIONS,
        warnings=[*notes, *not_stated(model.settings, model.assumed)],
    )


def _layers(cfg: InfluenceConfig, model: ThoughtModel) -> tuple[int, ...]:
    if model.spec.positions_per_thought != 1:
        raise ConfigError(
            f"{model.name} works on several positions per thought; influence compares one state each"
        )
    if cfg.layers is None:
        hooks = load_meta(cfg.acts).hook_names
        return tuple(sorted({layer for hook in hooks if (layer := Place(hook).layer) is not None}))
    if strange := [layer for layer in cfg.layers if layer not in range(model.spec.n_layers)]:
        raise ConfigError(f"layers: expected 0..{model.spec.n_layers - 1} of this model, got {strange[0]}")
    return cfg.layers


def _chains(cfg: InfluenceConfig, model: ThoughtModel) -> tuple[dict[str, ThoughtModel], list[str]]:
    """The model's thoughts and what stands beside them; and what does not."""
    found, notes = {}, []
    for chain in cfg.chains:
        if chain == "thoughts":
            found[chain] = model
        elif chain == "words":
            if "words" in model.modes:
                found[chain] = in_words(model, cfg.n_words)
            else:
                notes.append(f"no chain of thought in words: {model.name} does not write one")
        elif model.spec.feeds_back:
            control = thoughts.load(cfg.pause) if cfg.pause else beside(model, "pause")
            if control is None:
                notes.append(
                    "no control with pause tokens lies beside this model; name one with influence.pause=MODEL"
                )
            else:
                found[chain] = control
    if not found:
        raise ConfigError(f"chains: none of {', '.join(cfg.chains)} is there: {'; '.join(notes)}")
    return found, notes


def _problems(
    one: InterveneConfig, model: ThoughtModel, edit: str, cfg: InfluenceConfig
) -> tuple[Problems, list[str] | None]:
    """The problems of an edit, and the questions of their twins."""
    kind, _, setting = edit.partition(" ")
    if kind == "ablate":
        return Problems(held_out(one.problems, model, split=cfg.split, n=cfg.n, seed=cfg.seed)), None
    first, second, _ = twin_tables(
        one.problems, None, model, change=setting, split=cfg.split, n=cfg.n, seed=cfg.seed
    )
    return Problems(first), second["question"].to_pylist()


def _trial(
    cfg: InfluenceConfig, model: ThoughtModel, edit: str, problems: Problems, *,
    chain: str, twins: list[str] | None, layers: tuple[int, ...],
) -> _Trial:  # fmt: skip
    own = Untouched(model, problems.questions, layers, cfg.batch_size, cfg.max_new_tokens)
    rows, theirs = np.arange(len(problems.questions)), own
    if twins is not None:
        theirs = replace(own, questions=twins)
    elif edit.endswith("resample"):
        rows = derangement(len(rows), np.random.default_rng((cfg.seed, 77)))
    return _Trial(chain, edit, problems, own, Donors(theirs, None if edit.endswith("mean") else rows))


def _rows(cfg: InfluenceConfig, trial: _Trial) -> Iterator[MoveRow]:
    """Every thought, part and path; verdicts come later."""
    own, donors, chance = trial.own, trial.donors, np.random.default_rng((cfg.seed, 79))
    todo: list[tuple[str, Run]] = []
    for site in cfg.sites:
        for thought in (p for p in own.model.spec.thoughts if cfg.thoughts is None or p in cfg.thoughts):
            if edits := [(place, donors.change(own, place)) for place in _places(own, site, thought)]:
                generator = torch.Generator().manual_seed(int(chance.integers(1 << 62)))
                random = [
                    (place, changes.random_like(change, len(x := own.batch[place]), x.shape[1], generator))
                    for place, change in edits
                ]
                todo += [(site, Run(e, direct)) for direct in (False, True) for e in (edits, random)]
    found = moved(own, donors, [run for _, run in todo])
    for i in range(0, len(todo), 2):
        site, run = todo[i]
        reached = ~torch.stack(
            [donors.states(place).isnan().any(1) | own.batch[place].isnan().any(1) for place, _ in run.edits]
        ).any(0)
        about = {
            "chain": trial.chain, "edit": trial.edit, "site": site,
            "path": "direct" if run.direct else "total", "thought_idx": run.thought,
        }  # fmt: skip
        for target, one in found[i].items():
            yield from _row(trial, about, target, (one, found[i + 1][target]), reached.numpy(), seed=cfg.seed)


def _places(own: Untouched, site: str, thought: int) -> list[Place]:
    """Where a part of a thought is edited; none where nothing reads it, or the model does not have it."""
    if site == "all":
        return own.everything(thought)
    try:
        return places_of(own.model.spec, site, (thought,), None)
    except HookError:
        return []


def _row(
    trial: _Trial, about: Json, target: Target, found: tuple[Moved, Moved], reached: np.ndarray, *, seed: int
) -> Iterator[MoveRow]:
    """The numbers of one place, of edit and control; none where fewer than two groups were reached."""
    one, chance = found
    theirs = own = np.zeros(len(reached), int)
    if target != ANSWER:
        theirs = own = trial.own.reads(target)
    if target != ANSWER and trial.donors.rows is not None:
        theirs = trial.donors.untouched.reads(target)[trial.donors.rows]
    differs = (theirs != own) & (theirs >= 0)
    beyond = one.kl - chance.kl if target == ANSWER else one.change - chance.change
    shares = {
        "kl": (one.kl, None), "change": (one.change, None), "kl_random": (chance.kl, None),
        "change_random": (chance.change, None), "beyond_random": (beyond, None),
        "reading_changes": (one.reads != own, None), "carried": (one.top, one.bottom),
        "carried_random": (chance.top, one.bottom), "apart": (one.bottom, None),
        "reading_follows": (one.reads == theirs, differs),
    }  # fmt: skip
    if target == ANSWER:  # it has no state, and what is read is the answer itself
        for name in ("change", "change_random", "reading_follows"):
            del shares[name]
    there = reached & np.isfinite(np.stack([top for top, _ in shares.values()])).all(0)
    all_groups = trial.problems.groups
    groups = all_groups[there]
    if len(np.unique(groups)) < 2:
        return
    cut = {name: (top[there], None if over is None else over[there]) for name, (top, over) in shares.items()}
    intervals = _ratios(cut, groups, seed)
    numbers: Json = {name: share.estimate for name, share in intervals.items()}
    numbers["apart"] = numbers["apart"] ** (1 if target == ANSWER else 0.5)
    if trial.donors.rows is None:
        del numbers["apart"]
    for name in ("kl", "change", "beyond_random", "carried"):
        if name in intervals:
            numbers |= {f"{name}_low": intervals[name].low, f"{name}_high": intervals[name].high}
    unlike = there & (one.bottom > 0)
    yield MoveRow.from_json(
        about
        | numbers
        | {
            "to": target.thought,
            "layer": target.layer,
            "n": int(there.sum()),
            "n_groups": len(np.unique(groups)),
        }
        | ({} if trial.donors.rows is None else {"n_carried": int(unlike.sum())})
        | {
            "n_groups_carried": len(np.unique(trial.problems.groups[unlike])),
            "p_holm": 1.0,
            "verdict": UNCLEAR,
        }
    )


def _ratios(
    shares: Mapping[str, tuple[np.ndarray, np.ndarray | None]], groups: np.ndarray, seed: int
) -> dict[str, Interval]:
    """Of each (top, bottom) sum(top) / sum(bottom), without bottom the mean; those that have a value."""
    index, n = cluster_index(groups)
    kept = {
        name: (top, np.ones(len(top)) if bottom is None else bottom) for name, (top, bottom) in shares.items()
    }
    kept = {name: pair for name, pair in kept.items() if pair[1].sum() > 0}
    sums = np.stack([np.bincount(index, one, n) for pair in kept.values() for one in pair], 1)

    def statistics(totals: Float[np.ndarray, "m pairs"]) -> Float[np.ndarray, "m k"]:
        top, bottom = totals[:, ::2], totals[:, 1::2]
        return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)

    return dict(zip(kept, bootstrap_sums(sums, statistics, seed=seed), strict=True))


def _judged(rows: Sequence[MoveRow]) -> list[MoveRow]:
    """The rows of one chain and edit with verdicts that know how many there are."""
    beyond = family([Tested(r.beyond_random_low, r.beyond_random_high, r.n_groups) for r in rows])
    shares = [r for r in rows if r.carried_low is not None and r.carried_high is not None]
    tested = [Tested(r.carried_low or 0, r.carried_high or 0, max(r.n_groups_carried, 2)) for r in shares]
    carried = dict(zip(map(id, shares), family(tested, delta=DELTA), strict=True))
    out = []
    for row, said in zip(rows, beyond, strict=True):
        word, p, share = MOVES if said.verdict == "better" else AS_RANDOM, said.p_holm, carried.get(id(row))
        if share is not None:
            whole = CARRIES if (row.carried_low or 0) > 0.5 else SOME
            word, p = {"better": whole, "equivalent": NOTHING}.get(share.verdict, UNCLEAR), share.p_holm
            if row.n_groups_carried < FEW:
                word = UNCLEAR
        if row.apart is not None and row.apart < DELTA:
            word = ALIKE
        out.append(replace(row, p_holm=p, verdict=word))
    return out


def _headline(rows: Sequence[MoveRow], split: str) -> dict[str, Number | Handed]:
    """Of each chain the longest way to the answer on which thoughts hand on what they were given."""
    found: dict[str, Number | Handed] = {}
    for chain in dict.fromkeys(row.chain for row in rows):
        own = [
            row for row in rows
            if row.chain == chain and row.path == "direct" and row.site in ROUTES and row.carried is not None
        ]  # fmt: skip
        if not own:
            continue
        way = _longest({(row.thought_idx, row.to): row for row in own if row.verdict == CARRIES})
        ways = [*(str(row.thought_idx) for row in way), "answer"]
        found[f"handed_on_{chain}"] = Handed(
            value=max(len(way) - 1, 0), n=max(row.n for row in own), split=split,
            way=" > ".join(ways) if way else None, sites=[row.site for row in way],
        )  # fmt: skip
    return found


def _longest(carrying: Mapping[tuple[int, int | None], MoveRow]) -> list[MoveRow]:
    """The longest chain of moves that ends in the answer; the later thoughts where two are as long."""
    best: dict[int | None, list[MoveRow]] = {None: []}
    for (thought, to), row in sorted(carrying.items(), key=lambda one: -one[0][0]):
        if to in best and len(best[to]) + 1 > len(best.get(thought, [])):
            best[thought] = [row, *best[to]]
    return max(best.values(), key=len)
