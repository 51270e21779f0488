"""Token texts: words as they read, bytes as bytes."""

from __future__ import annotations

import pytest

from thoughtlens.core import NotThereError
from thoughtlens.latents.codes.tokens import load_tokenizer, token_texts


def test_bytes_of_a_character_are_shown_as_bytes(tiny_lm_dir):
    tokenizer = load_tokenizer(str(tiny_lm_dir))
    ids = tokenizer("a é", add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    # é is c3 a9 in UTF-8, and this vocabulary has one token a byte
    assert [texts[i] for i in ids] == ["a", " ", "<c3>", "<a9>"]


def test_model_that_is_gone(tmp_path):
    with pytest.raises(NotThereError, match="gone"):
        load_tokenizer(str(tmp_path / "gone"))
