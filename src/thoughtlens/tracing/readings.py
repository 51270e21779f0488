"""What a thought model thinks about a question, thought by thought: `thoughtlens think RUN "question"`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import torch

from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError, NotThereError, Record, column
from thoughtlens.latents import NO_BETTER, Eye, Found, Shown, about, of_thoughts, own_sae
from thoughtlens.models import Place, ThoughtModel, collect, load_model

DEFINITIONS = {
    "reading": "the likeliest token if this thought were written down: softmax(W_U norm(state)) of what the "
    "thought hands on (logit lens, nostalgebraist 2020)",
    "probability": "of that token, by the same softmax over the whole vocabulary; not a test of the reading",
    "latents": "the strongest latents of the run's SAE on this thought, over its hooks, by activation",
    "says": "the latent's explanation in the run; unset where it has none",
}
NOT_FED_BACK = "this model feeds nothing back: what is read here are pause positions, not thoughts"


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
class Reading(Record):
    """What one thought reads as."""

    thought: int
    """0 is begin-of-thought, before anything was fed back."""
    reading: str
    probability: float
    others: list[tuple[str, float]]
    """The next likeliest tokens."""
    latents: list[Strong]


@dataclass(frozen=True, kw_only=True)
class Thinking(Record):
    """One question, its thoughts and its answer."""

    question: str
    answer: str
    thoughts: list[Reading]
    model: str
    member: str | None = column(default=None, null=True)
    """The SAE whose latents are shown; None: a model without a run has none."""
    definitions: dict[str, str]
    warnings: list[str]


def think(
    source: str | Path, questions: Sequence[str], *, member: str | None = None, top: int = 3
) -> list[Thinking]:
    """Read every thought about some questions through the model's own output side.

    Args:
        source: A thought model (a shipped name, a directory, a hub id), or a run of one: then the strongest
            latents of its SAE stand beside each reading.
        questions: The problems.
        member: Which SAE of the run, where it has several.
        top: Latents, and tokens, listed per thought.

    Raises:
        ConfigError: `source` is no thought model, or `member` is not one of the run's SAEs.
        DataError: no questions, or a word that the model does not know.
        NotThereError: no such model or run.
    """
    run = Path(source).expanduser()
    if not (run / "acts").is_dir():
        if member is not None:
            raise ConfigError(f"member: {source} is a model, which has no SAEs; give a run")
        return read_out(_thinker(source), str(source), questions, top)
    store = ActivationStore.open(run / "acts")
    if store.meta.kind != "thoughts":
        raise ConfigError(
            f"{run} is a run of texts, which has no thoughts; see: thoughtlens fire {quote(str(run))} "
            f"{quote(next(iter(questions), 'A text.'))}"
        )
    eye = Eye(store)
    read = read_out(eye.thinker, store.meta.model, questions, top)
    if not (run / "sae").is_dir():
        return read
    name, sae = own_sae(run, store, member)
    says = _explanations(run, name)
    found = sorted(eye.read(sae, questions), key=lambda one: one.index)
    return [
        replace(
            one,
            member=name,
            thoughts=_with_latents(one.thoughts, seen, says, top),
            warnings=[*one.warnings, *_of_all_thoughts(run, one, seen)],
        )
        for one, seen in zip(read, found, strict=True)
    ]


def _thinker(source: str | Path) -> ThoughtModel:
    model = load_model(source)
    if not isinstance(model, ThoughtModel):
        raise ConfigError(f"{source} is a language model, which thinks in words: there is no thought to read")
    return model


@torch.no_grad()
def read_out(model: ThoughtModel, name: str, questions: Sequence[str], top: int) -> list[Thinking]:
    """Every thought of some questions as the model itself would write it down, `top` tokens each; answers."""
    readout = of_thoughts(model)
    batch = collect(model, list(questions), sites=("thought_out",), answers=True)
    assert batch.answers is not None
    warnings = [] if model.spec.feeds_back else [NOT_FED_BACK]
    thinking = []
    for question, states, answer in zip(
        questions, batch[Place.at("thought_out")], batch.answers.text, strict=True
    ):
        rows = readout.likeliest(states, "thought_out", top)
        thinking.append(
            Thinking(
                question=question,
                answer=answer,
                thoughts=[
                    Reading(thought=p, reading=row[0][0], probability=row[0][1], others=row[1:], latents=[])
                    for p, row in enumerate(rows)
                ],
                model=name,
                definitions=DEFINITIONS,
                warnings=warnings,
            )
        )
    return thinking


def _explanations(run: Path, member: str) -> dict[int, Shown]:
    """The explanation of every latent that the run explains."""
    try:
        return {row.latent: row for row in about(run) if row.member == member}
    except NotThereError:
        return {}


def _with_latents(
    readings: list[Reading],
    seen: Found,
    says: Mapping[int, Shown],
    top: int,
) -> list[Reading]:
    """The readings with the latents that fire most strongly on each thought."""
    strong = {}
    for position, name in enumerate(seen.positions):
        acts, hook = seen.acts[:, position].max(0)
        values, latents = acts.topk(min(top, len(acts)))
        strong[name] = [
            Strong(
                latent=i,
                activation=value,
                hook_name=seen.hook_names[int(hook[i])],
                says=says[i].text if i in says else None,
                auprc=says[i].auprc if i in says else None,
                verdict=says[i].verdict if i in says else None,
            )
            for i, value in zip(latents.tolist(), values.tolist(), strict=True)
            if value > 0
        ]
    return [replace(one, latents=strong.get(_place(one), [])) for one in readings]


def _of_all_thoughts(run: Path, one: Thinking, seen: Found) -> list[str]:
    """That the latents belong to no single thought, where a crosscoder has one code for all."""
    if seen.positions[0] in map(_place, one.thoughts):
        return []
    return [
        "this SAE has one code for all thoughts of a problem, so that no latent stands beside a single one; "
        f"those that fire are shown by: thoughtlens fire {quote(str(run))} {quote(one.question)}"
    ]


def _place(one: Reading) -> str:
    return f"thought {one.thought}"


def render(one: Thinking) -> str:
    """The same for people."""
    width = max([len(_said(row)) for row in one.thoughts] + [8])
    lines = [one.question]
    for row in one.thoughts:
        place = "begin" if row.thought == 0 else f"thought {row.thought}"
        latents = "; ".join(_in_words(latent) for latent in row.latents)
        lines.append(f"  {place:<10} {_said(row):<{width}}  {row.probability:6.1%}  {latents}".rstrip())
    lines.append(f"  {'answer':<10} {one.answer}")
    lines += [f"  WARNING: {text}" for text in one.warnings]
    return "\n".join(lines)


def _said(row: Reading) -> str:
    return row.reading or "(a space)"


def _in_words(latent: Strong) -> str:
    """Its explanation and how far to trust it, where that tells more than chance; else how it fires."""
    if latent.says is None or latent.verdict == NO_BETTER:
        return f"{latent.latent} ({latent.activation:.2g})"
    return f"{latent.latent}: {latent.says}" + (f" [{latent.verdict}]" if latent.verdict else "")
