"""A CODI checkpoint of random weights: nothing is found, and that is what the trace says."""

from __future__ import annotations

import pytest

from tests.models.thought.fake import ALPHA, make_codi
from tests.tracing.chains.teller import table
from tests.tracing.chains.thinker import runs
from thoughtlens.models.thought import codi
from thoughtlens.problems import HopsRule, SumsRule
from thoughtlens.problems.tasks import prosqa
from thoughtlens.tracing.chains.tried import VERIFIED, trace
from thoughtlens.tracing.read.rules import rule_for

TOM = [
    f"Every ape is a {x}. Sue is a elk. Tom is a ape. Every {x} is a dog. Is Tom a elk or dog?"
    for x in ("bee", "cat")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problems", "rule_is"), [(table(12, seed=1), SumsRule), (prosqa.table(TOM, "tom"), HopsRule)]
)
def test_a_random_checkpoint_has_no_chain(tmp_path, problems, rule_is):
    fake = make_codi(tmp_path, "gpt2")
    model = codi.load(fake.file, base=fake.base, lora_alpha=ALPHA, eos_before=False, eos_after=False)
    rule = rule_for(model, problems)
    assert isinstance(rule, rule_is)
    found = trace(model, runs(model), rule, problems["question"].to_pylist())
    assert not any(one.label == VERIFIED for own in found.steps for one in own)
