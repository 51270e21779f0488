"""Which values a place can hold: states are one value where the same answers follow from them elsewhere.

What a problem left at a place is put into a few other problems, the probes. The answers that follow tell its
value from others; no label, and no reading of the state, says which states belong together. Names are given
to the values afterwards: what the model says when it leaves there, or what its own output side reads there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.tracing.program.asked import Asked, Left, Mind, Spot, lines

N_PROBES = 2
"""Problems whose answers tell values apart."""
CANDIDATES, SOURCES = 8, 64
"""Problems that are tried as probes, with so many others' values."""
SEEN = 2
"""Problems that a value must be seen in."""
SURE = 0.5
"""Share of a value's problems that must be named alike."""
LETTERS = "letters"
Key = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Values:
    """The values of one place."""

    mind: Mind
    spot: Spot
    probes: list[str]
    names: Mapping[Key, str]
    """By the answers in the probes."""
    named_by: str
    left: Left
    """Of the problems that they were told apart on."""
    said: list[str | None]
    """Their values."""

    def of(self, left: Left) -> list[str | None]:
        """The value of each of these states; None: none that is known."""
        return [
            self.names.get(signature) for signature in _signatures(self.mind, self.spot, self.probes, left)
        ]

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """By value, its problems."""
        return {name: [i for i, own in enumerate(self.said) if own == name] for name in self.names.values()}

    @cached_property
    def means(self) -> Float[Tensor, "values width"]:
        """The mean state of each value."""
        flat = _flat(self.left)
        return torch.stack([flat[rows].mean(0) for rows in self.rows.values()])

    def nearest(self, left: Left) -> list[str]:
        """The value whose mean lies nearest: a reading of states that are no problem's own."""
        names = [*self.rows]
        return [names[i] for i in torch.cdist(_flat(left), self.means).argmin(1).tolist()]


def tell_apart(
    mind: Mind, spot: Spot, problems: Sequence[Asked], left: Left, readings: Mapping[str, Sequence[str]]
) -> Values | None:
    """The values that these problems left at a place; None where there are fewer than two.

    Args:
        mind: Who thinks.
        spot: The place.
        problems: Those that left something there.
        left: What they left.
        readings: Words that might name the values, by where they come from.
    """
    probes = _probes(mind, spot, problems, left)
    signatures = _signatures(mind, spot, probes, left)
    count = Counter(signatures)
    known = [signature for signature, n in count.most_common() if n >= SEEN]
    if len(known) < 2:
        return None
    names, named_by = _named(known, signatures, readings)
    said = [names.get(signature) for signature in signatures]
    return Values(mind, spot, probes, names, named_by, left, said)


def _signatures(mind: Mind, spot: Spot, probes: Sequence[str], left: Left) -> list[Key]:
    n = len(next(iter(left.values())))
    answers = [mind.answers([probe] * n, [(spot, left)])[1][0] for probe in probes]
    return list(zip(*answers, strict=True))


def _probes(mind: Mind, spot: Spot, problems: Sequence[Asked], left: Left) -> list[str]:
    """The problems in which most answers are told apart."""
    some = lines(left, range(min(SOURCES, len(problems))))
    step = max(len(problems) // CANDIDATES, 1)
    tried = {one.question: _signatures(mind, spot, [one.question], some) for one in problems[::step]}
    order = sorted(tried, key=lambda question: -len(set(tried[question])))
    return order[:N_PROBES]


def _named(
    known: Sequence[Key], signatures: Sequence[Key], readings: Mapping[str, Sequence[str]]
) -> tuple[dict[Key, str], str]:
    """A name for each value: the reading that most of its problems have, where no two values share it."""
    best, named_by = 0.0, LETTERS
    names = {own: _letters(i) for i, own in enumerate(known)}
    for source, words in readings.items():
        most = {
            own: Counter(w for w, s in zip(words, signatures, strict=True) if s == own).most_common(1)[0]
            for own in known
        }
        share = sum(n for _, n in most.values()) / sum(signatures.count(own) for own in known)
        if share > max(best, SURE) and len({word for word, _ in most.values()}) == len(known):
            best, named_by = share, source
            names = {own: word for own, (word, _) in most.items()}
    return names, named_by


def _letters(i: int) -> str:
    first, last = divmod(i, len(ascii_lowercase))
    return ascii_lowercase[first] + ascii_lowercase[last] if first < len(ascii_lowercase) else f"v{i}"


def _flat(left: Left) -> Float[Tensor, "n width"]:
    return torch.cat([states.float() for states in left.values()], 1)
