"""Clauses in words: which sentence, and at which thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool

from thoughtlens.latents.explain.clauses import Clause
from thoughtlens.latents.explain.records import UNKNOWN
from thoughtlens.latents.explain.statements import Context, Statements


def sentence(
    clauses: Sequence[Clause], known: Statements, there: Bool[np.ndarray, "statements contexts"]
) -> str:
    """All clauses, the surest first; `there`: where each statement holds at all."""
    return "; or ".join(words(one, known, there[one.statement]) for one in clauses) or UNKNOWN


def words(clause: Clause, known: Statements, there: Bool[np.ndarray, " contexts"]) -> str:
    """One clause: "the value so far is 21 (thoughts 2, 4, 6; in two-step problems also 5)"."""
    text = known.statements[clause.statement].text
    chosen = [known.contexts[i] for i in np.flatnonzero(clause.contexts & there)]
    every = [known.contexts[i] for i in np.flatnonzero(there)]
    hooks = list(dict.fromkeys(one.hook_name for one in every))
    by_hook = {
        hook: _places(*([c for c in own if c.hook_name == hook] for own in (chosen, every))) for hook in hooks
    }
    said = {hook: place for hook, place in by_hook.items() if place is not None}
    if len(said) == len(hooks) and len(set(said.values())) == 1:
        own = next(iter(said.values()))
        return f"{text} ({own})" if own else text
    if len(said) == 1:
        ((hook, own),) = said.items()
        return f"{text} ({own}; at {hook})" if own else f"{text} (at {hook})"
    parts = [f"at {hook} {place}".rstrip() for hook, place in said.items()]
    return f"{text} ({'; '.join(parts)})"


def further(clause: Clause, known: Statements, there: Bool[np.ndarray, " contexts"]) -> dict[str, list[int]]:
    """By condition, the thoughts at which the clause holds under that condition and not under all."""
    chosen = [known.contexts[i] for i in np.flatnonzero(clause.contexts & there)]
    return _by_condition(chosen, [known.contexts[i] for i in np.flatnonzero(there)])[1]


def _places(chosen: Sequence[Context], every: Sequence[Context]) -> str | None:
    """Thoughts in words; empty where there are none or all of them, None where nothing was chosen."""
    if not chosen:
        return None
    if len(chosen) == len(every) and len({one.thought for one in every}) == 1 and not every[0].thought:
        return "" if every[0].thought is None else "begin-of-thought"
    common, rest = _by_condition(chosen, every)
    parts = [listed(common)] if common else []
    for condition, own in rest.items():
        parts.append(f"in {condition} {'also ' + _numbers(own) if common else listed(own)}")
    return "; ".join(parts)


def _by_condition(
    chosen: Sequence[Context], every: Sequence[Context]
) -> tuple[list[int], dict[str, list[int]]]:
    """Thoughts under every condition under which there are any, and the others by condition."""
    common, rest = [], dict[str, list[int]]()
    for thought in dict.fromkeys(one.thought for one in chosen):
        if thought is None:
            continue
        own = list(dict.fromkeys(one.condition for one in chosen if one.thought == thought))
        if set(own) == {one.condition for one in every if one.thought == thought}:
            common.append(thought)
            continue
        for condition in own:
            rest.setdefault(condition, []).append(thought)
    return common, rest


def listed(thoughts: Sequence[int]) -> str:
    """Thoughts in words: "thoughts 1, 3, 5", "thoughts 1 to 6", "begin-of-thought"."""
    later = [t for t in thoughts if t]
    begin = ["begin-of-thought"] if len(later) < len(thoughts) else []
    return " and ".join(
        [*begin, *([f"thought{'s' if len(later) > 1 else ''} {_numbers(later)}"] if later else [])]
    )


def _numbers(thoughts: Sequence[int]) -> str:
    if len(thoughts) > 3 and all(b - a == 1 for a, b in pairwise(thoughts)):
        return f"{thoughts[0]} to {thoughts[-1]}"
    return ", ".join("begin-of-thought" if t == 0 else str(t) for t in thoughts)
