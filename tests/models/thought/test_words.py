"""A chain of thought in words on the interface of thoughts, against the text that the model writes."""

from __future__ import annotations

import pytest
import torch

from tests.models.thought.fake import make_codi
from thoughtlens.core import ConfigError
from thoughtlens.models import in_words
from thoughtlens.models.thought.thoughts import collect, load, write

QUESTIONS = ["two and three", "a", "how many are left of seven"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_checkpoints_words_go_on_as_it_writes_them(family, tmp_path):
    made = make_codi(tmp_path, family)
    model = load(made.file, base=made.base, eos_before=False, eos_after=False, lora_alpha=32)
    words = in_words(model, 4)
    batch = collect(words, QUESTIONS, sites=("thought_out",), answers=True, max_new_tokens=3, batch_size=3)
    assert batch.answers is not None
    assert batch.answers.text == write(model, "words", QUESTIONS, max_new_tokens=8).text
    alone = [collect(words, [one], sites=("thought_out",)).thought_out for one in QUESTIONS]
    assert batch.thought_out is not None
    assert torch.allclose(
        torch.cat([x for x in alone if x is not None]), batch.thought_out, atol=1e-4, equal_nan=True
    )


def test_a_model_that_writes_no_words_says_so(tmp_path):
    made = make_codi(tmp_path, "gpt2")
    model = load(made.file, base=made.base, eos_before=True, eos_after=False, lora_alpha=32)
    with pytest.raises(ConfigError, match="does not answer in mode 'words'"):
        in_words(model)
