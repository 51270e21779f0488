"""Verbs for a notebook, on what the wings below offer: read, think, fit, run, open_run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError, DataError, MismatchError, Result
from thoughtlens.latents import Readout, of_thoughts, token_texts
from thoughtlens.models import LanguageModel, Place, ThoughtBatch, ThoughtModel, capture, thoughts
from thoughtlens.sae import SAE, SAEConfig, settings, train_rows
from thoughtlens.show import Run
from thoughtlens.studies import pipeline
from thoughtlens.tracing import Thinkings
from thoughtlens.tracing import think as readings


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of texts, one row per token, padding left out."""

    at: dict[str, Float[Tensor, "rows d_in"]]
    """Float32 rows by hook name."""
    tokens: list[str]
    text_idx: Int[Tensor, " rows"]
    """Which text each row is from."""

    @property
    def x(self) -> Float[Tensor, "rows d_in"]:
        """The rows, where one hook was read."""
        if len(self.at) != 1:
            raise MismatchError(f"Several hooks were read ({', '.join(self.at)}); take one: at[HOOK]")
        return next(iter(self.at.values()))


@dataclass(frozen=True, eq=False)
class Thoughts:
    """What a thought model thought about questions, and what it answered."""

    questions: list[str]
    batch: ThoughtBatch
    readout: Readout

    @property
    def answers(self) -> list[str]:
        """The model's answers, in the order of the questions."""
        assert self.batch.answers is not None
        return self.batch.answers.text

    def at(self, place: Place | str) -> Tensor:
        """States of a place: [questions, d]; of one without a thought [questions, thoughts, d].

        Args:
            place: Such as `layers.1:out@3` or `thought_out`.

        Raises:
            HookError: no such place, or one that was not kept.
        """
        return self.batch[_place(place)]

    def says(self, thought: int, top: int = 1) -> list[list[tuple[str, float]]]:
        """Per question, the likeliest tokens if this thought were read out (logit lens), with their share."""
        states = self.batch[Place.at("thought_out")][:, thought]
        return self.readout.likeliest(states, "thought_out", top)


@torch.no_grad()
def read(model: LanguageModel, texts: Sequence[str], hooks: str | Sequence[str]) -> Activations:
    """Activations of texts at one hook or several, read one text at a time with the tokenizer's own BOS.

    Args:
        model: From `load_model`.
        texts: What to read; each is cut at the model's context length.
        hooks: Hook names such as `layers.15:out`.

    Raises:
        HookError: the model has no such hook; says which it has.
        DataError: no texts.

    Example:
        ```python
        lm = tl.load_model("smollm2-135m")
        acts = tl.read(lm, ["Dogs are man's best friend."], "layers.3:out")
        print(acts.tokens, acts.x.shape)
        ```
    """
    names = [hooks] if isinstance(hooks, str) else list(hooks)
    if isinstance(texts, str) or not texts:
        raise DataError(f"Expected a list of at least one text, got {texts!r}")
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    ids: list[int] = []
    lengths = []
    for text in texts:
        own = model.tokenizer(text, return_tensors="pt").input_ids[:, : model.context_length]
        for name, seen in capture(model.model, own, None, names).items():
            rows[name].append(seen[0].float().cpu())
        ids += own[0].tolist()
        lengths.append(own.shape[1])
    words = token_texts(model.tokenizer, sorted(set(ids)))
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    at = {name: torch.cat(parts) for name, parts in rows.items()}
    return Activations(at, [words[i] for i in ids], index)


@overload
def think(
    model: ThoughtModel,
    questions: Sequence[str],
    *,
    edits: Mapping[Place | str, Callable[[Tensor], Tensor]] | None = None,
    batch_size: int = 64,
) -> Thoughts: ...
@overload
def think(model: str | Path, questions: Sequence[str], **options: Any) -> Thinkings: ...
def think(
    model: ThoughtModel | str | Path,
    questions: Sequence[str],
    *,
    edits: Mapping[Place | str, Callable[[Tensor], Tensor]] | None = None,
    batch_size: int = 64,
    **options: Any,
) -> Thoughts | Thinkings:
    """Let a thought model think about questions and answer them; every state is kept.

    Args:
        model: From `load_model`. A run, or a model by name: then as `thoughtlens think` reads it, a table
            in a notebook.
        questions: The problems.
        edits: What becomes of states while it thinks, by place: `{"thought_in@3": lambda x: 0 * x}`; x is
            [batch, positions, d].
        batch_size: Problems at a time.
        options: Of a run, or a model by name: `member`, `top`, `others`, `test`.

    Raises:
        ConfigError: edits of a run, or options with an open model.
        DataError: no questions, or a word that the model does not know.
        HookError: a place that does not exist, or an edit that cannot act there.

    Example:
        ```python
        model = tl.load_model("codi-tiny")
        thoughts = tl.think(model, ["dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"])
        print(thoughts.says(2), thoughts.answers)
        ```
    """
    if isinstance(model, str | Path):
        if edits:
            raise ConfigError("edits: give an open model, as in tl.think(tl.load_model('codi-tiny'), ...)")
        return readings(model, questions, **options)
    if options:
        raise ConfigError(f"{', '.join(options)}: only for a run, or a model by name")
    hooks = [thoughts.Hook(_place(place), change) for place, change in (edits or {}).items()]
    batch = thoughts.collect(model, list(questions), hooks, answers=True, batch_size=batch_size)
    return Thoughts(list(questions), batch, of_thoughts(model))


def fit(
    config: SAEConfig,
    x: Float[Tensor, "n d_in"],
    *,
    place: Place | str = "",
    epochs: float = 5.0,
    batch_size: int = 2048,
    lr: float | None = None,
    seed: int = 0,
) -> SAE:
    """An SAE trained on rows in memory, with one centre and scale; for stores on disk use the train stage.

    Args:
        config: Kind and size, such as `TopKConfig(d_sae=1024, k=32)`.
        x: Raw activations.
        place: Where they are from; kept with the SAE.
        epochs: Passes over the rows.
        batch_size: Rows per step; at most all.
        lr: Learning rate; None: the kind's own for this width and length.
        seed: Of initial weights and order.

    Raises:
        ConfigError: a setting that these rows cannot have (k above d_sae).
        DataError: no rows, rows that do not vary, or a loss that became NaN or Inf.

    Example:
        ```python
        sae = tl.fit(tl.sae.TopKConfig(d_sae=32, k=2), torch.randn(512, 16), epochs=1, batch_size=64)
        print(sae.encode(torch.randn(3, 16)).shape)
        ```
    """
    if x.ndim != 2 or not len(x):
        raise DataError(f"Expected rows [n, d_in], got a tensor of shape {tuple(x.shape)}")
    where = _place(place) if place else Place("")
    width = config.width(x.shape[1])
    numbers = settings(config, width, len(x), epochs=epochs, batch_size=batch_size, seed=seed, lr=lr)
    cell = torch.zeros(len(x), dtype=torch.long)
    return train_rows(config.for_width(x.shape[1]), x.float(), cell, [where], numbers)


def run(recipe: str | Path, out: str | Path, *overrides: str) -> Result:
    """Every stage of a recipe into the directory `out`, as `thoughtlens run` does it.

    Args:
        recipe: A shipped recipe's name (`pilot`, `text-demo`) or a TOML file.
        out: The run's directory; what is done there already is not done again.
        overrides: `key=value` as on the command line.

    Raises:
        ConfigError: an unknown key (the nearest known one is named) or a bad value.
        OccupiedError: `out` holds a run of another recipe.

    Example:
        ```python
        tl.run("pilot", "runs/pilot", "problems.n=1000", "train.epochs=2")
        ```
    """
    return pipeline.run(pipeline.load(recipe, overrides), out)


def open_run(path: str | Path) -> Run:
    """A finished run as an object: its SAEs, latents, tables and results.

    Raises:
        NotThereError: no directory, or no finished stage in it.

    Example:
        ```python
        run = tl.open_run("runs/pilot")
        print(run.result("train").fvu_validation.value, list(run.saes()), len(run.latents()))
        ```
    """
    return Run.open(path)


def _place(place: Place | str) -> Place:
    return Place.parse(place) if isinstance(place, str) else place
