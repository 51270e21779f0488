"""The program held against the model on problems that neither its places nor its tables have seen.

The file is run, by a Python that knows nothing of this package. For interchange a variable is taken from
another problem, in the program and in the model: the same answer must follow.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from thoughtlens.core import DataError, Number
from thoughtlens.numerics import proportion
from thoughtlens.tracing.program.asked import Asked, Mind, Spot, lines
from thoughtlens.tracing.program.records import Grade, GradedRow, Rival
from thoughtlens.tracing.program.tables import ANSWER
from thoughtlens.tracing.program.values import Values
from thoughtlens.tracing.read.patches import STATE

UNTOUCHED, SWAP, EXIT, NOISE = "untouched", "swap", "exit", "noise"
TIMEOUT = 600


class Held(NamedTuple):
    """Problems that a program is graded on."""

    ids: list[str]
    groups: list[str]
    asked: list[Asked]
    right: list[bool] | None
    """Whether the untouched model is right; None: nobody knows."""
    answers: list[str]
    """The untouched model's."""

    @classmethod
    def of(cls, asked: Sequence[Asked], answers: Sequence[str]) -> Held:
        """Of problems of which nothing else is asked."""
        names = [str(i) for i in range(len(asked))]
        return cls(names, names, [*asked], None, [*answers])


class Query(NamedTuple):
    """What was done to the model, problem by problem, and what the program is asked."""

    kind: str
    calls: list[dict[str, Any]]
    model: list[str]
    donors: list[int | None]


def execute(file: Path, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, str | None]]:
    """Run the program as a file, once for each of these.

    Raises:
        DataError: it does not run.
    """
    text = "".join(json.dumps(call) + "\n" for call in calls)
    done = subprocess.run(
        [sys.executable, "-I", str(file)],
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise DataError(f"{file} does not run: {done.stderr.strip().splitlines()[-1]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass(frozen=True, eq=False)
class Grader:
    """Asks model and program the same."""

    mind: Mind
    file: Path
    held: Held
    spots: Mapping[str, Spot]
    """By variable of the program, where the model has it."""
    values: Mapping[int, Values]
    rng: np.random.Generator

    def rows(self) -> list[GradedRow]:
        """Every problem untouched, with every variable swapped, leaving early, and with noise."""
        own = execute(self.file, self._calls())
        queries = [self._untouched(), *self._swaps(own), *self._exits(), *self._noise()]
        said = execute(self.file, [call for query in queries for call in query.calls])
        n, rows = len(self.held.asked), []
        for j, query in enumerate(queries):
            for i in range(n):
                program, model = said[j * n + i][ANSWER], query.model[i]
                right = self.held.right is None or self.held.right[i]
                donor = query.donors[i]
                rows.append(
                    GradedRow(
                        problem_id=self.held.ids[i],
                        kind=query.kind,
                        donor=None if donor is None else self.held.ids[donor],
                        untouched=self.held.answers[i],
                        model=model,
                        program=program,
                        agrees=program == model,
                        is_error=right and model != self.held.answers[i],
                    )
                )
        return rows

    @property
    def _questions(self) -> list[str]:
        return [one.question for one in self.held.asked]

    def _calls(self, **more: Any) -> list[dict[str, Any]]:
        return [{"words": one.words} | more for one in self.held.asked]

    def _untouched(self) -> Query:
        return Query(UNTOUCHED, self._calls(), self.held.answers, [None] * len(self.held.asked))

    def agreement(self) -> dict[str, float]:
        """By variable, how often program and model agree where it is swapped."""
        queries = self._swaps(execute(self.file, self._calls()))
        said = iter(execute(self.file, [call for query in queries for call in query.calls]))
        return {
            name: float(np.mean([next(said)[ANSWER] == one for one in query.model]))
            for name, query in zip(self.spots, queries, strict=True)
        }

    def _swaps(self, own: Sequence[Mapping[str, str | None]]) -> list[Query]:
        """Each variable from another problem."""
        found, n = [], len(self.held.asked)
        if n < 2 or not self.spots:
            return []
        left = self.mind.think(self._questions, list(self.spots.values()))
        puts, donors = [], []
        for (_, spot), states in zip(self.spots.items(), left, strict=True):
            order = self.rng.permutation(n)
            donor = order[(np.argsort(order) + 1) % n].tolist()
            donors.append(donor)
            puts.append((spot, lines(states, donor)))
        answers = self.mind.answers(self._questions, puts)[1]
        for name, donor, model in zip(self.spots, donors, answers, strict=True):
            calls = [
                {"words": one.words, "swap": {name: own[j][name]}}
                for one, j in zip(self.held.asked, donor, strict=True)
            ]
            found.append(Query(f"{SWAP} {name}", calls, model, donor))
        return found

    def _exits(self) -> list[Query]:
        """Leaving after fewer thoughts."""
        exits = range(self.mind.model.spec.n_thoughts)
        answers = self.mind.answers(self._questions, exits=[(p, None) for p in exits])[1]
        return [
            Query(f"{EXIT} {p}", self._calls(thoughts=p), model, [None] * len(model))
            for p, model in zip(exits, answers, strict=True)
        ]

    def _noise(self) -> list[Query]:
        """Noise as long as a state; the program goes on from what can be read at the next place after it."""
        spec, found = self.mind.model.spec, []
        fed = [spot for p in spec.thoughts[1:] if (spot := Spot(p, STATE)).places(spec)]
        later = sorted((own.spot.thought, k) for k, own in self.values.items())
        for spot, left in zip(fed, self.mind.think(self._questions, fed), strict=True):
            noisy = {place: _with_noise(states, spot.thought) for place, states in left.items()}
            model = self.mind.answers(self._questions, [(spot, noisy)])[1][0]
            calls, k = self._calls(), next((k for p, k in later if p > spot.thought), None)
            if k is not None:
                (there,) = self.mind.think(self._questions, [self.values[k].spot], (spot, noisy))
                read = self.values[k].nearest(there)
                calls = [
                    call | {"swap": {f"value{k}": value}} for call, value in zip(calls, read, strict=True)
                ]
            found.append(Query(f"{NOISE} {spot.thought}", calls, model, [None] * len(model)))
        return found


def _with_noise(states: torch.Tensor, seed: int) -> torch.Tensor:
    drawn = torch.randn(states.shape, generator=torch.Generator().manual_seed(seed)).to(states)
    return states + drawn / drawn.norm(dim=1, keepdim=True) * states.norm(dim=1, keepdim=True)


def is_interchange(kind: str) -> bool:
    """Whether a kind swaps the value of a step; an operation, and the answer, say less."""
    return kind.startswith(f"{SWAP} value")


def is_known_error(row: GradedRow) -> bool:
    """An error that was made at a known step."""
    return row.is_error and row.kind.startswith((f"{SWAP} value", EXIT, NOISE))


def grades(rows: Sequence[GradedRow], held: Held, split: str) -> list[Grade]:
    """By kind of intervention."""
    group = dict(zip(held.ids, held.groups, strict=True))
    kinds: dict[str, list[GradedRow]] = defaultdict(list)
    for row in rows:
        kinds[row.kind].append(row)
    found = []
    for kind, own in kinds.items():
        wrong = [row for row in own if row.is_error]
        found.append(
            Grade(
                kind=kind,
                agrees=share(own, group, split),
                n_errors=len(wrong),
                predicted=share(wrong, group, split) if wrong else None,
            )
        )
    return found


def share(rows: Sequence[GradedRow], group: Mapping[str, str], split: str) -> Number:
    """Of rows in which program and model answer the same."""
    hits = np.array([row.agrees for row in rows], float)
    number = proportion(hits, [group[row.problem_id] for row in rows]).number(split)
    return replace(number, n=len(rows))


def rivals(
    rows: Sequence[GradedRow], fit: Sequence[Asked], answers: Sequence[str], held: Held
) -> list[Rival]:
    """Simpler programs, made from the same training problems."""
    words = dict(zip(held.ids, (one.words for one in held.asked), strict=True))
    told = list(zip((one.words for one in fit), answers, strict=True))

    def most(key: Callable[[tuple[str, ...]], Any]) -> Callable[[GradedRow], str | None]:
        counts: dict[Any, Counter[str]] = defaultdict(Counter)
        for own, answer in told:
            counts[key(own)][answer] += 1
        best = {one: count.most_common(1)[0][0] for one, count in counts.items()}
        return lambda row: best.get(key(words[row.problem_id]))

    ways = {
        "majority": ("the most frequent answer", most(lambda _: None)),
        "last operation": ("the most frequent answer after this last operation", most(lambda w: w[-1])),
        "lookup": ("the answer of the training problem that says the same", most(lambda w: w)),
        "no thoughts": ("the model's own untouched answer, whatever is done", lambda row: row.untouched),
    }  # fmt: skip
    found = []
    for name, (about, said) in ways.items():

        def hits(own: Sequence[GradedRow], said: Callable[[GradedRow], str | None] = said) -> float | None:
            return float(np.mean([said(row) == row.model for row in own])) if own else None

        found.append(
            Rival(
                name=name,
                about=about,
                untouched=hits([row for row in rows if row.kind == UNTOUCHED]) or 0.0,
                interchange=hits([row for row in rows if is_interchange(row.kind)]) or 0.0,
                errors=hits([row for row in rows if is_known_error(row)]),
            )
        )
    return found
