"""What a thought model thinks about a question, thought by thought: `thoughtlens think RUN "question"`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote

import numpy as np
import torch

from thoughtlens.acts import ActivationStore
from thoughtlens.core import BY_NAME, ConfigError, NotThereError, Number, read_result, require_made_from
from thoughtlens.latents import (
    TRANSLATORS,
    Eye,
    Found,
    Readout,
    Said,
    Translator,
    chosen,
    of_thoughts,
    own_sae,
    read_translators,
)
from thoughtlens.models import BUNDLED, Place, ThoughtModel, load_model, tiny
from thoughtlens.sae import SAE
from thoughtlens.tracing.chains.records import READERS, PlaceRow, TraceOutcome
from thoughtlens.tracing.read.fitted import kept, tuned_lenses
from thoughtlens.tracing.read.lenses import LOGIT, Lens, Lenses, logit_lens, look
from thoughtlens.tracing.read.others import Others, known_questions
from thoughtlens.tracing.read.patches import STATE
from thoughtlens.tracing.read.records import DEFINITIONS, Reading, Strong, Tested, Thinking, Thinkings
from thoughtlens.tracing.read.seen import Seen, seen

NOT_FED_BACK = "this model feeds nothing back: what is read here are pause positions, not thoughts"
OTHERS = 64
"""Other problems that a reading is held against."""


class Thinker:
    """A model whose thoughts are read, and what a run knows of them; loaded once, then asked."""

    def __init__(
        self, model: ThoughtModel, name: str, *, eye: Eye | None = None, others: int = OTHERS
    ) -> None:
        self.model, self.name, self.eye, self.n_others = model, name, eye, others
        self.run: Path | None = None
        self.max_new_tokens = eye.max_new_tokens if eye else 256
        self.sae: SAE | None = None
        self.member: str | None = None
        self.says: Mapping[int, Said] = {}
        self.by_run: Mapping[int, Tested] = {}
        self.notes = [] if model.spec.feeds_back else [NOT_FED_BACK]

    @classmethod
    def open(
        cls, source: str | Path, *, member: str | None = None, others: int = OTHERS, text: str = "A text."
    ) -> Thinker:
        """Of a model, or of a run with the latents of one of its SAEs; `text` is what will be asked.

        Raises:
            ConfigError: no thought model, or `member` is not one of the run's SAEs.
            NotThereError: no such model or run.
        """
        run = Path(source).expanduser()
        if not (run / "acts").is_dir():
            if member is not None:
                raise ConfigError(f"member: {source} is a model, which has no SAEs; give a run")
            name = str(source)
            known = run.exists() or name in BUNDLED or tiny.knows(name)
            if not known and not {"/", ":"} & set(name):  # the rest may be on the hub, or in a file
                raise NotThereError(
                    f"Expected a run, or a model that thinks in vectors ({', '.join(tiny.shipped())}, a "
                    f"directory, or owner/name on the hub), got {name!r}, which is not here"
                )
            if (run / "sae").is_dir() and not tiny.knows(run):
                raise NotThereError(
                    f"Expected the activations of a run at {run / 'acts'}, found none; make them first: "
                    f"{BY_NAME['extract'].first(run)}"
                )
            model = load_model(source)
            if not isinstance(model, ThoughtModel):
                raise ConfigError(
                    f"{source} is a language model, which thinks in words: there is no thought to read"
                )
            return cls(model, str(source), others=others)
        store = ActivationStore.open(run / "acts")
        if store.meta.kind != "thoughts":
            raise ConfigError(f"{run} is a run of texts, which has no thoughts; see: {_fire(run, text)}")
        return cls.of_run(run, Eye(store), member, others)

    @classmethod
    def of_run(cls, run: Path, eye: Eye, member: str | None, others: int = OTHERS) -> Thinker:
        """The model behind a run, with what its finished stages know."""
        self = cls(eye.thinker, eye.store.meta.model, eye=eye, others=others)
        self.run, self.by_run = run, _tested_by(run, self.model.spec.n_layers)
        self.notes += _not_kept(run)
        if not (run / "sae").is_dir():
            self.notes += [f"no latents are shown, since the run has no SAE: {BY_NAME['train'].command(run)}"]
            return self
        self.member, self.sae = own_sae(run, eye.store, member)
        self.says = chosen(run, self.member)
        if not self.says:
            self.notes += [f"no latent has words yet: {BY_NAME['explain'].command(run)}"]
        return self

    @cached_property
    def lenses(self) -> Lenses:
        """What reads its thoughts: what the run's trace chose, else the plain lens."""
        readout, thoughts = of_thoughts(self.model), self.model.spec.thoughts
        run, eye = self.run, self.eye
        file = run and run / BY_NAME["trace"].directory / READERS
        if run is None or eye is None or file is None or not file.is_file():
            return logit_lens(readout, thoughts)

        def shown() -> SAE:
            require_made_from(file.parent, {"sae": run / "sae"})
            return own_sae(run, eye.store, None)[1]

        return kept(file, readout, thoughts, shown)

    @cached_property
    def tuned(self) -> _Tuned:
        """The run's tuned lens, if it has one."""
        file = self.run and self.run / BY_NAME["lens"].directory / TRANSLATORS
        own = read_translators(file) if file and file.is_file() else {}
        return _Tuned(of_thoughts(self.model), own, self.lenses.words)

    @cached_property
    def others(self) -> Others:
        """What readings are held against."""
        asked = known_questions(self.model, self.eye and self.eye.store, self.n_others)
        return Others(self.model, self.lenses, list(dict.fromkeys(asked)))

    def think(self, questions: Sequence[str], *, top: int = 3, test: bool = False) -> Thinkings:
        """Read every thought of some questions; the `top` likeliest tokens and strongest latents of each.

        Raises:
            DataError: no questions, or a word that the model does not know.
            ConfigError: a test without other problems.
        """
        others = self.others
        if not len(others) and self.n_others and len(set(questions)) > 1:
            others = Others(self.model, self.lenses, list(dict.fromkeys(questions)))
        if test and not len(others):
            raise ConfigError(
                f"--test puts thoughts of other problems in, and none are known of {self.name}: ask several "
                f"questions at once, or give a run"
            )
        own = seen(
            self.model,
            self.lenses,
            list(questions),
            max_new_tokens=self.max_new_tokens,
            more=[Place(hook) for hook in self.tuned.hooks],
            top=top,
            crowds=others.crowds,
            among=[question in others.questions for question in questions],
        )
        fired = self._fired(questions)
        found = Thinkings()
        for i, (question, answer) in enumerate(zip(questions, own.answers, strict=True)):
            tested = (
                others.tested(question, own, i, self.max_new_tokens)
                if test
                else [*map(self.by_run.get, self.model.spec.thoughts)]
            )
            latents = None if fired is None else fired[i]
            found.append(
                Thinking(
                    question=question,
                    answer=answer,
                    thoughts=[
                        self._reading(own, i, t, latents=latents, tested=tested[t], top=top)
                        for t in self.model.spec.thoughts
                        if own.reading[i, t] >= 0  # a model that stops by itself may have fewer
                    ],
                    model=self.name,
                    lens="logit" if all(map(_is_plain, self.lenses.at.values())) else "trace",
                    n_others=len(others.without(question)),
                    member=self.member,
                    definitions=DEFINITIONS,
                    warnings=[*self.notes, *self._of_all_thoughts(question, latents)],
                )
            )
        return found

    def _reading(
        self, own: Seen, i: int, thought: int, *, latents: Found | None, tested: Tested | None, top: int
    ) -> Reading:
        """One thought of one question."""
        look, lens = own.looks[thought], self.lenses.at[thought]
        words = [own.words[word] for word in look.words[i]]
        (reading, probability), *others = zip(words, look.shares[i].tolist(), strict=True)
        return Reading(
            thought=thought,
            reading=reading,
            probability=probability,
            read_by=None if _is_plain(lens) else lens.kind,
            hook_name=None if _is_plain(lens) else lens.hook_name,
            null=None if np.isnan(look.null[i]) else float(look.null[i]),
            others=others,
            tuned=self.tuned.read(own, i, thought),
            latents=[] if latents is None else self._strong(latents, thought, top),
            tested=tested,
        )

    def _fired(self, questions: Sequence[str]) -> list[Found] | None:
        """The latents of every question's thoughts; None without an SAE."""
        if self.sae is None or self.eye is None:
            return None
        return sorted(self.eye.read(self.sae, questions), key=lambda one: one.index)

    def _of_all_thoughts(self, question: str, seen: Found | None) -> list[str]:
        """That the latents belong to no single thought, where a crosscoder has one code for all."""
        single = (f"thought {thought}" for thought in self.model.spec.thoughts)
        if seen is None or self.run is None or seen.positions[0] in single:
            return []
        return [
            "this SAE has one code for all thoughts of a problem, so that no latent stands beside a single "
            f"one; those that fire are shown by: {_fire(self.run, question)}"
        ]

    def _strong(self, seen: Found, thought: int, top: int) -> list[Strong]:
        """The latents that fire most strongly on a thought."""
        if f"thought {thought}" not in seen.positions:
            return []
        acts, hook = seen.acts[:, seen.positions.index(f"thought {thought}")].max(0)
        values, latents = acts.topk(min(top, len(acts)))
        found = []
        for i, value in zip(latents.tolist(), values.tolist(), strict=True):
            says = self.says.get(i)
            if value > 0:
                found.append(
                    Strong(
                        latent=i,
                        activation=value,
                        hook_name=seen.hook_names[int(hook[i])],
                        says=says and says.text,
                        auprc=says and says.auprc,
                        verdict=says and says.verdict,
                    )
                )
        return found


@dataclass(frozen=True, eq=False)
class _Tuned:
    """A tuned lens at the layers before a thought is handed on."""

    readout: Readout
    translators: Mapping[tuple[str, int], Translator]
    words: Sequence[str]

    @property
    def hooks(self) -> list[str]:
        """Where it reads."""
        return list(dict.fromkeys(hook for hook, _ in self.translators))

    def read(self, own: Seen, i: int, thought: int) -> list[tuple[str, str, float]] | None:
        """What it reads on the way to a thought of question i; None without one."""
        found = []
        for lens in tuned_lenses(self.readout, self.translators, thought):
            shown = look(lens, own.states[Place(lens.hook_name, thought)][i : i + 1])
            if shown.words[0, 0] >= 0:
                found.append((lens.hook_name, self.words[shown.words[0, 0]], float(shown.shares[0, 0])))
        return found if self.translators else None


@torch.no_grad()
def think(
    source: str | Path,
    questions: Sequence[str],
    *,
    member: str | None = None,
    top: int = 3,
    others: int = OTHERS,
    test: bool = False,
) -> Thinkings:
    """Read every thought about some questions through the model's own output side.

    Args:
        source: A thought model (a shipped name, a directory, a hub id), or a run of one: then the strongest
            latents of its SAE stand beside each reading.
        questions: The problems.
        member: Which SAE of the run, where it has several.
        top: Latents, and tokens, listed per thought.
        others: Other problems that readings are held against: the run's held-out ones, generated ones, or
            else the other questions; 0: none.
        test: Put thoughts of other problems in the place of each thought, and see what follows.

    Raises:
        ConfigError: `source` is no thought model, `member` is not one of the run's SAEs, or a test is asked
            for and no other problem is known.
        DataError: no questions, or a word that the model does not know.
        NotThereError: no such model or run.
    """
    thinker = Thinker.open(source, member=member, others=others, text=next(iter(questions), "A text."))
    return thinker.think(questions, top=top, test=test)


def _is_plain(lens: Lens) -> bool:
    return lens.kind == LOGIT


def _fire(run: Path, text: str) -> str:
    return f"thoughtlens fire {quote(str(run))} {quote(text)}"


def _tested_by(run: Path, n_layers: int) -> dict[int, Tested]:
    """By thought, what its trace showed, or else what edits of the state that is read did to the answers."""
    from thoughtlens.interventions import InterveneOutcome, found_in

    found: dict[int, Tested] = {}
    for path in found_in(run).values():
        for row in InterveneOutcome.from_json(read_result(path)).effects:
            cell = row.scope == "cell" and row.control is None and row.edit == "ablate_resample"
            if not cell or (row.site, row.layer) != ("resid", n_layers - 1) or row.thought_idx is None:
                continue
            if row.accuracy_untouched:
                lost = (-x / row.accuracy_untouched for x in (row.difference, row.high, row.low))
                value, low, high = lost
                found[row.thought_idx] = Tested.of(
                    "run", changed=Number(value=value, low=low, high=high, n=row.n)
                )
    return found | _traced(run)


def _trace_of(run: Path) -> TraceOutcome | None:
    folder = run / BY_NAME["trace"].directory
    return TraceOutcome.from_json(read_result(folder)) if (folder / "result.json").is_file() else None


def _not_kept(run: Path) -> list[str]:
    """What the run's trace read by, where an earlier version of it did not keep that."""
    folder, outcome = run / BY_NAME["trace"].directory, _trace_of(run)
    by = {row.lens for row in outcome.lenses if row.is_chosen and row.lens != LOGIT} if outcome else ()
    if not by or (folder / READERS).is_file():
        return []
    return [
        f"the run's trace reads some thoughts by {' and '.join(sorted(by))}, which it did not keep; here the "
        f"logit lens reads all: delete {folder} and trace again: {BY_NAME['trace'].command(run)}"
    ]


def _traced(run: Path) -> dict[int, Tested]:
    """By thought, what the run's trace says of the step that it tested there most often."""
    outcome, best = _trace_of(run), dict[int, PlaceRow]()
    for row in outcome.arms[0].places if outcome and outcome.arms else ():
        if row.thought_idx not in best or row.n > best[row.thought_idx].n:
            best[row.thought_idx] = row
    return {
        p: Tested.of("trace", **{"changed" if row.route == STATE else "whole_pass": row.patched})
        for p, row in best.items()
    }
