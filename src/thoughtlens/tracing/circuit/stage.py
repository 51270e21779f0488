"""The circuit stage: which thought makes which, every edge tried by an intervention, and the graph put to the
test: the best edges cut, as many others cut, and nothing but the shown ones kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.stats
import torch
from torch import Tensor

from thoughtlens.acts import ActivationStore, StoreSize, thought_model
from thoughtlens.core import DataError, Number, Plan, Result, progress, run_stage, write_rows
from thoughtlens.latents import of_thoughts
from thoughtlens.models import ThoughtModel, beside, encoded, is_right, parse_number, thoughts
from thoughtlens.numerics import proportion
from thoughtlens.problems import Rule, Step
from thoughtlens.tracing.circuit.config import CircuitConfig
from thoughtlens.tracing.circuit.graph import COLUMNS, GUARD, N_GRAPHS, PASSED, PRESENT, SHUFFLED, Trials
from thoughtlens.tracing.circuit.paths import (
    OTHER,
    STATE,
    Course,
    Edge,
    places,
    said,
    trials,
    without,
    words_of,
)
from thoughtlens.tracing.circuit.records import Arm, CircuitOutcome, Cut, EdgeRow, Node
from thoughtlens.tracing.read.lenses import logit_lens
from thoughtlens.tracing.read.rules import rule_for
from thoughtlens.tracing.read.seen import seen
from thoughtlens.tracing.read.subject import problems_of

OWN, PAUSE = "thoughts", "pause"
BEST = 20
"""Edges that are cut, the best ones and as many others."""
KEPT = 60
"""Edges that are kept, the best ones."""
PROBLEM = "problem"
"""The variable that is everything: another problem."""
IDLE = 0.05
"""Effects below this are surely small where their whole interval is."""
RIGHT = 0.5
"""Share of right answers that there must be for a cut to be judged by them."""
LEAST = 4
"""Problems without which nothing is said."""

DEFINITIONS = {
    "varies": "mean over problems and coordinates of (twin - own)^2 / variance over problems, of the "
    "target's state, keys and values (of the answer: logits of its first token, about their mean)",
    "effect": "sum over problems of <change made, twin's change> / sum of |twin's change|^2, in standard "
    "deviations; less the same of a change as long in a random direction. The change is made on this edge "
    "alone, all else being as in the untouched run",
    "attribution": "100 times the effect of a hundredth of the change",
    "interval": "95 %, whole groups resampled",
    "q": "Benjamini and Hochberg's over all edges that are tried, p by Student's t over groups",
    "flow": "share of the target's change that the edge brings (effect + at_random), times the sum of "
    f"the flows of {PASSED} or more that leave its target",
    "turned": "sum over problems of |change made|^2 less that of a random change / sum of |twin's change|^2",
    "shown": f"varies of the target at least {PRESENT}, and the edge carries (q and flow within the limits "
    "asked for, the effect above 0) or guards (q of `turned` by the same test within the limit, `turned` "
    f"times what flows on from the target at least {GUARD})",
    "stability": f"share of {N_GRAPHS} graphs that show the edge, each of problems drawn anew (whole groups)",
    "arm shuffled": "what each edge gives is looked for in the change of another problem's target",
    "variable problem": "all at once: another problem of equal length instead of a twin",
    "cut": "the edges carry what they carry in another problem of equal length; right answers, Wilson's 95 % "
    "interval",
    "cut matched": "as many edges that are not shown, each the one whose states differ most nearly as much "
    "between problems as those of one of the best",
    "cut idle": "the same of edges that are not shown, and whose effect's interval and `turned` lie below "
    f"{IDLE} for every variable",
    "keep": "all other edges are cut",
}


def plan(cfg: CircuitConfig) -> Plan:
    """Runs of the model, memory and time; zeros where the store does not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    rows = 1500 * cfg.n
    return Plan(
        rows=rows,
        memory_bytes=1e9 + min(cfg.n, cfg.batch_size) * 1e5,
        disk_bytes=1e5,
        seconds=4 + rows * 5e-5,
    )


def circuit(cfg: CircuitConfig, out: str | Path) -> Result:
    """Find the circuit of a store's problems; `edges.parquet` holds every edge that was tried.

    Raises:
        MismatchError: other weights than those that made the store.
        DataError: problems whose source does not say what a step is, or too few of them.
        HookError: a model that does not give out what it remembers.
    """
    return run_stage("circuit", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": Path(cfg.acts)})


@dataclass(frozen=True, eq=False)
class _Batch:
    """Problems of one batch: their run, their twins by variable, and the words that each variable is."""

    rows: list[int]
    questions: list[str]
    own: Course
    twins: Mapping[str, Course]
    words: Mapping[str, Tensor]

    @cached_property
    def donor(self) -> tuple[Course, list[bool]]:
        """Another problem of equal length for each, and which have one."""
        length = self.own.states[0].mask.sum(1).tolist()
        other = [*range(len(length))]
        for own in set(length):
            rows = [i for i, n in enumerate(length) if n == own]
            for i, j in zip(rows, [*rows[1:], rows[0]], strict=True):
                other[i] = j
        start = self.own.model.encode([self.questions[j] for j in other])
        return Course.of(self.own.model, start), [i != j for i, j in enumerate(other)]

    def variables(self) -> Iterator[tuple[str, Course, dict[str, Tensor], Tensor]]:
        """Each variable, the run with another value of it, the sources, and which problems count."""
        every = torch.ones(len(self.rows))
        for name, twin in self.twins.items():
            yield name, twin, places(self.own, self.words[name], name), every
        donor, fits = self.donor
        yield PROBLEM, donor, self.sources, torch.tensor(fits, dtype=every.dtype)

    @cached_property
    def sources(self) -> dict[str, Tensor]:
        """The positions of all sources at once."""
        merged = {
            name: at
            for variable, words in self.words.items()
            for name, at in places(self.own, words, variable).items()
        }
        said = torch.stack([*self.words.values()]).any(0)
        merged[OTHER] = merged[OTHER] & ~said
        return merged


@dataclass(frozen=True, eq=False)
class _Subject:
    """Who thinks about what, and the twins of its problems by variable."""

    cfg: CircuitConfig
    model: ThoughtModel
    table: pa.Table
    twins: Mapping[str, list[str]]

    @cached_property
    def questions(self) -> list[str]:
        return self.table["question"].to_pylist()

    @cached_property
    def groups(self) -> np.ndarray:
        return np.unique(self.table["group_id"].to_pylist(), return_inverse=True)[1]

    def batches(self) -> Iterator[_Batch]:
        """Made anew each time, so that no more than one batch's states are kept."""
        for state in encoded(self.model, self.questions, batch_size=self.cfg.batch_size):
            rows = state.rows.tolist()
            own = Course.of(self.model, state)
            twins = {
                variable: Course.of(self.model, self.model.encode([asked[i] for i in rows]))
                for variable, asked in self.twins.items()
            }
            words = {variable: words_of(own, twin) for variable, twin in twins.items()}
            yield _Batch(rows, [self.questions[i] for i in rows], own, twins, words)

    @cached_property
    def spread(self) -> list[Tensor]:
        """By target, the standard deviation of each coordinate over problems."""
        parts: list[list[tuple[int, Tensor, Tensor]]] = []
        for state in encoded(self.model, self.questions, batch_size=self.cfg.batch_size):
            left = [one.double() for one in Course.of(self.model, state).left]
            parts.append([(len(one), one.mean(0), one.var(0, correction=0)) for one in left])
        found = [_pooled(of_target) for of_target in zip(*parts, strict=True)]
        return [std.clamp_min(1e-3 * float(std.max()) + 1e-9) for std in found]


def _work(cfg: CircuitConfig, tmp: Path) -> CircuitOutcome:
    store = ActivationStore.open(cfg.acts)
    model = thought_model(store)
    own, n_steps = _subject(cfg, store, model)
    subjects = {OWN: own}
    control = thoughts.load(cfg.pause) if cfg.pause else beside(model, PAUSE)
    if model.spec.feeds_back and control is not None:
        subjects[PAUSE] = replace(own, model=control)
    tried: dict[str, Trials] = {}
    with progress("circuit", len(subjects), "models") as bar:
        for name, subject in subjects.items():
            tried[name] = _tried(cfg, subject)
            bar.advance(1)
    rows = {name: found.rows(cfg, name) for name, found in tried.items()}
    rows[SHUFFLED] = tried[OWN].shuffled().rows(cfg, SHUFFLED)
    write_rows(tmp / "edges.parquet", EdgeRow, [row for own_rows in rows.values() for row in own_rows])
    shown = [row for row in rows[OWN] if row.shown]
    cuts = _cuts(own, rows[OWN])
    arms = [_arm(name, len(own.table), own_rows) for name, own_rows in rows.items()]
    foretold = np.array([row.attribution for row in rows[OWN]])
    effects = np.array([row.effect for row in rows[OWN]])
    return CircuitOutcome(
        split=cfg.split,
        model=store.meta.model,
        model_digest=store.meta.model_digest,
        n=len(own.table),
        n_steps=n_steps,
        nodes=_nodes(own, rows[OWN]),
        edges=shown,
        rank_correlation=_finite(float(np.asarray(scipy.stats.spearmanr(foretold, effects))[0])),
        slope=_finite(float(foretold @ effects / max(foretold @ foretold, 1e-30))),
        cuts=cuts,
        arms=arms,
        headline={f"accuracy_{cut.name.replace(' ', '_')}": cut.accuracy for cut in cuts},
        definitions=DEFINITIONS,
        warnings=_doubts(arms, shown, cuts[0].accuracy.value),
    )


def _subject(cfg: CircuitConfig, store: ActivationStore, model: ThoughtModel) -> tuple[_Subject, int]:
    """The problems of one number of steps that have a twin in every variable."""
    if not model.spec.n_thoughts:
        raise DataError("circuit: this model has no thoughts, so no thought makes another")
    table = problems_of(store, cfg.split, store.problems.num_rows, cfg.seed, "circuit")
    rule = rule_for(model, table)
    if rule is None:
        raise DataError(
            "circuit: what a step is, these problems do not say, so no twins can be made that differ in one "
            "variable"
        )
    asked = [rule.asked(question) for question in table["question"].to_pylist()]
    known = Counter(n for n in asked if n is not None)
    if not known:
        raise DataError("circuit: these questions do not say how many steps they ask for, so none are alike")
    n_steps = cfg.n_steps or known.most_common(1)[0][0]
    chosen = [i for i, n in enumerate(asked) if n == n_steps][: 2 * cfg.n]
    table = table.take(pa.array(chosen, pa.int64()))
    lens = logit_lens(of_thoughts(model), model.spec.thoughts)
    base = seen(model, lens, table["question"].to_pylist(), max_new_tokens=16) if len(table) else None
    rng = np.random.default_rng((cfg.seed, 93))
    kept: list[int] = []
    twins: dict[str, list[str]] = {name: [] for name in ("start", *(f"op{k}" for k in range(1, n_steps + 1)))}
    for i, question in enumerate(table["question"].to_pylist()):
        assert base is not None
        made = _twins(rule, question, rule.join(question, base.said(i), base.answers[i]), n_steps, rng)
        if made is not None and len(kept) < cfg.n:
            kept.append(i)
            for name, text in made.items():
                twins[name].append(text)
    if len(kept) < LEAST:
        raise DataError(
            f"circuit: expected {LEAST} or more problems of {n_steps} steps in {cfg.acts} whose thoughts say "
            f"every step and that have a twin in each, got {len(kept)} of {len(table)}; split {cfg.split!r} "
            f"has problems of {', '.join(map(str, sorted(known))) or 'no known number of'} steps"
        )
    return _Subject(cfg, model, table.take(kept), twins), n_steps


def _twins(
    rule: Rule, question: str, chain: Sequence[Step], n_steps: int, rng: np.random.Generator
) -> dict[str, str] | None:
    """The question with another start value, and with another operand in each step; None where one lacks."""
    start = rule.restarted(question, rng)
    made = [rule.twin(question, chain[: k + 1], rng) for k in range(n_steps)] if len(chain) == n_steps else []
    found = {"start": start} | {f"op{k}": None if m is None else m.question for k, m in enumerate(made, 1)}
    texts = {name: text for name, text in found.items() if text is not None}
    return texts if len(texts) == n_steps + 1 and len(set(texts.values())) == len(texts) else None


def _pooled(parts: Sequence[tuple[int, Tensor, Tensor]]) -> Tensor:
    """Standard deviations over problems of which batches have n, mean and variance."""
    n = torch.tensor([float(k) for k, _, _ in parts]).double()[:, None]
    means, variances = (torch.stack(of) for of in ([m for _, m, _ in parts], [v for _, _, v in parts]))
    total, mean = n.sum(), (n * means).sum(0) / n.sum()
    return ((n * (variances + (means - mean) ** 2)).sum(0) / (total - 1).clamp_min(1)).sqrt().float()


def _tried(cfg: CircuitConfig, subject: _Subject) -> Trials:
    """Every edge for every variable, added up over groups of problems."""
    found: dict[tuple[str, Edge], np.ndarray] = {}
    n_groups = int(subject.groups.max()) + 1
    for batch in subject.batches():
        groups = subject.groups[batch.rows]
        for variable, twin, sources, counts in batch.variables():
            for one in trials(batch.own, twin, sources, subject.spread, cfg.seed):
                sums = found.setdefault((variable, one.edge), np.zeros((n_groups, len(COLUMNS))))
                for column, name in enumerate(COLUMNS):
                    part = (counts * getattr(one, name)).double().numpy()
                    sums[:, column] += np.bincount(groups, weights=part, minlength=n_groups)
    width = np.array([len(own) for own in subject.spread])
    return Trials.of(found, len(subject.table), width)


def _number(place: str) -> float:
    """Of a thought; the answer comes last, the question first."""
    kind, _, number = place.partition(" ")
    return float(number) if kind == "thought" else np.inf if kind == "answer" else -1.0


def _edge(row: EdgeRow, n_thoughts: int) -> Edge:
    number = _number(row.target)
    return Edge(row.source, n_thoughts if np.isinf(number) else int(number), row.route)


def _cuts(own: _Subject, rows: Sequence[EdgeRow]) -> list[Cut]:
    """Right answers untouched, without the best edges, without as many others, and with few edges alone."""
    n_thoughts = len(own.model.spec.thoughts)
    worth: dict[Edge, tuple[bool, float]] = {}
    most: dict[Edge, float] = {}
    for row in rows:
        edge = _edge(row, n_thoughts)
        most[edge] = max(most.get(edge, 0.0), row.high, row.turned or 0.0)
        worth[edge] = max(worth.get(edge, (False, 0.0)), (row.shown, row.flow))
    order = sorted(worth, key=lambda edge: worth[edge], reverse=True)
    n_shown = sum(shown for shown, _ in worth.values())
    best = order[: min(BEST, n_shown)]
    tries = {
        "untouched": ("nothing is cut", set[Edge]()),
        "cut best": (f"the {len(best)} shown edges through which most flows are cut", {*best}),
        "cut matched": ("as many other edges are cut", _matched(own, best, {*order[n_shown:]})),
        "cut idle": (
            "as many edges are cut whose effects are surely small",
            _matched(own, best, {edge for edge in order[n_shown:] if most[edge] < IDLE}),
        ),
        "keep shown": (f"all but the {n_shown} shown edges are cut", {*order[n_shown:]}),
        f"keep {KEPT}": (f"all but the best {KEPT} of {len(order)} edges are cut", {*order[KEPT:]}),
    }
    right, scored = {name: list[float]() for name in tries}, list[int]()
    answers = own.table["answer"].to_pylist()
    for batch in own.batches():
        donor, fits = batch.donor
        scored += [i for i, fit in zip(batch.rows, fits, strict=True) if fit]
        for name, (_, edges) in tries.items():
            texts = said(own.model, without(batch.own, donor, edges, batch.sources), 16)
            answered = zip(batch.rows, texts, fits, strict=True)
            right[name] += [
                float(is_right(text, parse_number(text), str(answers[i]))) for i, text, fit in answered if fit
            ]
    return [
        Cut(name=name, about=about, n_edges=len(edges), accuracy=_share(own, right[name], scored))
        for name, (about, edges) in tries.items()
    ]


def _share(own: _Subject, right: Sequence[float], rows: Sequence[int]) -> Number:
    """Of right answers; nobody knows it where no problem has another one of equal length."""
    if not rows:
        return Number(value=None, n=0)
    number = proportion(np.array(right), own.groups[[*rows]]).number(own.cfg.split)
    return replace(number, n=len(rows))


def _matched(own: _Subject, best: Sequence[Edge], outside: set[Edge]) -> set[Edge]:
    """For each of the best edges one of the others that carries what differs as much between problems."""
    batch = next(own.batches())
    donor, _ = batch.donor
    length = {edge: _length(batch, donor, edge) for edge in {*best, *outside}}
    found: set[Edge] = set()
    for edge in best:
        left = [one for one in outside - found if length[one] > 0]
        if left:
            found.add(min(sorted(left), key=lambda one: abs(np.log(length[one] / max(length[edge], 1e-12)))))
    return found


def _length(batch: _Batch, donor: Course, edge: Edge) -> float:
    """How far what an edge carries lies from that of another problem, mean over problems."""
    model, state, other = batch.own.model, batch.own.states[edge.target], donor.states[edge.target]
    if edge.route == STATE:
        return float((other.pending - state.pending).flatten(1).norm(dim=1).mean())
    layer, at = int(edge.route.split(":")[0].split(".")[1]), batch.sources[edge.source]
    where = at[:, None, : state.mask.shape[1], None]
    pairs = zip(model._memory(state, layer), model._memory(other, layer), strict=True)
    parts = [torch.where(where, b[:, :, : a.shape[2]] - a, 0.0).flatten(1) for a, b in pairs]
    return float(torch.cat(parts, 1).norm(dim=1).mean())


def _arm(name: str, n: int, rows: Sequence[EdgeRow]) -> Arm:
    shown = [row for row in rows if row.shown]
    flow = {
        variable: sum(row.flow for row in shown if row.variable == variable and _number(row.source) < 0)
        for variable in dict.fromkeys(row.variable for row in rows)
    }
    return Arm(
        name=name,
        n=n,
        n_tried=len(rows),
        n_shown=len(shown),
        n_state=sum(row.route == STATE for row in shown),
        flow=flow,
    )


def _nodes(own: _Subject, rows: Sequence[EdgeRow]) -> list[Node]:
    """Where shown edges begin or end."""
    named = {end for row in rows if row.shown for end in (row.source, row.target)}
    varies: dict[str, dict[str, float]] = {}
    for row in rows:
        varies.setdefault(row.target, {})[row.variable] = row.varies
    return [
        Node(
            name=name,
            thought_idx=int(_number(name)) if name.startswith("thought ") else None,
            varies=varies.get(name, {}),
        )
        for name in sorted(named, key=lambda name: (_number(name), name))
    ]


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _doubts(arms: Sequence[Arm], shown: Sequence[EdgeRow], right: float | None) -> list[str]:
    notes = []
    if right is None:
        notes.append("no problem has another one of as many tokens: the circuit was not put to the test")
    elif right < RIGHT:
        notes.append(
            f"only {right:.0%} of answers are right with nothing cut, so they cannot tell what a cut does"
        )
    if not any(row.route == STATE for row in shown):
        notes.append("no edge goes through a fed-back state: the thoughts do not make each other that way")
    for variable, flow in arms[0].flow.items():
        if variable != PROBLEM and not 0.5 <= flow <= 1.5:
            notes.append(
                f"{variable}: shown edges carry {flow:.0%} of the answer's change; the rest takes ways that "
                f"were not shown, or ways that only act together"
            )
    if not any(arm.name == PAUSE for arm in arms):
        notes.append("no control with pause tokens lies beside this model; name one with circuit.pause=MODEL")
    return notes
