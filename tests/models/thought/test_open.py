"""Any model with one verb."""

from __future__ import annotations

import pytest

from tests.models.thought.fake import make_codi
from thoughtlens.core import NotThereError
from thoughtlens.models.hf.load import LanguageModel
from thoughtlens.models.thought.open import load_model, thinks
from thoughtlens.models.thought.thoughts import ThoughtModel


def test_what_a_name_stands_for(tiny_lm_dir, tmp_path):
    assert isinstance(load_model("codi-tiny"), ThoughtModel)
    assert isinstance(load_model(tiny_lm_dir, dtype="float32"), LanguageModel)
    codi = make_codi(tmp_path, "gpt2")
    renamed = codi.file.rename(tmp_path / f"weights{codi.file.suffix}")
    assert thinks(renamed)


def test_a_family_that_is_named_is_taken(tiny_lm_dir):
    assert isinstance(load_model(tiny_lm_dir, family="hf"), LanguageModel)


def test_nothing_there_is_one_line(tmp_path):
    with pytest.raises(NotThereError, match="nothing is there"):
        load_model(tmp_path / "missing")
