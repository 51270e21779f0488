"""The program of one model: places, values, tables, and the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from thoughtlens.latents import of_thoughts
from thoughtlens.problems import Written
from thoughtlens.tracing.program.asked import Asked, Mind, Spot, spelled
from thoughtlens.tracing.program.config import ProgramConfig
from thoughtlens.tracing.program.grading import Grader, Held
from thoughtlens.tracing.program.places import MOVES, Holding, Places, find, name_of
from thoughtlens.tracing.program.records import CellRow, Leave, StepTable, Variable
from thoughtlens.tracing.program.tables import ANSWER, Exit, Filler, Key, Step, leave, shared
from thoughtlens.tracing.program.values import LETTERS, Values, tell_apart
from thoughtlens.tracing.program.writing import FILE, Draft
from thoughtlens.tracing.read.lenses import logit_lens
from thoughtlens.tracing.read.seen import seen

CHECKED = 100
"""Training problems on which the swap of an operation is checked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inferred:
    """What was found, and the file if there is a program."""

    reason: str | None
    places: Places
    fit: Sequence[Asked]
    answers: Sequence[str] = ()
    """The model's, to these."""
    spots: Mapping[str, Spot] = field(default_factory=dict)
    values: Mapping[int, Values] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    steps: list[StepTable] = field(default_factory=list)
    cells: list[CellRow] = field(default_factory=list)
    leaves: list[Leave] = field(default_factory=list)
    file: Path | None = None


def infer(
    cfg: ProgramConfig,
    mind: Mind,
    rule: Written,
    train: Sequence[Asked],
    *,
    held_out: set[Key],
    out: Path,
) -> Inferred:
    """Find out what the thoughts compute, from training problems alone, and write it into `out`.

    No twin is on a path of `held_out`.
    """
    rng = np.random.default_rng((cfg.seed, 97))
    fit, n_steps = train[: cfg.n_fit], len(train[0].words) - 1
    places = find(mind, rule, train, held_out, n=cfg.n_twins, least=cfg.least, rng=rng)
    if reason := _refused(places, n_steps, cfg.least):
        return Inferred(reason=reason, places=places, fit=fit)
    values = _values(mind, fit, places, n_steps)
    if not values:
        reason = (
            "the states at the places that move the answer cannot be told apart by what follows from them"
        )
        return Inferred(reason=reason, places=places, fit=fit)
    answers = mind.answers([one.question for one in fit])[0]
    filler = Filler(mind, rule, fit, train, held_out, values, answers, cfg.repeats, rng, n_steps)
    steps = filler.steps()
    filler.as_they_stand()
    names = [name_of(at) for at in range(n_steps + 1)] + [f"value{k}" for k in values] + [ANSWER]
    leaves = [leave(filler.seen, names, p) for p in filler.exits]
    tables = _tables(shared(steps), len(steps))
    spots = {f"value{k}": own.spot for k, own in values.items()}
    spots |= {name_of(k): found[0].spot for k, found in places.operations.items()}
    variables = _variables(places, values, train, answers)
    draft = Draft(mind.model.name, n_steps, variables, tables, leaves, fit[0].words)
    file = out / FILE
    file.write_text(draft.text(), "utf-8")
    known = Held.of(fit[:CHECKED], answers[:CHECKED])
    agree = Grader(mind, file, known, spots, values, rng).agreement()
    spots = {
        name: spot for name, spot in spots.items() if name.startswith("value") or agree[name] >= cfg.least
    }
    variables = [
        one if one.named_by != "question" or one.name in spots else one.nowhere() for one in variables
    ]
    file.write_text(replace(draft, variables=variables).text(), "utf-8")
    named = {step.gives: name for name, (own, _) in tables.items() for step in own}
    return Inferred(
        reason=None,
        places=places,
        fit=fit,
        answers=answers,
        spots=spots,
        values=values,
        variables=variables,
        steps=[_told(step, named[step.gives]) for step in steps],
        cells=[
            CellRow(gives=step.gives, before=",".join(key), after=cell.after, votes=cell.votes, n=cell.n)
            for step in steps
            for key, cell in step.cells.items()
        ],
        leaves=[_left(one) for one in leaves],
        file=file,
    )


def _refused(places: Places, n_steps: int, least: float) -> str | None:
    """Why there is no program."""
    still = [name for name, share in places.moves.items() if share < MOVES]
    if still:
        share = max(places.moves[name] for name in still)
        return (
            f"the answer hardly depends on {', '.join(still)}: another word there changes at most "
            f"{share:.0%} of the answers, so the model does not compute with it"
        )
    if n_steps < 2:
        return "problems of one step have no value between question and answer that a thought could hold"
    if not any(k < n_steps for k in places.values):
        return (
            f"thoughts are not used: no thought hands on the value after any step, so that what it leaves "
            f"behind, taken from twins, moves the answer as theirs in at least {least:.0%}"
        )
    return None


def _values(mind: Mind, fit: Sequence[Asked], places: Places, n_steps: int) -> dict[int, Values]:
    """The values of every step between question and answer that some place holds."""
    held = {k: found[0].spot for k, found in places.values.items() if k < n_steps}
    questions = [one.question for one in fit]
    left = dict(zip(held, mind.think(questions, [*held.values()]), strict=True))
    lens = logit_lens(of_thoughts(mind.model), mind.model.spec.thoughts)
    read = seen(mind.model, lens, questions, max_new_tokens=None)
    exits = sorted({spot.thought for spot in held.values()} & set(range(mind.model.spec.n_thoughts)))
    said = dict(zip(exits, mind.answers(questions, exits=[(p, None) for p in exits])[1], strict=True))
    found = {}
    for k, spot in held.items():
        words = spelled([read.words[int(i)] for i in read.reading[:, spot.thought]])
        readings = {"logit lens": words} | (
            {"early exit": said[spot.thought]} if spot.thought in said else {}
        )
        own = tell_apart(mind, spot, fit, left[k], readings)
        if own is not None:
            found[k] = own
    return found


def _tables(
    groups: list[tuple[list[Step], dict[Key, str]]], n: int
) -> dict[str, tuple[list[Step], dict[Key, str]]]:
    """Tables by name: `STEP` where all steps share one, else by the value that they give."""
    names = ["STEP"] if len(groups) == 1 and n > 1 else [own[0].gives.upper() for own, _ in groups]
    return dict(zip(names, groups, strict=True))


def _variables(
    places: Places, values: Mapping[int, Values], train: Sequence[Asked], answers: Sequence[str]
) -> list[Variable]:
    """Start value and operations, the values between, the answer."""
    found, n_steps = [], len(train[0].words) - 1
    for at in range(n_steps + 1):
        n_words = len({one.words[at] for one in train})
        found.append(_variable(name_of(at), places.operations.get(at, []), n_words, "question"))
    for k, own in values.items():
        found.append(_variable(f"value{k}", places.values[k], len(own.names), own.named_by))
    return [*found, _variable(ANSWER, places.values.get(n_steps, []), len(set(answers)), "answer")]


def _variable(name: str, held: Sequence[Holding], n_values: int, named_by: str) -> Variable:
    best = held[0] if held else None
    return Variable(
        name=name,
        thought_idx=None if best is None else best.spot.thought,
        route=None if best is None else best.spot.route,
        score=None if best is None else best.score,
        also=[str(one.spot) for one in held[1:]],
        n_values=n_values,
        named_by=named_by,
    )


def _told(step: Step, table: str) -> StepTable:
    cells = step.cells.values()
    n = sum(cell.n for cell in cells)
    return StepTable(
        table=table,
        of=step.of,
        gives=step.gives,
        n_cells=len(cells),
        agreement=sum(cell.votes for cell in cells) / n if n else None,
        n=n,
    )


def _left(one: Exit) -> Leave:
    return Leave(n_thoughts=one.n_thoughts, of=[*one.of], share=max(one.share, 0.0))


__all__ = ["LETTERS", "Inferred", "infer"]
