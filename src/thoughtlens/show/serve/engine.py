"""What needs the model: which latents fire on a new text, and what changes when one of them does."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.core import DataError, HookError, MismatchError, ResourceError, ThoughtlensError
from thoughtlens.interventions import (
    Answers,
    Change,
    Edit,
    dictionaries,
    edit_latents,
    given,
    places_of,
    require_latents,
    run_edits,
)
from thoughtlens.latents import DEFINITIONS, Eye, Found, describe, everywhere, member_thoughts, pick
from thoughtlens.models import Place, collect, replace
from thoughtlens.sae import SAE, load_members
from thoughtlens.show.pages.run import Run
from thoughtlens.show.serve.config import FireRequest, PatchRequest, SteerRequest
from thoughtlens.tracing import Reading, Thinker, Thinking, about_readings, in_words

EXAMPLES, EXAMPLE_CHARS = 12, 400
READ = 4
"""Tokens shown of a reading."""


class Engine:
    """A run's model and SAEs. Not for several threads at once: callers hold a lock."""

    def __init__(self, run: Path, timeout_s: float) -> None:
        self.run, self.timeout_s = run, timeout_s
        self.store = ActivationStore.open(run / "acts")
        self.members = load_members(run / "sae", joined=True, hooks=self.store.meta.d_in)
        self.eye = Eye(self.store)
        self.thinkers: dict[str, Thinker] = {}

    @cached_property
    def about(self) -> dict[str, Any]:
        """What can be asked: the members, and a few texts to begin with."""
        members = [
            {
                "name": name,
                "d_sae": sae.d_sae,
                "hook_names": sae.hook_names,
                "thoughts": member_thoughts(self.store, sae),
                "kind": sae.kind,
                "can_be_changed": sae.reconstructs,
                "directions": sae.directions and [{"name": one} for one in sae.directions],
            }
            for name, sae in self.members.items()
        ]
        texts = self.store.questions.slice(0, EXAMPLES).to_pylist()
        return {
            "name": self.run.resolve().name,
            "kind": self.store.meta.kind,
            "model": self.store.meta.model,
            "members": members,
            "n_thoughts": self._n_thoughts(),
            "examples": [text[:EXAMPLE_CHARS] for text in texts if text.strip()],
            "definitions": DEFINITIONS,
        }

    def _n_thoughts(self) -> int:
        """Thoughts that are fed back and stored; 0 where nothing is."""
        if not Run(self.run).fed_back:
            return 0
        return max(self.store.own_thoughts, default=0)

    def fire(self, asked: FireRequest) -> dict[str, Any]:
        """The strongest latents on every token or thought of a text, and overall.

        Raises:
            DataError: a text that the model cannot read.
            ConfigError: no such SAE.
        """
        name, sae = self._member(asked.member)
        flags = everywhere(self.run / "interpret", name, sae.d_sae)
        (found,) = self.eye.read(sae, [asked.text])
        thought = self._thinking(name, asked)
        return {
            "kind": self.store.meta.kind,
            "member": name,
            "hook_names": found.hook_names,
            "everywhere_known": flags is not None,
            "by_position": _by_position(found, asked.top),
            "readings": thought and [_in_words(row) for row in thought.thoughts],
            "reading_notes": thought and [*about_readings(thought), *thought.warnings],
            **describe(found, asked.text, flags, asked.top).to_json(),
        }

    def _thinking(self, name: str, asked: FireRequest) -> Thinking | None:
        """What each thought is read as; None for text."""
        if self.store.meta.kind == "text":
            return None
        try:
            if name not in self.thinkers:
                self.thinkers[name] = Thinker.of_run(self.run, self.eye, name)
            return self.thinkers[name].think([asked.text], top=READ, test=asked.test)[0]
        except ThoughtlensError:  # a model whose output side is not known has everything else
            return None

    def steer(self, asked: SteerRequest) -> dict[str, Any]:
        """The answer (or the continuation) of a text, untouched and with one latent changed.

        Raises:
            ConfigError: no such SAE or latent.
            DataError, HookError: a text or thought that the model does not have.
            MismatchError: an SAE that does not reconstruct the state it reads.
            ResourceError: it took too long.
        """
        name, sae = self._member(asked.member)
        if not sae.reconstructs:
            raise MismatchError(
                f"SAE {name!r} is a {sae.kind}: its latents do not make up the state that it reads, so that "
                f"none can be changed there; choose another SAE, or ask which of them fire"
            )
        require_latents(sae, [asked.latent])
        told = self._steer_text if self.store.meta.kind == "text" else self._steer_thoughts
        return {
            "kind": self.store.meta.kind,
            "member": name,
            "latent": asked.latent,
            **told(name, sae, asked),
        }

    def _member(self, member: str | None) -> tuple[str, SAE]:
        return pick(self.members, member)

    def _steer_thoughts(self, name: str, sae: SAE, asked: SteerRequest) -> dict[str, Any]:
        model = self.eye.thinker
        (found,) = dictionaries(model.spec, {name: sae}, asked.thoughts, None)

        def change(place: Place) -> Change:
            return edit_latents(sae, place, [asked.latent], value=asked.value, scale=asked.scale)

        return self._under(asked.text, Edit.at("steer", found.places, change))

    def patch(self, asked: PatchRequest) -> dict[str, Any]:
        """The answer of a problem, untouched and with thoughts of another problem in the place of its own.

        Raises:
            DataError, HookError: a text or thought that the model does not have.
        """
        if self.store.meta.kind == "text":
            raise HookError("thoughts: this run is of text, which has none")
        places = places_of(self.eye.thinker.spec, "thought_in", list(dict.fromkeys(asked.thoughts)), None)
        states = collect(self.eye.thinker, [asked.other], places=places, batch_size=1)
        edit = Edit.at("patch", places, lambda place: given(states[place]))
        return {"kind": self.store.meta.kind, "other": asked.other, **self._under(asked.text, edit)}

    def _under(self, text: str, edit: Edit) -> dict[str, Any]:
        """The answer untouched, and under an edit."""
        plain, (edited,) = run_edits(
            self.eye.thinker, [text], [edit], batch_size=1, max_new_tokens=self.eye.max_new_tokens
        )
        return {
            "places": [str(place) for place, _ in edit.changes],
            "before": _answer(plain),
            "after": _answer(edited),
            "kl": float(edited.kl[0]),
            "changed": float(edited.changed_site[0]),
        }

    @torch.no_grad()
    def _steer_text(self, name: str, sae: SAE, asked: SteerRequest) -> dict[str, Any]:
        if asked.thoughts is not None:
            raise HookError("thoughts: this run is of text, which has none")
        reader = self.eye.reader
        ids = reader.lm.tokenizer(asked.text, add_special_tokens=False, verbose=False)["input_ids"]
        windows = list(reader.cutter.windows("0", np.asarray(ids, np.int64)))
        if len(windows) != 1:
            raise DataError(
                f"Expected a text of 1 to about {reader.cutter.context_length} tokens, got {len(ids)}: "
                f"shorten it"
            )
        tokens = windows[0].tokens
        kept = torch.from_numpy(reader.cutter.kept(tokens))
        sizes: list[float] = []
        before, plain = self._continue(tokens, asked.max_new_tokens)
        with ExitStack() as stack:
            for hook in sae.hook_names:
                change = edit_latents(sae, Place(hook), [asked.latent], value=asked.value, scale=asked.scale)

                def edit(x: Tensor, fn: Any = change.fn) -> Tensor:
                    new = fn(x[0]).to(x)
                    if len(new) == len(kept) > 1:  # the prompt; later calls see one new token each
                        new = torch.where(kept[:, None].to(x.device), new, x[0])
                    sizes.append(float((new - x[0]).norm() / x[0].norm().clamp_min(1e-30)))
                    return new[None]

                stack.enter_context(replace(reader.lm.model, hook, edit))
            after, edited = self._continue(tokens, asked.max_new_tokens)
        kl = (plain.exp() * (plain - edited)).sum().clamp_min(0)
        return {
            "places": list(sae.hook_names),
            "before": {"text": before},
            "after": {"text": after},
            "kl": float(kl),
            "changed": max(sizes),
        }

    def _continue(self, tokens: np.ndarray, n: int) -> tuple[str, Float[Tensor, " vocab"]]:
        """The greedy continuation, and log-probabilities of its first token."""
        lm, past, said = self.eye.reader.lm, None, []
        step = torch.from_numpy(tokens)[None].to(lm.model.device)
        first, end = None, time.monotonic() + self.timeout_s
        for _ in range(min(n, lm.context_length - len(tokens))):
            out = lm.model(input_ids=step, past_key_values=past, use_cache=True)
            past, logits = out.past_key_values, out.logits[0, -1].double()
            first = logits.log_softmax(-1).cpu() if first is None else first
            token = int(logits.argmax())
            if token == lm.tokenizer.eos_token_id:
                break
            said.append(token)
            step = torch.tensor([[token]], device=lm.model.device)
            if time.monotonic() > end:
                raise ResourceError(f"The model needed more than {self.timeout_s:g} s; ask for fewer tokens")
        if first is None:
            raise DataError("The text fills the model's context: shorten it")
        return str(lm.tokenizer.decode(said)), first


def _answer(outcome: Answers) -> dict[str, Any]:
    value, logprob = float(outcome.value[0]), float(outcome.logprob[0])
    return {
        "text": outcome.text[0],
        "value": value if np.isfinite(value) else None,
        "logprob": logprob if np.isfinite(logprob) else None,
    }


def _in_words(row: Reading) -> dict[str, Any]:
    """A thought, with its latents as `think` says them."""
    return {**row.to_json(), "in_words": [in_words(one) for one in row.latents]}


def _by_position(found: Found, top: int) -> list[list[list[list[float]]]]:
    """[hook][position] -> [latent, activation] of the strongest, those that fire only."""
    values, latents = found.acts.topk(min(top, found.acts.shape[-1]), dim=-1)
    return [
        [
            [[int(i), float(v)] for i, v in zip(*pair, strict=True) if v > 0]
            for pair in zip(index.tolist(), value.tolist(), strict=True)
        ]
        for index, value in zip(latents, values, strict=True)
    ]
