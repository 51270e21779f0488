"""Which embedding rows after the words are which thought tokens.

The ids come from who names them: the caller, a file beside the weights, the tokenizer or the checkpoint's
own table of added tokens. All who do must agree. Where nobody does, they are where the training program
puts them, if the number of rows is the one that it leaves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from thoughtlens.core import MismatchError, say
from thoughtlens.models.hf.locate import foreign
from thoughtlens.models.thought.checkpoint import Base
from thoughtlens.models.thought.heard import tell
from thoughtlens.models.thought.stated import Said

USES = ("begin of thought", "end of thought")
MOST_PADDING = 512
"""Embedding rows that padding to a round number may add."""
PAIRS = (
    ("<|bocot|>", "<|eocot|>"), ("<|bot|>", "<|eot|>"), ("<bocot>", "<eocot>"), ("<bot>", "<eot>"),
    ("<|start-latent|>", "<|end-latent|>"), ("<START>", "<END>"),
)  # fmt: skip
"""What training programs call begin and end of thought."""
LATENT = "<|latent|>"
"""What holds a place for thoughts in Coconut's training; never an input."""
END_OF_TURN = "<|eot_id|>"
"""What a chat model of Llama 3 ends a turn with."""


def is_multimode(said: Said) -> bool:
    """Whether it is one of Dilgren's models of three modes, as said, or as its name says."""
    stated = said.get("multimode")
    return "multimode" in said.name.lower() if stated is None else bool(stated)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What a multimode model reads between the question and the thoughts."""
    found = tokenizer.get_vocab().get(END_OF_TURN)
    return () if found is None else (found,)


class Layout(NamedTuple):
    """Where a training program puts its tokens: this many rows after the words, begin and end among them."""

    rows: int
    begin: int
    end: int
    unused: int = 0
    """Rows of no token that there may be after these."""
    by_tokenizer: bool = False
    """Whether the words are the tokenizer's, and not all that the base model has rows for."""


@dataclass(frozen=True)
class Tokens:
    """Ids of begin and end of thought, and how many ids belong to words."""

    begin: int
    end: int
    n_words: int
    assumed: dict[str, Any] = field(default_factory=dict)
    """What nothing stands behind."""


def find(base: Base, n_rows: int, layout: Layout, folder: Path, said: Said) -> Tokens:
    """Begin and end of thought in an embedding.

    Args:
        base: The base model and the tokenizer in use.
        n_rows: Rows of the embedding.
        layout: Where they are if nobody names them.
        folder: Where the checkpoint is, with what may name them.
        said: What is said of the checkpoint: `bot_id` and `eot_id`.

    Raises:
        MismatchError: two that name them differently, an id that is no row or a word's, or a number of rows
            that the training program does not leave.
    """
    named = [*_in_words(said), *_by_tables(base, folder)]
    for one in named:
        _check(base, n_rows, one)
    if not named:
        return _by_layout(base, n_rows, layout)
    first = named[0]
    for other in named[1:]:
        if (other.begin, other.end) != (first.begin, first.end):
            raise MismatchError(
                f"Begin and end of thought are {first.begin} and {first.end} by {first.who}, but "
                f"{other.begin} and {other.end} by {other.who}: remove or mend the one that is wrong"
            )
    words = base.config.vocab_size
    tell(tokens={USES[0]: (first.begin, first.who), USES[1]: (first.end, first.who)})
    return Tokens(first.begin, first.end, words if min(first.begin, first.end) >= words else n_rows)


class Named(NamedTuple):
    """What somebody says of begin and end of thought."""

    who: str
    begin: int
    end: int
    n_tokens: int | None = None
    """Tokens of a table, for which an embedding has a row each."""


def _in_words(said: Said) -> Iterator[Named]:
    """Both ids in so many words."""
    (begin, who), (end, other) = said.by("bot_id"), said.by("eot_id")
    who, other = (f"what is {one}" if one in ("given", "known of it") else one for one in (who, other))
    if (begin is None) != (end is None):
        alone = "eot_id" if begin is None else "bot_id"
        raise MismatchError(f"{who or other} says {alone} alone: give both, bot_id and eot_id")
    if begin is not None:
        yield Named(who, begin, end)


def _by_tables(base: Base, folder: Path) -> Iterator[Named]:
    """The pair of names that a table of tokens has."""
    beside = Path(base.tokenizer.name_or_path) == folder
    in_use = "the tokenizer beside it" if beside else f"the tokenizer of {base.name}"
    for who, table in ((in_use, base.tokenizer.get_vocab()), *_own_tables(folder)):
        for begin, end in PAIRS:
            if begin in table and end in table:
                yield Named(who, table[begin], table[end], max(table.values()) + 1)


def _own_tables(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """Added tokens by the files beside a checkpoint, which a tokenizer made from elsewhere does not know."""
    for name in ("added_tokens.json", "tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        with foreign(f"{file} is damaged"):
            table = json.loads(file.read_text("utf-8") or "{}")
            if name == "added_tokens.json":
                yield name, table
            elif name == "tokenizer.json":
                yield name, {one["content"]: one["id"] for one in table.get("added_tokens", ())}
            else:
                added = table.get("added_tokens_decoder", {})
                yield name, {one["content"]: int(i) for i, one in added.items()}


def _check(base: Base, n_rows: int, said: Named) -> None:
    """Refuse ids that cannot be, and a table that the embedding was not made for."""
    if bad := [i for i in (said.begin, said.end) if not 0 <= i < n_rows]:
        raise MismatchError(
            f"By {said.who} a thought token has the id {bad[0]}, but the checkpoint has {n_rows} embedding "
            f"rows, 0..{n_rows - 1}: rows were lost, or the id is wrong"
        )
    if said.begin == said.end:
        raise MismatchError(f"Begin and end of thought are both {said.begin} by {said.who}; they must differ")
    words = base.tokenizer
    for i in (said.begin, said.end):
        if i < len(words) and (
            i not in words.added_tokens_decoder or i in (words.eos_token_id, words.bos_token_id)
        ):
            raise MismatchError(
                f"{said.who} gives a thought token the id {i}, which is {words.convert_ids_to_tokens(i)!r}"
            )
    n = said.n_tokens
    if n is None or n_rows in (n, max(n, base.config.vocab_size)) or _is_round(n_rows - n, n_rows):
        return
    names = " and ".join(words.convert_ids_to_tokens([i for i in (said.begin, said.end) if i < len(words)]))
    raise MismatchError(
        f"{said.who} has {n} tokens, {names} among them, but the checkpoint has {n_rows} embedding rows for "
        f"words and thought tokens: use the tokenizer that it was trained with"
    )


def _is_round(more: int, n_rows: int) -> bool:
    """Whether an embedding was padded to a round number of rows."""
    return 0 < more < MOST_PADDING and n_rows % 8 == 0


def _by_layout(base: Base, n_rows: int, layout: Layout) -> Tokens:
    """As the training program puts them; refuses a tokenizer in which these ids mean something else."""
    words, known = base.config.vocab_size, {LATENT, *(name for pair in PAIRS for name in pair)}
    own = len(base.tokenizer) - len(known & base.tokenizer.get_vocab().keys())
    counts = [own] if layout.by_tokenizer else [*dict.fromkeys((words, own))]
    more = {n: n_rows - n - layout.rows for n in counts}
    exact = [n for n in counts if more[n] == 0]
    padded = [n for n in counts if more[n] > 0 and (n_rows == words or _is_round(more[n], n_rows))]
    unused = [n for n in counts[:1] if n >= own and 0 < more[n] <= layout.unused]
    found = next(iter([*exact, *padded, *unused]), None)
    if found is None:
        three = "; of three modes, as Dilgren's? Then options=multimode=true" if more[counts[0]] == -1 else ""
        raise MismatchError(
            f"Expected {counts[0]} + {layout.rows} embedding rows (words of base {base.name}, and the "
            f"thought tokens), the checkpoint has {n_rows}; give the base model it was trained from "
            f"(base=...) or, if that is right, the ids: options=bot_id=ID,eot_id=ID{three}"
        )
    begin, end = found + layout.begin, found + layout.end
    tell(
        tokens={USES[0]: (begin, "where the training puts it"), USES[1]: (end, "where the training puts it")}
    )
    _refuse_others(base, found, layout)
    if found in exact:
        return Tokens(begin, end, found)
    say(f"{n_rows} embedding rows: thought tokens from {found} on, {more[found]} rows of padding after them")
    return Tokens(begin, end, found, {} if found in padded else {"bot_id": begin, "eot_id": end})


def _refuse_others(base: Base, words: int, layout: Layout) -> None:
    rows = range(words, words + layout.rows)
    latent = words + layout.rows - 1 if layout.by_tokenizer else None
    for i, token in sorted(base.tokenizer.added_tokens_decoder.items()):
        meant = token.content == base.tokenizer.pad_token or (token.content == LATENT and i == latent)
        if i in rows and not meant:
            raise MismatchError(
                f"The tokenizer of {base.name} gives id {i} to {token.content!r}, where the checkpoint has "
                f"its thought tokens (begin {words + layout.begin}, end {words + layout.end}): use the base "
                f"model's own tokenizer"
            )
