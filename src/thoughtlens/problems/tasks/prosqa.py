"""ProsQA (Hao et al. 2024, arXiv:2412.06769): which of two is somebody, along a graph with many dead ends.

A question tells the edges of a graph without circles in random order, and offers two concepts::

    Every gerpus is a brimpus. Alex is a rempus. ... Tom is a terpus. Is Tom a lempus or scrompus?

One of the two follows for the one asked about, the other one for somebody else. Graphs grow as the paper
says: a new node comes below nodes that only the first of two persons reaches, below those that only the
second reaches, or below any, deep ones preferred. A node has as many edges leading to it, as often, as one of
the published test problems has. There is one shortest way to the answer. Both concepts that are offered are
named equally often: in the published problems the one that is named less often is the right one in two of
three, which no model should be praised for.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa

from thoughtlens.problems.tasks import graphs
from thoughtlens.problems.tasks.graphs import CONCEPTS, HELD_OUT_NAMES, TRAIN_NAMES, Asked

HOPS = (3, 4, 5)
NODES = (19, 26)
"""Fewest and most nodes of a graph."""
EDGES_TO = (3, 48, 31, 13, 4, 1)
"""Of a hundred nodes those with no, one, two, ... edges leading to them."""
SIDES = (35, 35, 30)
"""Of a hundred nodes those that are put beside the second person's, beside the first one's, or anywhere."""


def problems(n: int, *, seed: int, split: str = "any", hops: Sequence[int] = HOPS) -> pa.Table:
    """A table of `n` fresh problems.

    Args:
        n: Rows.
        seed: Fixes every row.
        split: Only paths of this split; with `any` the column `split` says where each belongs.
        hops: Edges from the one asked about to the answer, equally often.

    Returns:
        `problem_id, group_id (the path), split, question, answer, cot` (a line for each step) and the labels
        of `graphs.label_columns`. No path of concepts is in two splits, and in problems of `test` everybody
        has a name that nobody in others has.

    Raises:
        DataError: no such split, no problems asked for, or a negative seed.
        ConfigError: hops that cannot be made.
    """
    graphs.require_hops(hops, 1, 6)
    rng = graphs.generator(n, seed, split)
    return table([_question(rng.choice(hops), split, rng) for _ in range(n)], f"prosqa-{split}-{seed}")


def table(questions: Sequence[str], prefix: str) -> pa.Table:
    """Questions of ProsQA as a table of problems, with the steps and answers that follow from them."""
    return graphs.table(questions, prefix, told)


def told(asked: Asked, question: str) -> tuple[list[str], str]:
    """The steps to the answer, and the answer."""
    path = [asked.root, *asked.path]
    steps = [f"{'' if a == asked.root else 'Every '}{a} is a {b}." for a, b in pairwise(path)]
    return steps, f"{asked.root} is a {asked.target}."


class _Shape(NamedTuple):
    """A graph and what is asked about it; nodes are numbers, an edge leads to a higher one."""

    n: int
    edges: list[tuple[int, int]]
    path: list[int]
    """From the one asked about to what is true of it."""
    other: int
    people: list[int]


def _question(hops: int, split: str, rng: random.Random) -> str:
    """A problem with that many hops."""
    while True:
        shape = _shape(hops, rng)
        concepts = rng.sample(CONCEPTS, shape.n)
        while split != "any" and graphs.split_of([concepts[x] for x in shape.path[1:]]) != split:
            rng.shuffle(concepts)
        own = graphs.split_of([concepts[x] for x in shape.path[1:]])
        pool = HELD_OUT_NAMES if own == "test" else TRAIN_NAMES
        if len(shape.people) <= len(pool):
            break
    names = dict(enumerate(concepts)) | dict(
        zip(shape.people, rng.sample(pool, len(shape.people)), strict=True)
    )
    facts = [f"{'' if a in shape.people else 'Every '}{names[a]} is a {names[b]}." for a, b in shape.edges]
    rng.shuffle(facts)
    first, second = rng.sample([names[shape.path[-1]], names[shape.other]], 2)
    return f"{' '.join(facts)} Is {names[shape.path[0]]} a {first} or {second}?"


def _shape(hops: int, rng: random.Random) -> _Shape:
    """A graph with one shortest way of that many hops to a leaf that only one of two persons reaches."""
    while True:
        n, edges, reached_by = _graph(rng)
        leaves = sorted({*range(n)} - {a for a, _ in edges})
        named = Counter(b for _, b in edges)
        for root in rng.sample((0, 1), 2):
            far = graphs.distances(edges, root)
            targets = [x for x in leaves if reached_by[x] == 1 + root and far[x] == hops]
            for target in rng.sample(targets, len(targets)):
                path = graphs.shortest_path(edges, root, target)
                others = [x for x in leaves if reached_by[x] == 2 - root and named[x] == named[target]]
                if others and path == graphs.shortest_path(edges[::-1], root, target):
                    people = sorted({*range(n)} - {b for _, b in edges})
                    return _Shape(n, edges, [root, *path], rng.choice(others), people)


def _graph(rng: random.Random) -> tuple[int, list[tuple[int, int]], list[int]]:
    """Number of nodes, edges, and who reaches each node: 1, 2, both (3) or neither (0)."""
    n, edges = rng.randint(*NODES), []
    reached_by, depth = [1, 2], [0, 0]
    for node in range(2, n):
        side = rng.choices((1, 2, 0), SIDES)[0]
        above = [x for x in range(node) if side == 0 or not reached_by[x] & side]
        weights = [1 + 1.5 * depth[x] for x in above]
        wanted, chosen = rng.choices(range(len(EDGES_TO)), EDGES_TO)[0], set()
        while len(chosen) < min(wanted, len(above)):
            chosen.add(rng.choices(above, weights)[0])
        edges += [(x, node) for x in sorted(chosen)]
        reached_by.append(0)
        for x in chosen:
            reached_by[node] |= reached_by[x]
        depth.append(1 + max((depth[x] for x in chosen), default=-1))
    return n, edges, reached_by
