"""What a run found, in words: what a reader is told first, by the report and at the end of a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from thoughtlens.core import BY_NAME, Number, aligned, of_table, read_parquet, read_result, read_rows
from thoughtlens.evals import (
    RIVALS,
    ClassifyOutcome,
    PlaceRow,
    RecoveryOutcome,
    TextFidelity,
    ThoughtFidelity,
    Validated,
    ValidateOutcome,
    Variable,
    VariableBy,
)
from thoughtlens.interventions import AnswerRow, EffectRow, InterveneOutcome, found_in
from thoughtlens.latents import ExplainOutcome, ExplanationRow, open_codes, placeless
from thoughtlens.models import Place
from thoughtlens.numerics import proportion
from thoughtlens.sae import POOLED, TrainOutcome
from thoughtlens.show.pages.chain import tokens_of
from thoughtlens.show.pages.interventions import outcomes_of
from thoughtlens.show.pages.run import ProblemRow, Run
from thoughtlens.show.pages.text import between, number, percent, points, shorten

ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth")
WORDS = {
    "start": "the starting value",
    "n_steps": "the number of steps",
    "operation": "the kind of the operations",
    "chain": "how far the chain is",
    "condition": "whether the problem is clean, armed or released",
    "armed": "whether the problem is armed",
    "released": "whether the secret is released",
    "release": "whether the question says keep or tell",
    "secret_start": "the secret's starting value",
    "secret": "the secret's last value",
}
NUMBERED = {"op": ("the", "operation"), "v": ("the", "value"), "s": ("the secret's", "value")}
ARITHMETIC = {"start", "op1", "v1", "n_steps"}
"""Columns by which the project's own arithmetic is known."""
OF_MODEL = ("model_answer", "model_value", "correct")
"""Columns that tell what the model answered."""
EXPLAINED = 0.8
"""Held-out AUPRC from which an explanation counts."""
READABLE = 0.9
"""Accuracy from which a probe is said to read a variable."""
STEPS = "n_steps"
ANYWHERE = "place"
"""What a clause speaks of that holds for every problem."""


class Held(NamedTuple):
    """A variable where a probe reads it best, what else is there, and how we know."""

    name: str
    words: str
    condition: str
    place: Place
    about: Variable
    read: list[PlaceRow]
    """At every place."""
    acts: Mapping[Place, Number]
    """By place: the share of answers that become those that another value implies when it is put there."""

    @property
    def is_read(self) -> bool:
        """Whether a probe reads it, and better than by always saying the value that is likeliest."""
        probe, blind = self.about.probe, self.about.likeliest
        better = blind is None or (probe.low or 0) > (blind.value or 0)
        return (probe.value or 0) >= READABLE and better

    @property
    def rival(self) -> Number | None:
        """How many of its values k-means tells."""
        kmeans = self.about.baselines.get("kmeans")
        return kmeans and kmeans.found_by_two

    @property
    def acts_there(self) -> Number | None:
        return self.acts.get(self.place)

    @property
    def acts_most(self) -> Place | None:
        """Where another value changes most answers."""
        return max(self.acts, key=lambda at: self.acts[at].value or 0.0) if self.acts else None


@dataclass(frozen=True)
class Step:
    """One thought of a problem."""

    thought: int
    reading: str
    probability: float | None
    holds: list[str]
    latents: list[str]
    replaced: str


@dataclass(frozen=True)
class Worked:
    """One problem, thought by thought."""

    problem_id: str
    question: str
    answer: str
    given: str | None
    right: bool | None
    hook_name: str
    steps: list[Step]


class Findings:
    """What a run found; each part is empty where the run has no stage for it."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def recovery(self) -> RecoveryOutcome | None:
        """Which variables the dictionary holds."""
        folder = self.run.folder("recovery")
        if not (folder / "result.json").is_file():
            return None
        return RecoveryOutcome.from_json(read_result(folder))

    @cached_property
    def edits(self) -> dict[str, InterveneOutcome]:
        """Every intervention."""
        return outcomes_of(self.run)

    @cached_property
    def member(self) -> str | None:
        """The shown dictionary: the pooled SAE, else the first."""
        if self.recovery:
            return self.recovery.member
        names = [m.member for m in self._validated] or [row.member for row in self.run.latents()]
        return POOLED if POOLED in names else next(iter(names), None)

    @property
    def _validated(self) -> list[Validated]:
        outcome = self.run.outcome("validate", ValidateOutcome)
        return outcome.members if outcome else []

    @cached_property
    def explanations(self) -> dict[int, ExplanationRow]:
        """By latent of the shown dictionary, what it is said to speak for."""
        rows = self.run.table("explain", "explanations.parquet", ExplanationRow)
        return {row.latent: row for row in rows if row.chosen and row.member == self.member}

    def words(self, variable: str) -> str:
        """A label column as people say it."""
        if self.recovery is None or not set(self.recovery.variables) >= ARITHMETIC:
            return variable
        found = re.fullmatch(r"(op|v|s)([1-6])", variable)
        if found is None:
            return WORDS.get(variable, variable)
        whose, what = NUMBERED[found[1]]
        return f"{whose} {ORDINALS[int(found[2])]} {what}"

    def _topic(self, says: str) -> str:
        """What a clause speaks of, without how a value was made."""
        return "the place alone" if says == ANYWHERE else self.words(says.partition(", ")[0])

    @cached_property
    def condition(self) -> tuple[str, str]:
        """The column and value of the problems that the page tells of: of most steps; empty: of all."""
        known = [value for one in self._variables.values() for value in one.by.get(STEPS, {})]
        return (STEPS, max(known, key=_as_number)) if known else ("", "")

    @property
    def kind_of_problems(self) -> str:
        """In words."""
        column, value = self.condition
        return f"problems of {value} steps" if column == STEPS else "problems"

    @property
    def _variables(self) -> dict[str, VariableBy]:
        if self.recovery is None:
            return {}
        return {name: one for name, one in self.recovery.variables.items() if name not in OF_MODEL}

    @cached_property
    def held(self) -> list[Held]:
        """Every variable that was looked for, where a probe reads it best, by thought."""
        rows = self.run.table("recovery", "places.parquet", PlaceRow)
        column, value = self.condition
        found = []
        for name, over_all in self._variables.items():
            about = over_all.by.get(column, {}).get(value, over_all)
            condition = "" if about is over_all else f"{column}={value}"
            place = Place(about.place.hook_name, about.place.thought_idx)
            own = [row for row in rows if row.variable == name and row.condition == condition]
            found.append(Held(name, self.words(name), condition, place, about, own, self._acts(name)))
        return sorted(found, key=lambda one: (not one.is_read, one.place.thought or 0))

    @cached_property
    def _problems(self) -> pa.Table:
        return read_parquet(self.run.folder("extract") / "problems.parquet")

    @cached_property
    def _asked(self) -> list[ProblemRow]:
        return of_table(ProblemRow, self._problems)

    @cached_property
    def _of_other_kind(self) -> set[str]:
        """Problems of the store that are not of the kind that the page tells of; twins are not in it."""
        column, value = self.condition
        kinds = self._problems[column].to_pylist() if column else [value] * len(self._asked)
        return {one.problem_id for one, kind in zip(self._asked, kinds, strict=True) if str(kind) != value}

    @cached_property
    def _edited(self) -> list[tuple[EffectRow, list[AnswerRow]]]:
        """Every edit of a cell, and the answers under it."""
        found = []
        for path in found_in(self.run.root).values():
            under: dict[int, list[AnswerRow]] = {}
            for answer in read_rows(path / "answers.parquet", AnswerRow):
                under.setdefault(answer.row, []).append(answer)
            for one in InterveneOutcome.from_json(read_result(path)).effects:
                if one.control is None and one.scope == "cell" and one.site and one.thought_idx is not None:
                    found.append((one, under.get(one.row, [])))
        return found

    def _acts(self, variable: str) -> dict[Place, Number]:
        """Where putting in another value of a variable brings the answer that follows from it."""
        wanted = {f"swap_different_{variable}": "predicted", f"patch_{variable}": "corrupted"}
        found: dict[Place, Number] = {}
        for edit, answers in self._edited:
            told = [one.is_what for one in answers if one.problem_id not in self._of_other_kind]
            if edit.edit not in wanted or not told:
                continue
            share = proportion(np.array([kind == wanted[edit.edit] for kind in told]))
            at = Place.at(str(edit.site), edit.layer, edit.thought_idx)
            found[at] = share.number()
        return found

    @cached_property
    def hook_name(self) -> str | None:
        """The hook at which most variables are read best, else the last."""
        at = [one.place.hook_name for one in self.held]
        last = self.run.hook_names[-1] if self.run.hook_names else None
        return max(self.run.hook_names, key=lambda hook: (at.count(hook), hook == last)) if at else last

    # One problem

    @cached_property
    def worked(self) -> Worked | None:
        """A held-out problem of the kind that the page tells of; None for texts."""
        if self.run.kind == "text" or self.run.meta is None or self.hook_name is None:
            return None
        line = self._chosen()
        if line is None:
            return None
        one = self._asked[line]
        readings = tokens_of(self.run, "logit", self.hook_name, [one.problem_id]).get(one.problem_id, {})
        said = {thought: found[0] for thought, found in readings.items()}
        latents, replaced = self._latents(line), self._replaced(one.problem_id)
        steps = [
            Step(
                thought=t,
                reading=said[t].token if t in said else "",
                probability=said[t].probability if t in said else None,
                holds=self._holds(line, t),
                latents=latents.get(t, []),
                replaced=replaced.get(t, ""),
            )
            for t in sorted({*said, *latents, *replaced})
        ]
        if not steps or not (one.question or said or self.explanations):  # numbers of nothing that has a name
            return None
        return Worked(
            problem_id=one.problem_id,
            question=one.question,
            answer=one.answer,
            given=one.model_answer,
            right=one.correct,
            hook_name=self.hook_name,
            steps=steps,
        )

    def _chosen(self) -> int | None:
        """The first held-out problem that most stages know, that the model solves, of most steps."""
        known = [set(ids.unique().to_pylist()) for ids in self._ids_known()]

        def rank(line: int) -> tuple[bool, bool, bool, int]:
            one = self._asked[line]
            told = sum(one.problem_id in ids for ids in known)
            of_kind = one.problem_id not in self._of_other_kind
            return one.split == "test", of_kind, one.correct is not False, told

        return max(range(len(self._asked)), key=rank, default=None)

    def _ids_known(self) -> list[pa.ChunkedArray]:
        """Per stage that tells of single problems, which those are."""
        files = [self.run.folder("lens") / "readings.parquet"]
        files += [path / "answers.parquet" for path in found_in(self.run.root).values()]
        return [read_parquet(file, ["problem_id"]).column(0) for file in files if file.is_file()]

    def _holds(self, line: int, thought: int) -> list[str]:
        """What of this problem a probe reads best at a thought."""
        here = [one for one in self.readable if one.place.thought == thought]
        there = [one for one in here if one.name in self._problems.column_names]
        return [
            f"{one.words} = {value}"
            f"{'' if one.place.hook_name == self.hook_name else f' (at {one.place.hook_name})'}"
            for one in there
            if (value := self._problems[one.name][line].as_py()) is not None
        ]

    def _latents(self, line: int, most: int = 2) -> dict[int, list[str]]:
        """By thought, what the strongest latents of the shown dictionary say."""
        interpret = self.run.folder("interpret")
        codes = open_codes(interpret).get(self.member or "") if (interpret / "codes").is_dir() else None
        if codes is None or self.hook_name not in codes.hook_names:
            return {}
        places = np.flatnonzero(codes.problem == line)
        thought = self._thoughts
        found: dict[int, list[str]] = {}
        for place in places.tolist():
            t = thought[int(codes.store_row[place])].as_py()
            latents, values = codes.row(
                place * len(codes.hook_names) + codes.hook_names.index(self.hook_name)
            )
            found[t] = self._said(latents[np.argsort(-values)].tolist(), most)
        return found

    def _said(self, latents: list[int], most: int) -> list[str]:
        """The strongest latents that can be said in words, and how many others fire."""
        known = {i: row for i in latents if (row := self.explanations.get(i)) and row.auprc >= EXPLAINED}
        said = [f"{shorten(placeless(row.text), 110)} (latent {i})" for i, row in list(known.items())[:most]]
        rest = len(latents) - len(said)
        return [*said, f"{number(rest)} {'unknown' if len(said) == len(known) else 'more'}"] if rest else said

    def _replaced(self, problem_id: str) -> dict[int, str]:
        """By thought, the answer when the state of another problem is put there."""
        found: dict[int, str] = {}
        for edit, answers in self._edited:
            own = next((one for one in answers if one.problem_id == problem_id), None)
            if own is not None and edit.thought_idx is not None and self._ablates(edit):
                same = own.is_what == "clean"
                found.setdefault(edit.thought_idx, "the same" if same else own.text.strip() or "none")
        return found

    def _ablates(self, row: EffectRow) -> bool:
        here = Place.at(str(row.site), row.layer).hook_name == self.hook_name
        return row.edit == "ablate_resample" and here

    # In sentences

    def opening(self) -> str:
        """What was looked at."""
        run = self.run
        name = run.model or "a model that nobody named"
        if run.imported:
            of, each = ("problems", "thought") if run.kind == "thoughts" else ("texts", "token")
            return (
                f"States of {name} came from files: of {number(len(self._asked))} {of}, one for each {each} "
                f"at {', '.join(run.hook_names)}. A sparse dictionary was trained on them."
            )
        if run.kind == "text":
            return (
                f"{name} read texts, and a sparse dictionary was trained on what passes through it "
                f"at {', '.join(run.hook_names) or 'the chosen places'}."
            )
        return (
            f"{name} answers a question after {number(self.n_thoughts)} thoughts: vectors that it "
            f"{'feeds back to itself' if run.fed_back else 'computes on the way'}, without writing a word."
        )

    def in_short(self) -> str | None:
        """Which thought holds what, in one sentence, and how we know; None where nothing is read."""
        own: dict[int, list[str]] = {}
        for one in self.readable:
            if one.place.thought is not None:
                own.setdefault(one.place.thought, []).append(one.words)
        if not own:
            return None
        least = min(one.about.probe.low or 0 for one in self.readable)
        each = [f"thought {t} holds {_listed(what)}" for t, what in sorted(own.items())]
        return (
            f"In short, {_listed(each, ';')}. "
            f"How we know: from each of these thoughts a linear probe names the right value in at least "
            f"{percent(least)} of {self.kind_of_problems} that it was not fitted to (95 % confidence)."
            f"{self._used()}"
        )

    def _used(self) -> str:
        """Whether the answer follows what is changed where a probe reads it; empty where nothing was."""
        tested = [(one.words, one.acts_there) for one in self.readable if one.acts_there]
        acts = [(words, n.low or 0.0) for words, n in tested if (n.value or 0) >= 0.5]
        idle = [(words, n.high or 0.0) for words, n in tested if (n.value or 0) < 0.5]
        parts = [
            f"in at {end} {percent(edge(v for _, v in own), 0)} of these problems for "
            f"{_listed([words for words, _ in own])}"
            for own, end, edge in ((acts, "least", min), (idle, "most", max))
            if own
        ]
        if not parts:
            return ""
        return (
            f" Is it used there? Where another value is put in its place, the answer becomes the one that "
            f"follows from it {'; '.join(parts)} (95 % confidence)."
        )

    @cached_property
    def n_thoughts(self) -> int | None:
        """How many thoughts follow the begin-of-thought position; None without a store."""
        there = (self.run.folder("extract") / "rows.parquet").is_file()
        if not there or (meta := self.run.meta) is None:
            return None
        return max(filter(meta.is_thought, self._thoughts.unique().to_pylist()), default=None)

    @cached_property
    def _thoughts(self) -> pa.ChunkedArray:
        """Of each row of the store."""
        return read_parquet(self.run.folder("extract") / "rows.parquet", ["thought_idx"]).column(0)

    def dictionary(self) -> Iterator[str]:
        """The shown dictionary: its size, whom it speaks for, what it costs, and its simplest rival."""
        own = next((m for m in self._validated if m.member == self.member), None)
        rows = [row for row in self.run.latents() if row.member == self.member]
        n = own.d_sae if own else len(rows)
        if self.member is None or not n:
            return
        dead = own.sparsity.n_dead if own else sum(row.n_fires == 0 for row in rows)
        lone = "" if self.member == POOLED else f" ({self.member})"
        never = f"{number(dead)} of them never fire" if dead else "all of them fire"
        text = f"The dictionary{lone} has {number(n)} latents; {never} on held-out data"
        yield f"{text}. {self._pruned()}".rstrip()
        yield from self._explained()
        if own is not None:
            yield from _cost(own)
        yield from self._against_kmeans()

    def _pruned(self) -> str:
        """How much was taken out of it once it was trained."""
        trained = self.run.outcome("train", TrainOutcome)
        own = next((m for m in trained.members if m.member == self.member), None) if trained else None
        if own is None or not own.pruned:
            return ""
        return (
            f"{number(own.pruned)} more were taken out once it was trained, since they wrote little; "
            f"they had {percent(own.pruned_firings)} of all firings."
        )

    def _explained(self) -> Iterator[str]:
        """How much of the dictionary can be said in words."""
        if not self.explanations:
            return
        said = [row for row in self.explanations.values() if row.auprc >= EXPLAINED]
        speaks = Counter(self._topic(row.says) for row in said if row.says)
        of = (
            f" (of {_listed([f'{what}: {number(n)}' for what, n in speaks.most_common()])})" if speaks else ""
        )
        outcome = ExplainOutcome.from_json(read_result(self.run.folder("explain")))
        share = {name: _number(entry) for name, entry in outcome.headline.items()}
        if "explained_latents" not in share:
            yield (
                f"Of {number(len(self.explanations))} latents that were explained, "
                f"{number(len(said)) if said else 'none'} can be said in words that hold on other data{of}."
            )
            return
        rivals = [
            f"{percent(share[key].value)} {of_what}"
            for key, of_what in (("explained_random", "of a random dictionary's"),
                                 ("explained_permuted", "with the labels dealt to other problems"))
            if key in share
        ]  # fmt: skip
        yield (
            f"{percent(share['explained_latents'].value)} of the latents that fire, and "
            f"{percent(share['explained_firings'].value)} of their firings outside begin-of-thought, can be "
            f"said in words that hold on other data{of}"
            f"{'; ' + _listed(rivals) if rivals else ''}. {percent(share['unknown_latents'].value)} are "
            f"unknown."
        )

    @property
    def readable(self) -> list[Held]:
        """Variables that a linear probe reads."""
        return [one for one in self.held if one.is_read]

    def _against_kmeans(self) -> Iterator[str]:
        readable = self.readable
        if not readable:
            if self.held:
                yield "A linear probe reads none of the variables that were looked for."
            return
        missing = [one.words for one in readable if (one.about.found_by_two.value or 0) < READABLE]
        found = len(readable) - len(missing)
        lacking = f"; not so for {_listed(missing)}" if found and missing else ""
        yield (
            f"It has latents for {number(found) if found else 'none'} of the {number(len(readable))} "
            f"variables that a linear probe reads: one latent, or two, for each of at least nine of ten "
            f"values{lacking}."
        )
        said: dict[str, list[str]] = {}
        for one in readable:
            verdict = one.about.more_than_kmeans and one.about.more_than_kmeans.verdict
            said.setdefault(verdict or "", []).append(one.words)
        if "worse" in said:
            yield (
                f"Plain k-means with as many codes tells more of the values of {_listed(said['worse'])}: the "
                f"dictionary holds shreds of them."
            )
        if "better" in said:
            yield (
                f"The dictionary tells more of the values of {_listed(said['better'])} than k-means with as "
                f"many codes."
            )
        if "equivalent" in said and found:
            yield (
                f"Plain k-means with as many codes tells as many of the values of "
                f"{_listed(said['equivalent'])}: they need no superposition to be explained."
            )
        for arm, rival in RIVALS.items():
            if also := [one.words for one in readable if arm in one.about.as_well]:
                yield f"Of the values of {_listed(also)}, {rival} tell{'s' * (arm == 'random')} as many too."
        if "inconclusive" in said:
            yield (
                f"Whether it or k-means tells more of the values of {_listed(said['inconclusive'])} cannot "
                f"be said with these problems."
            )

    def comparison(self) -> str | None:
        """The comparison that was asked, with its verdict."""
        outcome = self.run.outcome("classify", ClassifyOutcome)
        first = next((c for c in outcome.comparisons if c.primary), None) if outcome else None
        if outcome is None or first is None:
            return None
        scores = {r.arm: r for r in outcome.table if r.pooling == first.pooling}
        metric = "R squared" if outcome.metric == "r2" else "accuracy"
        values = [getattr(scores[arm], outcome.metric) for arm in (first.arm, first.against) if arm in scores]
        given = f" ({percent(values[0])} and {percent(values[1])} {metric})" if len(values) == 2 else ""
        verdict = {
            "better": "classify it better than the raw activations",
            "worse": "classify it worse than the raw activations",
            "equivalent": "do as well as the raw activations",
            "inconclusive": "cannot be told from the raw activations here",
            "no information": "tell nothing about it, and neither do the raw activations",
        }.get(first.verdict, first.verdict)
        return (
            f"The comparison that was asked, {self.words(outcome.target or 'the label')} of held-out "
            f"{'documents' if self.run.kind == 'text' else 'problems'}: the dictionary's latents "
            f"{verdict}{given}; difference "
            f"{points(first.difference)} points, 95 % "
            f"{between(first.low, first.high, points)}, n = {number(first.n)}."
        )

    def limits(self) -> Iterator[str]:
        """What cannot be concluded from this run."""
        run, thoughts = self.run, self.run.kind == "thoughts"
        controls = {str(result["control"]) for result in run.results.values() if result.get("control")}
        for control in sorted(controls):
            yield f"Anything about reasoning: the model is a control ({control})."
        if self.recovery is None and thoughts:
            yield f"Which variables the thoughts hold was not measured; it is by: {_command(run, 'recovery')}"
        if thoughts and run.imported and not run.placed:
            yield (
                "Whether the answers depend on any of this: the states came from files, and without a model "
                "no thought can be changed."
            )
        elif thoughts and not self.edits:
            yield (
                "No thought was changed: what can be read in one may still not be used for the answer. "
                f"What each does is measured by: {_command(run, 'effects')}"
            )
        readable = self.readable
        silent = [one.words for one in readable if (one.about.found_by_two.value or 0) < 0.5]
        if silent:
            yield (
                f"That the dictionary holds {_listed(silent)}: a probe reads this, but most values have no "
                f"latent of their own, nor two."
            )
        idle = [
            one.words for one in readable if one.acts and max(a.low or 0 for a in one.acts.values()) < 0.5
        ]
        if idle:
            yield (
                f"That the answer depends on {_listed(idle)}: at no place does another value put in surely "
                f"change half of the answers as it should (95 % confidence)."
            )
        untested = [one.words for one in readable if not one.acts]
        if self.edits and untested:
            yield f"Whether the answer depends on {_listed(untested)}: no edit tested it."
        if not self.explanations:
            yield f"What single latents stand for was not asked; it is by: {_command(run, 'explain')}"
        comparison = self.run.outcome("classify", ClassifyOutcome)
        first = next((c for c in comparison.comparisons if c.primary), None) if comparison else None
        if first is not None and first.verdict == "inconclusive":
            least = first.minimal_detectable_difference
            seen = "too few" if least is None else f"below {100 * least:.1f} points nothing is seen"
            yield f"Which tells more of the label, latents or raw activations: n = {number(first.n)}, {seen}."
        if n := sum(len(made.warnings) for made in run.made.values()):
            yield f"Anything that one of the {number(n)} warnings below speaks against."
        yield (
            "Anything about other models, other problems, or another training of the dictionary: this is one "
            "of each."
        )

    def lines(self) -> list[str]:
        """All of it in about twelve lines, for a terminal."""
        heads = ("", "held by", "a probe reads it", "decides the answer", "values with latents")
        table = aligned([heads, *(self._cells(one) for one in self.readable[:6])])
        said = [*self.dictionary(), *filter(None, [self.comparison()])]
        return [self.opening(), *(table if self.readable else []), *said]

    @staticmethod
    def _cells(one: Held) -> tuple[str, ...]:
        there = one.acts_there
        where = one.place.hook_name if one.place.thought is None else f"thought {one.place.thought}"
        acts = "" if there is None else percent(there.value, 0)
        return (
            one.words,
            where,
            percent(one.about.probe.value),
            acts,
            percent(one.about.found_by_two.value, 0),
        )


def _number(entry: Number | int) -> Number:
    return entry if isinstance(entry, Number) else Number(value=entry)


def _cost(own: Validated) -> Iterator[str]:
    """What is lost with the SAE's reconstruction in place."""
    whole = [r for r in own.fidelity or () if isinstance(r, ThoughtFidelity) and r.arm == "sae"]
    if whole:
        last = whole[-1]
        yield (
            f"With its reconstruction in place of the thoughts, {percent(last.accuracy)} of the answers are "
            f"right; untouched {percent(last.accuracy_untouched)} (n = {number(last.n)})."
        )
    for one in own.fidelity or ():
        if isinstance(one, TextFidelity) and one.arm == "sae":
            yield (
                f"With its reconstruction in place, the loss on the next token changes by "
                f"{number(one.delta_ce)} nats "
                f"{between(one.delta_ce_low, one.delta_ce_high, number)} (n = {number(one.n)} tokens)."
            )


def _command(run: Run, stage: str) -> str:
    return BY_NAME[stage].command(run.root)


def _listed(words: list[str], comma: str = ",") -> str:
    return words[0] if len(words) == 1 else f"{f'{comma} '.join(words[:-1])} and {words[-1]}"


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("-inf")
