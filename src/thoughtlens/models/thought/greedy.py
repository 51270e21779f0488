"""Greedy decoding for a family that has no loop of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.models.thought.thoughts import Answer, parse_number


def greedy(
    after: Callable[[Int[Tensor, " batch"] | None], Float[Tensor, "batch vocab"]],
    max_new_tokens: int,
    teacher_ids: Int[Tensor, "*batch tokens"] | None = None,
    *,
    eos: int,
    text: Callable[[list[int]], str],
) -> Answer:
    """An answer, token by token.

    Args:
        after: Logits of the next token: of the first one when it is called with None, then behind one more
            token, which it must keep.
        max_new_tokens: Most tokens to write; 0 gives logits only.
        teacher_ids: Tokens that are forced first: one cue for all problems, or one row for each.
        eos: Ends an answer.
        text: The words of some ids.
    """
    logits = [after(None)]
    n = len(logits[0])
    if teacher_ids is not None:
        logits += [after(token) for token in teacher_ids.to(logits[0].device).expand(n, -1).unbind(1)]
    ids: list[list[int]] = [[] for _ in range(n)]
    last = logits[-1]
    for i in range(max_new_tokens):
        token = last.argmax(-1)
        ids = [[*row, said] for row, said in zip(ids, token.tolist(), strict=True)]
        if i + 1 == max_new_tokens or all(eos in row for row in ids):
            break
        last = after(token)
    ids = [row[: row.index(eos)] if eos in row else row for row in ids]
    texts = [text(row) for row in ids]
    return Answer(
        text=texts, ids=ids, logits=torch.stack(logits, 1), value=[parse_number(said) for said in texts]
    )
