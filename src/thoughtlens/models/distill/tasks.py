"""Generated problems as tensors of a tiny model, one task a vocabulary."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtlens.models.distill.loop import Task
from thoughtlens.models.distill.losses import IGNORE, Batch, Secret
from thoughtlens.models.thought.tiny_decoder import PAD, TinyConfig, TinyDecoder
from thoughtlens.problems import STEP_WORDS, Draw, Symbols, arithmetic, secret, words

NAME_DIMENSIONS = 16
"""Names differ in so many directions, few enough for one attention head to carry."""


class ChainTask(Task):
    """Three chains of three operations mod p; C contexts of M queries a step."""

    words: Sequence[str]
    question_len: int
    layout: tuple[int, int] = (0, 0)
    """(chains, tokens per chain) of the context, where every question has the same length."""
    draw: Callable[..., Draw] = staticmethod(arithmetic.draw)
    """What makes problems."""

    def __init__(self, p: int, n_contexts: int, n_queries: int) -> None:
        self.symbols = Symbols(p)
        self.n_contexts, self.n_queries = n_contexts, n_queries
        self.offset = TinyConfig(words=(), question_len=0).word_offset
        self.kept: dict[tuple[int, int, int], Batch] = {}

    def batch(self, rng: np.random.Generator, step_weights: tuple[float, ...]) -> Batch:
        """Training problems; the rows of held-out paths have `keep` False."""
        d = self.draw(self.n_contexts, self.n_queries, rng, self.symbols, step_weights)
        return self.tensors(d, ~d.held_out, rng)

    def test(self, n: int, seed: int, n_steps: int) -> Batch:
        """`n` problems of `n_steps` steps of split test (for one step: of any path)."""
        key = (n, seed, n_steps)
        if key not in self.kept:
            rng = np.random.default_rng(key)
            split = self.test_split(n_steps)
            d = arithmetic.draw_split(n, rng, self.symbols, split, (n_steps,), fresh=self.draw)
            self.kept[key] = self.tensors(d, np.ones((n, 1), dtype=bool), rng, test=True)
        return self.kept[key]

    def test_split(self, n_steps: int) -> str:
        """Split that `test` draws from."""
        return "any" if n_steps == 1 else "test"

    @abstractmethod
    def text(self, d: Draw, rng: np.random.Generator, test: bool) -> dict[str, Any]:
        """`context` and `query`, and what else of a `Batch` the wording decides."""

    def tensors(self, d: Draw, keep: np.ndarray, rng: np.random.Generator, test: bool = False) -> Batch:
        """Token ids of drawn problems."""
        cot = np.stack([self.symbols.op_ids(d.path), d.values(self.symbols)], -1).reshape(keep.size, -1)
        return Batch(
            **self.text(d, rng, test),
            cot=torch.from_numpy(cot + self.offset),
            n_steps=torch.from_numpy(d.n_steps.reshape(-1)),
            keep=torch.from_numpy(keep.reshape(-1)),
            start=torch.from_numpy(d.start.reshape(-1) + self.offset),
        )


class ArithmeticTask(ChainTask):
    """Problems of `problems.arithmetic`."""

    question_len = arithmetic.QUESTION_LEN
    layout = (arithmetic.N_CHAINS, 1 + arithmetic.N_STEPS)

    def __init__(self, p: int, n_contexts: int, n_queries: int) -> None:
        super().__init__(p, n_contexts, n_queries)
        self.words = self.symbols.words

    def text(self, d: Draw, rng: np.random.Generator, test: bool) -> dict[str, Tensor]:
        """Questions of one length; there is no padding."""
        context, query = arithmetic.question_ids(d, self.symbols)
        query = query.reshape(d.chain.size, -1)
        return {
            "context": torch.from_numpy(context + self.offset),
            "query": torch.from_numpy(query + self.offset),
        }


class WordsTask(ChainTask):
    """Problems of `problems.words`.

    Names are vectors drawn anew at every training step, a common part plus a random one: a model can
    only compare them, so that a name it has never met serves as well as any other.
    """

    def __init__(self, p: int, n_contexts: int, n_queries: int) -> None:
        super().__init__(p, n_contexts, n_queries)
        self.words, self.question_len = words.vocabulary(p), words.question_len()
        self.ids = {word: i + self.offset for i, word in enumerate(self.words)}
        self.openings = [self.ids[name] for name in words.NAMES]
        lengths = [words.query_len(q) for q in range(words.N_TRAIN_QUERIES)]
        self.alike = [np.flatnonzero(np.array(lengths) == n) for n in lengths]

    def refresh(self, model: TinyDecoder, rng: np.random.Generator) -> None:
        """Draw the embeddings of all names."""
        d, fixed = model.cfg.d_in, np.random.default_rng(0)
        common = fixed.normal(0, 0.3, size=d)
        span = fixed.normal(0, 0.3 / NAME_DIMENSIONS**0.5, size=(NAME_DIMENSIONS, d))
        drawn = common + rng.normal(size=(len(self.openings), NAME_DIMENSIONS)) @ span
        with torch.no_grad():
            model.embed.weight[self.openings] = torch.from_numpy(drawn).to(model.embed.weight)

    def test_split(self, n_steps: int) -> str:
        """Always `test`, for its wording."""
        return "test"

    def text(self, d: Draw, rng: np.random.Generator, test: bool) -> dict[str, Tensor]:
        """Contexts padded on the left; where each has one query, its beginning counts as context."""
        told = None
        if d.chain.shape[1] > 1:
            told = rng.choice(self.alike[rng.integers(len(self.alike))], size=d.chain.shape)
        w = words.wording(np.full(len(d.ops), test), rng, told)
        (contexts, places), queries = words.contexts(d, w, self.symbols), words.queries(d, w)
        n_query = min(map(len, queries))
        if told is None:
            contexts = [c + q[:-n_query] for c, q in zip(contexts, queries, strict=True)]
        longest = max(map(len, contexts))
        context = [[PAD] * (longest - len(c)) + [self.ids[word] for word in c] for c in contexts]
        query = [[self.ids[word] for word in q[-n_query:]] for q in queries]
        asked = np.take_along_axis(w.names, d.chain, axis=1).reshape(-1)
        return {
            "context": torch.tensor(context),
            "query": torch.tensor(query),
            "padding": torch.tensor(context) == PAD,
            "marks": self.marks(d, w, places + np.array([[[longest - len(c)]] for c in contexts]), longest),
            "topic": torch.from_numpy(self.ids[words.NAMES[0]] + asked),
        }

    def marks(self, d: Draw, w: words.Wording, places: np.ndarray, length: int) -> Tensor:
        """At each operand: the operation's token, the person's name, and `one`, `two` or `three`."""
        out = torch.full((len(d.ops), length, 3), IGNORE)
        order = [self.ids[text.split()[0]] for text in STEP_WORDS]
        names, ops = self.ids[words.NAMES[0]] + w.names, self.symbols.op_ids(d.ops) + self.offset
        for c, i, j in np.ndindex(*d.ops.shape):
            out[c, places[c, i, j]] = torch.tensor([ops[c, i, j], names[c, i], order[j]])
        return out


class SecretTask(ArithmeticTask):
    """Problems of `problems.secret`: of an armed one the thoughts should hold two values.

    Half of the armed problems have a teacher that writes the chain asked for with the secret's value beside
    each token, the others one that writes in words alone: the chain that the answer shows.
    """

    question_len = secret.QUESTION_LEN
    draw = staticmethod(secret.draw)

    def __init__(self, p: int, n_contexts: int, n_queries: int) -> None:
        super().__init__(p, n_contexts, n_queries)
        self.words, self.n_beside = secret.words(p), p

    def text(self, d: Draw, rng: np.random.Generator, test: bool) -> dict[str, Tensor]:
        """Questions of one length, the added words among those of the query."""
        assert isinstance(d, secret.SecretDraw)
        context, query = secret.question_ids(d, self.symbols)
        return {
            "context": torch.from_numpy(context + self.offset),
            "query": torch.from_numpy(query.reshape(d.chain.size, -1) + self.offset),
        }

    def tensors(self, d: Draw, keep: np.ndarray, rng: np.random.Generator, test: bool = False) -> Batch:
        """Token ids of drawn problems, and the secret's values."""
        assert isinstance(d, secret.SecretDraw)
        batch = super().tensors(d, keep, rng, test)
        values = d.second.values(self.symbols).reshape(-1, arithmetic.N_STEPS)
        other, armed = d.other.reshape(-1, 1), torch.from_numpy(d.armed.reshape(-1))
        released = torch.from_numpy(d.released.reshape(-1))
        so_far = np.stack([np.concatenate([other, values[:, :-1]], 1), values], -1).reshape(len(other), -1)
        hidden = batch.cot.clone()
        hidden[:, 1::2] = torch.from_numpy(values + self.offset)
        start = torch.from_numpy(other[:, 0] + self.offset)
        return replace(
            batch,
            start=start.where(released, batch.start),
            secret=Secret(
                values=torch.from_numpy(so_far).where(armed[:, None], -1),
                shown=hidden.where(released[:, None], batch.cot),
                beside_text=torch.from_numpy(rng.random(len(other)) < 0.5) | ~armed,
            ),
        )


class HonestTask(SecretTask):
    """The same questions without a secret."""

    draw = staticmethod(partial(secret.draw, kind=secret.HonestDraw))


TASKS = {"arithmetic": ArithmeticTask, "words": WordsTask, "secret": SecretTask}
