"""Thresholds for wordings that no fitted problem has."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.tracing.chains.thinker import Thinker
from tests.tracing.monitor.seen import questions
from thoughtlens.core import ConfigError
from thoughtlens.latents import of_thoughts
from thoughtlens.problems import words
from thoughtlens.tracing.monitor import wordings
from thoughtlens.tracing.monitor.config import MonitorConfig
from thoughtlens.tracing.monitor.judged import Sample, alarms
from thoughtlens.tracing.monitor.scores import Beyond
from thoughtlens.tracing.monitor.truths import wordings as asked_for
from thoughtlens.tracing.monitor.watched import First, Watched

READOUT = of_thoughts(Thinker("used"))


def told(names, rng):
    """Problems whose thought holds the vector of a name, besides noise."""
    vectors = np.random.default_rng(5).normal(size=(60, 24))
    x = torch.from_numpy(vectors[names] + 0.1 * rng.normal(size=(len(names), 24)))
    nobody = np.zeros(len(names))
    states = torch.stack([x, x], 1)
    seen = Watched(
        readout=READOUT, questions=[""] * len(names), answers=[""] * len(names), heard=[""] * len(names),
        first=First(nobody[:, None].astype(int), nobody[:, None], nobody, nobody),
        states=states, inputs=states,
    )  # fmt: skip
    return wordings.Told([["same"] * len(names)], seen, np.asarray(names)[:, None])


def test_names_that_nobody_saw_are_flagged_as_often_as_allowed():
    rng = np.random.default_rng(0)
    fit, clean = (told(rng.integers(20, size=n), rng) for n in (800, 600))
    new = told(20 + rng.integers(40, size=600), rng)
    usual = Beyond(fit.columns, fit.seen)
    score = usual.score(new.columns, new.seen)
    sample = Sample("test", np.zeros(600, bool), np.ones(600, bool), np.arange(600))
    plain = alarms(score, (0.05,), usual.score(clean.columns, clean.seen), sample)[0]
    out = wordings.left_out(fit, clean, np.random.default_rng(1))
    held = alarms(score, (0.05,), out[~np.isnan(out)], sample)[0]
    assert plain.false_alarms.value > 0.5  # every new name is unusual
    assert held.false_alarms.low <= 0.05 and np.isfinite(out).mean() > 0.9


def test_columns_of_new_wordings_are_those_that_only_the_scored_split_has_others_of():
    fit, at_rest, scored = (
        words.problems(n, seed=2, split=split)
        for n, split in ((600, "train"), (300, "validation"), (300, "test"))
    )
    assert wordings.new_wordings(fit, at_rest, scored) == ["template_id", "query_id", "name"]
    assert wordings.new_wordings(fit, at_rest, at_rest) == []


def test_a_column_that_is_not_there_is_one_line():
    table = pa.table({"question": questions(2)})
    cfg = MonitorConfig(acts="acts", wordings=("sentence",))
    with pytest.raises(ConfigError, match="wordings: the problems have no column 'sentence'; they have"):
        asked_for(cfg, dict.fromkeys(("train", "validation", "test"), table))
