"""Token texts: words as they read, bytes as bytes, whatever wrote the vocabulary."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from thoughtlens.core import NotThereError
from thoughtlens.latents.codes.tokens import load_tokenizer, token_texts

BYTES = [f"<0x{i:02X}>" for i in range(256)]
WORDS = ["▁", "▁▁", "▁the", "▁cat", "cat", "s", "é", "▁é", ".", "th", "at"]
UNKNOWN = {"unk_token": "<unk>"}


def byte_pairs(normalizer=None, pre_tokenizer=None, strip=True) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE as Llama 2, Mistral, TinyLlama and Gemma convert it."""
    vocab = {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *BYTES, *WORDS])}
    raw = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    if normalizer is not None:
        raw.normalizer = normalizer
    if pre_tokenizer is not None:
        raw.pre_tokenizer = pre_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", **UNKNOWN)


def llama() -> PreTrainedTokenizerFast:
    return byte_pairs(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))


def mistral() -> PreTrainedTokenizerFast:
    return byte_pairs(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False))


def gemma() -> PreTrainedTokenizerFast:
    return byte_pairs(normalizers.Replace(" ", "▁"), strip=False)


def t5() -> PreTrainedTokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -2.0) for word in WORDS)]
    raw = Tokenizer(models.Unigram(pieces, unk_id=2))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", bos_token="</s>", **UNKNOWN
    )


SENTENCEPIECE = {"llama": llama, "mistral": mistral, "gemma": gemma, "t5": t5}


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_pieces_of_sentencepiece_keep_their_space(name):
    tokenizer = SENTENCEPIECE[name]()
    ids = tokenizer.convert_tokens_to_ids(WORDS)
    texts = token_texts(tokenizer, ids)
    assert [texts[i] for i in ids] == [word.replace("▁", " ") for word in WORDS]
    assert token_texts(tokenizer, [tokenizer.eos_token_id]) == {tokenizer.eos_token_id: "</s>"}


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma"])
def test_pieces_that_stand_for_a_byte_show_it(name):
    tokenizer = SENTENCEPIECE[name]()
    ids = tokenizer.convert_tokens_to_ids(["<0xF0>", "<0x9F>", "<0x41>", "<0x0A>"])
    assert list(token_texts(tokenizer, ids).values()) == ["<f0>", "<9f>", "A", "\n"]


def test_word_pieces_read_as_words():
    vocab = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "the", "cat", "##s", "##é", "."])}
    raw = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", cls_token="[CLS]")
    ids = [2, *tokenizer("the cats.", add_special_tokens=False)["input_ids"]]
    assert "".join(token_texts(tokenizer, ids)[i] for i in ids) == "[CLS] the cats."


def test_a_vocabulary_without_letters_is_read_too():
    raw = Tokenizer(models.WordLevel({"<unk>": 0, "7": 1, "+": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **UNKNOWN)
    assert token_texts(tokenizer, [1, 2]) == {1: "7", 2: "+"}


def test_bytes_of_a_character_are_shown_as_bytes(tiny_lm_dir):
    tokenizer = load_tokenizer(str(tiny_lm_dir))
    ids = tokenizer("a é", add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    # é is c3 a9 in UTF-8, and this vocabulary has one token a byte
    assert [texts[i] for i in ids] == ["a", " ", "<c3>", "<a9>"]


def test_model_that_is_gone(tmp_path):
    with pytest.raises(NotThereError, match="gone"):
        load_tokenizer(str(tmp_path / "gone"))
