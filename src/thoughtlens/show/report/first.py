"""The first page: what the run found, for a reader who has read nothing else."""

from __future__ import annotations

from thoughtlens.models import Place
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.findings import EXPLAINED, READABLE, Findings, Held, Worked
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import NONE, between, number, percent, share, shorten
from thoughtlens.show.report.blocks import Block, Column, Picture, Points, Section, Table, Text

SAID = 8
"""Latents named on the first page."""


def first(run: Run) -> Section:
    """One problem worked, a map of what is read and what acts, the dictionary, the verdict, the limits."""
    found = Findings(run)
    blocks: list[Block] = [Text(f"{found.opening()} This page says what was found, and how we know.")]
    if short := found.in_short():
        blocks.append(Text(short))
    if found.worked:
        blocks += _worked(found.worked)
    if found.held:
        blocks += [*_map(found), _places(found)]
    said = [*found.dictionary(), *filter(None, [found.comparison()])]
    blocks += [Text(line) for line in said]
    if table := _latents(found):
        blocks.append(table)
    blocks.append(Points("What cannot be concluded", list(found.limits())))
    return Section("first", "What the thoughts hold" if run.kind == "thoughts" else "What was found", blocks)


def _worked(one: Worked) -> list[Block]:
    right = (
        "" if one.right is None else ", which is right" if one.right else f", which is wrong: {one.answer}"
    )
    given = f" It answers {one.given}{right}." if one.given and one.right is not None else ""
    columns: list[Column] = [
        ("thought", lambda s: "begin" if s.thought == 0 else str(s.thought)),
        ("it would say", lambda s: s.reading),
        ("how likely", lambda s: "" if s.probability is None else percent(s.probability)),
        ("what can best be read here, and its true value", lambda s: "; ".join(s.holds)),
        ("what its strongest latents stand for", lambda s: "; ".join(s.latents)),
        ("with another problem's thought in its place, the answer is", lambda s: s.replaced),
    ]
    told = [c for c in columns if any(c[1](step) for step in one.steps)]
    note = f"Read at {one.hook_name}, on a problem that nothing was fitted to."
    if any(step.reading for step in one.steps):
        note += (
            " \u201cIt would say\u201d: the likeliest word if the model's own output side read the thought, "
            "and its probability."
        )
    if any(step.latents for step in one.steps):
        note += " Latents: entries of the dictionary (SAE), with the words that fit them on other problems."
    asked = f"A question that it was asked: \u201c{shorten(one.question, 600)}\u201d" if one.question else ""
    blocks: list[Block] = [
        Text(f"{asked or f'One of the problems, {one.problem_id}.'}{given}"),
        Table.of("One problem, thought by thought", one.steps, told, note=note, n_words=6, open=True),
    ]
    return blocks


def _map(found: Findings) -> list[Block]:
    """Two panels with the same lines and columns: what can be read, and what decides the answer."""
    hook = found.hook_name
    shown = [one for one in found.held if any(row.hook_name == hook for row in one.read)]
    thoughts = sorted({r.thought_idx for o in shown for r in o.read if r.thought_idx is not None})
    if not shown or not thoughts:
        return []
    nan = float("nan")
    read = {(o.name, r.thought_idx): r.probe for o in shown for r in o.read if r.hook_name == hook}
    panels = {
        "can be read (share right)": [
            (one.words, t, read.get((one.name, t), nan)) for one in shown for t in thoughts
        ]
    }
    acts = [
        (one.words, t, nan if (n := one.acts.get(Place(str(hook), t))) is None else float(n.value or 0))
        for one in shown
        for t in thoughts
    ]
    if any(value == value for _, _, value in acts):
        panels["decides the answer (share that follows)"] = acts
    of = f", in {found.kind_of_problems}" if found.condition[0] else ""
    n = max(row.n for one in shown for row in one.read)
    caption = (
        f"What each thought holds, at {hook}{of}. Left: how often a linear probe names the right value on "
        f"problems it was not fitted to (validation, n up to {number(n)})."
    )
    if len(panels) > 1:
        caption += (
            " Right: how often the answer becomes the one that follows from another value, when the thought "
            "is taken from a problem that has that value; empty where it was not tried."
        )
    return [Picture("first_map", plots.cell_map(panels, f"thoughts at {hook}"), caption)]


def _places(found: Findings) -> Table:
    columns: list[Column] = [
        (
            "what",
            lambda one: (
                one.words if one.condition or not found.condition[0] else f"{one.words} (all problems)"
            ),
        ),
        ("held by", _where),
        ("a linear probe reads it right", lambda one: share(one.about.probe)),
        ("always the likeliest value", lambda one: share(one.about.likeliest)),
        ("n", lambda one: number(one.about.probe.n)),
        ("another value put there: answers that follow", _acts),
        ("values with a latent, or two, of their own", lambda one: share(one.about.found_by_two)),
        (
            "k-means: the same",
            lambda one: share(one.rival),
        ),
    ]
    note = (
        f"Held-out {found.kind_of_problems}; 95 % intervals over "
        f"problems. Held by: where the probe is best, and the states differ most by it. What a probe reads "
        f"below {percent(READABLE, 0)}, or no better than by always saying the likeliest value, stands last."
    )
    return Table.of(
        "Which thought holds what, how sure, and how we know",
        found.held,
        columns,
        note=note,
        n_words=2,
        open=True,
    )


def _where(one: Held) -> str:
    thought = "" if one.place.thought is None else f"thought {one.place.thought} of "
    return f"{thought}{one.place.hook_name}"


def _acts(one: Held) -> str:
    there, most = one.acts_there, one.acts_most
    text = NONE if there is None else f"{percent(there.value, 0)} of {number(there.n)}"
    if most is not None and most.thought != one.place.thought and (one.acts[most].value or 0) > 0.5:
        text += f" (thought {most.thought}: {percent(one.acts[most].value, 0)})"
    return text


def _latents(found: Findings) -> Table | None:
    said = sorted(found.explanations.values(), key=lambda row: (-row.auprc, -row.n_fires))
    best = {row.says: row for row in reversed(said) if row.auprc >= EXPLAINED and row.says}
    rows = sorted(best.values(), key=lambda row: -row.auprc)[:SAID]
    if not rows:
        return None
    columns: list[Column] = [
        ("latent", lambda row: str(row.latent)),
        ("stands for", lambda row: shorten(row.text, 160)),
        ("right when it says so", lambda row: percent(row.precision)),
        ("of its firings", lambda row: percent(row.recall)),
        ("score (1 is perfect)", lambda row: f"{row.auprc:.2f} {between(row.auprc_low, row.auprc_high)}"),
        ("by chance", lambda row: f"{row.base_rate:.3f}"),
    ]
    note = (
        "Measured on held-out data. Right when it says so: share of the vectors that fit the words on which "
        "the latent fires; of its firings: share that fit the words. The score is the area under the "
        "precision-recall curve; by chance: what guessing scores."
    )
    return Table.of(
        "Of each thing that latents stand for, the one that the words fit best",
        rows,
        columns,
        note=note,
        n_words=2,
        open=True,
    )
