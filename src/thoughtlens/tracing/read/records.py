"""What `think` gives back: how each thought was read, what was tested of it, and both for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from thoughtlens.core import Number, Record, column
from thoughtlens.latents import NO_BETTER, UNKNOWN, placeless

DEFINITIONS = {
    "reading": "the likeliest token if this thought were written down: softmax(W_U norm(state)) of what the "
    "thought hands on (logit lens, nostalgebraist 2020); where read_by is set, what that reads: "
    "the run's trace chose it there, since more steps hold with it",
    "probability": "of that token, by the same softmax over the whole vocabulary; not a test of the reading",
    "null": "mean probability of the same token in the same thought of n_others other problems: what is as "
    "large there says nothing of this question; unset where no other problem is at hand",
    "latents": "the strongest latents of the run's SAE on this thought, over its hooks, by activation",
    "says": "the latent's explanation in the run; unset where it has none",
    "tested": "by live: the thought is taken from other problems, and what follows is another answer, or "
    "another reading of a later thought. changed: share of thoughts with another reading after which it is; "
    "kept: share of thoughts with the same reading after which nothing is; whole_pass: `changed` where the "
    "keys and values of the pass are taken over too. By run: changed is the share of right answers that an "
    "edit of this thought took on the run's problems. By trace: changed (the state alone) or whole_pass is "
    "the share of the run's problems in which this thought, taken from the problem with another operand, "
    "brought that problem's answer. Intervals: Wilson, 95 %; of the run its own",
    "tuned": "the likeliest token at a layer on the way to this thought, by the run's tuned lens",
    "verdict": "used: the interval of changed lies above a half; not used: below it, and so does that of "
    "whole_pass; used by another way: only that of whole_pass lies above it; more than it reads: used, and "
    "that of kept lies below it; else unclear. The last thought's state is read by nothing: there the "
    "verdict is of whole_pass",
}
USED, NOT_USED, OTHER_WAY = "used", "not used", "used by another way"
MORE, UNCLEAR = "more than it reads", "unclear"
COLOURS = {USED: "green", MORE: "yellow", OTHER_WAY: "yellow", NOT_USED: "red"}
Paint = Callable[[str, str], str]
"""A text in a colour: `dim`, `bold`, or one of `COLOURS`."""


@dataclass(frozen=True, kw_only=True)
class Strong(Record):
    """A latent that fires on a thought."""

    latent: int
    activation: float
    hook_name: str
    says: str | None = column(default=None, null=True)
    auprc: float | None = column(default=None, null=True)
    """How well that explanation tells, on held-out rows, where the latent fires."""
    verdict: str | None = column(default=None, null=True)
    """How far it can be trusted, in words."""


@dataclass(frozen=True, kw_only=True)
class Tested(Record):
    """Whether what follows depends on a thought, and on what it reads."""

    by: str
    """live: on this question; on the run's problems, trace: by that stage; run: by its stage `effects`."""
    verdict: str
    changed: Number | None = column(default=None, null=True)
    kept: Number | None = column(default=None, null=True)
    whole_pass: Number | None = column(default=None, null=True)

    @classmethod
    def of(
        cls,
        by: str,
        *,
        changed: Number | None = None,
        kept: Number | None = None,
        whole_pass: Number | None = None,
    ) -> Tested:
        """With the verdict that these numbers amount to."""
        first = whole_pass if changed is None else changed
        verdict = UNCLEAR
        if _above(first):
            verdict = MORE if _below(kept) else USED
        elif _above(whole_pass):
            verdict = OTHER_WAY if _below(changed) else UNCLEAR
        elif first is None and _below(kept):
            verdict = MORE
        elif _below(first) and (whole_pass is None or _below(whole_pass)):
            verdict = NOT_USED
        return cls(by=by, verdict=verdict, changed=changed, kept=kept, whole_pass=whole_pass)


@dataclass(frozen=True, kw_only=True)
class Reading(Record):
    """What one thought reads as."""

    thought: int
    """0 is begin-of-thought, before anything was fed back."""
    reading: str
    probability: float
    read_by: str | None = None
    """What reads it, where the run's trace chose another lens than the plain one."""
    hook_name: str | None = None
    """Where that reads; unset: what the thought hands on."""
    null: float | None = column(default=None, null=True)
    others: list[tuple[str, float]]
    """The next likeliest tokens."""
    tuned: list[tuple[str, str, float]] | None = None
    """By hook, what the run's tuned lens reads there on the way to this thought, and its probability; unset:
    the run has none."""
    latents: list[Strong]
    tested: Tested | None = column(default=None, null=True)


@dataclass(frozen=True, kw_only=True)
class Thinking(Record):
    """One question, its thoughts and its answer."""

    question: str
    answer: str
    thoughts: list[Reading]
    model: str
    lens: str = "logit"
    """What reads: the model's own output side; trace: what the run's trace chose (`read_by`)."""
    n_others: int = 0
    """Other problems that `null` is the mean of."""
    member: str | None = column(default=None, null=True)
    """The SAE whose latents are shown; None: a model without a run has none."""
    definitions: dict[str, str]
    warnings: list[str]

    def _repr_html_(self) -> str:
        return page([self])


class Thinkings(list[Thinking]):
    """Several questions, as a notebook shows them."""

    def _repr_html_(self) -> str:
        return page(self)


def _above(share: Number | None) -> bool:
    return share is not None and (share.low or 0.0) > 0.5


def _below(share: Number | None) -> bool:
    return share is not None and share.high is not None and share.high < 0.5


def render(one: Thinking, paint: Paint = lambda text, _: text) -> str:
    """One question in lines: what each thought reads as, how sure, beside what other problems give it."""
    heads, rows = _cells(one)
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads) - 1)]

    def line(cells: Sequence[str]) -> str:
        return "  " + "  ".join([*map(str.ljust, cells[:-1], widths), cells[-1]])

    lines = [one.question, paint(line(heads).rstrip(), "dim")]
    for reading, cells in zip(one.thoughts, rows, strict=True):
        lines.append(_painted(reading, cells, line(cells).rstrip(), paint))
    lines.append(f"  {'answer'.ljust(widths[0])}  {paint(one.answer, 'bold')}")
    lines += [paint(f"  {note}", "dim") for note in about_readings(one)]
    lines += [f"  WARNING: {text}" for text in one.warnings]
    return "\n".join(lines)


def page(several: Sequence[Thinking]) -> str:
    """The same as tables."""
    parts = []
    for one in several:
        heads, rows = _cells(one)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        notes = "".join(
            f"<div><small>{escape(note)}</small></div>" for note in (*about_readings(one), *one.warnings)
        )
        head = "".join(f"<th>{escape(name)}</th>" for name in heads)
        parts.append(
            f"<div>{escape(one.question)}</div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<div>answer <b>{escape(one.answer)}</b></div>{notes}"
        )
    return "".join(parts)


def _cells(one: Thinking) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; what no thought has is left out, but for the last column."""
    columns: dict[str, Callable[[Reading], str]] = {
        "": lambda row: "begin" if row.thought == 0 else f"thought {row.thought}",
        "reads": lambda row: row.reading or "(a space)",
        "sure": lambda row: f"{row.probability:6.1%}",
        "others": lambda row: "" if row.null is None else f"{row.null:6.1%}",
        "tuned": lambda row: ", ".join(f"{word} {share:.0%}" for _, word, share in row.tuned or ()),
        "tested": lambda row: "" if row.tested is None else row.tested.verdict,
    }
    rows = {head: [cell(row) for row in one.thoughts] for head, cell in columns.items()}
    told = {head: cells for head, cells in rows.items() if any(cells)}
    told["latents"] = ["; ".join(map(in_words, row.latents)) for row in one.thoughts]
    heads = [head for head in told if head != "latents" or any(told["latents"])]
    return [*heads, *([""] if "latents" not in heads else [])], [
        list(row) for row in zip(*told.values(), strict=True)
    ]


def _painted(row: Reading, cells: Sequence[str], line: str, paint: Paint) -> str:
    """Bold where the question decides what is read, dim where other problems read the same; the verdict."""
    said = cells[1]
    idle = row.null is not None and row.null > row.probability / 2
    line = line.replace(f"  {said}", f"  {paint(said, 'dim' if idle else 'bold')}", 1)
    verdict = row.tested.verdict if row.tested else ""
    return (
        line.replace(f"  {verdict}", f"  {paint(verdict, COLOURS[verdict])}", 1)
        if verdict in COLOURS
        else line
    )


def about_readings(one: Thinking) -> list[str]:
    """What reads the thoughts and what was tested, in a line each."""
    notes = ["read by the logit lens, the model's own output side"]
    by_trace = dict[str, list[str]]()
    for row in one.thoughts:
        if row.read_by:
            by_trace.setdefault(f"{row.read_by} at {row.hook_name}", []).append(str(row.thought))
    notes += [
        f"but thought{'s' * (len(at) > 1)} {', '.join(at)} by the {how}, which the run's trace chose there"
        for how, at in by_trace.items()
    ]
    if one.n_others:
        notes.append(f"others: how sure of it the same thought of {one.n_others} other problems is (mean)")
    if hooks := [hook for row in one.thoughts for hook, *_ in row.tuned or ()]:
        notes.append(f"tuned: what the run's tuned lens reads before, at {', '.join(dict.fromkeys(hooks))}")
    by = {row.tested.by for row in one.thoughts if row.tested}
    if "live" in by:
        notes.append("tested: with the thoughts of other problems in this one's place")
    elif "trace" in by:
        notes.append(
            "tested: by the run's trace, with this thought taken from the same problem with another operand; "
            "--test tests this question"
        )
    elif by:
        notes.append(
            "tested: by what editing the thought does on the run's problems; --test tests this question"
        )
    return notes


def in_words(latent: Strong) -> str:
    """What it is said to stand for and how far to trust that, if it tells more than chance; else its size."""
    if latent.says is None or latent.says == UNKNOWN or latent.verdict == NO_BETTER:
        return f"{latent.latent} ({latent.activation:.2g})"
    return f"{latent.latent}: {placeless(latent.says)}" + (f" [{latent.verdict}]" if latent.verdict else "")
