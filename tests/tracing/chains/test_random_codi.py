"""A CODI checkpoint of random weights: nothing is found, and that is what the trace says."""

from __future__ import annotations

import pytest

from tests.models.thought.fake import ALPHA, make_codi
from tests.tracing.chains.teller import table
from tests.tracing.chains.thinker import runs
from thoughtlens.models.thought import codi
from thoughtlens.problems import SumsRule
from thoughtlens.tracing.chains.tried import VERIFIED, trace
from thoughtlens.tracing.read.rules import rule_for


@pytest.mark.slow
def test_a_random_checkpoint_has_no_chain(tmp_path):
    fake = make_codi(tmp_path, "gpt2")
    model = codi.load(fake.file, base=fake.base, lora_alpha=ALPHA, eos_before=False, eos_after=False)
    problems = table(12, seed=1)
    rule = rule_for(model, problems)
    assert isinstance(rule, SumsRule)
    found = trace(model, runs(model), rule, problems["question"].to_pylist())
    assert not any(one.label == VERIFIED for own in found.steps for one in own)
