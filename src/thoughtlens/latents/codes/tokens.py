"""Token ids as text that can be read, without the model's weights."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from thoughtlens.core import NotThereError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model by the name that an activation store records.

    Raises:
        NotThereError: the model is not where it was, or has no tokenizer.
    """
    from transformers import AutoTokenizer

    from thoughtlens.models import locate

    root = locate(name, revision=revision)
    try:
        return AutoTokenizer.from_pretrained(root, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotThereError(f"{name}: expected a tokenizer in {root}: {first}") from None


def token_texts(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int] | Int[np.ndarray, " n"]
) -> dict[int, str]:
    """What each token adds to a text that it stands in.

    It is decoded after another token: decoders of SentencePiece drop the space before the first one, those
    of WordPiece write one before every token that begins a word. A token that is only part of a character
    (byte-level vocabularies, and pieces like `<0xF0>`) is given as its bytes, `<e2 80>`.
    """
    special, anchor = set(tokenizer.all_special_ids), _anchor(tokenizer)
    before = _decoded(tokenizer, anchor)
    return {int(i): _text(tokenizer, int(i), *(([], "") if i in special else (anchor, before))) for i in ids}


@lru_cache(maxsize=1 << 16)
def quoted(token: str) -> str:
    """A token in quotation marks, with what cannot be seen escaped."""
    return json.dumps(token, ensure_ascii=False)


def _anchor(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A token of plain letters that others can be decoded after; none where the vocabulary has none."""
    for i in range(len(tokenizer)):
        piece = str(tokenizer.convert_ids_to_tokens(i))
        if piece.isascii() and piece.isalpha() and _decoded(tokenizer, [i]) == piece:
            return [i]
    return []


def _text(tokenizer: PreTrainedTokenizerBase, token: int, anchor: list[int], before: str) -> str:
    text = _decoded(tokenizer, [*anchor, token])
    text = text.removeprefix(before) if text.startswith(before) else _decoded(tokenizer, [token])
    if "\ufffd" not in text:
        return text
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece):
        return f"<{byte[1].lower()}>"
    to_byte = _byte_alphabet()
    if all(char in to_byte for char in piece):
        return "<" + " ".join(f"{to_byte[char]:02x}" for char in piece) + ">"
    return text


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) if ids else ""


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (Radford et al. 2019, GPT-2's encoder)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    rest = [byte for byte in range(256) if byte not in plain]
    return table | {chr(256 + i): byte for i, byte in enumerate(rest)}
