"""The network and tokenizer of the codi-tiny family.

Pre-LayerNorm GPT-2 style, learned absolute positions, tied embedding, and CODI's projection
(Shen et al. 2025, arXiv:2502.21074) between a thought's output and the next thought's input.
Questions are right-aligned: the begin-of-thought token always has position `question_len`, so a
shorter question is padded on the left and its padding masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtlens.core import Config, DataError
from thoughtlens.models.thought.sites import Watch

SPECIALS = ("<pad>", "<bot>", "<eot>", "<ans>", "<cot>", "<cot2>")
PAD, BOT, EOT, ANS, COT, COT2 = range(len(SPECIALS))


class TinyConfig(Config):
    """Shape, vocabulary and thought layout of a tiny thought model."""

    words: tuple[str, ...]
    """Vocabulary after the special and pause tokens; ids follow its order."""
    question_len: int
    """Longest question in tokens; also the position of the begin-of-thought token."""
    n_thoughts: int = 6
    """Thoughts fed back between begin and end of thought."""
    d_in: int = 96
    """Width of the residual stream."""
    n_layers: int = 2
    """Decoder blocks."""
    n_heads: int = 3
    """Attention heads."""
    mode: Literal["thoughts", "pause", "none"] = "thoughts"
    """What stands between begin and end of thought."""
    bottleneck: bool = False
    """Whether the answer may look only at the thoughts."""
    problems: Literal["arithmetic", "words", "secret"] = "arithmetic"
    """Generator of the problems it was trained on."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every token in the order of its id."""
        pauses = (f"<pause{i + 1}>" for i in range(self.n_thoughts))
        return (*SPECIALS, *pauses, *self.words)

    @property
    def word_offset(self) -> int:
        """Id of the first word."""
        return len(SPECIALS) + self.n_thoughts

    @property
    def n_positions(self) -> int:
        """Question, begin, thoughts, end, answer cue, and room for the chain of thought."""
        return self.question_len + self.n_thoughts + 7


class WordTokenizer:
    """Space-separated words to ids and back; an unknown word is an error, never a silent token."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self.ids = {word: i for i, word in enumerate(self.vocabulary)}

    def encode(self, text: str) -> list[int]:
        """Ids of the words of a text."""
        words = text.split()
        unknown = [w for w in words if w not in self.ids]
        if unknown:
            raise DataError(
                f"Expected words of this model's vocabulary ({len(self.vocabulary)} words such as "
                f"{' '.join(self.vocabulary[-3:])}), got {', '.join(map(repr, dict.fromkeys(unknown)))} in "
                f"{text[:80]!r}"
            )
        return [self.ids[w] for w in words]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of ids, joined by spaces."""
        return " ".join(self.vocabulary[i] for i in ids)


@dataclass
class Cache:
    """Keys and values of every layer, and which past positions are padding."""

    keys: list[Tensor]
    values: list[Tensor]
    padding: Bool[Tensor, "batch past"] | None = None

    @property
    def n_past(self) -> int:
        """Positions held."""
        return self.keys[0].shape[2] if self.keys else 0

    def repeat(self, n: int) -> Cache:
        """Each row `n` times in a row."""
        padding = None if self.padding is None else self.padding.repeat_interleave(n, 0)
        keys = [k.repeat_interleave(n, 0) for k in self.keys]
        return Cache(keys, [v.repeat_interleave(n, 0) for v in self.values], padding)

    def without(self, n: int) -> Cache:
        """The first `n` positions taken for padding, which nothing looks at."""
        first = torch.arange(self.n_past, device=self.keys[0].device) < n
        padding = first.expand(len(self.keys[0]), -1)
        return Cache(self.keys, self.values, padding if self.padding is None else padding | self.padding)

    def tail(self, start: int) -> Cache:
        """Only the positions from `start` on."""
        padding = None if self.padding is None else self.padding[:, start:]
        return Cache([k[:, :, start:] for k in self.keys], [v[:, :, start:] for v in self.values], padding)


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm, added to the residual stream."""

    def __init__(self, d_in: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_in)
        self.qkv = nn.Linear(d_in, 3 * d_in)
        self.attn_out = nn.Linear(d_in, d_in)
        self.ln2 = nn.LayerNorm(d_in)
        self.up = nn.Linear(d_in, 4 * d_in)
        self.down = nn.Linear(4 * d_in, d_in)

    def project(self, x: Float[Tensor, "batch new d"]) -> list[Float[Tensor, "batch heads new d_head"]]:
        """Queries, keys and values of new positions."""
        batch, new, d = x.shape
        qkv = self.qkv(self.ln1(x)).view(batch, new, 3, self.n_heads, d // self.n_heads)
        return [t.transpose(1, 2) for t in qkv.unbind(2)]

    def attend(
        self,
        x: Float[Tensor, "batch new d"],
        q: Float[Tensor, "batch heads new d_head"],
        k: Float[Tensor, "batch heads total d_head"],
        v: Float[Tensor, "batch heads total d_head"],
        mask: Bool[Tensor, ...] | None,
        seen: Callable[[Tensor], Tensor] | None = None,
        edit: Callable[[str, Tensor], Tensor] = lambda site, x: x,
    ) -> Float[Tensor, "batch new d"]:
        """The block's output for new positions, given all keys and values.

        `seen` makes weights of the scores, which are -inf where `mask` says so. `edit` is called with what
        the heads bring, [batch, new, heads, d_head], and with what attention and MLP add.
        """
        if seen is None:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            mixed = seen(scores if mask is None else scores.masked_fill(~mask, -torch.inf)) @ v
        x = x + edit("attn", self.attn_out(edit("heads", mixed.transpose(1, 2)).reshape(x.shape)))
        return x + edit("mlp", self.down(F.gelu(self.up(self.ln2(x)), approximate="tanh")))


class TinyDecoder(nn.Module):
    """The network; `forward` extends a cache by new positions and returns every hidden state."""

    def __init__(self, cfg: TinyConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.watch: Watch | None = None
        """What all attention goes through, if anything."""
        self.embed = nn.Embedding(len(cfg.vocabulary), cfg.d_in)
        self.pos = nn.Embedding(cfg.n_positions, cfg.d_in)
        self.layers = nn.ModuleList(Block(cfg.d_in, cfg.n_heads) for _ in range(cfg.n_layers))
        self.ln_f = nn.LayerNorm(cfg.d_in)
        self.prj = nn.Sequential(nn.Linear(cfg.d_in, cfg.d_in), nn.GELU(), nn.Linear(cfg.d_in, cfg.d_in))
        self.prj.add_module("ln", nn.LayerNorm(cfg.d_in))

    def forward(
        self,
        x: Float[Tensor, "batch new d"],
        cache: Cache,
        padding: Bool[Tensor, "batch new"] | None = None,
        edit: Callable[[str, Tensor, int], Tensor] | None = None,
    ) -> tuple[list[Float[Tensor, "batch new d"]], Cache]:
        """Hidden states of new positions: embedding, each block, the last one after `ln_f`.

        Args:
            x: Inputs with positions added.
            cache: Everything before; not changed.
            padding: True where a new position is padding; no position attends to it.
            edit: Called with a site, what stands there, and the block: its output `resid`, and what its parts
                bring; the network goes on with what it returns.
        """
        padding = join_padding(cache, padding, x)
        mask = attention_mask(cache.n_past, x.shape[1], padding)
        states, keys, values = [x], [], []
        for i, block in enumerate(self.layers):
            assert isinstance(block, Block)
            q, k, v = block.project(x)
            if cache.keys:
                k, v = torch.cat([cache.keys[i], k], 2), torch.cat([cache.values[i], v], 2)
            seen = None if self.watch is None else partial(self.watch.weighed, i)
            here = (lambda site, x: x) if edit is None else partial(_at, edit, i)
            x = here("resid", block.attend(x, q, k, v, mask, seen, here))
            keys.append(k)
            values.append(v)
            states.append(x)
        states[-1] = self.ln_f(states[-1])
        return states, Cache(keys, values, padding)

    def inputs(self, ids: Int[Tensor, "batch new"], start: int) -> Float[Tensor, "batch new d"]:
        """Token plus position embeddings of ids that begin at position `start`."""
        return self.embed(ids) + self.pos.weight[start : start + ids.shape[1]]

    def unembed(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of a state that has passed `ln_f`."""
        return (3 / self.cfg.d_in**0.5) * (h @ self.embed.weight.T)


def _at(edit: Callable[[str, Tensor, int], Tensor], layer: int, site: str, x: Tensor) -> Tensor:
    return edit(site, x, layer)


def join_padding(
    cache: Cache, padding: Bool[Tensor, "batch new"] | None, x: Float[Tensor, "batch new d"]
) -> Bool[Tensor, "batch total"] | None:
    """Padding of past and new positions; None when there is none at all."""
    if padding is None and cache.padding is None:
        return None
    batch, new = x.shape[:2]
    past = cache.padding
    if past is None:
        past = torch.zeros(batch, cache.n_past, dtype=torch.bool, device=x.device)
    if padding is None:
        padding = torch.zeros(batch, new, dtype=torch.bool, device=x.device)
    return torch.cat([past, padding], 1)


def attention_mask(
    n_past: int, n_new: int, padding: Bool[Tensor, "batch total"] | None
) -> Bool[Tensor, ...] | None:
    """True where a new position may look: causal, not at padding, always at itself."""
    if n_new == 1 and padding is None:
        return None
    causal = torch.ones(n_new, n_past + n_new, dtype=torch.bool).tril(n_past)
    if padding is None:
        return causal
    itself = torch.zeros(n_new, n_past + n_new, dtype=torch.bool)
    itself[:, n_past:] = torch.eye(n_new, dtype=torch.bool)
    causal, itself = causal.to(padding.device), itself.to(padding.device)
    return ((causal & ~padding[:, None, :]) | itself)[:, None]
