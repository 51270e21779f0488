"""Graphs of what is what: read from sentences, walked in hops, and told as columns of a table of problems.

An edge (Tom, wumpus) says "Tom is a wumpus", (wumpus, lempus) "Every wumpus is a lempus", (wumpus, not shy)
"Wumpuses are not shy". The frontier at hop i are those that are i edges away from whom the question asks
about, and no nearer: what a search in breadth would hold there.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import NamedTuple, TypeVar

import pyarrow as pa

from thoughtlens.core import ConfigError, DataError
from thoughtlens.problems.tasks.arithmetic import SPLIT_NAMES, SPLITS

Edge = tuple[str, str]
N = TypeVar("N", bound=Hashable)
MOST_HOPS = 8
"""Hops that have columns of their own, at most."""
TRAIN_NAMES = ("Alex", "Bob", "Carol", "Davis", "Eva", "Fae", "Gabriel", "Jack", "Max")
HELD_OUT_NAMES = ("Oliver", "Polly", "Rex", "Sally", "Sam", "Stella", "Tom", "Wren")
CONCEPTS = tuple(
    f"{start}pus"
    for start in (
        "bom", "boom", "brim", "chor", "dum", "fel", "fom", "ger", "gor", "grim", "gwom", "hil", "im", "jel",
        "jom", "ker", "lem", "lor", "num", "quim", "rem", "rom", "ror", "scrom", "shum", "ster", "stor",
        "ter", "tim", "tum", "vum", "wor", "wum", "yer", "yim", "yum", "zhor", "zum",
    )
)  # fmt: skip

RULE = re.compile(r"(?:Each|Every) (?P<sub>\w+) is (?P<no>not )?(?:an? )?(?P<sup>[\w-]+)")
PLURAL = re.compile(r"(?P<sub>\w+s) are (?P<no>not )?(?P<sup>[\w-]+)")
FACT = re.compile(r"(?P<sub>[A-Z]\w*) is (?P<no>not )?(?:an? )?(?P<sup>[\w-]+)")
EITHER = re.compile(r"Is (?P<root>\w+) an? (?P<first>[\w-]+) or (?:an? )?(?P<second>[\w-]+)\?\s*$")
WHETHER = re.compile(r"True or false: (?P<root>\w+) is (?P<no>not )?(?:an? )?(?P<target>[\w-]+)\.?\s*$")


@dataclass(frozen=True)
class Asked:
    """What a question says and asks.

    Attributes:
        edges: In the order of the sentences.
        sentences: What says each edge, without its point.
        root: Whom the question asks about.
        target: What is true of the root.
        other: What is offered beside: another concept, or the opposite; it is not true of the root.
    """

    edges: tuple[Edge, ...]
    sentences: tuple[str, ...]
    root: str
    target: str
    other: str

    @property
    def path(self) -> list[str]:
        """The concepts on the shortest way from the root to the target; of several the first one told."""
        return shortest_path(self.edges, self.root, self.target)


def read(question: str) -> Asked | None:
    """A question of ProsQA or ProntoQA as a graph; None where it is no such question, or has other sentences.

    Raises:
        DataError: a circle, or both or neither of what is offered follows; says what.
    """
    match = EITHER.search(question) or WHETHER.search(question)
    if match is None:
        return None
    sentences = [part for part in map(str.strip, question[: match.start()].split(".")) if part]
    edges = [edge for edge in map(edge_of, sentences) if edge is not None]
    if len(edges) < len(sentences):
        return None
    first = match["first"] if match.re is EITHER else (match["no"] or "") + match["target"]
    offered = first, match["second"] if match.re is EITHER else opposite(first)
    require_no_circle(edges)
    reached = distances(edges, match["root"])
    true = [name for name in offered if name in reached]
    if len(true) != 1:
        said = f"both {' and '.join(offered)} follow" if true else f"neither {' nor '.join(offered)} follows"
        raise DataError(f"{said} for {match['root']}; exactly one must")
    other = offered[offered[0] == true[0]]
    return Asked(tuple(edges), tuple(sentences), match["root"], true[0], other)


def edge_of(sentence: str) -> Edge | None:
    """What a sentence says is what; None where it says something else."""
    if found := RULE.fullmatch(sentence) or FACT.fullmatch(sentence):
        return found["sub"], (found["no"] or "") + found["sup"]
    if found := PLURAL.fullmatch(sentence):
        return singular(found["sub"]), (found["no"] or "") + singular(found["sup"])
    return None


def opposite(concept: str) -> str:
    """`not shy` of `shy`, and the other way round."""
    return concept.removeprefix("not ") if concept.startswith("not ") else f"not {concept}"


def singular(noun: str) -> str:
    """The noun that a plural is of, in small letters; other words as they are."""
    word = noun.lower()
    if word.endswith("uses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("us", "ss")) else word


def with_article(concept: str) -> str:
    """`a wumpus`, `an impus`."""
    return f"{'an' if concept[0] in 'aeiou' else 'a'} {concept}"


def following(edges: Iterable[tuple[N, N]]) -> dict[N, list[N]]:
    """Of each name those that it is, in the order told."""
    found: dict[N, list[N]] = {}
    for a, b in edges:
        found.setdefault(a, []).append(b)
    return found


def require_no_circle(edges: Iterable[Edge]) -> None:
    """Refuse edges that lead back to where they begin.

    Raises:
        DataError: says the circle.
    """
    try:
        TopologicalSorter(following(edges)).prepare()
    except CycleError as error:
        raise DataError(f"the edges have a circle: {' -> '.join(error.args[1][::-1])}") from None


def distances(edges: Iterable[tuple[N, N]], root: N) -> dict[N, int]:
    """Hops from the root to everything that it reaches, near ones first, each in the order told."""
    next_of, found = following(edges), {root: 0}
    for name in (queue := [root]):
        for other in next_of.get(name, ()):
            if other not in found:
                found[other] = found[name] + 1
                queue.append(other)
    return found


def frontiers(edges: Iterable[Edge], root: str) -> list[list[str]]:
    """Of each hop, from the first on, those that are that far from the root and no nearer."""
    found: list[list[str]] = []
    for name, hops in distances(edges, root).items():
        if hops > len(found):
            found.append([])
        if hops:
            found[-1].append(name)
    return found


def shortest_path(edges: Sequence[tuple[N, N]], root: N, target: N) -> list[N]:
    """Names after the root on a shortest way to the target, which must be there; of several the first."""
    far, way = distances(edges, root), [target]
    while (hops := far[way[-1]]) > 1:
        way.append(next(a for a, b in edges if b == way[-1] and far.get(a) == hops - 1))
    return way[::-1]


def split_of(path: Sequence[str]) -> str:
    """Split of a path by a hash of its concepts, whoever walks it: a path is in one split only."""
    digest = hashlib.sha256(">".join(path).encode()).digest()
    return SPLITS[int.from_bytes(digest[:8]) % len(SPLITS)]


def generator(n: int, seed: int, split: str) -> random.Random:
    """Source of the choices for `n` problems.

    Raises:
        DataError: no such split, no problems asked for, or a negative seed.
    """
    if split not in SPLIT_NAMES:
        raise DataError(f"split: expected one of {', '.join(SPLIT_NAMES)}, got {split!r}")
    if n < 1 or seed < 0:
        raise DataError(f"Expected n >= 1 and seed >= 0, got n={n}, seed={seed}")
    return random.Random(f"{seed} {n} {split}")


def require_hops(hops: Sequence[int], least: int, most: int) -> None:
    """Refuse numbers of hops that cannot be made.

    Raises:
        ConfigError: none, or such a number.
    """
    if not hops or not set(hops) <= set(range(least, most + 1)):
        raise ConfigError(f"hops: expected numbers from {least} to {most}, got {list(hops)}")


def table(
    questions: Sequence[str], prefix: str, told: Callable[[Asked, str], tuple[list[str], str]]
) -> pa.Table:
    """Questions that can be read as a table of problems; `told` gives the steps and the answer of each."""
    asked = [one for one in map(read, questions) if one is not None]
    steps, answers = zip(*map(told, asked, questions), strict=True)
    paths = [one.path for one in asked]
    columns = {
        "problem_id": [f"{prefix}-{i:06d}" for i in range(len(questions))],
        "group_id": [">".join(path) for path in paths],
        "split": [split_of(path) for path in paths],
        "question": questions,
        "answer": answers,
        "cot": ["\n".join(own) for own in steps],
    }
    return pa.table(columns | label_columns(asked))


class Change(NamedTuple):
    """A sentence, and another concept for its last word."""

    sentence: str
    concept: str


def twins(question: str, rng: random.Random) -> Iterator[str]:
    """The question with one concept of one sentence changed, so that what was offered beside is true.

    In every way that there is, in random order: none where no change does that, or where the question is not
    about a graph. The way to what is true then has as many hops as the old one had; the words are as many.
    """
    if (asked := read(question)) is None:
        return
    found = list(changes(asked))
    for change in rng.sample(found, len(found)):
        yield changed(question, change)


def changed(question: str, change: Change) -> str:
    """The question with this change."""
    return question.replace(f"{change.sentence}.", f"{_about(change, question)}.", 1)


def changes(asked: Asked, *, free: bool = False) -> Iterator[Change]:
    """What makes true what was offered beside in as many hops, and not what was true.

    `free`: in any number of hops, and what was true may stay so on another way.
    """
    edges, path = list(asked.edges), [asked.root, *asked.path]
    to_other = distances([(b, a) for a, b in edges], asked.other)
    for hop, edge in enumerate(pairwise(path), start=1):
        at = edges.index(edge)
        for concept, hops in to_other.items():
            if (
                not (free or hop + hops == len(path) - 1)
                or concept[0].isupper()
                or " " in {*concept} ^ {*edge[1]}
            ):
                continue
            other = [*edges[:at], (edge[0], concept), *edges[at + 1 :]]
            reached = distances(other, asked.root)
            circle = edge[0] in distances(other, concept)
            if circle or (not free and asked.target in reached):
                continue
            if reached[asked.other] == hop + hops:
                yield Change(asked.sentences[at], concept)


def _about(change: Change, question: str) -> str:
    """The changed sentence, in the form that it has; ProsQA writes "a" before every letter."""
    if PLURAL.fullmatch(change.sentence):
        return f"{change.sentence.rpartition(' ')[0]} {change.concept}es"
    said = f"a {change.concept}" if EITHER.search(question) else with_article(change.concept)
    return f"{change.sentence.rsplit(' ', 2)[0]} {said}"


def label_columns(asked: Sequence[Asked | None]) -> dict[str, pa.Array]:
    """Labels of questions about graphs; null for questions that are not read.

    `n_steps` (hops), `root`, `target`, `other`, the `path` after the root, `hop1..hopK` (its concept at each
    hop), and sets as lists: `frontier1..frontierK` and `reachable`, all that is true of the root. K is the
    longest path's number of hops, `MOST_HOPS` at most. A frontier is empty where the search has ended.
    """
    paths = [one and one.path for one in asked]
    hops = [one and frontiers(one.edges, one.root) for one in asked]
    last = min(max((len(path) for path in paths if path), default=0), MOST_HOPS)
    text, sets = pa.string(), pa.list_(pa.string())
    columns = {"n_steps": pa.array([path and len(path) for path in paths], pa.int64())}
    for name in ("root", "target", "other"):
        columns[name] = pa.array([one and getattr(one, name) for one in asked], text)
    for i in range(last):
        at = [path[i] if path and i < len(path) else None for path in paths]
        columns[f"hop{i + 1}"] = pa.array(at, text)
    for i in range(last):
        at = [None if own is None else sorted(own[i]) if i < len(own) else [] for own in hops]
        columns[f"frontier{i + 1}"] = pa.array(at, sets)
    reached = [own if own is None else sorted(name for hop in own for name in hop) for own in hops]
    return columns | {"reachable": pa.array(reached, sets), "path": pa.array(paths, sets)}
