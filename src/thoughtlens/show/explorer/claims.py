"""Where what a latent is said to be is true: firings that support the claim, and what contradicts it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from thoughtlens.acts import ActivationStore
from thoughtlens.core import Record
from thoughtlens.latents import PROBLEM_COLUMNS, Codes
from thoughtlens.problems import roles
from thoughtlens.show.explorer.build import rounded
from thoughtlens.show.explorer.cells import codes_of
from thoughtlens.show.explorer.panels import Around
from thoughtlens.show.explorer.rows import Said, ThoughtLine
from thoughtlens.show.explorer.sources import Source
from thoughtlens.show.explorer.summary import said_of
from thoughtlens.show.pages.run import Run

EACH = 4
"""Examples of each kind, at most one per group of problems."""
ANYWHERE = "place"
"""What a clause speaks of that holds for every problem."""
NO_LINES = np.zeros(0, np.int64)
Lines = Mapping[str, Int[np.ndarray, " lines"]]
"""Lines of the problems table by value."""


@dataclass(frozen=True, kw_only=True)
class Clause(Record):
    """One clause of an explanation, as explain writes it."""

    says: str
    value: str
    thoughts: list[int] | None = None
    hooks: list[str] | None = None
    also: dict[str, list[int]] = field(default_factory=dict)


class Truth(NamedTuple):
    """Vectors at which each clause of a claim is true, and those at which that is not known of one."""

    clauses: list[Int[np.ndarray, " vectors"]]
    unknown: Int[np.ndarray, " vectors"]


class Examples(NamedTuple):
    """Examples on a latent's page, as `ThoughtLine`s."""

    support: list[list[Any]]
    """It fires, and the claim is true."""
    false: list[list[Any]]
    """It fires although the claim is not true."""
    missed: list[list[Any]]
    """It does not fire although the claim is true."""


class Known:
    """What is known of a run's problems: their columns, and their roles at every thought."""

    def __init__(self, run: Run) -> None:
        store = ActivationStore.open(run.root / "acts")
        self.problems, self.thoughts = store.problems, list(store.thoughts)
        self.thought_of_row = store.rows["thought_idx"].to_numpy()
        told = roles(self.problems, max(self.thoughts) + 1)
        self.roles = {role.name: role for role in told.roles}
        self.condition, conditions = told.by or ("", {})
        self.conditions = {words: value for value, words in conditions.items()}
        self._by_value: dict[tuple[str, int | None], Lines] = {}

    @cached_property
    def names(self) -> dict[str, list[Any]]:
        """The columns of the problems table that examples show."""
        wanted = ("problem_id", "group_id", "split", "question")
        return {name: self.problems[name].to_pylist() for name in wanted}

    def lines(self, clause: Clause, thought: int) -> np.ndarray | None:
        """Problems for which a clause's statement holds at a thought; None where that is not known."""
        if clause.says == ANYWHERE:
            return np.arange(len(self.problems))
        if clause.says in self.roles:
            return self._of(clause.says, thought).get(clause.value, NO_LINES)
        if clause.says in self.problems.column_names and clause.says not in PROBLEM_COLUMNS:
            return self._of(clause.says, None).get(clause.value, NO_LINES)
        return None

    def under(self, clause: Clause, thought: int) -> np.ndarray:
        """Problems of the conditions under which a clause speaks of a thought."""
        own = [words for words, thoughts in clause.also.items() if thought in thoughts]
        if not own or not self.conditions:
            return np.arange(len(self.problems))
        found = self._of(self.condition, None)
        return np.concatenate([found.get(self.conditions.get(words, ""), NO_LINES) for words in own])

    def _of(self, name: str, thought: int | None) -> Lines:
        """The lines by value of a role at a thought, or of a column."""
        key = name, thought
        if key not in self._by_value:
            own = self.problems[name].to_pylist() if thought is None else self.roles[name].values.get(thought)
            self._by_value[key] = _by_value(() if own is None else own)
        return self._by_value[key]


class Claims:
    """The claims about one SAE's latents, on the vectors that interpret kept the codes of."""

    def __init__(self, known: Known, codes: Codes, said: Sequence[Said | None], around: Around) -> None:
        self.known, self.codes, self.said, self.around = known, codes, said, around
        self.thought = known.thought_of_row[codes.store_row]
        self.place = np.full((len(known.problems), max(known.thoughts) + 1), -1)
        self.place[codes.problem, self.thought] = np.arange(len(self.thought))
        self._which: dict[int, tuple[dict[int, int], set[int]] | None] = {}

    def truth(self, latent: int) -> Truth | None:
        """Where a latent's claim is true; None where it has no clauses."""
        said = self.said[latent]
        clauses = json.loads(said.clauses) if said is not None and said.says and said.clauses else []
        if not clauses:
            return None
        true, unknown = [], [NO_LINES]
        for clause in map(Clause.from_json, clauses):
            own = [NO_LINES]
            for thought in clause.thoughts or self.known.thoughts:
                lines, under = self.known.lines(clause, thought), self.known.under(clause, thought)
                some = under if lines is None else np.intersect1d(lines, under)
                (unknown if lines is None else own).append(self._vectors(some, thought, clause))
            true.append(np.concatenate(own))
        return Truth(true, np.concatenate(unknown))

    def which(self, latent: int, line: int, thought: int, hook: int) -> int | None:
        """Number of the first clause of a latent's claim that is true of a problem's thought; -1: none is,
        None: that is not known."""
        if latent not in self._which:
            truth = self.truth(latent)
            told = [] if truth is None else [*enumerate(truth.clauses)][::-1]
            found = {vector: k for k, own in told for vector in own.tolist()}
            self._which[latent] = None if truth is None else (found, set(truth.unknown.tolist()))
        if (known := self._which[latent]) is None:
            return None
        vector = int(self.place[line, thought]) * len(self.codes.hook_names) + hook
        return known[0].get(vector, None if vector in known[1] else -1)

    def _vectors(self, lines: np.ndarray, thought: int, clause: Clause) -> np.ndarray:
        names = self.codes.hook_names
        places, hooks = self.place[lines, thought], [names.index(hook) for hook in clause.hooks or names]
        return (places[places >= 0, None] * len(names) + np.array(hooks)).ravel()

    def examples(self, latent: int) -> Examples | None:
        """What supports and what contradicts a latent's claim, on the problems that scored it."""
        truth, said = self.truth(latent), self.said[latent]
        fires, values = (np.asarray(part) for part in self.codes.by_latent.line(latent, "latent"))
        if truth is None or said is None or not len(fires):
            return None
        strongest = fires[np.argsort(-np.abs(values), kind="stable")]
        true = np.unique(np.concatenate(truth.clauses))
        held, maybe = np.isin(strongest, true), np.isin(strongest, truth.unknown)
        silent = np.random.default_rng(latent).permutation(np.setdiff1d(true, fires))
        kinds = (strongest[held], strongest[~held & ~maybe], silent)
        return Examples(*(self._shown(kind, fires, values, said.split) for kind in kinds))

    def _shown(self, vectors: np.ndarray, fires: np.ndarray, values: np.ndarray, split: str) -> list:
        """The first of some vectors, one per group of problems."""
        found, names = dict[str, list[Any]](), self.known.names
        for vector in vectors.tolist():
            place, hook = divmod(vector, len(self.codes.hook_names))
            line = int(self.codes.problem[place])
            group = names["group_id"][line]
            if split in (names["split"][line], "all") and group not in found:
                found[group] = self._example(line, place, hook, fires, values)
            if len(found) == EACH:
                break
        return list(found.values())

    def _example(self, line: int, place: int, hook: int, fires: np.ndarray, values: np.ndarray) -> list[Any]:
        hooks, names = self.codes.hook_names, self.known.names
        thoughts = np.flatnonzero(self.place[line] >= 0)
        own = self.place[line, thoughts] * len(hooks) + np.arange(len(hooks))[:, None]
        at = np.minimum(np.searchsorted(fires, own), len(fires) - 1)
        acts = np.where(fires[at] == own, values[at], 0.0)
        example = ThoughtLine(
            value=float(acts[hook, np.searchsorted(thoughts, self.thought[place])]),
            problem=names["problem_id"][line],
            split=names["split"][line],
            hook=hooks[hook],
            decile=None,
            thought=int(self.thought[place]),
            question=names["question"][line],
            answers=self.around.answers.get(names["problem_id"][line]),
            hooks=hooks,
            strip=[rounded(row) for row in acts],
        )
        return example.line()


def claims_of(source: Source, known: dict[Path, Known], around: Around) -> Claims | None:
    """The claims about a thought SAE's latents; None where there are none, or no codes to hold them against.

    Args:
        source: The SAE.
        known: What is known of each run's problems, which is read once.
        around: What its latents' rows point to.
    """
    codes, said, root = codes_of(source), said_of(source), source.run.root
    if codes is None or not any(one is not None and one.clauses for one in said):
        return None
    known[root] = known.get(root) or Known(source.run)
    return Claims(known[root], codes, said, around)


def _by_value(values: Iterable) -> Lines:
    """Lines by value; a line with a list has several."""
    found: dict[str, list[int]] = defaultdict(list)
    for line, value in enumerate(values):
        for one in value if isinstance(value, list) else (value,):
            if one is not None:
                found[str(one)].append(line)
    return {value: np.array(lines) for value, lines in found.items()}
