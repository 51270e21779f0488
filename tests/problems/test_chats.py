"""Chats by the model's template, and tokens of chosen roles."""

from __future__ import annotations

import json

import pytest

from tests.conftest import tiny_tokenizer
from thoughtlens.core import ConfigError, DataError
from thoughtlens.problems.config import TextConfig
from thoughtlens.problems.text.chats import chat_text, is_chat
from thoughtlens.problems.text.text import iter_documents
from thoughtlens.problems.text.tokens import Cutter, spool

TURN = "[{{ m['role'] }}] {{ m['content'] | trim }}{{ eos_token }}"
TEMPLATE = "{{ bos_token }}{% for m in messages %}" + TURN + "{% endfor %}"
CHAT = [
    {"role": "user", "content": "what is a cat"},
    {"role": "assistant", "content": " a cat is a cat "},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": "s"},
]


@pytest.fixture(scope="module")
def tokenizer():
    found = tiny_tokenizer()
    found.chat_template = TEMPLATE
    return found


def test_the_words_of_a_role_are_found_although_others_say_them_too(tokenizer):
    text, spans = chat_text(tokenizer, CHAT, ("assistant",))
    assert (
        text == "<s>[user] what is a cat</s>[assistant] a cat is a cat</s>[user] thanks</s>[assistant] s</s>"
    )
    assert [text[a:b] for a, b in spans] == ["a cat is a cat", "s"]
    assert chat_text(tokenizer, CHAT, ())[1] == []
    assert [text[a:b] for a, b in chat_text(tokenizer, CHAT, ("user",))[1]] == ["what is a cat", "thanks"]


def test_names_that_other_data_sets_use(tokenizer):
    other = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]
    text, spans = chat_text(tokenizer, other, ("assistant",))
    assert text == "<s>[user] hi</s>[assistant] yes</s>" and [text[a:b] for a, b in spans] == ["yes"]
    assert not is_chat("text") and not is_chat([]) and not is_chat([{"role": "user"}])


def test_what_cannot_be_a_chat_is_one_line(tokenizer):
    with pytest.raises(ConfigError, match="no chat template"):
        chat_text(tiny_tokenizer(), CHAT, ())
    with pytest.raises(DataError, match="expected a list of messages"):
        chat_text(tokenizer, "text", ())
    loud = tiny_tokenizer()
    loud.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(ConfigError, match="changes message 2"):
        chat_text(loud, CHAT, ("assistant",))
    loud.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"refuses it: .*alternate"):
        chat_text(loud, CHAT, ())


def write(path, chats, **further):
    path.write_text("".join(json.dumps({"messages": chat, **further}) + "\n" for chat in chats))
    return str(path)


def test_only_tokens_of_the_role_give_rows(tokenizer, tmp_path):
    cfg = TextConfig(
        source=write(tmp_path / "c.jsonl", [CHAT] * 3), column="messages", chat=True, roles=("assistant",)
    )
    cutter = Cutter(context_length=128, bos=1, dropped=frozenset({0, 1, 2, 3}))
    found = spool(
        tmp_path / "s", iter_documents(cfg, tokenizer), tokenizer, cutter, max_rows=None, buffer_tokens=99
    )
    (window,) = [w for _, batch in found.batches(cutter, 1000, 0) for w in batch][:1]
    kept = window.tokens[cutter.kept(window.tokens, window.wanted)]
    assert tokenizer.decode(kept).split() == ["a", "cat", "is", "a", "cat", "s"]
    assert window.tokens.tolist().count(1) == 1, "the template's own begin of sequence is the only one"
    assert found.n_rows == 3 * len(kept) and "spans" not in found.documents.column_names
    whole = cfg.model_copy(update={"roles": ()})
    every = spool(
        tmp_path / "t", iter_documents(whole, tokenizer), tokenizer, cutter, max_rows=None, buffer_tokens=99
    )
    assert every.n_rows == every.n_tokens - 3 * 4 > found.n_rows  # four end tokens each


def test_chats_that_nobody_asked_for_say_what_to_set(tmp_path):
    source = write(tmp_path / "c.jsonl", [CHAT])
    with pytest.raises(DataError, match=r"got list in row 0; it holds chats: set problems\.chat=true"):
        list(iter_documents(TextConfig(source=source, column="messages")))
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(ConfigError, match="has no column of chats"):
        list(iter_documents(TextConfig(source=str(tmp_path / "t.txt"), chat=True)))
    with pytest.raises(ValueError, match="chat=true"):
        TextConfig(roles=("assistant",))
