"""The trace stage: the chain that a problem's thoughts computed, found without its labels, each step tested.

What is read at each thought is joined to steps by what a step of these problems is (`problems.tasks.steps`),
and a step counts as verified only where it follows a changed operand and the answer follows it. The same is
done where it must fail: with another problem's readings, with a lens that names the wrong words, on a model
that does not feed its thoughts back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from thoughtlens.acts import ActivationStore, StoreSize, thought_model
from thoughtlens.core import (
    BY_NAME,
    ConfigError,
    Number,
    Parts,
    Plan,
    Result,
    progress,
    run_stage,
    schema,
    to_table,
    warn,
)
from thoughtlens.latents import TRANSLATORS, of_thoughts, own_sae
from thoughtlens.models import ThoughtModel, beside, is_right, parse_number, thoughts
from thoughtlens.numerics import proportion
from thoughtlens.problems import Rule, first_break, written
from thoughtlens.sae import SAE, Crosscoder
from thoughtlens.tracing.chains.config import TraceConfig
from thoughtlens.tracing.chains.records import (
    READERS,
    Arm,
    ChainRow,
    LensRow,
    PlaceRow,
    StepRow,
    ThoughtRow,
    TraceOutcome,
)
from thoughtlens.tracing.chains.tried import LABELS, VERIFIED, Tested, Trace
from thoughtlens.tracing.chains.tried import trace as follow
from thoughtlens.tracing.read.fitted import PROBE, Material, choose, keep
from thoughtlens.tracing.read.lenses import Lenses, logit_lens
from thoughtlens.tracing.read.rules import rule_for
from thoughtlens.tracing.read.seen import Relabel, Seen, renamed, seen, shuffled
from thoughtlens.tracing.read.subject import problems_of

OWN = "thoughts"
ABOUT = {
    OWN: "the model itself",
    "pause": "the model trained with pause tokens, which feeds nothing back",
    "shuffled": "every problem with the readings of another one",
    "renamed": "the lens with its words in other places",
}
DEFINITIONS = {
    "precision": "verified steps whose operation and value are those of the labels / verified steps",
    "recall": "the same / steps of the problems' labels, whether or not the model answers right",
    "verified": "the reading follows another operand in the question; with the twin's thought put in, the "
    "answer becomes the twin's, and so does the next value that is read; the last step also gives the answer",
    "read but not used": "the step is read and holds, and the answer or the next value does not follow it",
    "used but not read": "the answer follows the thought, and no value is read there",
    "contradicts the answer": "what is read, or answered, is not what the operation makes of the value "
    "before",
    "twin": "the same question with another operand in the step's operation",
    "null": "probability of the same word at the same thought of the other problems, mean",
    "reading": "the likeliest word of softmax(W_U norm(thought_out)), logit lens; or of what `lenses` says "
    "reads this thought: tuned lens, latents or linear probe, where with them more steps hold, less those "
    "that do not, on problems of another split (by .05 per problem at least, and two standard errors)",
    "interval": "95 %, problems of one group together (Wilson's at the number of independent rows)",
    "found": "problems of whose labels every step was verified; found_right: of those answered right",
    "breaks_at": "the step from which on the answer does not follow from what is read, or that is missing; "
    "departs_at: or whose operation is not the one that the question asks for in its place",
    "first_match": "the first thought that is read as the model's own answer; stable_match: from which on "
    "all are",
}


def trace(cfg: TraceConfig, out: str | Path) -> Result:
    """Trace the problems of a store's split; `steps.parquet` and `problems.parquet` hold every one.

    Raises:
        MismatchError: other weights than those that made the store.
        StoreError: a store of texts.
        DataError: no problems in the split, or none with a question.
    """
    return run_stage("trace", cfg, out, lambda tmp: _work(cfg, tmp), inputs=_inputs(cfg))


def _inputs(cfg: TraceConfig) -> dict[str, Path]:
    """What it reads."""
    named = {"acts": cfg.acts, "sae": cfg.sae, "lens": cfg.lens}
    return {name: path for name, path in named.items() if path is not None}


def plan(cfg: TraceConfig) -> Plan:
    """Runs of the model, memory and time; zeros where the store does not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    runs = 16 * (cfg.n + len(cfg.controls) * cfg.n_control)
    d = max(store.d_in.values())
    return Plan(
        rows=runs, memory_bytes=1e9 + cfg.n * d * 800.0, disk_bytes=cfg.n * 400.0, seconds=4 + runs * 0.002
    )


@dataclass(frozen=True, eq=False)
class _Subject:
    """Who is traced, on which problems."""

    cfg: TraceConfig
    model: ThoughtModel
    table: pa.Table
    rule: Rule | None
    lenses: Lenses

    @cached_property
    def questions(self) -> list[str]:
        return self.table["question"].to_pylist()

    @cached_property
    def groups(self) -> np.ndarray:
        return np.unique(self.table["group_id"].to_pylist(), return_inverse=True)[1]

    @cached_property
    def gold(self) -> list[list[tuple[str | None, str]]] | None:
        """By problem the steps of its labels: operation, or None where they have none, and value."""
        names = self.table.column_names
        value = "v" if "v1" in names else "hop"
        count = next(k for k in range(len(names) + 1) if f"{value}{k + 1}" not in names)
        if not count:
            return None
        values = [self.table[f"{value}{k}"].to_pylist() for k in range(1, count + 1)]
        there = all(f"op{k}" in names for k in range(1, count + 1))
        operations = [self.table[f"op{k}"].to_pylist() if there else None for k in range(1, count + 1)]
        return [
            [
                (op and op[i], written(v[i]))
                for op, v in zip(operations, values, strict=True)
                if v[i] is not None
            ]
            for i in range(len(self.table))
        ]

    def share(self, hits: Sequence[bool | None], rows: Iterable[int]) -> Number | None:
        """Share of hits, with the problems that they belong to; None without any."""
        if not len(hits):
            return None
        found = proportion(np.asarray(hits, dtype=float), self.groups[list(rows)])
        return replace(found.number(self.cfg.split), n=len(hits))

    def run(self, questions: Sequence[str], hooks: Sequence = (), states: bool = False) -> Seen:
        """The model on questions, read."""
        return seen(
            self.model,
            self.lenses,
            questions,
            hooks,
            states=states,
            batch_size=self.cfg.batch_size,
            max_new_tokens=self.cfg.max_new_tokens,
        )

    def said(self, i: int, answer: str) -> str:
        """An answer to one problem as a value is written."""
        return answer if self.rule is None else self.rule.answer(self.questions[i], answer)

    def first(self, n: int) -> _Subject:
        """The first problems alone."""
        return replace(self, table=self.table.slice(0, n))


def _work(cfg: TraceConfig, tmp: Path) -> TraceOutcome:
    store, parts = ActivationStore.open(cfg.acts), Parts(tmp)
    _require_readers(cfg)
    model = thought_model(store)
    table = problems_of(store, cfg.split, cfg.n, cfg.seed, "trace")
    rule = rule_for(model, table)
    lenses, told = _lenses(cfg, store, model, rule)
    keep(lenses, tmp / READERS)
    own = _Subject(cfg, model, table, rule, lenses)
    notes: list[str] = []
    if model.spec.n_thoughts == 0:
        notes.append("nothing to trace: this model has no thoughts")
    if rule is None:
        notes.append("what a step is, these problems do not say: readings are shown and not joined")
    if not model.spec.feeds_back and model.spec.n_thoughts:
        notes.append("this model feeds nothing back: what is read are pause positions, not thoughts")
    arms = {OWN: own}
    if rule is not None and model.spec.n_thoughts:
        arms |= _controls(own, store, notes)
        notes += _only_probes(lenses)
    base: Seen | None = None
    with progress("trace", len(arms), "traces") as bar:
        for name, subject in arms.items():
            for _ in parts.todo([name]):
                found = _traced(subject, _relabel(name, subject))
                base = found.seen if name == OWN else base
                parts.write_table(name, "steps", to_table(StepRow, _step_rows(name, subject, found)))
                parts.write_table(name, "problems", to_table(ChainRow, _problem_rows(name, subject, found)))
                parts.finish(name, _arm(name, subject, found))
            bar.advance(1)
    for name, row in (("steps", StepRow), ("problems", ChainRow)):
        parts.join(arms, name, tmp / f"{name}.parquet", schema(row))
    done = parts.summaries(arms, Arm)
    for note in notes:
        warn(note)
    first = done[0]
    shown = {"precision": first.precision, "recall": first.recall, "verified": first.verified}
    beside = {f"verified_{arm.name}": arm.verified for arm in done[1:]}
    return TraceOutcome(
        split=cfg.split,
        model=store.meta.model,
        model_digest=store.meta.model_digest,
        n=len(table),
        rule=None if rule is None else type(rule).__name__,
        arms=done,
        thoughts=_thought_rows(own, base, parts),
        lenses=told,
        headline={name: number for name, number in (shown | beside).items() if number is not None},
        definitions=DEFINITIONS,
        warnings=[*notes, *_objections(done)],
    )


def _require_readers(cfg: TraceConfig) -> None:
    """See that what is asked for by name is there to read; by default, what is there reads.

    Raises:
        ConfigError: says what makes it.
    """
    for reader, made, stage in (("tuned", cfg.lens, "lens"), ("latents", cfg.sae, "train")):
        if made is None and reader in cfg.lenses != TraceConfig.model_fields["lenses"].default:
            raise ConfigError(
                f"lenses: {reader!r} needs what {stage} makes, and this run has none; make it first: "
                f"{BY_NAME[stage].first(Path(cfg.acts).parent)}"
            )


def _lenses(
    cfg: TraceConfig, store: ActivationStore, model: ThoughtModel, rule: Rule | None
) -> tuple[Lenses, list[LensRow]]:
    """What reads each thought, chosen on problems of other splits; a control has no SAE or translators."""
    readout, own = of_thoughts(model), model.digest == store.meta.model_digest
    others = None if rule is None or set(cfg.lenses) == {"logit"} else _other_problems(cfg, store)
    if others is None or rule is None:
        return logit_lens(readout, model.spec.thoughts), []
    translators = cfg.lens and cfg.lens / TRANSLATORS
    has_lens = own and "tuned" in cfg.lenses and translators is not None and translators.is_file()
    material = Material(
        model=model,
        readout=readout,
        rule=rule,
        fit=others[0],
        choose=others[1],
        translators=translators if has_lens else None,
        sae=_shown(cfg, store) if own and "latents" in cfg.lenses else None,
        probe="probe" in cfg.lenses,
    )
    return choose(material)


def _shown(cfg: TraceConfig, store: ActivationStore) -> SAE | None:
    """The SAE that pages show, where it reads single thoughts."""
    if cfg.sae is None:
        return None
    _, sae = own_sae(cfg.sae.parent, store, None)
    return None if isinstance(sae, Crosscoder) else sae


def _other_problems(cfg: TraceConfig, store: ActivationStore) -> tuple[pa.Table, pa.Table] | None:
    """Problems to fit lenses on and to choose them on: of train and validation, or parts of what there is."""
    table = store.problems
    rest = set(table["split"].to_pylist()) - {cfg.split}
    rest = rest & {"train", "validation"} or rest
    if not rest:
        return None
    held = "validation" if len(rest) > 1 and "validation" in rest else None
    table = table.take(np.random.default_rng((cfg.seed, 93)).permutation(len(table)))
    split = np.array(table["split"].to_pylist())
    if held is None:
        groups = table["group_id"].to_pylist()
        of_rest = dict.fromkeys(group for group, own in zip(groups, split, strict=True) if own in rest)
        quarter = set(list(of_rest)[: len(of_rest) // 4])
        chooses = np.array([group in quarter for group in groups], bool)
    else:
        chooses = split == held
    own = np.isin(split, list(rest))
    fit, choosing = (table.filter(pa.array(own & which)) for which in (~chooses, chooses))
    return fit.slice(0, cfg.n_fit), choosing.slice(0, cfg.n_fit // 4)


def _only_probes(lenses: Lenses) -> list[str]:
    """Thoughts whose steps are the reading of a probe alone."""
    found = [str(p) for p, lens in sorted(lenses.at.items()) if lens.kind == PROBE]
    one = f"thought {found[0]} is" if len(found) == 1 else f"thoughts {', '.join(found)} are"
    return [
        f"{one} read by a linear probe alone: neither the model's output side nor latents say a step there"
    ] * bool(found)


def _controls(own: _Subject, store: ActivationStore, notes: list[str]) -> dict[str, _Subject]:
    """Every control that is asked for and can be made."""
    found = {}
    small = own.first(own.cfg.n_control)
    for name in own.cfg.controls:
        if name != "pause":
            found[name] = small
        elif not own.model.spec.feeds_back:
            continue
        elif (
            control := thoughts.load(own.cfg.pause) if own.cfg.pause else beside(own.model, name)
        ) is not None:
            lenses, _ = _lenses(own.cfg, store, control, own.rule)
            found[name] = replace(small, model=control, lenses=lenses)
        else:
            notes.append(
                "no control with pause tokens lies beside this model: what it would yield is not known; name "
                "one with trace.pause=MODEL"
            )
    return found


def _relabel(name: str, subject: _Subject) -> Relabel:
    rng = np.random.default_rng((subject.cfg.seed, 92))
    if name == "shuffled":
        return shuffled(len(subject.table), rng)
    if name == "renamed" and subject.rule is not None:
        return renamed(subject.lenses.words, subject.rule.is_value, rng)
    return lambda one: one


def _traced(subject: _Subject, relabel: Relabel) -> Trace:
    if subject.rule is None or not subject.model.spec.n_thoughts:
        found = subject.run(subject.questions)
        return Trace(seen=found, steps=[[] for _ in subject.questions])
    return follow(
        subject.model, subject.run, subject.rule, subject.questions, relabel=relabel, seed=subject.cfg.seed
    )


def _step_rows(arm: str, subject: _Subject, found: Trace) -> list[StepRow]:
    ids, rows = subject.table["problem_id"].to_pylist(), []
    for one in (step for steps in found.steps for step in steps):
        i, step = one.problem, one.step
        read = step is not None and step.word is not None
        rows.append(
            StepRow(
                arm=arm,
                problem_id=ids[i],
                step=one.number,
                operation=step and step.operation,
                read_idx=None if step is None else step.read_at,
                before=step and step.before,
                follows=step and step.follows,
                value=step and step.value,
                thought_idx=one.value_at,
                probability=float(found.seen.probability[i, one.value_at]) if read else None,
                null=float(found.seen.null[i, one.value_at]) if read else None,
                read_by=subject.lenses.at[one.value_at].kind if read else None,
                word=step and step.word,
                label=one.label,
                route=one.route,
                reading_follows=one.reading_follows,
                answer_follows=one.answer_follows,
                next_follows=one.next_follows,
                patched=one.patched,
                patched_at_random=one.patched_at_random,
                right=_is_gold(subject, one),
            )
        )
    return rows


def _is_gold(subject: _Subject, one: Tested) -> bool | None:
    """Whether a step is the one that the labels have in its place; one without operation, in any place."""
    if subject.gold is None:
        return None
    gold, step = subject.gold[one.problem], one.step
    if step is None or step.value is None:
        return False
    at = slice(one.number - 1, one.number) if gold and gold[0][0] is not None else slice(None)
    return (step.operation, step.value) in gold[at] or (None, step.value) in gold[at]


def _found(subject: _Subject, steps: Sequence[Tested]) -> bool | None:
    """Whether every step of a problem's labels was verified."""
    if subject.gold is None or not steps:
        return None if subject.gold is None else False
    said = {one.step.value for one in steps if one.label == VERIFIED and _is_gold(subject, one) and one.step}
    return {value for _, value in subject.gold[steps[0].problem]} <= said


def _problem_rows(arm: str, subject: _Subject, found: Trace) -> list[ChainRow]:
    ids = subject.table["problem_id"].to_pylist()
    rows = []
    for i, problem in enumerate(ids):
        text, rule = found.seen.answers[i], subject.rule
        steps, question = found.joined(i), subject.questions[i]
        answer = subject.said(i, text)
        first, stable = _matches(subject, found.seen.said(i), answer)
        asked = (None, None) if rule is None else (rule.asked(question), rule.wanted(question))
        rows.append(
            ChainRow(
                arm=arm,
                problem_id=problem,
                chain=", ".join(map(str, steps)),
                answer=text,
                is_right=_right(subject, i, text),
                n_steps=len(steps),
                n_verified=sum(one.label == VERIFIED for one in found.steps[i]),
                found=_found(subject, found.steps[i]),
                breaks_at=None if rule is None else first_break(steps, answer, asked[0]),
                departs_at=None if asked[1] is None else first_break(steps, answer, *asked),
                first_match=first,
                stable_match=stable,
            )
        )
    return rows


def _matches(subject: _Subject, said: Sequence[str], answer: str) -> tuple[int | None, int | None]:
    """The first thought that is read as the answer, and the one from which on all are."""
    word = answer if subject.rule is None else subject.rule.spelled(answer)
    found = [p for p in range(1, len(said)) if word and said[p] == word]
    return next(iter(found), None), next((p for p in found if set(said[p:]) == {word}), None)


def _right(subject: _Subject, i: int, answer: str) -> bool | None:
    if "answer" not in subject.table.column_names:
        return None
    gold = subject.table["answer"][i].as_py()
    return None if gold is None else is_right(answer, parse_number(answer), str(gold))


def _arm(name: str, subject: _Subject, found: Trace) -> Arm:
    """The trace in numbers."""
    steps = [one for own in found.steps for one in own]
    verified = [one for one in steps if one.label == VERIFIED]
    gold, n = subject.gold, len(subject.table)
    whole = [len(own) for own in (found.steps if gold is None else gold)]
    rows = [i for i in range(n) for _ in range(whole[i])]

    def of_all(told: Iterable[Tested]) -> Number | None:
        """Share of the steps that there should be."""
        count = Counter(one.problem for one in told)
        return subject.share([k < count[i] for i in range(n) for k in range(whole[i])], rows)

    answers = found.seen.answers
    known = [_right(subject, i, answer) for i, answer in enumerate(answers)]
    matches = [_matches(subject, found.seen.said(i), subject.said(i, answers[i])) for i in range(n)]
    whole_chains = [_found(subject, own) for own in found.steps]
    right = [i for i in range(n) if known[i]]
    return Arm(
        name=name,
        about=ABOUT[name],
        n=n,
        n_steps=len(steps),
        labels={label: sum(one.label == label for one in steps) for label in LABELS},
        verified=of_all(verified) or Number(value=None, n=len(rows), split=subject.cfg.split),
        precision=None
        if gold is None
        else subject.share([_is_gold(subject, one) for one in verified], [one.problem for one in verified]),
        recall=None if gold is None else of_all(one for one in verified if _is_gold(subject, one)),
        found=None if gold is None else subject.share(whole_chains, range(n)),
        found_right=None if gold is None else subject.share([whole_chains[i] for i in right], right),
        accuracy=None if None in known else subject.share(known, range(n)),
        matches=_some(subject.share([first is not None for first, _ in matches], range(n))),
        stable=_some(subject.share([stable is not None for _, stable in matches], range(n))),
        places=_places(subject, steps),
    )


def _some(number: Number | None) -> Number:
    assert number is not None
    return number


def _places(subject: _Subject, steps: Sequence[Tested]) -> list[PlaceRow]:
    """Tests by step, thought and route."""
    found: dict[tuple[int, int, str], list[Tested]] = {}
    for one in steps:
        if one.route is not None:
            found.setdefault((one.number, one.value_at, one.route), []).append(one)

    def share(rows: list[Tested], of: Callable[[Tested], bool | None]) -> Number | None:
        told = [(row.problem, hit) for row in rows if (hit := of(row)) is not None]
        return subject.share([hit for _, hit in told], [i for i, _ in told])

    table = []
    for (number, thought, route), rows in sorted(found.items()):
        table.append(
            PlaceRow(
                step=number,
                thought_idx=thought,
                route=route,
                n=len(rows),
                patched=_some(share(rows, lambda r: r.patched)),
                patched_at_random=_some(share(rows, lambda r: r.patched_at_random)),
                reading_follows=share(rows, lambda r: r.reading_follows),
            )
        )
    return table


def _thought_rows(own: _Subject, base: Seen | None, parts: Parts) -> list[ThoughtRow]:
    """Every thought over the problems: what kind of word is read, how sure, and what leaving there costs."""
    names = {p: f"thought {p}" for p in own.model.spec.thoughts}
    for p in [p for p, name in names.items() if name in set(parts.todo(names.values()))]:
        base = base or own.run(own.questions)
        parts.finish(names[p], _thought_row(own, base, p))
    return parts.summaries(names.values(), ThoughtRow)


def _thought_row(own: _Subject, base: Seen, p: int) -> ThoughtRow:
    left = thoughts.run(
        own.model,
        own.questions,
        n_thoughts=p,
        max_new_tokens=own.cfg.max_new_tokens,
        batch_size=own.cfg.batch_size,
    )
    right = [_right(own, i, text.strip()) for i, text in enumerate(left.text)]
    words, rule = [base.words[w] for w in base.reading[:, p]], own.rule
    offered = [rule is not None and w in rule.offers(q) for w, q in zip(words, own.questions, strict=True)]
    return ThoughtRow(
        thought_idx=p,
        entropy=_mean(base.entropy[:, p]),
        probability=_mean(base.probability[:, p]),
        null=_mean(base.null[:, p]),
        is_operation=float(np.mean(offered)),
        is_value=float(np.mean([rule is not None and rule.is_value(word) for word in words])),
        accuracy=None if None in right else own.share(right, range(len(right))),
    )


def _mean(values: np.ndarray) -> float | None:
    """Over the problems that have this thought; None where none has."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def _objections(arms: Sequence[Arm]) -> list[str]:
    """Where a control yields what the trace yields."""
    own, notes = arms[0], []
    for arm in arms[1:]:
        value, mine = arm.verified.value, own.verified.low
        if value and mine is not None and (arm.verified.high or 0) >= mine:
            notes.append(
                f"a trace that must fail does as well: {arm.about}, verified {value:.0%} of steps, the model "
                f"itself {own.verified.value:.0%}; these readings prove nothing"
            )
    return notes
