"""Neuron2Graph (Foote et al. 2023, arXiv:2305.19911): take a latent's examples apart to see what they need.

Each example is pruned to the shortest context that still activates the latent; every token is masked to
see which ones count; those are replaced by similar tokens, and the distances between them are changed, to
see what else would do. What remains are patterns of tokens with the rest left open.

Unlike the original, nothing needs a second model: a mask is a frequent token on which the latent is
silent, substitutes are distributional neighbours; distances are measured rather than taken as they
happened to be; and the last token itself may turn out not to matter. All examples of all latents go
through each step together, so that the model runs on full batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.latents.explain.patterns import Item, Pattern

Probe = Callable[[Sequence[np.ndarray], Int[np.ndarray, " n"]], Float[np.ndarray, " n"]]
"""`probe(sequences, example)`: for each token sequence, the activation of the latent of `examples[example]`:
at the sequence's last token, or, of thoughts, at the thought that the example is about."""
Substitutes = Callable[[int], Sequence[int]]
"""Other tokens to try in place of one."""
MOST_MASKED = 64
"""Tokens of a question that are masked one by one, and runs of tokens that are masked before."""
MOST_WIDENED = 16
"""Tokens of an example in whose place others are tried, those that count most."""


@dataclass(frozen=True, eq=False)
class Example:
    """A place where a latent fires: the tokens up to it (or the question) and its activation there."""

    latent: int
    tokens: Int[np.ndarray, " seq"]
    activation: float
    masks: tuple[int, int]
    """Tokens on which the latent is silent; the second stands in where the first is the token itself."""
    cell: int = 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """As in `ExplainConfig`; `whole`: sequences are questions, neither pruned nor ended by the latent."""

    context: int
    importance: float
    whole: bool = False


@dataclass(eq=False)
class _Cut:
    """An example on its way: the sequence kept, its activation, and what is known of its tokens."""

    index: int
    tokens: np.ndarray
    activation: float
    masks: tuple[int, int]
    importance: np.ndarray = field(default_factory=lambda: np.zeros(0))
    kept: list[int] = field(default_factory=list)
    """Positions that count, from the last one backwards."""
    options: list[tuple[int, ...]] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)

    def masked(self, at: Int[np.ndarray, " places"]) -> np.ndarray:
        """The sequence with masks at these places."""
        edited, (first, second) = self.tokens.copy(), self.masks
        edited[at] = np.where(edited[at] == first, second, first)
        return edited


def find_patterns(
    examples: Sequence[Example], probe: Probe, substitutes: Substitutes, cfg: Limits
) -> list[list[Pattern]]:
    """Patterns of every example; none where the example does not activate its latent by itself.

    Args:
        examples: Of any latents; the longest context that is tried is the example's own.
        probe: Runs the model.
        substitutes: Tokens to try in place of an important one.
        cfg: Thresholds.
    """
    cuts = _prune(examples, probe, cfg)
    _weigh(cuts, probe, cfg)
    firsts = _first_of_kind(examples, cuts)
    _widen(firsts, probe, substitutes, cfg)
    _stretch(firsts, probe, cfg)
    found: list[list[Pattern]] = [[] for _ in examples]
    for cut in firsts:
        found[cut.index] = _patterns(cut, cfg)
    return found


def most_asked(n: int, n_substitutes: int) -> int:
    """Sequences that the model runs at most to take a question of `n` tokens apart."""
    runs = len(_runs(n)) if n > MOST_MASKED else 0
    return 1 + runs + min(n, MOST_MASKED) + n_substitutes * min(n, MOST_WIDENED)


def _prune(examples: Sequence[Example], probe: Probe, cfg: Limits) -> list[_Cut]:
    """The shortest of 1, 2, 4, ... last tokens that keeps the activation, or all of them."""
    whole = probe([e.tokens for e in examples], np.arange(len(examples)))
    cuts = [
        _Cut(i, e.tokens, float(a), e.masks)
        for i, (e, a) in enumerate(zip(examples, whole, strict=True))
        if a > 0 and a >= (1 - cfg.importance) * e.activation
    ]
    if cfg.whole:
        return cuts
    waiting, length = cuts, 1
    while waiting := [cut for cut in waiting if len(cut.tokens) > length]:
        acts = probe([cut.tokens[-length:] for cut in waiting], _index(waiting))
        still = []
        for cut, act in zip(waiting, acts.tolist(), strict=True):
            if act >= (1 - cfg.importance) * cut.activation:
                cut.tokens, cut.activation = cut.tokens[-length:], act
            else:
                still.append(cut)
        waiting, length = still, 2 * length
    return cuts


def _weigh(cuts: list[_Cut], probe: Probe, cfg: Limits) -> None:
    """Mask each token in turn: importance = 1 - activation without it / activation.

    Of a longer question runs of equal length are masked first, then each token of the runs that count most;
    the other tokens count as 0.
    """
    long = [cut for cut in cuts if cfg.whole and len(cut.tokens) > MOST_MASKED]
    runs = [_runs(len(cut.tokens)) for cut in long]
    some = {
        cut.index: _most(own, lost)
        for cut, own, lost in zip(long, runs, _lost(long, runs, probe), strict=True)
    }
    tried = [some.get(cut.index, np.arange(len(cut.tokens))) for cut in cuts]
    for cut, at, lost in zip(cuts, tried, _lost(cuts, [own[:, None] for own in tried], probe), strict=True):
        cut.importance = np.zeros(len(cut.tokens))
        cut.importance[at] = lost
        kept = np.flatnonzero(cut.importance >= cfg.importance)[::-1].tolist()
        last = len(cut.tokens) - 1
        cut.kept = kept if cfg.whole or last in kept[:1] else [last, *kept]
        open_end = not cfg.whole and last not in kept
        cut.options = [() if open_end and at == last else (int(cut.tokens[at]),) for at in cut.kept]
        spans = zip(cut.kept[:-1], cut.kept[1:], strict=True)
        cut.gaps = [(0, 0), *((after - at - 1, after - at - 1) for after, at in spans)][: len(cut.kept)]


def _runs(n: int) -> list[Int[np.ndarray, " run"]]:
    """Places 0 .. n - 1 in `MOST_MASKED` runs at most, all but the last equally long."""
    size = -(-n // MOST_MASKED)
    return np.split(np.arange(n), range(size, n, size))


def _most(runs: Sequence[np.ndarray], lost: Float[np.ndarray, " runs"]) -> Int[np.ndarray, " places"]:
    """Places of the runs that count most: `MOST_MASKED` at most, or one run."""
    first = np.argsort(-lost, kind="stable")[: max(MOST_MASKED // len(runs[0]), 1)]
    return np.concatenate([runs[i] for i in first.tolist()])


def _lost(
    cuts: list[_Cut], places: Sequence[Sequence[np.ndarray] | np.ndarray], probe: Probe
) -> list[Float[np.ndarray, " n"]]:
    """The share of each example's activation that masking takes away, at each of its `places`."""
    edited = [cut.masked(at) for cut, own in zip(cuts, places, strict=True) for at in own]
    n = [len(own) for own in places]
    acts = probe(edited, np.repeat(_index(cuts), n)) if edited else np.zeros(0)
    each = np.split(acts, np.cumsum(n, dtype=int)[:-1])
    return [1 - own / cut.activation for cut, own in zip(cuts, each, strict=False)]


def _first_of_kind(examples: Sequence[Example], cuts: list[_Cut]) -> list[_Cut]:
    """One of those examples of a latent that came down to the same tokens; none that came down to nothing."""
    seen, firsts = set(), []
    for cut in cuts:
        key = (examples[cut.index].latent, examples[cut.index].cell, tuple(cut.options), tuple(cut.gaps))
        if any(cut.options) and key not in seen:
            seen.add(key)
            firsts.append(cut)
    return firsts


def _widen(cuts: list[_Cut], probe: Probe, substitutes: Substitutes, cfg: Limits) -> None:
    """Try similar tokens in place of each important one; those that keep the activation are added."""
    asked = [
        (c, k, token)
        for c, cut in enumerate(cuts)
        for k in sorted(np.argsort(-cut.importance[cut.kept], kind="stable")[:MOST_WIDENED].tolist())
        for token in (substitutes(cut.options[k][0]) if cut.options[k] else ())
    ]
    if not asked:
        return
    edited = [_replaced(cuts[c].tokens, cuts[c].kept[k], token) for c, k, token in asked]
    acts = probe(edited, np.array([cuts[c].index for c, _, _ in asked]))
    for (c, k, token), act in zip(asked, acts.tolist(), strict=True):
        if act >= (1 - cfg.importance) * cuts[c].activation:
            cuts[c].options[k] = (*cuts[c].options[k], token)
    for cut in cuts:
        cut.options = [tuple(sorted(set(own))) for own in cut.options]


def _stretch(cuts: list[_Cut], probe: Probe, cfg: Limits) -> None:
    """Change the distance between important tokens to see how near and how far they may stand.

    One token nearer and one farther first; then, on a side that holds, twice as far each time; then every
    distance between the last that held and the first that did not.
    """
    if cfg.whole:
        return
    sides = [
        _Side(cut, k, sign, cut.gaps[k][0] if sign < 0 else cfg.context - cut.gaps[k][0])
        for cut in cuts
        for k in range(1, len(cut.kept))
        for sign in (-1, 1)
    ]
    _try([(side, 1) for side in sides if side.room >= 1], probe, cfg)
    held = [side for side in sides if 1 in side.held]
    _try([(side, step) for side in held for step in side.doubled()], probe, cfg)
    _try([(side, step) for side in held for step in side.between()], probe, cfg)
    for side in sides:
        low, high = side.cut.gaps[side.k]
        reach = side.reach
        side.cut.gaps[side.k] = (low - reach, high) if side.sign < 0 else (low, high + reach)


@dataclass(eq=False)
class _Side:
    """A gap of an example in one direction: by how many tokens it may shrink or grow."""

    cut: _Cut
    k: int
    sign: int
    room: int
    held: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    @property
    def reach(self) -> int:
        """The largest change with no known failure up to it."""
        return max((step for step in self.held if step < min(self.failed, default=step + 1)), default=0)

    def doubled(self) -> list[int]:
        """2, 4, 8, ... and the last one there is room for."""
        steps = {2**i for i in range(1, self.room.bit_length())} | {self.room}
        return sorted(steps - self.held - self.failed)

    def between(self) -> list[int]:
        """Those between the last that held and the first that failed."""
        return list(range(self.reach + 1, min(self.failed, default=self.reach + 1)))


def _try(asked: list[tuple[_Side, int]], probe: Probe, cfg: Limits) -> None:
    if not asked:
        return
    edited = [_spaced(s.cut, s.k, s.cut.gaps[s.k][0] + s.sign * step) for s, step in asked]
    acts = probe(edited, np.array([side.cut.index for side, _ in asked]))
    for (side, step), act in zip(asked, acts.tolist(), strict=True):
        fine = act >= (1 - cfg.importance) * side.cut.activation
        (side.held if fine else side.failed).add(step)


def _patterns(cut: _Cut, cfg: Limits) -> list[Pattern]:
    """The example's pattern; of a question also the same tokens in order at any distance."""
    columns = zip(cut.options, cut.gaps, cut.kept, strict=True)
    items = tuple(
        Item(tokens, least, most, float(np.clip(cut.importance[at], 0, 1)))
        for tokens, (least, most), at in columns
    )
    patterns = [Pattern(items, cut.activation)]
    if cfg.whole and len(items) > 1:
        far = tuple(Item(i.tokens, 0, cfg.context, i.importance) for i in items[1:])
        patterns.append(Pattern((items[0], *far), cut.activation))
    return patterns


def _spaced(cut: _Cut, k: int, gap: int) -> np.ndarray:
    """The sequence with `gap` tokens between its k-th important token and the one after it."""
    at, after = cut.kept[k], cut.kept[k - 1]
    between = cut.tokens[at + 1 : after]
    filled = np.r_[np.full(max(gap - len(between), 0), cut.masks[0]), between[max(len(between) - gap, 0) :]]
    return np.r_[cut.tokens[: at + 1], filled, cut.tokens[after:]].astype(cut.tokens.dtype)


def _replaced(tokens: np.ndarray, at: int, token: int) -> np.ndarray:
    edited = tokens.copy()
    edited[at] = token
    return edited


def _index(cuts: list[_Cut]) -> np.ndarray:
    return np.array([cut.index for cut in cuts], np.int64)
