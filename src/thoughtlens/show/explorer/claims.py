"""Where what a latent is said to be is true: firings that support the claim, and what contradicts it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from thoughtlens.acts import ActivationStore
from thoughtlens.core import NotThereError, Record
from thoughtlens.latents import (
    NEIGHBOURS,
    PROBLEM_COLUMNS,
    Codes,
    Tokens,
    load_tokenizer,
    position_bins,
    position_names,
    quoted,
    stretches,
    token_texts,
)
from thoughtlens.problems import roles
from thoughtlens.show.explorer.build import rounded
from thoughtlens.show.explorer.cells import codes_of
from thoughtlens.show.explorer.panels import Around
from thoughtlens.show.explorer.rows import ExampleLine, Said, TextLine, ThoughtLine
from thoughtlens.show.explorer.sources import Source
from thoughtlens.show.explorer.summary import said_of
from thoughtlens.show.pages.run import Run

BEFORE, AFTER = 16, 8
"""Tokens shown around the one that an example of text is about."""
EACH = 4
"""Examples of each kind, at most one per group of problems."""
ANYWHERE = "place"
"""What a clause speaks of that holds for every problem."""
QUESTION = "question"
"""What a clause speaks of that is about a word of the question."""
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
    """Examples on a latent's page, as lines of `TextLine` or `ThoughtLine`."""

    support: list[list[Any]]
    """It fires, and the claim is true."""
    false: list[list[Any]]
    """It fires although the claim is not true."""
    missed: list[list[Any]]
    """It does not fire although the claim is true."""


class Known:
    """What is known of a run's problems or documents: their columns."""

    def __init__(self, store: ActivationStore) -> None:
        self.store, self.problems = store, store.problems
        self._by_value: dict[tuple[str, int | None], Lines] = {}

    @cached_property
    def names(self) -> dict[str, list[Any]]:
        """The columns of the problems table that examples show; imported problems may have no question."""
        table, wanted = self.problems, ("problem_id", "group_id", "split")
        found = {name: table[name].to_pylist() for name in wanted if name in table.column_names}
        known = QUESTION in table.column_names
        return found | {QUESTION: table[QUESTION].to_pylist() if known else [""] * len(table)}

    def of_column(self, clause: Clause) -> np.ndarray | None:
        """Problems for which a clause about a column holds; None where that is not known."""
        if clause.says in self.problems.column_names and clause.says not in PROBLEM_COLUMNS:
            return self._of(clause.says, None).get(clause.value, NO_LINES)
        return None

    def _of(self, name: str, thought: int | None) -> Lines:
        """The lines by value of a role at a thought, or of a column."""
        key = name, thought
        if key not in self._by_value:
            self._by_value[key] = _by_value(self._values(name, thought))
        return self._by_value[key]

    def _values(self, name: str, thought: int | None) -> Iterable:
        return self.problems[name].to_pylist()


class Thoughts(Known):
    """What is known of problems that are thought about: their roles at every thought as well."""

    def __init__(self, store: ActivationStore) -> None:
        super().__init__(store)
        self.thoughts = list(store.thoughts)
        self.thought_of_row = store.rows["thought_idx"].to_numpy()
        told = roles(self.problems, max(store.own_thoughts, default=-1) + 1)
        self.roles = {role.name: role for role in told.roles}
        self.condition, conditions = told.by or ("", {})
        self.conditions = {words: value for value, words in conditions.items()}

    def lines(self, clause: Clause, thought: int) -> np.ndarray | None:
        """Problems for which a clause's statement holds at a thought; None where that is not known."""
        if clause.says == ANYWHERE:
            return np.arange(len(self.problems))
        if clause.says in self.roles:
            return self._of(clause.says, thought).get(clause.value, NO_LINES)
        if clause.says == QUESTION:
            return self._of(QUESTION, None).get(clause.value, NO_LINES)
        return self.of_column(clause)

    def under(self, lines: np.ndarray, clause: Clause, thought: int) -> np.ndarray:
        """Those of some lines that are under the conditions of a clause, where it has any at a thought."""
        own = [words for words, thoughts in clause.also.items() if thought in thoughts]
        if not own or not self.conditions:
            return lines
        found, mask = self._of(self.condition, None), np.zeros(len(self.problems), bool)
        for words in own:
            mask[found.get(self.conditions.get(words, ""), NO_LINES)] = True
        return lines[mask[lines]]

    def _values(self, name: str, thought: int | None) -> Iterable:
        if thought is not None:
            return self.roles[name].values.get(thought, ())
        if name == QUESTION:
            return [[quoted(word) for word in set(str(text).split())] for text in self.names[QUESTION]]
        return super()._values(name, None)


class Texts(Known):
    """What is known of documents: their tokens as well.

    Raises:
        NotThereError: the model's tokenizer is not here.
    """

    def __init__(self, store: ActivationStore) -> None:
        super().__init__(store)
        self.token, self.position = (store.rows[name].to_numpy() for name in ("token_id", "position"))
        tokenizer = load_tokenizer(store.meta.model, store.meta.model_revision)
        self.texts = token_texts(tokenizer, np.unique(self.token))
        self.ids = defaultdict[str, list[int]](list)
        for i, text in self.texts.items():
            self.ids[quoted(text)].append(i)


class Claims(ABC):
    """The claims about one SAE's latents, on the vectors that interpret kept the codes of."""

    def __init__(self, known: Known, codes: Codes, said: Sequence[Said | None]) -> None:
        self.names, self.codes, self.said = known.names, codes, said
        self._which: dict[int, tuple[dict[int, int], set[int]] | None] = {}

    @abstractmethod
    def held(self, clause: Clause) -> tuple[np.ndarray, np.ndarray]:
        """Vectors at which a clause is true, and those at which that is not known."""

    @abstractmethod
    def vector(self, line: int, at: int, hook: int) -> int:
        """The vector of a problem's thought, or of a document's token, at a hook."""

    @abstractmethod
    def example(
        self, vector: int, about: dict[str, Any], fires: np.ndarray, values: np.ndarray
    ) -> ExampleLine:
        """A vector as an example, with what is known of its problem."""

    def truth(self, latent: int) -> Truth | None:
        """Where a latent's claim is true; None where it has no clauses."""
        said = self.said[latent]
        clauses = json.loads(said.clauses) if said is not None and said.says and said.clauses else []
        if not clauses:
            return None
        true, unknown = zip(*map(self.held, map(Clause.from_json, clauses)), strict=True)
        return Truth(list(true), np.concatenate(unknown))

    def which(self, latent: int, line: int, at: int, hook: int) -> int | None:
        """Number of the first clause of a latent's claim that is true of a problem's thought (of a document's
        token); -1: none is, None: that is not known."""
        if latent not in self._which:
            truth = self.truth(latent)
            told = [] if truth is None else [*enumerate(truth.clauses)][::-1]
            found = {vector: k for k, own in told for vector in own.tolist()}
            self._which[latent] = None if truth is None else (found, set(truth.unknown.tolist()))
        if (known := self._which[latent]) is None:
            return None
        vector = self.vector(line, at, hook)
        return known[0].get(vector, None if vector in known[1] else -1)

    def on(self, places: np.ndarray, clause: Clause) -> np.ndarray:
        """The vectors of some places at the hooks that a clause speaks of."""
        names = self.codes.hook_names
        hooks = [names.index(hook) for hook in clause.hooks or names]
        return (places[:, None] * len(names) + np.array(hooks)).ravel()

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
        found, names = dict[str, list[Any]](), self.names
        for vector in vectors.tolist():
            line = int(self.codes.problem[vector // len(self.codes.hook_names)])
            group = names["group_id"][line]
            if split in (names["split"][line], "all") and group not in found:
                about = {
                    "problem": names["problem_id"][line],
                    "split": names["split"][line],
                    "hook": self.codes.hook_names[vector % len(self.codes.hook_names)],
                    "decile": None,
                }
                found[group] = self.example(vector, about, fires, values).line()
            if len(found) == EACH:
                break
        return list(found.values())


class ThoughtClaims(Claims):
    """Claims about latents of thoughts."""

    def __init__(self, known: Thoughts, codes: Codes, said: Sequence[Said | None], around: Around) -> None:
        super().__init__(known, codes, said)
        self.known, self.around = known, around
        self.thought = known.thought_of_row[codes.store_row]
        self.place = np.full((len(known.problems), len(known.thoughts)), -1)
        self.column = np.searchsorted(known.thoughts, self.thought)
        self.place[codes.problem, self.column] = np.arange(len(self.thought))

    def held(self, clause: Clause) -> tuple[np.ndarray, np.ndarray]:
        true, unknown = [NO_LINES], [NO_LINES]
        for thought in clause.thoughts or self.known.thoughts:
            lines = self.known.lines(clause, thought)
            asked = np.arange(len(self.place)) if lines is None else lines
            column = self.known.thoughts.index(thought)
            places = self.place[self.known.under(asked, clause, thought), column]
            (unknown if lines is None else true).append(self.on(places[places >= 0], clause))
        return np.concatenate(true), np.concatenate(unknown)

    def vector(self, line: int, at: int, hook: int) -> int:
        return int(self.place[line, self.known.thoughts.index(at)]) * len(self.codes.hook_names) + hook

    def example(
        self, vector: int, about: dict[str, Any], fires: np.ndarray, values: np.ndarray
    ) -> ExampleLine:
        place, hook = divmod(vector, len(self.codes.hook_names))
        line, hooks = int(self.codes.problem[place]), self.codes.hook_names
        thoughts = np.flatnonzero(self.place[line] >= 0)
        own = self.place[line, thoughts] * len(hooks) + np.arange(len(hooks))[:, None]
        acts = _acts(own, fires, values)
        return ThoughtLine(
            **about,
            value=float(acts[hook, np.searchsorted(thoughts, self.column[place])]),
            thought=int(self.thought[place]),
            question=self.names[QUESTION][line],
            answers=self.around.answers.get(about["problem"]),
            hooks=hooks,
            strip=[rounded(row) for row in acts],
        )


class TextClaims(Claims):
    """Claims about latents of text: tokens, their neighbours, positions, and labels of the document."""

    def __init__(self, known: Texts, codes: Codes, said: Sequence[Said | None]) -> None:
        super().__init__(known, codes, said)
        self.known, self.position = known, known.position[codes.store_row]
        self.tokens = Tokens(known.token[codes.store_row], stretches(codes.problem, self.position))

        self.bins = position_bins(self.position)
        self._order: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def held(self, clause: Clause) -> tuple[np.ndarray, np.ndarray]:
        places = self._places(clause)
        if places is None:
            return NO_LINES, self.on(np.arange(len(self.position)), clause)
        return self.on(places, clause), NO_LINES

    def _places(self, clause: Clause) -> np.ndarray | None:
        """The tokens at which a clause's statement holds; None where that is not known."""
        if clause.says == ANYWHERE:
            return np.arange(len(self.position))
        if clause.says in NEIGHBOURS:
            return self._beside(NEIGHBOURS[clause.says], self.known.ids.get(clause.value, []))
        if clause.says == "position":
            names = position_names()
            return np.flatnonzero(self.bins == (names.index(clause.value) if clause.value in names else -1))
        lines = self.known.of_column(clause)
        return None if lines is None else np.flatnonzero(np.isin(self.codes.problem, lines))

    def _beside(self, distance: int, ids: Sequence[int]) -> np.ndarray:
        """The tokens that have one of some tokens this far before them."""
        if distance not in self._order:
            own = self.tokens.before(distance)
            order = np.argsort(own, kind="stable")
            self._order[distance] = order, own[order]
        order, own = self._order[distance]
        ends = zip(np.searchsorted(own, ids), np.searchsorted(own, ids, side="right"), strict=True)
        return np.concatenate([NO_LINES, *(order[low:high] for low, high in ends)])

    def vector(self, line: int, at: int, hook: int) -> int:
        first = int(np.searchsorted(self.codes.problem, line))
        return (first + at) * len(self.codes.hook_names) + hook

    def example(
        self, vector: int, about: dict[str, Any], fires: np.ndarray, values: np.ndarray
    ) -> ExampleLine:
        n_hooks = len(self.codes.hook_names)
        place, hook = divmod(vector, n_hooks)
        low = max(place - BEFORE, int(self.tokens.first[place]))
        here = np.arange(low, min(place + AFTER + 1, int(self.tokens.end[place])))
        acts = _acts(here * n_hooks + hook, fires, values)
        return TextLine(
            **about,
            value=float(acts[place - low]),
            position=int(self.position[place]),
            peak=place - low,
            tokens=[self.known.texts[i] for i in self.tokens.ids[here].tolist()],
            acts=rounded(acts),
        )


def claims_of(source: Source, known: dict[Path, Known | None], around: Around) -> Claims | None:
    """The claims about an SAE's latents; None where there are none, no codes to hold them against, or of
    text no tokenizer.

    Args:
        source: The SAE.
        known: What is known of each run's problems, which is read once.
        around: What its latents' rows point to.
    """
    said, root = said_of(source), source.run.root
    if not any(one is not None and one.clauses for one in said) or (codes := codes_of(source)) is None:
        return None
    if root not in known:
        known[root] = _known(source.run)
    match known[root]:
        case Thoughts() as thoughts:
            return ThoughtClaims(thoughts, codes, said, around)
        case Texts() as texts:
            return TextClaims(texts, codes, said)
    return None


def _known(run: Run) -> Known | None:
    store = ActivationStore.open(run.root / "acts")
    try:
        return Texts(store) if run.kind == "text" else Thoughts(store)
    except NotThereError:
        return None


def _acts(vectors: np.ndarray, fires: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A latent's activation on some vectors, 0 where it does not fire."""
    at = np.minimum(np.searchsorted(fires, vectors), len(fires) - 1)
    return np.where(fires[at] == vectors, values[at], 0.0)


def _by_value(values: Iterable) -> Lines:
    """Lines by value; a line with a list has several."""
    found: dict[str, list[int]] = defaultdict(list)
    for line, value in enumerate(values):
        for one in value if isinstance(value, list) else (value,):
            if one is not None:
                found[str(one)].append(line)
    return {value: np.array(lines) for value, lines in found.items()}
