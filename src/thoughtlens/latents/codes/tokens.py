"""Token ids as text that can be read, without the model's weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    """What each token reads as by itself.

    A token that is only part of a character (byte-level vocabularies) is given as its bytes, `<e2 80>`.
    """
    return {int(i): _text(tokenizer, int(i)) for i in ids}


def quoted(token: str) -> str:
    """A token in quotation marks, with what cannot be seen escaped."""
    return json.dumps(token, ensure_ascii=False)


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if "\ufffd" not in text:
        return text
    piece = str(tokenizer.convert_ids_to_tokens(token))
    to_byte = _byte_alphabet()
    if all(char in to_byte for char in piece):
        return "<" + " ".join(f"{to_byte[char]:02x}" for char in piece) + ">"
    return piece


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (Radford et al. 2019, GPT-2's encoder)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    rest = [byte for byte in range(256) if byte not in plain]
    return table | {chr(256 + i): byte for i, byte in enumerate(rest)}
