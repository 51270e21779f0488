"""ProntoQA (Saparov & He 2023, arXiv:2210.01240): true or false, along a chain of made-up concepts.

A question tells rules in random order, then what somebody is, then what is to be judged::

    Each wumpus is a lempus. Lempuses are not shy. ... Tumpuses are shy. Rex is a wumpus. True or false: Rex
    is not shy.

The concepts on the way have properties and further kinds beside, which are dead ends, and one concept that is
not on the way has the opposite of the property asked about: so neither of the two is missing in the text, and
the text alone does not tell which is true.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa

from thoughtlens.problems.tasks import graphs
from thoughtlens.problems.tasks.graphs import CONCEPTS, HELD_OUT_NAMES, TRAIN_NAMES, Asked, Edge

HOPS = (5,)
PROPERTIES = (
    "amenable", "angry", "bright", "brown", "cold", "dull", "earthy", "feisty", "floral", "fruity", "happy",
    "hot", "kind", "large", "liquid", "luminous", "mean", "metallic", "nervous", "opaque", "orange", "red",
    "shy", "small", "sour", "spicy", "sweet", "temperate", "transparent", "wooden",
)  # fmt: skip
BEYOND = (1, 3)
"""Concepts that come after the one whose property is asked about, fewest and most."""
BESIDE = 0.5
"""Share of the concepts on the way that are a kind beside the way, too."""


def problems(n: int, *, seed: int, split: str = "any", hops: Sequence[int] = HOPS) -> pa.Table:
    """A table of `n` fresh problems; arguments, columns and splits as in `prosqa.problems`.

    `hops` counts the rules that are applied, as the authors do; the label `n_steps` counts the fact, too.
    `target` is what is true of the one asked about, such as `not shy`, and `other` its opposite.
    """
    graphs.require_hops(hops, 1, 7)
    rng = graphs.generator(n, seed, split)
    return table([_question(rng.choice(hops), split, rng) for _ in range(n)], f"prontoqa-{split}-{seed}")


def table(questions: Sequence[str], prefix: str) -> pa.Table:
    """Questions of ProntoQA as a table of problems, with the steps and answers that follow from them."""
    return graphs.table(questions, prefix, told)


def told(asked: Asked, question: str) -> tuple[list[str], str]:
    """The steps to the answer, two sentences each, and the answer."""
    path = [asked.root, *asked.path]
    sentences = []
    for a, b in pairwise(path):
        sentences += [asked.sentences[asked.edges.index((a, b))], _fact(asked.root, b)]
    sentences = [f"{sentence}." for sentence in sentences[1:]]
    steps = [" ".join(sentences[i : i + 2]) for i in range(0, len(sentences), 2)]
    return steps, str(_fact(asked.root, asked.target) in question.partition("True or false: ")[2])


def _question(hops: int, split: str, rng: random.Random) -> str:
    """A problem with that many rules to apply."""
    while True:
        concepts = rng.sample(CONCEPTS, len(CONCEPTS))
        properties = [rng.choice(("", "not ")) + one for one in rng.sample(PROPERTIES, len(PROPERTIES))]
        way, asked = concepts[:hops], properties.pop()
        own = graphs.split_of([*way, asked])
        if split in ("any", own):
            break
    rest = iter(concepts[hops:])
    chain = [*way, *(next(rest) for _ in range(rng.randint(*BEYOND)))]
    edges: list[Edge] = list(pairwise(chain))
    edges += [(one, properties.pop()) for one in chain if one != way[-1]]
    beside = [(one, next(rest)) for one in way if rng.random() < BESIDE]
    edges += beside + [(kind, properties.pop()) for _, kind in beside]
    elsewhere = next(rest)
    edges += [(way[-1], asked), (elsewhere, graphs.opposite(asked)), (elsewhere, next(rest))]
    rng.shuffle(edges)
    rules = [_rule(a, b, rng.choice(("Each", "Every", ""))) for a, b in edges]
    root = rng.choice(HELD_OUT_NAMES if own == "test" else TRAIN_NAMES)
    claimed = rng.choice((asked, graphs.opposite(asked)))
    sentences = [*rules, _fact(root, way[0]), f"True or false: {_fact(root, claimed)}"]
    return f"{'. '.join(sentences)}."


def _rule(concept: str, is_a: str, quantifier: str) -> str:
    """What every such thing is; without a quantifier in the plural."""
    if quantifier:
        return f"{quantifier} {concept} is {_said(is_a)}"
    return f"{concept.capitalize()}es are {is_a + 'es' * (is_a in CONCEPTS)}"


def _fact(root: str, is_a: str) -> str:
    return f"{root} is {_said(is_a)}"


def _said(is_a: str) -> str:
    return graphs.with_article(is_a) if is_a in CONCEPTS else is_a
