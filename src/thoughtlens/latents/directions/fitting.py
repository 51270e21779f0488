"""Directions that a store and its model give: of labels, of variance, of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore, language_model, thought_model
from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.latents.codes.labels import encode_labels, encode_numbers, is_number, own_columns
from thoughtlens.latents.codes.readout import Readout, of_text, of_thoughts
from thoughtlens.latents.codes.translator import TRANSLATORS, read_translators
from thoughtlens.latents.directions.config import DirectionsConfig
from thoughtlens.sae import Covariance, Directions

RIDGE = 1e-2
"""Penalty of a probe, as a share of the mean variance of a coordinate."""
MOST = 12
"""Values of a label that have a direction each where none are named."""
LEAST = 2


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that directions are fitted on: vectors, and the problem of each."""

    store: ActivationStore
    hook_name: str
    x: Float64[Tensor, "n width"]
    problem: Int[np.ndarray, " n"]


def made_of(cfg: DirectionsConfig, rows: Rows) -> Directions:
    """Directions by the way that the settings name.

    Raises:
        ConfigError: no such label, class or token.
        DataError: a label with one value, or too few rows.
    """
    if cfg.made == "pca":
        return _components(cfg, rows)
    if cfg.made == "lens":
        return _tokens(cfg, rows)
    return _of_label(cfg, rows)


def _components(cfg: DirectionsConfig, rows: Rows) -> Directions:
    covariance = Covariance(rows.x.shape[1])
    covariance.update(rows.x)
    variance, components = covariance.eigen()
    k = min(cfg.k, int((variance > 1e-12 * variance[0]).sum()))
    names = tuple(f"pc{i + 1}" for i in range(k))
    shares = ", ".join(
        f"{name} {float(v / variance.sum()):.1%}" for name, v in zip(names, variance, strict=False)
    )
    return Directions(
        components[:k].numpy(), names, components[:k].numpy() @ covariance.mean.numpy(),
        source=f"principal components, with their shares of the variance: {shares}",
    )  # fmt: skip


def _of_label(cfg: DirectionsConfig, rows: Rows) -> Directions:
    """A direction for each class against the rest; the offset lies half-way between both means."""
    column = rows.store.problems[own_columns(rows.store.problems, (str(cfg.label),))[0]]
    codes, values = encode_labels(column)
    if is_number(column.type) and cfg.classes is None and len(values) > MOST:
        return _of_number(cfg, rows, encode_numbers(column)[rows.problem])
    own = codes[rows.problem]
    classes = cfg.classes or tuple(values)
    if wrong := [value for value in classes if value not in values]:
        raise ConfigError(
            f"classes: {cfg.label} has no value {wrong[0]!r}; it has {', '.join(values[:MOST])}"
        )
    if len(classes) > MOST and cfg.classes is None:
        raise ConfigError(
            f"label {cfg.label!r} has {len(classes)} values: name those that are meant, classes=[...]"
        )
    n = Counter(own.tolist())
    vectors, offsets = [], []
    known = torch.from_numpy(own >= 0)
    x = rows.x[known]
    towards = _ridge(x) if cfg.made == "probe" else None
    for value in classes:
        has = torch.from_numpy(own == values.index(value))[known]
        if n[values.index(value)] < LEAST or int((~has).sum()) < LEAST:
            raise DataError(
                f"label {cfg.label!r}: fewer than {LEAST} of {len(x):,} rows of split train have, or have "
                f"not, the value {value!r}"
            )
        inside, outside = x[has].mean(0), x[~has].mean(0)
        vector = inside - outside
        if towards is not None:
            vector = towards(vector)
        _require_length(vector, f"{cfg.label}={value}")
        vectors.append(vector)
        offsets.append(float((inside + outside) @ vector / vector.norm() / 2))
    way = "differences of class means" if cfg.made == "diffmean" else "ridge probes"
    return Directions(
        torch.stack(vectors).numpy(), tuple(f"{cfg.label}={value}" for value in classes), np.array(offsets),
        source=f"{way} of label {cfg.label}, each value against the others; 0 is half-way between both means",
    )  # fmt: skip


def _of_number(cfg: DirectionsConfig, rows: Rows, y: np.ndarray) -> Directions:
    """One ridge regression on the size of a number."""
    if cfg.made != "probe":
        raise ConfigError(
            f"label {cfg.label!r} is a number with many values, which from=probe reads; or name "
            f"some: classes=[...]"
        )
    known = torch.from_numpy(np.isfinite(y))
    x, target = rows.x[known], torch.from_numpy(y)[known]
    vector = _ridge(x)(((target - target.mean())[:, None] * (x - x.mean(0))).mean(0))
    _require_length(vector, str(cfg.label))
    return Directions(
        vector[None].numpy(), (str(cfg.label),), source=f"ridge probe of the number {cfg.label}"
    )


def _ridge(x: Float64[Tensor, "n width"]) -> Callable[[Tensor], Tensor]:
    """Of these rows, what makes a probe's weights of the covariance with what it reads."""
    centred = x - x.mean(0)
    if not bool(centred.any()):
        return torch.zeros_like
    scatter = centred.T @ centred / len(x)
    penalty = RIDGE * float(scatter.diagonal().mean()) * torch.eye(x.shape[1], dtype=x.dtype)
    return partial(torch.linalg.solve, scatter + penalty)


def _require_length(vector: Tensor, name: str) -> None:
    if not bool(vector.any()):
        raise DataError(f"{name}: the states do not differ, so there is no direction")


def _tokens(cfg: DirectionsConfig, rows: Rows) -> Directions:
    """What raises each token's logit above the mean of all, at the mean state, to first order."""
    store = rows.store
    text = store.meta.kind == "text"
    readout = of_text(language_model(store)) if text else of_thoughts(thought_model(store))
    translate = _translator(cfg, rows.hook_name)
    vectors = []
    for token in cfg.tokens:
        ids = _ids(readout, token)
        x = rows.x.mean(0, keepdim=True).float().requires_grad_()
        with torch.enable_grad():
            logits = readout.logits(translate(x), rows.hook_name)
            (own,) = torch.autograd.grad(logits[0, ids].mean() - logits.mean(), x)
        _require_length(own, token)
        vectors.append(own[0].double())
    lens = "the logit lens" if cfg.translators is None else "the tuned lens"
    return Directions(
        torch.stack(vectors).numpy(), tuple(cfg.tokens),
        source=f"what raises a token's logit through {lens}, at the mean state, above the mean of all tokens",
    )  # fmt: skip


def _ids(readout: Readout, token: str) -> list[int]:
    word = readout.words.get(token.strip())
    if word is None:
        raise ConfigError(f"tokens: the model has no token {token!r}; a direction needs a single one")
    return np.flatnonzero(readout.word_of == word).tolist()


def _translator(cfg: DirectionsConfig, hook_name: str) -> Callable[[Tensor], Tensor]:
    """The tuned lens at one thought; without one nothing is changed."""
    if cfg.translators is None:
        return lambda x: x
    file = cfg.translators / TRANSLATORS
    if cfg.thoughts is None or len(cfg.thoughts) != 1:
        raise ConfigError("translators: a tuned lens belongs to one thought; name it: thoughts=[3]")
    if not file.is_file():
        raise NotThereError(f"translators: expected a finished lens stage with {file}, found none")
    found = read_translators(file).get((hook_name, cfg.thoughts[0]))
    if found is None:
        raise ConfigError(
            f"translators: {file} has no tuned lens of {hook_name} at thought {cfg.thoughts[0]}"
        )
    return found
