"""Answers broken at a known thought, on thoughts that are made by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from tests.tracing.chains.thinker import Thinker
from tests.tracing.monitor.seen import SIZES, questions
from thoughtlens.latents import of_thoughts
from thoughtlens.tracing.monitor.broken import broken
from thoughtlens.tracing.monitor.watched import watch


def made(errors, n=66):
    model = Thinker("used")
    look = partial(watch, model, of_thoughts(model), **SIZES)

    def ask(asked, hooks, n_thoughts):
        return look(asked, hooks, n_thoughts=n_thoughts)

    base = ask(questions(n), (), None)
    return base, list(broken(ask, base, model.spec, errors, np.random.default_rng(0)))


def test_every_problem_is_broken_once_and_errors_are_dealt_out_evenly():
    _, found = made(("swap", "noise", "exit"))
    assert sorted(i for one in found for i in one.rows) == list(range(66))
    assert [(one.error, one.thought) for one in found] == [
        *(("swap", p) for p in range(2, 7)),
        *(("noise", p) for p in range(2, 7)),
        *(("exit", p) for p in range(6)),
    ]
    sizes = [len(one.rows) for one in found]
    assert max(sizes) - min(sizes) <= 1


def test_a_swapped_thought_is_that_of_another_problem():
    base, found = made(("swap",))
    for one in found:
        mine, now = base.inputs[torch.from_numpy(one.rows)], one.seen.inputs
        assert torch.equal(now[:, : one.thought], mine[:, : one.thought])
        others = {tuple(row.tolist()) for row in base.inputs[:, one.thought]}
        assert {tuple(row.tolist()) for row in now[:, one.thought]} <= others


def test_noise_is_as_long_as_the_thought():
    base, found = made(("noise",))
    for one in found:
        own = base.inputs[torch.from_numpy(one.rows), one.thought]
        added = one.seen.inputs[:, one.thought] - own
        torch.testing.assert_close(added.norm(dim=1), own.norm(dim=1))


def test_who_leaves_early_has_no_later_thoughts():
    _, found = made(("exit",))
    assert all((one.seen.had.sum(1) == one.thought + 1).all() for one in found)
