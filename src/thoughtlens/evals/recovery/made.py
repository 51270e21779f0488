"""Further test problems, made where the source can, so that each value has enough of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts import ActivationStore, made_with, thought_model
from thoughtlens.evals.recovery.questions import Question
from thoughtlens.models import Place, ThoughtModel, collect, tiny
from thoughtlens.problems import GeneratedConfig, GraphConfig, source

SALT = 7_919
"""Added to the store's seed, so that other problems are drawn."""


@dataclass(frozen=True, eq=False)
class Made:
    """Test problems that the store does not have, and the states of the store's model on them."""

    problems: pa.Table
    states: Mapping[str, Float[Tensor, "n n_thoughts d"]]
    """By hook."""
    thoughts: list[int]

    def at(self, place: Place) -> Float[Tensor, "n d"]:
        """States of a place."""
        assert place.thought is not None
        return self.states[place.hook_name][:, self.thoughts.index(place.thought)]

    def after(self, problems: pa.Table) -> pa.Table:
        """The store's problems, and these below them."""
        return below(problems, self.problems)


def below(problems: pa.Table, more: pa.Table) -> pa.Table:
    """Two tables of problems, with the columns of the first; null where the second lacks one."""
    shared = [name for name in more.column_names if name in problems.column_names]
    cast = more.select(shared).cast(pa.schema([problems.schema.field(name) for name in shared]))
    return pa.concat_tables([problems, cast], promote_options="default").select(problems.column_names)


def can_make(store: ActivationStore) -> bool:
    """Whether the problems of a store are of a kind that more can be made of."""
    return store.meta.kind == "thoughts" and source.can_make(made_with(store).problems)


def candidates(store: ActivationStore, model: ThoughtModel, n: int) -> pa.Table:
    """`n` test problems as the store's own were made, without those that it has."""
    cfg = made_with(store)
    assert isinstance(cfg.problems, GeneratedConfig | GraphConfig)
    wanted = tiny.own_problems(cfg.problems, model)
    seed = (cfg.seed if wanted.seed is None else wanted.seed) + SALT
    table = source.held_out(wanted.model_copy(update={"n": n, "seed": seed}))
    own = set(store.questions.to_pylist())
    return table.filter(pa.array([question not in own for question in table["question"].to_pylist()]))


def enough(asked: Sequence[Question], split: np.ndarray, first: int, per_value: int) -> int:
    """How many of the problems from `first` on are needed until every value has `per_value` test problems.

    Columns that these problems lack ask for none, and values that are not among them ask for all.
    """
    test = split[:first] == "test"
    needed = 0
    for question in asked:
        own, more = question.codes[:first][test], question.codes[first:]
        if question.of_rows or (more < 0).all():
            continue
        for value, short in enumerate(per_value - np.bincount(own[own >= 0], minlength=len(question.values))):
            at = np.flatnonzero(more == value)
            if short > 0:
                needed = max(needed, int(at[short - 1]) + 1 if len(at) >= short else len(more))
    return needed


def think_again(
    store: ActivationStore, model: ThoughtModel, problems: pa.Table, hooks: Sequence[str]
) -> Made:
    """What the model's states are on further problems, in the store's number format.

    NaN where a problem stopped before, or its question has fewer tokens.
    """
    cfg = made_with(store)
    batch = collect(
        model,
        problems["question"].to_pylist(),
        places=[Place(hook) for hook in hooks],
        batch_size=cfg.batch_problems,
        positions=[thought for thought in store.thoughts if thought not in model.spec.thoughts],
    )
    states = {hook: batch[Place(hook)].cpu().to(store.meta.torch_dtype).float() for hook in hooks}
    return Made(problems, states, list(batch.numbers or model.spec.thoughts))


def open_model(store: ActivationStore) -> ThoughtModel:
    """The model that made the store."""
    return thought_model(store, remedy="or set recovery.per_value=0")
