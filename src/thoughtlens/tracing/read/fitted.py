"""Other lenses than the model's own output side, fitted on other problems, and which one reads a thought.

A *tuned lens* is the run's own. A *linear probe* (Fisher's discriminant) and the *latents* (per word the one
that fires in most of it and least elsewhere) are fitted to the labels of other problems, to
each column that they tell at this thought. Which lens reads a thought is decided on problems of a third
part, without labels: the one with which most steps hold, less those that do not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from thoughtlens.core import whole
from thoughtlens.latents import Readout, Translator, read_translators
from thoughtlens.models import Place, ThoughtBatch, ThoughtModel, collect
from thoughtlens.problems import Rule, written
from thoughtlens.sae import SAE
from thoughtlens.tracing.chains.records import LensRow
from thoughtlens.tracing.read.lenses import LOGIT, OUT, Lens, Lenses, logit_lens, look, through

TUNED, PROBE, LATENTS = "tuned lens", "linear probe", "latents"
LABEL = re.compile(r"(?:op|v|hop)\d+")
"""Columns that a probe may read."""
RIDGE = 1e-2
"""Added to the covariance within classes, as a share of its mean variance."""
FEWEST = 3
"""Problems of a word that is learned."""
LEAST = 0.05
"""A lens must be right, or make sense, more often than what it replaces by this share, and by two errors."""
LONGEST = 64
"""Tokens of an answer, at most."""
ENOUGH = 40
"""Problems to fit on, and to choose on."""


@dataclass(frozen=True, eq=False)
class Material:
    """What lenses are fitted and chosen with."""

    model: ThoughtModel
    readout: Readout
    rule: Rule
    fit: pa.Table
    """Problems with labels to fit on."""
    choose: pa.Table
    """Others, to choose on."""
    translators: Path | None = None
    """The file of a tuned lens."""
    sae: SAE | None = None
    probe: bool = True
    """Whether a probe may read, too."""


def choose(given: Material) -> tuple[Lenses, list[LensRow]]:
    """A lens for each thought, the plain one where none is better; and how all that could be it did."""
    plain, spec = logit_lens(given.readout, given.model.spec.thoughts), given.model.spec
    if min(len(given.fit), len(given.choose)) < ENOUGH or not spec.n_thoughts:
        return plain, []
    tuned = {} if given.translators is None else read_translators(given.translators)
    hooks = {OUT, *(hook for hook, _ in tuned)}
    hooks |= set() if given.sae is None else set(given.sae.hook_names)
    states = [_states(given.model, table, sorted(hooks)) for table in (given.fit, given.choose)]
    labels = _Labels(given.fit, given.choose, plain.words)
    words, at, told = labels.words, dict(plain.at), list[LensRow]()
    questions, before = given.choose["question"].to_pylist(), [list[str]() for _ in range(len(given.choose))]
    answered = states[1].answers
    assert answered is not None
    answers = list(map(given.rule.answer, questions, answered.text))
    later = _said(plain, states[1])
    for p in spec.thoughts:
        found: list[tuple[str | None, Lens]] = [(None, through(given.readout))]
        if p:
            found += [(None, lens) for lens in tuned_lenses(given.readout, tuned, p)]
            found += _fitted(given, labels, states, p)
        said = [
            [words[i] for i in look(lens, states[1][Place(lens.hook_name, p)]).words[:, 0]]
            for _, lens in found
        ]
        around = list(zip(before, (row[p + 1 :] for row in later), strict=True))
        told_of = partial(_makes_sense, given.rule, questions, around, answers)
        senses, nulls = [told_of(own) for own in said], [told_of([*own[1:], own[0]]) for own in said]
        best = 0
        for i in range(1, len(found)):
            best = i if _is_better(senses[i].score, senses[best].score) else best
        at[p] = found[best][1]
        before = [[*row, word] for row, word in zip(before, said[best], strict=True)]
        told += [
            LensRow(
                thought_idx=p,
                lens=lens.kind,
                hook_name=lens.hook_name,
                column=column,
                makes_sense=float(senses[i].makes.mean()),
                null=float(nulls[i].makes.mean()),
                n=len(questions),
                is_chosen=i == best,
            )
            for i, (column, lens) in enumerate(found)
            if p
        ]
    return Lenses(words, at), told


def _said(lenses: Lenses, states: ThoughtBatch) -> list[list[str]]:
    """By problem, what each thought is read as."""
    looks = [look(lens, states[Place(lens.hook_name, p)]) for p, lens in sorted(lenses.at.items())]
    return [[lenses.words[one.words[i, 0]] for one in looks] for i in range(len(states.mask))]


def _states(model: ThoughtModel, table: pa.Table, hooks: Sequence[str]) -> ThoughtBatch:
    questions = table["question"].to_pylist()
    places = [Place(hook) for hook in hooks]
    return collect(model, questions, places=places, answers=True, max_new_tokens=LONGEST, batch_size=256)


class _Sense(NamedTuple):
    """What words at one thought do to the chains of some problems."""

    makes: Bool[np.ndarray, " n"]
    """Whether the word opens or closes a step that holds."""
    score: Int[np.ndarray, " n"]
    """Steps of the whole chain that hold, less those that do not."""


def _makes_sense(
    rule: Rule,
    questions: Sequence[str],
    around: Sequence[tuple[Sequence[str], Sequence[str]]],
    answers: Sequence[str],
    said: Sequence[str],
) -> _Sense:
    """The chains with these words among the others; the last step's value may be the answer."""
    found = []
    for question, (row, rest), answer, word in zip(questions, around, answers, said, strict=True):
        steps = [step for step in rule.join(question, [*row, word, *rest], answer) if step.value is not None]
        own = [s.read_at == len(row) or (s.value_at == len(row) and s.word is not None) for s in steps]
        holds = [step.holds for step in steps]
        found.append((any(map(all, zip(own, holds, strict=True))), 2 * sum(holds) - len(holds)))
    makes, score = np.array(found).T
    return _Sense(makes.astype(bool), score)


def _is_better(one: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]) -> bool:
    """By more than chance, and by more than little."""
    gain = (one - other).astype(float)
    return bool(gain.mean() >= LEAST and gain.mean() > 2 * gain.std() / len(gain) ** 0.5)


class _Labels:
    """The label columns of both parts as numbers of words."""

    def __init__(self, fit: pa.Table, choose: pa.Table, words: Sequence[str]) -> None:
        names = [name for name in fit.column_names if LABEL.fullmatch(name) and name in choose.column_names]
        said = {name: [_words(table, name) for table in (fit, choose)] for name in names}
        more = {word for parts in said.values() for part in parts for word in part} - set(words)
        self.words = [*words[:-1], *sorted(more), ""]
        number = {word: i for i, word in enumerate(self.words)}
        self.columns: Mapping[str, list[Int[np.ndarray, " n"]]] = {
            name: [np.array([number[word] for word in part]) for part in parts]
            for name, parts in said.items()
        }


def _words(table: pa.Table, name: str) -> list[str]:
    """A column's values as they are read; a problem without one has the empty word."""
    return ["" if value is None else written(value) for value in table[name].to_pylist()]


def tuned_lenses(
    readout: Readout, translators: Mapping[tuple[str, int], Translator], p: int
) -> Iterator[Lens]:
    """The run's translators of a thought, but for those that change nothing."""
    for (hook, thought), translator in translators.items():
        if thought == p and not translator.is_identity:
            yield _translated(readout, hook, translator)


def _translated(readout: Readout, hook: str, translator: Translator) -> Lens:
    def shares(x: Tensor) -> Tensor:
        return readout.logits(translator(x), hook).softmax(-1)

    return Lens(TUNED, hook, shares, readout.word_of, readout.chunk, tensors=vars(translator))


@dataclass(frozen=True, eq=False)
class _Fit:
    """What was fitted, and how it reads."""

    shares: Callable[[Tensor], Tensor]
    tensors: Mapping[str, Tensor]


Fit = Callable[[Float[Tensor, "n d"], Int[np.ndarray, " n"], int], _Fit]
"""States, classes and how many classes there are, to what gives the share of each class."""


def _fitted(
    given: Material, labels: _Labels, states: Sequence[ThoughtBatch], p: int
) -> Iterator[tuple[str | None, Lens]]:
    """The latents at their hooks, then the probe; of each column that it tells on part two."""
    ways: list[tuple[str, str, Fit]] = [(PROBE, OUT, discriminant)] if given.probe else []
    if given.sae is not None:
        ways = [*((LATENTS, hook, _latents(given.sae, hook, p)) for hook in given.sae.hook_names), *ways]
    for kind, hook, fit in ways:
        x, held = (part[Place(hook, p)].float() for part in states)
        there, seen = (part.isfinite().all(-1).numpy() for part in (x, held))
        for column, (y, z) in labels.columns.items():
            count = Counter(y[there].tolist())
            classes = np.array(sorted(word for word, n in count.items() if n >= FEWEST))
            keep = there & np.isin(y, classes)
            if len(classes) < 2 or keep.sum() < ENOUGH or seen.sum() < ENOUGH:
                continue
            rows = torch.from_numpy(keep)
            told = fit(x[rows], np.searchsorted(classes, y[keep]), len(classes))
            lens = Lens(kind, hook, told.shares, classes, tensors=told.tensors)
            there_too = z[seen.nonzero()]
            right = float(np.mean(look(lens, held[torch.from_numpy(seen)]).words[:, 0] == there_too))
            majority = max(Counter(there_too.tolist()).values()) / len(there_too)
            if right - majority > LEAST:
                yield column, lens


def discriminant(x: Float[Tensor, "n d"], y: Int[np.ndarray, " n"], k: int) -> _Fit:
    """Fisher's linear discriminant (1936): classes as Gaussians of one covariance."""
    wide, classes = x.double(), torch.from_numpy(y)
    counts = torch.bincount(classes, minlength=k).double()
    means = torch.zeros(k, x.shape[1], dtype=torch.float64).index_add_(0, classes, wide) / counts[:, None]
    rest = wide - means[classes]
    covariance = rest.T @ rest / len(rest)
    covariance.diagonal().add_(RIDGE * wide.var(0).mean().clamp_min(1e-12))
    weight = torch.linalg.solve(covariance, means.T)
    bias = (counts / counts.sum()).log() - 0.5 * (means * weight.T).sum(1)
    return _linear({"weight": weight, "bias": bias})


def _linear(own: Mapping[str, Tensor]) -> _Fit:
    return _Fit(lambda states: (states.double() @ own["weight"] + own["bias"]).softmax(-1), own)


def _latents(sae: SAE, hook: str, thought: int) -> Fit:
    """Per class the latent that fires in most of it and least elsewhere; the strongest of these reads."""
    here = sae.at(hook, thought)

    @torch.no_grad()
    def fit(x: Tensor, y: np.ndarray, k: int) -> _Fit:
        acts, of = here.encode(x), torch.nn.functional.one_hot(torch.from_numpy(y), k).float()
        fires = (acts > 0).float()
        inside = of.T @ fires / of.sum(0)[:, None]
        outside = (1 - of).T @ fires / (1 - of).sum(0).clamp_min(1)[:, None]
        best = (inside - outside).argmax(1)
        size = (of * acts[:, best]).sum(0) / (of * fires[:, best]).sum(0).clamp_min(1)
        return _firing(here.encode, {"best": best, "size": size})

    return fit


def _firing(encode: Callable[[Tensor], Tensor], own: Mapping[str, Tensor]) -> _Fit:
    """How strongly the latent of each class fires, in units of what it usually does."""

    def shares(states: Tensor) -> Tensor:
        strength = encode(states)[:, own["best"]].clamp_min(0) / own["size"].clamp_min(1e-12)
        return strength / strength.sum(1, keepdim=True).clamp_min(1)

    return _Fit(shares, own)


def keep(lenses: Lenses, file: Path) -> None:
    """Write what reads a thought in the place of the plain lens.

    Of thought 2 `2/weight` and `2/bias`, or `2/best`, the latent of each word, and `2/size`, how strongly it
    usually fires; in the metadata its kind, hook and words.
    """
    tensors, told = dict[str, Tensor](), dict[str, str]()
    for p, lens in lenses.at.items():
        if lens.kind != LOGIT:
            words = None if lens.kind == TUNED else [lenses.words[i] for i in lens.word_of]
            told[str(p)] = json.dumps([lens.kind, lens.hook_name, words])
            tensors |= {f"{p}/{name}": one.contiguous() for name, one in lens.tensors.items()}
    if told:
        with whole(file) as part:
            save_file(tensors, part, told)


def kept(file: Path, readout: Readout, thoughts: Sequence[int], sae: Callable[[], SAE]) -> Lenses:
    """What `keep` wrote, with the plain lens at every other thought; `sae` is called where latents read."""
    plain = logit_lens(readout, thoughts)
    with safe_open(file, "pt") as held:
        told = {int(p): json.loads(one) for p, one in held.metadata().items()}
        tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    more = {word for _, _, words in told.values() for word in words or ()} - set(plain.words)
    words, at = [*plain.words[:-1], *sorted(more), ""], dict(plain.at)
    number = {word: i for i, word in enumerate(words)}
    for p, (kind, hook, own_words) in told.items():
        own = {name.partition("/")[2]: one for name, one in tensors.items() if name.startswith(f"{p}/")}
        if kind == TUNED:
            at[p] = _translated(readout, hook, Translator(own["weight"], own["bias"]))
        else:
            fit = _linear(own) if kind == PROBE else _firing(sae().at(hook, p).encode, own)
            classes = np.array([number[word] for word in own_words])
            at[p] = Lens(kind, hook, fit.shares, classes, tensors=own)
    return Lenses(words, at)
