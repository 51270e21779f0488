"""Who looks at whom: attention from the thoughts and the answer's cue to everything that stands before them.

Positions count as thoughts do: 0 is the begin-of-thought position, -1 the token before it, which is the
last of the question as it is read, and behind the last thought n come the tokens of the cue, n + 1 and on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import HookError
from thoughtlens.models.thought.sites import Watch, absent
from thoughtlens.models.thought.thoughts import State, ThoughtModel, encoded


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax weights from each thought, and from each token of the answer's cue, to every position."""

    queries: range
    """0 .. n_thoughts, then the cue's tokens."""
    keys: range
    """From the first token of the longest question on; a shorter one begins later."""
    weights: Float[Tensor, "problems queries layers heads keys"]
    """They add up to 1 over the keys; 0 where nothing stands; NaN at thoughts that a problem did not have."""
    n_tokens: list[int]
    """Tokens of each question, as it is read."""

    @property
    def mean(self) -> Float[Tensor, "problems queries keys"]:
        """Over layers and heads."""
        return self.weights.mean((2, 3))


@torch.no_grad()
def attention(model: ThoughtModel, questions: Sequence[str], *, batch_size: int = 64) -> Attention:
    """Attention of all questions.

    Args:
        model: A family whose thoughts are positions of the sequence.
        questions: The problems; rows come back in this order.
        batch_size: Problems at a time.

    Raises:
        HookError: the attention of this model cannot be seen; says why.
    """
    watch, parts, rows, n_tokens = Watch(), [], [], []
    with model.attending(watch):
        for state in encoded(model, questions, batch_size=batch_size):
            rows.append(state.rows)
            n_tokens += state.mask.sum(1).tolist()
            parts.append(_of_batch(model, state, watch))
    widest = max(part.shape[-1] for part in parts)
    back = torch.argsort(torch.cat(rows))
    weights = torch.cat([_wider(part, widest - part.shape[-1], 0) for part in parts])[back]
    n = weights.shape[1]
    return Attention(
        queries=range(n),
        keys=range(n - widest, n),
        weights=weights,
        n_tokens=[n_tokens[i] for i in back.tolist()],
    )


def _of_batch(
    model: ThoughtModel, state: State, watch: Watch
) -> Float[Tensor, "batch queries layers heads keys"]:
    """Every pass of a batch; keys are the batch's question, the thoughts and the cue."""
    begin, passes = state.mask.shape[1], []
    for _ in model.spec.thoughts:
        watch.weights.clear()
        after, record = model.step(state)
        # without weights all problems have stopped
        x = _stacked(watch, model) if watch.weights else torch.zeros_like(passes[-1])
        passes.append(absent(x, record.thinking))
        state = after
    watch.weights.clear()
    model.answer(state, 0)
    said = _stacked(watch, model)
    n_cue = said.shape[3]
    own = begin + len(passes)
    total = own + n_cue
    before, itself = said.split([said.shape[-1] - n_cue, n_cue], -1)
    passes = [_wider(x, 0, total - x.shape[-1]) for x in passes]
    cue = torch.cat([F.pad(before, (0, own - before.shape[-1])), itself], -1)
    return torch.cat([*passes, cue], 3).permute(0, 3, 1, 2, 4).float().cpu()


def _wider(x: Tensor, left: int, right: int) -> Tensor:
    """With zeros at further keys; a problem that has no such pass stays NaN."""
    return F.pad(x, (left, right)).masked_fill(x[..., -1:].isnan(), torch.nan)


def _stacked(watch: Watch, model: ThoughtModel) -> Float[Tensor, "batch layers heads new keys"]:
    """The latest pass, layer by layer.

    Raises:
        HookError: a layer did not show its attention, or keeps some of its keys only.
    """
    found = [watch.weights.get(layer) for layer in range(model.spec.n_layers)]
    if any(x is None for x in found) or len({x.shape for x in found if x is not None}) > 1:
        raise HookError(
            f"{model.name}: not every layer shows its attention to the whole sequence (sliding windows, or "
            f"blocks without attention), so that it cannot be set side by side"
        )
    return torch.stack([x for x in found if x is not None], 1)
