"""Continuous thoughts: one interface for every model that reasons in vectors instead of words.

The one index convention, which docs/thoughts.md sets beside everyone else's: thought 0 is
the begin-of-thought position, 1..n_thoughts are the thoughts fed back. At thought p

    thought_in[p]        what enters the first block: the begin-of-thought embedding at p = 0,
                         z_p, the fed-back thought, at p >= 1
    resid[layer, p]      output of block `layer`, 0-based (hook name `layers.{layer}:out`)
    thought_out[p]       u_p, the state the next thought is made of (CODI: after the final norm,
                         before the projection)
    kv[layer, p]         key and value that thought p leaves behind for every later position

`encode` runs the question up to, but not including, thought 0. The first `step` is thought 0, so that
hooks act on it as on every other.

A family implements `encode`, `_step`, `answer` and `readout`. Collecting, editing, swapping,
splicing and leaving early are written here once, on top of those.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError, DataError, HookError, translate_config
from thoughtlens.models.hf.locate import BUNDLED, require_name
from thoughtlens.models.thought import foreign
from thoughtlens.models.thought.known import known
from thoughtlens.models.thought.places import INNER, LAYERED, PARTS, SITES, Place
from thoughtlens.models.thought.sites import (
    Hook,
    Outside,
    Tap,
    ThoughtSpec,
    Watch,
    absent,
    check_places,
    check_rows,
)
from thoughtlens.problems import same_answer

__all__ = [
    "Answer", "Hook", "Place", "State", "StepRecord", "Tap", "ThoughtBatch", "ThoughtModel", "ThoughtSpec",
    "Written", "collect", "encoded", "is_right", "load", "parse_number", "run", "think", "write",
]  # fmt: skip

CHECKPOINTS = ("codi", "coconut", "colar")
"""Families whose models are files of weights with a base model."""
FAMILIES = ("tiny", *CHECKPOINTS, "soft")


@dataclass(frozen=True, kw_only=True)
class State:
    """Where the thinking of a batch stands. Opaque: read records, not states.

    Tensors in it are never changed in place, so that a clone copies containers only.
    """

    cache: Any
    mask: Bool[Tensor, "batch seq"]
    """True where a cached position is a real token, False at left padding."""
    positions: Int[Tensor, " batch"]
    """Position id of the next token of each problem."""
    pending: Tensor
    """What the next thought takes in, [batch, positions, d]."""
    next_thought: int
    rows: Int[Tensor, " batch"]
    """Which problems of the whole run these are; cuts `Hook.per_problem` to the batch."""
    thinking: Bool[Tensor, " batch"] | None = None
    """Which problems have the next thought too; None: all of them, in a model where none stops early."""
    outside: Outside | None = None
    """What the answer's cue goes through, where somebody looks there, or edits it."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What went through the sites at one thought, after all edits; tensors are [batch, positions, d].

    NaN for a problem that had stopped before.
    """

    thought: int
    thought_in: Tensor
    resid: tuple[Tensor, ...]
    thought_out: Tensor
    inner: Mapping[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)
    """By site and layer: what attention and MLP add, and the heads, [batch, positions, heads, d_head]."""
    kv: Callable[[int], tuple[Tensor, Tensor]] = field(repr=False)
    """`kv(layer)` -> key and value that this thought left, [batch, heads, positions, d_head] each."""
    thinking: Bool[Tensor, " batch"] | None = None
    """Which problems had this thought; None: all of them."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says after thinking."""

    text: list[str]
    ids: list[list[int]]
    """Generated tokens of each problem, without end-of-sequence."""
    logits: Float[Tensor, "batch tokens vocab"]
    """After the end-of-thought token and after each forced token: `logits[:, 0]` is what the model
    would say first."""
    value: list[float | None]
    """The last number of the text, as `parse_number` reads it; None where there is none."""


@dataclass(frozen=True)
class Written:
    """What a model answers without thinking in vectors."""

    text: list[str]
    """The answers, without the chain of thought where its end is marked."""
    value: list[float | None]
    """The last number of each."""


class ThoughtModel(ABC):
    """A model that thinks in vectors. See the module's text for the index convention."""

    spec: ThoughtSpec
    name: str
    """What `load` was asked for."""
    revision: str | None = None
    digest: str | None = None
    """sha256 of the weights."""
    tokenizer_digest: str | None = None
    config_hash: str
    """Digest of weights, base config, tokenizer, prompt form, dtype and padding policy: equal iff thoughts
    and answers are."""
    settings: Mapping[str, bool | int | float | str | None] = {}
    """How it thinks, as given, stated by the checkpoint, or assumed."""
    assumed: tuple[str, ...] = ()
    """Names of the settings that nothing stands behind."""
    tokenizer: Any = None
    """Of transformers, where the family reads with one."""
    d_head: int | None = None
    """Width of a head, where heads can be read."""

    @property
    def modes(self) -> tuple[str, ...]:
        """How it can answer without thinking in vectors: `words`, a chain of thought; `direct`, nothing."""
        return ()

    def _write(self, mode: str, questions: Sequence[str], max_new_tokens: int) -> Written:
        """Answers in one of `modes`, greedily."""
        raise NotImplementedError

    def words(self, ids: Sequence[int]) -> dict[int, str] | None:
        """How tokens are written; None: as the tokenizer decodes them, and without one, by their numbers."""
        del ids
        return None

    def reads(self, question: str) -> str:
        """The question as it is read."""
        return question

    def module_path(self, site: str, layer: int | None) -> str:
        """Path of the model's own module behind a site, for provenance."""
        return site if layer is None else f"layers.{layer}"

    @abstractmethod
    def encode(self, questions: Sequence[str], outside: Outside | None = None) -> State:
        """Run the questions up to the begin-of-thought position, which is the first `step`.

        Args:
            questions: The problems.
            outside: What the questions' tokens go through, of a model whose `spec.n_cue` is not 0.

        Raises:
            DataError: no questions, an empty one, or one longer than the context.
        """

    def begun(self, questions: Sequence[str], outside: Outside) -> State:
        """`encode`, with the edits of the question's tokens; the answer's go on with the state.

        Keys and values that are edited are seen from the begin-of-thought position on.
        """
        state = self.encode(questions, outside)
        for p, tap in outside.taps.items():
            for layer in tap.layers("kv"):
                old = self._memory(state, layer)
                new = tap("kv", tuple(x[:, :, x.shape[2] + p, None] for x in old), layer)
                pairs = zip(old, new, strict=True)
                self._remember(
                    state,
                    layer,
                    *(torch.cat([o[:, :, :p], n, o[:, :, o.shape[2] + p + 1 :]], 2) for o, n in pairs),
                )
        outside.memory = partial(self._memory, state)
        return replace(state, outside=outside)

    @abstractmethod
    def _step(self, state: State, tap: Tap) -> State:
        """One thought. Sends `thought_in`, every `resid` and `thought_out` through `tap`, and goes on
        with what the tap returns. May change the containers of `state`, which is the caller's."""

    @abstractmethod
    def answer(
        self, state: State, max_new_tokens: int = 256, teacher_ids: Int[Tensor, "*batch tokens"] | None = None
    ) -> Answer:
        """End the thinking and decode greedily, after `teacher_ids` if given (a forced cue).

        Args:
            state: After any number of thoughts; it stays as it is.
            max_new_tokens: 0 gives logits only.
            teacher_ids: One cue for all problems, or one row for each.
        """

    @abstractmethod
    def readout(self, h: Float[Tensor, "*batch d"], site: str) -> Float[Tensor, "*batch vocab"]:
        """Logit lens: the norm that `site` still lacks, then the unembedding."""

    def _memory(self, state: State, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of every position so far; a family without them leaves this out."""
        raise HookError(f"This model has no site kv; it has {', '.join(self.spec.sites)}")

    def _remember(self, state: State, layer: int, k: Tensor, v: Tensor) -> None:
        """Put others in their place, of a state that is the caller's."""
        raise HookError(f"This model has no site kv; it has {', '.join(self.spec.sites)}")

    def _read_kv(self, state: State, layer: int) -> tuple[Tensor, Tensor]:
        """Key and value that the last thought left."""
        k, v = self._memory(state, layer)
        return k[:, :, -1:], v[:, :, -1:]

    def _write_kv(self, state: State, layer: int, k: Tensor, v: Tensor) -> None:
        """Put another key and value in their place, in new tensors."""
        old = self._memory(state, layer)
        self._remember(
            state, layer, *(torch.cat([o[:, :, :-1], n], 2) for o, n in zip(old, (k, v), strict=True))
        )

    def width(self, place: Place) -> int:
        """How wide a state of a place is; keys and values apart."""
        return self.spec.d if place.head is None or self.d_head is None else self.d_head

    def attending(self, watch: Watch) -> AbstractContextManager[None]:
        """While open, attention shows its weights to the watch, and goes without the edges that it cuts.

        Raises:
            HookError: a family whose attention cannot be seen.
        """
        del watch
        raise HookError(
            f"{self.name}: the attention of a {type(self).__name__} cannot be seen, and no edge of it cut; "
            f"that can be done where thoughts are positions of a sequence (codi-tiny, CODI, Coconut, CoLaR, "
            f"soft tokens)"
        )

    def read_ids(self, question: str) -> list[int]:
        """Token ids that are read before the begin-of-thought position."""
        raise HookError(f"{self.name}: a {type(self).__name__} does not tell what it reads a question as")

    def step(self, state: State, hooks: Sequence[Hook] = ()) -> tuple[State, StepRecord]:
        """One thought, with the edits that belong to it; `state` stays as it is.

        Raises:
            HookError: a hook that does not exist, cannot act, did not run or broke the shape.
        """
        check_places(self.spec, [hook.place for hook in hooks], self.spec.n_thoughts)
        if beyond := [hook for hook in hooks if self.spec.outside(hook.place.thought or 0)]:
            raise HookError(f"{beyond[0]} is at no thought: it acts in run and collect, not in a step")
        if state.next_thought > self.spec.n_thoughts:
            raise HookError(
                f"This model thinks {self.spec.n_thoughts} thoughts, and all are done; call answer()"
            )
        here = [hook for hook in hooks if hook.place.thought == state.next_thought]
        if state.thinking is not None and not bool(state.thinking.any()):
            return self._idle(state)
        tap = Tap(here, state.rows, state.thinking)
        after = replace(self._step(self.clone(state), tap), next_thought=state.next_thought + 1)
        for layer in tap.layers("kv"):
            self._write_kv(after, layer, *tap("kv", self._read_kv(after, layer), layer))
        if missed := tap.missed():
            raise HookError(f"{missed[0]} never ran: the model did not pass its site at this thought")
        return after, self._record(state, tap, after)

    def _idle(self, state: State) -> tuple[State, StepRecord]:
        """The thought that no problem of the batch has any more."""
        after = replace(state, next_thought=state.next_thought + 1)
        nothing = torch.full_like(state.pending, torch.nan)
        blocks = (nothing,) * self.spec.n_layers
        return after, self._shown(state, after, thought_in=nothing, resid=blocks, thought_out=nothing)

    def _shown(self, state: State, after: State, **sites: Any) -> StepRecord:
        return StepRecord(
            thought=state.next_thought,
            kv=lambda layer: absent(self._read_kv(after, layer), state.thinking),
            thinking=state.thinking,
            **sites,
        )

    def _record(self, state: State, tap: Tap, after: State) -> StepRecord:
        layers = range(self.spec.n_layers)
        for site, layer in (("thought_in", None), *(("resid", i) for i in layers), ("thought_out", None)):
            if (site, layer) not in tap.seen:
                raise HookError(
                    f"{type(self).__name__} did not show {Place.at(site, layer, state.next_thought)} to its "
                    f"tap"
                )
        return self._shown(
            state,
            after,
            thought_in=tap.seen["thought_in", None],
            inner={
                (site, layer): x
                for (site, layer), x in tap.seen.items()
                if site in INNER and layer is not None
            },
            resid=tuple(tap.seen["resid", layer] for layer in layers),
            thought_out=tap.seen["thought_out", None],
        )

    def clone(self, state: State) -> State:
        """A State that goes its own way; costs no tensor copies."""
        return replace(state, cache=_clone(state.cache))


@dataclass(frozen=True, kw_only=True)
class ThoughtBatch:
    """Collected thoughts; None where not asked for, 0 where `mask` is False.

    NaN at thoughts that a problem did not have, since it stopped before.
    """

    layers: tuple[int, ...]
    mask: Bool[Tensor, "problems positions"]
    """True where a position is real; all True where each thought works on the same number."""
    resid: Float[Tensor, "problems thoughts positions layers d"] | None = None
    thought_in: Float[Tensor, "problems thoughts positions d"] | None = None
    thought_out: Float[Tensor, "problems thoughts positions d"] | None = None
    keys: Float[Tensor, "problems thoughts positions layers heads d_head"] | None = None
    values: Float[Tensor, "problems thoughts positions layers heads d_head"] | None = None
    attn: Float[Tensor, "problems thoughts positions layers d"] | None = None
    mlp: Float[Tensor, "problems thoughts positions layers d"] | None = None
    heads: Float[Tensor, "problems thoughts positions layers heads d_head"] | None = None
    answers: Answer | None = None
    used: Int[Tensor, " problems"] | None = None
    """The last thought of each problem; None: all have all thoughts."""
    numbers: tuple[int, ...] | None = None
    """Which position each entry of the axis `thoughts` is; None: they are the thoughts from 0 on."""
    there: Bool[Tensor, "problems thoughts"] | None = None
    """Whether each problem has it; None: `used` says it."""

    def had(self, n_thoughts: int) -> Bool[Tensor, "problems thoughts"]:
        """Which of the thoughts from 0 on, `n_thoughts` of them, each problem had; with `numbers`, of
        those.
        """
        if self.there is not None:
            return self.there
        if self.used is None:
            return torch.ones(len(self.mask), n_thoughts, dtype=torch.bool)
        return torch.arange(n_thoughts) <= self.used[:, None]

    @property
    def x(self) -> Float[Tensor, "problems thoughts layers d"]:
        """`resid` of a model that works on one position per thought."""
        if self.resid is None or self.resid.shape[2] != 1:
            raise DataError(
                "x is resid without its position axis: collect site resid, one position per thought"
            )
        return self.resid[:, :, 0]

    def __getitem__(self, place: Place) -> Float[Tensor, "problems *thoughts width"]:
        """States of a place, one per problem; of a place without thought, [problems, thoughts, width].

        Keys and values are flattened: heads after each other, keys before values.

        Raises:
            HookError: the site or layer was not collected, or the model has several positions per thought.
        """
        if place.head is not None:
            return self._head(place)
        names = [("keys", "values")[i] for i in PARTS[place.site]] if place.site in PARTS else [place.site]
        parts = [self._part(name, place) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def at(self, thought: int) -> int:
        """Where a thought, or another position, stands on the axis `thoughts`.

        Raises:
            HookError: it was not collected.
        """
        if self.numbers is None and thought >= 0:
            return thought
        if self.numbers is None or thought not in self.numbers:
            raise HookError(f"position {thought} was not collected; ask collect for it")
        return self.numbers.index(thought)

    def _head(self, place: Place) -> Tensor:
        x = self._part("heads", place)
        if place.head not in range(x.shape[-2]):
            raise HookError(f"{place}: expected a head in 0..{x.shape[-2] - 1}")
        return x[..., place.head, :]

    def _part(self, name: str, place: Place) -> Tensor:
        x = getattr(self, name) if name in (*SITES, *PARTS, *INNER) else None
        if x is None:
            raise HookError(f"{place}: these states were not collected; ask collect for their site")
        if x.shape[2] != 1:
            raise HookError(f"{place}: this model works on {x.shape[2]} positions per thought, not on one")
        if name in ("resid", "keys", "values", *INNER):
            if place.layer not in self.layers:
                raise HookError(f"{place}: expected a layer that was collected ({self.layers})")
            x = x[:, :, :, self.layers.index(place.layer)]
        x = x[:, :, 0] if place.thought is None else x[:, self.at(place.thought), 0]
        return x.flatten(-2) if place.site in PARTS else x


def load(name: str | Path, *, family: str | None = None, **options: Any) -> ThoughtModel:
    """A thought model by name: a shipped one such as `codi-tiny`, a hub repository, directory or file.

    Args:
        name: Shipped name, hub id, directory or checkpoint file.
            Or a function that returns a `ThoughtModel`: `my_module:load`, `my_model.py:load`.
        family: tiny, codi, coconut, colar or soft, one that an installed package registers, or a function
            that takes the name; None: told from the name and from what lies there; on the hub, from the name
            alone. Any causal language model is a soft one, if that is asked for.
        options: Passed to the family's `load` (`dtype`, `device`, `base`, `eos_before` ...); None is unset.
            `options=["size=3"]` are further ones.

    Raises:
        ConfigError: no such family or option, or code that `foreign.allow` was not told of.
    """
    require_name(name)
    asked, family = family, family or (str(name) if foreign.is_code(name) else _family(str(name)))
    options = translate_config({name: value for name, value in options.items() if value is not None})
    options |= foreign.parsed(options.pop("options", ()))
    if family not in FAMILIES:
        return foreign.load(str(name), family, options, ThoughtModel)
    kind = _kind(name, options) if family in CHECKPOINTS else None
    if kind and asked not in (None, kind):
        raise ConfigError(f"{name} is a {kind} model by its config.json, not a {asked}: leave family= out")
    if family == "colar" and not kind:
        raise ConfigError(
            f"{name} is no CoLaR that can be read: expected a folder whose config.json names a class "
            f"ColarLlama (ModalityDance/latent-tts-colar); CoLaR's own trainer saves an adapter alone, with "
            f"pickled arguments"
        )
    function = importlib.import_module(f"thoughtlens.models.thought.{'native' if kind else family}").load
    known = inspect.signature(function).parameters
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(f"{name} is a {kind or family} model, which has no option {', '.join(unknown)}")
    return function(name, **options)


def _family(name: str) -> str:
    path = Path(name).expanduser()
    weights = importlib.import_module("thoughtlens.models.thought.weights")
    if name in BUNDLED or path.suffix == ".gguf":
        raise importlib.import_module("thoughtlens.models.thought.checkpoint").language_model_given(name)
    if found := known(weights.hub_id(name)):
        return found.family
    said = (path.name if path.exists() else name).lower()
    if "coconut" in said or (not path.exists() and "/checkpoint_" in said):
        return "coconut"
    ours = importlib.import_module("thoughtlens.models.thought.tiny").knows(name)
    if ours or ("/" not in name and not path.exists()):
        return "tiny"
    keys = weights.names_in(path)
    return "coconut" if any("base_causallm." in key for key in keys) else "codi"


def _kind(name: str | Path, options: Mapping[str, Any]) -> str | None:
    """What the model is by the class that its config.json names; None: it names none of ours."""
    weights, native = (
        importlib.import_module(f"thoughtlens.models.thought.{module}") for module in ("weights", "native")
    )
    files, _ = weights.located(name, options.get("revision"))
    return native.kind(files[0].parent)


def think(
    model: ThoughtModel,
    questions: Sequence[str],
    hooks: Sequence[Hook] = (),
    *,
    n_thoughts: int | None = None,
    batch_size: int = 64,
    positions: Container[int] = (),
    kept: Container[tuple[str, int | None]] | None = None,
) -> Iterator[tuple[State, list[StepRecord]]]:
    """Think about all questions, batch by batch (alike lengths together); `State.rows` says which.

    Args:
        model: Any family.
        questions: The problems, in the order that `Hook.per_problem` follows.
        hooks: Edits; each is checked before anything runs.
        n_thoughts: Thoughts to think before leaving; None: all, 0: the begin-of-thought position only.
        batch_size: Problems at a time.
        positions: Tokens of the question, and of the answer's cue, whose states `State.outside` keeps.
        kept: Sites and layers that are kept there; None: all.
    """
    last = model.spec.n_thoughts if n_thoughts is None else n_thoughts
    if last not in model.spec.thoughts:
        raise HookError(f"Expected n_thoughts in 0..{model.spec.n_thoughts}, got {n_thoughts}")
    check_places(model.spec, [hook.place for hook in hooks], last)
    check_rows(hooks, len(questions))
    own = [hook for hook in hooks if hook.place.thought in model.spec.thoughts]
    for state in encoded(model, questions, hooks, batch_size=batch_size, positions=positions, kept=kept):
        records = []
        for _ in range(last + 1):
            state, record = model.step(state, own)
            records.append(record)
        yield state, records


def encoded(
    model: ThoughtModel,
    questions: Sequence[str],
    hooks: Sequence[Hook] = (),
    *,
    batch_size: int = 64,
    positions: Container[int] = (),
    kept: Container[tuple[str, int | None]] | None = None,
) -> Iterator[State]:
    """All questions before any thought, batch by batch (alike lengths together); `State.rows` says which.

    Of the hooks those that are no thought's act here, and where the state answers; see `think`.
    """
    if isinstance(questions, str) or not questions:
        raise DataError(f"Expected a list of at least one question, got {questions!r}")
    if batch_size < 1:
        raise ConfigError(f"Expected batch_size >= 1, got {batch_size}")
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
    own = [hook for hook in hooks if hook.place.thought not in model.spec.thoughts]
    require_reached(model, questions, [hook.place for hook in own])
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        asked, index = [questions[i] for i in rows], torch.tensor(rows)
        if own or positions:
            state = model.begun(asked, Outside(own, index, positions, kept))
        else:
            state = model.encode(asked)
        yield replace(state, rows=index)


def require_reached(model: ThoughtModel, questions: Sequence[str], places: Iterable[Place]) -> None:
    """Refuse places before the first token of every question.

    Raises:
        HookError: says how long the longest question is.
    """
    far = min((place for place in places if (place.thought or 0) < 0), key=_position, default=None)
    if far is None:
        return
    longest = max(len(model.read_ids(question)) for question in questions)
    if _position(far) < -longest:
        raise HookError(
            f"{far}: the longest of these questions has {longest} tokens before thought 0: -{longest}..-1"
        )


def _position(place: Place) -> int:
    return place.thought or 0


@torch.no_grad()
def run(
    model: ThoughtModel,
    questions: Sequence[str],
    hooks: Sequence[Hook] = (),
    *,
    n_thoughts: int | None = None,
    max_new_tokens: int = 256,
    teacher_ids: Int[Tensor, "*batch tokens"] | None = None,
    batch_size: int = 64,
) -> Answer:
    """Think with edits (ablate, swap, steer, splice: all are hooks), perhaps leave early, and answer."""
    if teacher_ids is not None and teacher_ids.ndim == 2 and len(teacher_ids) != len(questions):
        raise DataError(f"teacher_ids has {len(teacher_ids)} rows for {len(questions)} questions")
    parts = []
    for state, _ in think(model, questions, hooks, n_thoughts=n_thoughts, batch_size=batch_size):
        parts.append((state.rows, model.answer(state, max_new_tokens, _cue(teacher_ids, state.rows))))
    return _join_answers(parts, len(questions))


def require_mode(model: ThoughtModel, mode: str) -> None:
    """Refuse a way of answering that a model does not have; says which it has."""
    if mode not in model.modes:
        has = ", ".join(("thoughts", *model.modes))
        raise ConfigError(f"{model.name} does not answer in mode {mode!r}; it has {has}")


@torch.no_grad()
def write(
    model: ThoughtModel,
    mode: str,
    questions: Sequence[str],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 64,
) -> Written:
    """Answer all questions in another mode than by thinking in vectors, batch by batch.

    Args:
        model: Any family.
        mode: One of `model.modes`.
        questions: The problems.
        max_new_tokens: Longest answer, chain of thought included.
        batch_size: Problems at a time.

    Raises:
        ConfigError: the model has no such mode; says which it has.
    """
    require_mode(model, mode)
    parts = [
        model._write(mode, questions[low : low + batch_size], max_new_tokens)
        for low in range(0, len(questions), batch_size)
    ]
    return Written([t for part in parts for t in part.text], [v for part in parts for v in part.value])


@torch.no_grad()
def collect(
    model: ThoughtModel,
    questions: Sequence[str],
    hooks: Sequence[Hook] = (),
    *,
    sites: Sequence[str] = ("thought_in", "resid", "thought_out"),
    layers: Sequence[int] | None = None,
    places: Iterable[Place] | None = None,
    answers: bool = False,
    max_new_tokens: int = 256,
    batch_size: int = 64,
    positions: Iterable[int] = (),
) -> ThoughtBatch:
    """All thoughts, all asked-for sites and layers of all questions, in one go.

    Args:
        model: Any family.
        questions: The problems; rows come back in this order.
        hooks: Edits; the record shows what the model went on with.
        sites: Which of the model's sites to keep.
        layers: Blocks to keep for resid and kv, 0-based; None: all.
        places: Keep what these need, in place of `sites` and `layers`.
        answers: Also let the model answer, from the same thoughts.
        max_new_tokens: Cap on the answer's length.
        batch_size: Problems at a time.
        positions: Tokens of the question (-1 is the last one) and of the answer's cue (n_thoughts + 1 ..) to
            keep beside the thoughts, as are those of `places`. NaN where a question has fewer tokens.
    """
    extra = set(positions)
    if places is not None:
        needed = [place.collected for place in places]
        extra |= {place.thought for place in needed if place.thought not in (None, *model.spec.thoughts)}
        sites = sorted({place.site for place in needed})
        layers = sorted({place.layer for place in needed if place.layer is not None})
    layers = tuple(range(model.spec.n_layers)) if layers is None else tuple(layers)
    for site in sites:
        if site not in model.spec.sites:
            raise HookError(f"Expected a site of this model ({', '.join(model.spec.sites)}), got {site!r}")
    for layer in layers:
        if layer not in range(model.spec.n_layers):
            raise HookError(f"Expected layers in 0..{model.spec.n_layers - 1}, got {layer}")
    require_shown(model, extra)
    numbers = (*sorted(p for p in extra if p < 0), *model.spec.thoughts, *sorted(p for p in extra if p > 0))
    kept = {(site, layer) for site in sites for layer in (layers if site in LAYERED else (None,))}
    chunks: list[dict[str, Tensor]] = []
    rows, said = [], []
    for state, records in think(model, questions, hooks, batch_size=batch_size, positions=extra, kept=kept):
        rows.append(state.rows)
        if answers or any(p > 0 for p in extra):
            said.append((state.rows, model.answer(state, max_new_tokens if answers else 0)))
        chunks.append(_stack(_whole(records, state, numbers, model.spec), state, sites, layers, model.spec))
    back = torch.argsort(torch.cat(rows))
    fields = {name: _cat_left([chunk[name] for chunk in chunks], name)[back] for name in chunks[0]}
    return ThoughtBatch(
        layers=layers,
        answers=_join_answers(said, len(questions)) if answers else None,
        numbers=numbers if extra else None,
        **fields,
    )


def require_shown(model: ThoughtModel, positions: Iterable[int]) -> None:
    """Refuse positions whose states a model does not show.

    Raises:
        HookError: says which there are.
    """
    spec = model.spec
    if not (strange := [p for p in positions if not spec.outside(p)]):
        return
    if not spec.n_cue:
        raise HookError(
            f"{model.name}: the states of a {type(model).__name__} outside its thoughts are not shown; they "
            f"are where thoughts are positions of a sequence (codi-tiny, CODI, Coconut, CoLaR, soft tokens)"
        )
    raise HookError(
        f"position {strange[0]} does not exist here: thoughts are 0..{spec.n_thoughts}, the answer's cue is "
        f"{spec.cue[0]}..{spec.cue[-1]}, the question's tokens are -1, -2, .."
    )


def _whole(
    records: list[StepRecord], state: State, numbers: Sequence[int], spec: ThoughtSpec
) -> list[StepRecord]:
    """The records of the thoughts, and of what was kept before and behind them."""
    if state.outside is None:
        return records
    taps, blank = state.outside.taps, torch.full_like(records[0].thought_in, torch.nan)
    nobody = torch.zeros(len(blank), dtype=torch.bool, device=blank.device)
    found = {record.thought: record for record in records}
    for p in numbers:
        if p not in spec.thoughts:
            tap = taps.get(p)
            found[p] = _outside(p, Tap((), state.rows, nobody) if tap is None else tap, state, spec, blank)
    return [found[p] for p in numbers]


def _outside(p: int, tap: Tap, state: State, spec: ThoughtSpec, blank: Tensor) -> StepRecord:
    """The record of a token of the question, or of the answer's cue; NaN where nothing was kept."""

    def kv(layer: int) -> tuple[Tensor, Tensor]:
        assert state.outside is not None and state.outside.memory is not None
        k, v = state.outside.memory(layer)
        if p > 0 or k.shape[2] < -p:  # of the cue nothing is left to any thought
            return k.new_full((*k.shape[:2], 1, k.shape[3]), torch.nan), v.new_full(
                (*v.shape[:2], 1, v.shape[3]), torch.nan
            )
        return absent((k[:, :, k.shape[2] + p, None], v[:, :, v.shape[2] + p, None]), tap.thinking)

    return StepRecord(
        thought=p,
        thought_in=tap.seen.get(("thought_in", None), blank),
        resid=tuple(tap.seen.get(("resid", layer), blank) for layer in range(spec.n_layers)),
        thought_out=tap.seen.get(("thought_out", None), blank),
        inner={
            (site, layer): x for (site, layer), x in tap.seen.items() if site in INNER and layer is not None
        },
        kv=kv,
        thinking=tap.thinking,
    )


def parse_number(text: str) -> float | None:
    """The last number of a text, commas removed; None if there is none, or one too large for a float."""
    found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    value = float(found[-1]) if found else math.inf
    return value if math.isfinite(value) else None


def is_right(text: str, value: float | None, gold: str) -> bool:
    """Whether an answer is right: equal numbers, or the same answer where the right one is no number."""
    number = parse_number(gold)
    if number is None:
        return same_answer(text, gold)
    return value is not None and abs(value - number) <= 1e-6 * max(1.0, abs(number))


def _stack(
    records: list[StepRecord], state: State, sites: Sequence[str], layers: Sequence[int], spec: ThoughtSpec
) -> dict[str, Tensor]:
    batch, n_positions = records[0].thought_in.shape[:2]
    real = (
        state.mask if spec.positions_per_thought is None else torch.ones(batch, n_positions, dtype=torch.bool)
    )
    out = {"mask": real.cpu()}
    if state.outside is not None:
        all_of = torch.ones(batch, dtype=torch.bool)
        had = [all_of if r.thinking is None else r.thinking.cpu() for r in records]
        out["there"] = torch.stack(had, 1)
    if spec.varies:
        thoughts = [r for r in records if r.thought in spec.thoughts[1:]]
        had = [r.thinking for r in thoughts if r.thinking is not None]
        out["used"] = sum(had, torch.zeros(batch, dtype=torch.long)).cpu()
    if "resid" in sites:
        out["resid"] = torch.stack([torch.stack([r.resid[i] for i in layers], 2) for r in records], 1)
    for site in (site for site in INNER if site in sites):
        blank = next((x for r in records for (name, _), x in r.inner.items() if name == site), None)
        if blank is None:
            raise HookError(f"This model did not show {site}")
        nothing = torch.full_like(blank, torch.nan)  # of a thought that nobody had
        out[site] = torch.stack(
            [torch.stack([r.inner.get((site, i), nothing) for i in layers], 2) for r in records], 1
        )
    for site in ("thought_in", "thought_out"):
        if site in sites:
            out[site] = torch.stack([getattr(r, site) for r in records], 1)
    if "kv" in sites:
        for i, name in enumerate(("keys", "values")):
            per_thought = [
                torch.stack([r.kv(layer)[i].transpose(1, 2) for layer in layers], 2) for r in records
            ]
            out[name] = torch.stack(per_thought, 1)
    return {name: x if x.ndim == 1 else _blank(x.cpu(), out["mask"]) for name, x in out.items()}


def _blank(x: Tensor, real: Tensor) -> Tensor:
    """Zeros at padded positions, whose content means nothing."""
    return x if x.ndim == 2 or bool(real.all()) else x * real.view(len(x), 1, -1, *[1] * (x.ndim - 3))


def _cat_left(parts: list[Tensor], name: str) -> Tensor:
    """Concatenate over problems; where batches differ in positions, pad on the left."""
    if parts[0].ndim == 1 or name == "there":
        return torch.cat(parts)
    axis = 1 if name == "mask" else 2
    widest = max(part.shape[axis] for part in parts)
    padded = []
    for part in parts:
        shape = list(part.shape)
        shape[axis] = widest - shape[axis]
        padded.append(torch.cat([part.new_zeros(shape), part], axis) if shape[axis] else part)
    return torch.cat(padded)


def _join_answers(parts: list[tuple[Tensor, Answer]], n: int) -> Answer:
    back = torch.argsort(torch.cat([rows for rows, _ in parts])).tolist()
    joined = {
        name: [item for _, answer in parts for item in getattr(answer, name)]
        for name in ("text", "ids", "value")
    }
    logits = torch.cat([answer.logits for _, answer in parts])
    return Answer(logits=logits[back], **{k: [v[i] for i in back] for k, v in joined.items()})


def _cue(teacher_ids: Tensor | None, rows: Tensor) -> Tensor | None:
    return teacher_ids[rows] if teacher_ids is not None and teacher_ids.ndim == 2 else teacher_ids


def _clone(value: Any) -> Any:
    """Copy containers, share tensors."""
    if isinstance(value, dict):
        return {k: _clone(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_clone(v) for v in value)
    if value is None or isinstance(value, Tensor | int | float | str | type):
        return value
    twin = copy.copy(value)
    if hasattr(twin, "__dict__"):  # a cache, which grows by new tensors
        twin.__dict__.update({k: _clone(v) for k, v in vars(value).items()})
    return twin
