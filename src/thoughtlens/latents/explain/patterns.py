"""Token patterns: tokens in order, other tokens between them left open, and what a latent does there.

A token graph is a set of them, joined where they end alike (Foote et al. 2023, "Neuron to Graph",
arXiv:2305.19911: a trie read backwards from the token where the latent fires, wildcards included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtlens.latents.codes.tokens import quoted
from thoughtlens.latents.explain.corpus import Part
from thoughtlens.latents.explain.lookup import PRIOR
from thoughtlens.latents.explain.tokens import Tokens

SHOWN = 4
NAMED = 6


@dataclass(frozen=True, order=True)
class Item:
    """One place of a pattern: any of some tokens, or any token at all where there are none.

    `least` to `most` tokens stand between it and the item after it (0 and 0 for the last item).
    """

    tokens: tuple[int, ...]
    least: int = 0
    most: int = 0
    importance: float = 1.0


@dataclass(frozen=True)
class Pattern:
    """Items from the token where the latent fires backwards."""

    items: tuple[Item, ...]
    activation: float
    """Measured where the pattern was found."""
    value: float = 0.0
    """Predicted where it matches: see `TokenGraph.fit`."""
    n: int = 0
    """Fitting tokens that it decides."""

    @property
    def concrete(self) -> int:
        """Items that ask for particular tokens."""
        return sum(bool(item.tokens) for item in self.items)

    @property
    def room(self) -> int:
        """How freely its items may lie apart."""
        return sum(item.most - item.least for item in self.items)

    def find(self, tokens: Tokens) -> Int[np.ndarray, " found"]:
        """Positions of the last token of every match, ascending; a match lies in one sequence."""
        found = tokens.positions(self.items[-1].tokens)
        for item, behind in zip(self.items[-2::-1], self.items[:0:-1], strict=True):
            here = tokens.positions(item.tokens)
            low = np.maximum(here - 1 - behind.most, tokens.first[here])
            high = here - 1 - behind.least
            there = np.searchsorted(found, high, "right") - np.searchsorted(found, low, "left")
            found = here[there > 0]
        return found


@dataclass(frozen=True, eq=False)
class TokenGraph:
    """Patterns of one latent, ready to predict; where none matches, the token alone counts."""

    patterns: tuple[Pattern, ...]
    ids: Int[np.ndarray, " tokens"]
    rest: Float[np.ndarray, " tokens"]
    """Of each of these tokens, the mean activation where no pattern matches, shrunk towards 0."""
    profile: Float[np.ndarray, " cells"]

    @classmethod
    def fit(
        cls,
        found: Sequence[Pattern],
        part: Part,
        acts: Float[np.ndarray, " n"],
        profile: Float[np.ndarray, " cells"],
    ) -> TokenGraph:
        """Merge equal patterns, and learn from the fitting problems what each is worth.

        A token belongs to the most particular pattern that matches there: most concrete items, then least
        room between them. A pattern's value is the mean activation over its tokens, the measured one counted
        in once. The other tokens (of thoughts: those of the other problems) are valued by what they are.
        """
        patterns = _merged(found)
        owner = _owners(patterns, part.tokens)
        own = owner >= 0
        at = part.at_tokens(acts)
        n = np.bincount(owner[own], minlength=len(patterns))
        total = np.bincount(owner[own], at[own], minlength=len(patterns))
        valued = [
            replace(p, value=float((s + p.activation) / (k + 1)), n=int(k))
            for p, s, k in zip(patterns, total, n, strict=True)
        ]
        free = _free(part, owner)
        kinds, code = np.unique(part.tokens.ids[free], return_inverse=True)
        rest = np.bincount(code, at[free], len(kinds)) / (np.bincount(code, minlength=len(kinds)) + PRIOR)
        return cls(tuple(valued), kinds, rest, profile)

    def predict(self, part: Part) -> Float[np.ndarray, " n"]:
        """What the graph expects at each vector's token (of thoughts: in its question)."""
        tokens = part.tokens
        owner = _owners(self.patterns, tokens)
        values = np.array([p.value for p in self.patterns] + [0.0])[owner]  # the owner -1 is the last
        free = np.flatnonzero(_free(part, owner))
        if len(self.ids):
            at = np.minimum(np.searchsorted(self.ids, tokens.ids[free]), len(self.ids) - 1)
            values[free] = np.where(self.ids[at] == tokens.ids[free], self.rest[at], 0.0)
        return part.at_vectors(values.astype(np.float32)) * self.profile[part.cell]

    def render(self, names: dict[int, str]) -> str:
        """The patterns that say most about the latent, in words."""
        contexts: dict[tuple[bool, tuple[Item, ...]], list[int]] = {}
        for pattern in sorted(self.patterns, key=lambda p: (-p.value * (p.n + 1), p.items)):
            if pattern.value > 0:
                context = tuple(replace(item, importance=1.0) for item in pattern.items[1:])
                own = pattern.items[0].tokens
                contexts.setdefault((bool(own), context), []).extend(own)
        lines = [
            _sentence(list(dict.fromkeys(own)), context, names) for (_, context), own in contexts.items()
        ]
        best = np.lexsort((self.ids, -self.rest))[:SHOWN].tolist()
        alone = [f"{quoted(names[int(self.ids[i])])} ({self.rest[i]:.3g})" for i in best if self.rest[i] > 0]
        lines = lines[:SHOWN] or ["no pattern of tokens brings it about"]
        return "; or ".join(lines) + (f"; elsewhere on {', '.join(alone)}" if alone else "")

    def drawing(self, names: dict[int, str]) -> dict[str, Any]:
        """The graph as nodes and edges, for pictures: items with the same tokens at one depth are one node.

        Depth 0 is where the latent fires; an edge leads from an earlier token to the one after it, with the
        tokens that may lie between them.
        """
        nodes: dict[tuple[int, tuple[int, ...]], dict[str, Any]] = {}
        edges: dict[tuple[int, int], list[int]] = {}
        for pattern in sorted(self.patterns, key=lambda p: (-p.value * (p.n + 1), p.items)):
            after = -1
            for depth, item in enumerate(pattern.items):
                node = nodes.setdefault(
                    (depth, item.tokens),
                    {
                        "id": len(nodes), "token": _name(item.tokens, names), "depth": depth,
                        "importance": 0.0, "activation": 0.0, "n": 0,
                    },
                )  # fmt: skip
                node["importance"] = max(node["importance"], round(item.importance, 4))
                node["activation"] = max(node["activation"], round(pattern.activation, 4))
                node["n"] += pattern.n
                if after >= 0:
                    gap = edges.setdefault((node["id"], after), [item.least, item.most])
                    gap[0], gap[1] = min(gap[0], item.least), max(gap[1], item.most)
                after = node["id"]
        return {
            "nodes": list(nodes.values()),
            "edges": [list(edge) for edge in edges],
            "gaps": list(edges.values()),
        }


def _merged(found: Sequence[Pattern]) -> list[Pattern]:
    """Patterns with equal items once, activation and importance averaged."""
    groups: dict[tuple, list[Pattern]] = {}
    for pattern in found:
        key = tuple((item.tokens, item.least, item.most) for item in pattern.items)
        groups.setdefault(key, []).append(pattern)
    merged = []
    for same in groups.values():
        importance = np.mean([[item.importance for item in p.items] for p in same], axis=0)
        items = zip(same[0].items, importance.tolist(), strict=True)
        merged.append(
            Pattern(
                tuple(replace(item, importance=value) for item, value in items),
                float(np.mean([p.activation for p in same])),
            )
        )
    return merged


def _owners(patterns: Sequence[Pattern], tokens: Tokens) -> Int[np.ndarray, " n"]:
    """The most particular pattern that matches at each token; -1 where none does."""
    owner = np.full(len(tokens), -1)
    order = sorted(
        range(len(patterns)), key=lambda i: (patterns[i].concrete, -patterns[i].room, patterns[i].activation)
    )
    for i in order:
        owner[patterns[i].find(tokens)] = i
    return owner


def _free(part: Part, owner: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Tokens without a pattern; of thoughts, those of problems without one."""
    if part.where is not None:
        return owner < 0
    taken = np.zeros(part.n_units, bool)
    taken[part.tokens.stretch[owner >= 0]] = True
    return ~taken[part.tokens.stretch]


def _name(tokens: tuple[int, ...], names: dict[int, str]) -> str:
    if not tokens:
        return "any token"
    more = f" (+{len(tokens) - NAMED})" if len(tokens) > NAMED else ""
    return " | ".join(names[t] for t in tokens[:NAMED]) + more


def _sentence(tokens: Sequence[int], context: tuple[Item, ...], names: dict[int, str]) -> str:
    """`" dog" right after " hot"`, with how many tokens may stand between."""
    parts = [_or(tokens, names)]
    for item in context:
        how, span = _between(item)
        parts.append(f"{how} {_or(item.tokens, names)}{span}")
    return " ".join(parts)


def _or(tokens: Sequence[int], names: dict[int, str]) -> str:
    shown = " or ".join(quoted(names[t]) for t in tokens[:NAMED]) or "any token"
    return shown + (f" (or {len(tokens) - NAMED} others)" if len(tokens) > NAMED else "")


def _between(item: Item) -> tuple[str, str]:
    if item.most == 0:
        return "right after", ""
    span = str(item.least) if item.least == item.most else f"{item.least} to {item.most}"
    return "after", f" ({span} tokens between)"
