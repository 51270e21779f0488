"""From documents to batches of token windows, through a file, so that an interrupted run finds the same ones.

The documents and their tokens are written once to an Arrow file, which is then memory-mapped: neither the
corpus nor the list of batches is ever held in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Shaped

from thoughtlens.core import ConfigError, DataError, Json, whole
from thoughtlens.problems.config import Bos
from thoughtlens.problems.text.files import table_of

BUFFER_BATCHES = 64
"""Windows are sorted by length within this many batches."""
LEAST_FILL = 0.8
"""A window shorter than this share of its batch's longest goes into the next batch: less padding."""
CHUNK_DOCUMENTS = 256
"""Documents tokenised at once."""


WANTED, SPANS = "wanted", "spans"
Spans = Sequence[tuple[int, int]]
"""Characters from and to, of which the tokens give rows."""
Tokenizer = Callable[..., Any]
"""A Hugging Face tokenizer: called with texts, gives token ids under `input_ids`."""


@dataclass(frozen=True)
class Window:
    """A stretch of one document that the model sees at once."""

    problem_id: str
    index: int
    """0 for the document's first window."""
    tokens: Int[np.ndarray, " seq"]
    """Token ids, beginning with the begin-of-sequence token where there is one."""
    wanted: Bool[np.ndarray, " seq"] | None = None
    """Positions that may give a row; None: all."""


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """How a document's tokens become windows, and which of their positions become rows.

    A document longer than the context becomes several windows. The model reads each of them on its own;
    each begins with `bos` where there is one, and positions count within the window.
    """

    context_length: int
    """Most tokens of a window, `bos` included."""
    bos: int | None
    """Begin-of-sequence token to put before every window."""
    dropped: frozenset[int]
    """Token ids whose positions are read by the model but give no row."""
    max_windows: int | None = None
    """Windows of a document at most; None: all of it."""
    _ids: Int[np.ndarray, " n"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self._room < 1:
            raise ConfigError(f"context_length={self.context_length} leaves no room for text; use at least 2")
        object.__setattr__(self, "_ids", np.array(sorted(self.dropped), np.int64))

    def shorten(self, ids: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " m"]:
        """The part of a document that is read at all."""
        return ids if self.max_windows is None else ids[: self.max_windows * self._room]

    def windows(
        self, problem_id: str, ids: Int[np.ndarray, " n"], wanted: Bool[np.ndarray, " n"] | None = None
    ) -> list[Window]:
        """Consecutive windows of a document, the last one shorter."""
        head = np.array([] if self.bos is None else [self.bos], ids.dtype)
        parts = [slice(start, start + self._room) for start in range(0, len(ids), self._room)]
        return [
            Window(
                problem_id,
                i,
                np.concatenate([head, ids[part]]),
                None if wanted is None else np.concatenate([np.zeros(len(head), bool), wanted[part]]),
            )
            for i, part in enumerate(parts)
        ]

    def kept(
        self, ids: Int[np.ndarray, "*shape"], wanted: Bool[np.ndarray, "*shape"] | None = None
    ) -> Bool[np.ndarray, "*shape"]:
        """Which positions give a row: wanted ones whose token is not dropped."""
        kept = ~np.isin(ids, self._ids)
        return kept if wanted is None else kept & wanted

    def rows_up_to(
        self, ids: Int[np.ndarray, " n"], wanted: Bool[np.ndarray, " n"] | None = None
    ) -> Int[np.ndarray, " n"]:
        """Rows that the document gives up to and including each of its tokens."""
        rows = np.cumsum(self.kept(ids, wanted))
        if wanted is None and self.bos is not None and self.bos not in self.dropped:
            rows += np.arange(len(ids)) // self._room + 1
        return rows

    @property
    def _room(self) -> int:
        return self.context_length - (self.bos is not None)


def bos_id(tokenizer: Tokenizer, bos: Bos) -> int | None:
    """The begin-of-sequence token to put before every window, or None.

    Raises:
        ConfigError: `always`, and the tokenizer has none.
    """
    first: int | None = getattr(tokenizer, "bos_token_id", None)
    if bos == "always" and first is None:
        raise ConfigError("bos=always: this tokenizer has no begin-of-sequence token; use bos=tokenizer")
    own = first is not None and list(tokenizer("a")["input_ids"])[:1] == [first]
    return first if bos == "always" or (bos == "tokenizer" and own) else None


class Spool:
    """Documents with their tokens in an Arrow file, `buffers` of them in the order they were written."""

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        table = self._reader.read_all()
        self.n_rows: int = sum(table["n_rows"].to_pylist())
        """Positions that give a row."""
        self.n_tokens: int = sum(pc.call_function("list_value_length", [table["tokens"]]).to_pylist())
        """Tokens of the documents, without what is put before windows."""
        own = [name for name in ("tokens", "n_rows", WANTED) if name in table.column_names]
        self.documents: pa.Table = table.drop_columns(own)
        """The problem columns of every document that gives rows."""

    def batches(
        self, cutter: Cutter, batch_tokens: int, seed: int, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[int, list[Window]]]:
        """Batches of windows of about equal length, numbered; the same ones in the same order every time.

        With `share = (i, n)` those of the i-th of n shares, which have nearly equally many tokens.
        """
        number, done = 0, [0] * share[1]
        for i in range(self._reader.num_record_batches):
            buffer = self._reader.get_batch(i)
            tokens, ids = buffer["tokens"], buffer["problem_id"].to_pylist()
            offsets, flat = tokens.offsets.to_numpy(), tokens.values.to_numpy()
            some = WANTED in buffer.schema.names
            wanted = buffer[WANTED].values.to_numpy(zero_copy_only=False) if some else None
            cut = [
                window
                for name, start, end in zip(ids, offsets[:-1], offsets[1:], strict=True)
                for window in cutter.windows(
                    name, flat[start:end], None if wanted is None else wanted[start:end]
                )
            ]
            batches = pack(cut, batch_tokens, np.random.default_rng([seed, i]))
            for batch, owner in zip(batches, deal(batches, done), strict=True):
                if owner == share[0]:
                    yield number, batch
                number += 1


def spool(
    path: Path,
    rows: Iterable[Json],
    tokenizer: Tokenizer,
    cutter: Cutter,
    *,
    max_rows: int | None,
    buffer_tokens: int,
) -> Spool:
    """Tokenise documents into the file at `path`, or open it if it is there already.

    Args:
        path: Arrow file; it appears when it is complete.
        rows: Documents as in `problems.text.iter_documents`; `question` is the text, and where there are
            `spans` (characters from, to), only tokens inside them give rows.
        tokenizer: Called without its own special tokens.
        cutter: Says which tokens give rows.
        max_rows: Stop there; the last document is cut short. None: all documents.
        buffer_tokens: Tokens after which a new buffer begins.

    Raises:
        DataError: no document gives a row, or a label column mixes types.
    """
    if path.exists():
        return Spool(path)
    buffers = _buffers(rows, tokenizer, cutter, max_rows, buffer_tokens)
    first = next(buffers, None)
    if first is None:
        raise DataError(
            "Expected text with at least one token that is not special (nor of another role than "
            "problems.roles), found none"
        )
    schema, empty = _schema(first)
    with (
        whole(path) as part,
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for buffer in itertools.chain([first], buffers):
            for name, row in itertools.product(empty, buffer):
                row[name] = None if row[name] is None else str(row[name])
            for batch in table_of(buffer, "A label column mixes types", schema).combine_chunks().to_batches():
                writer.write_batch(batch)
    return Spool(path)


def pack(cut: list[Window], batch_tokens: int, rng: np.random.Generator) -> list[list[Window]]:
    """Batches of windows of about equal length, in random order.

    A batch's number of windows times its longest stays within `batch_tokens` (one window may exceed it
    alone), and none of them is shorter than `LEAST_FILL` of its longest.
    """
    batches: list[list[Window]] = []
    longest = 0
    for window in sorted(cut, key=lambda w: -len(w.tokens)):
        full = not batches or (len(batches[-1]) + 1) * longest > batch_tokens
        if full or len(window.tokens) < LEAST_FILL * longest:
            batches.append([])
            longest = len(window.tokens)
        batches[-1].append(window)
    return [batches[i] for i in rng.permutation(len(batches))]


def deal(batches: list[list[Window]], done: list[int]) -> list[int]:
    """Who takes each batch: the largest first, always to whoever has least.

    Args:
        batches: To be dealt out.
        done: Tokens, padding included, that each has taken before; theirs are added.
    """
    owners = [0] * len(batches)
    sizes = [len(batch) * max(len(window.tokens) for window in batch) for batch in batches]
    for i in sorted(range(len(batches)), key=lambda i: -sizes[i]):
        owners[i] = done.index(min(done))
        done[owners[i]] += sizes[i]
    return owners


def _buffers(
    rows: Iterable[Json],
    tokenizer: Tokenizer,
    cutter: Cutter,
    max_rows: int | None,
    buffer_tokens: int,
) -> Iterator[list[Json]]:
    """Documents with `tokens` and `n_rows`, about `buffer_tokens` tokens at a time."""
    left = np.inf if max_rows is None else max_rows
    buffer: list[Json] = []
    n_tokens = 0
    for document, tokens, inside in _tokenized(rows, tokenizer, cutter.bos):
        ids = cutter.shorten(tokens)
        wanted = None if inside is None else cutter.shorten(inside)
        total = cutter.rows_up_to(ids, wanted)
        fits = int(np.searchsorted(total, left, side="right"))
        n_rows = int(total[fits - 1]) if fits else 0
        if n_rows:
            some = {} if wanted is None else {WANTED: wanted[:fits]}
            buffer.append({**document, "tokens": ids[:fits], "n_rows": n_rows, **some})
            left, n_tokens = left - n_rows, n_tokens + fits
        full = left == 0 or fits < len(ids)
        if buffer and (full or n_tokens >= buffer_tokens):
            yield buffer
            buffer, n_tokens = [], 0
        if full:
            return
    if buffer:
        yield buffer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], bos: int | None) -> list[Int[np.ndarray, " n"]]:
    """The tokens of each text, to be read behind `bos`: a text that begins with it gets no second one."""
    return [ids for ids, _ in _encoded(tokenizer, texts, bos, None)]


def _encoded(
    tokenizer: Tokenizer, texts: Sequence[str], bos: int | None, spans: Sequence[Spans] | None
) -> Iterator[tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"] | None]]:
    """The tokens of each text, and whether each lies in one of the text's spans."""
    offsets = {} if spans is None else {"return_offsets_mapping": True}
    found = tokenizer(list(texts), add_special_tokens=False, verbose=False, **offsets)
    for i, ids in enumerate(found["input_ids"]):
        begun = int(bos is not None and list(ids[:1]) == [bos])
        inside = None
        if spans is not None:
            ends = np.array(found["offset_mapping"][i], np.int64).reshape(-1, 2)[begun:]
            inside = np.zeros(len(ends), bool)
            for start, stop in spans[i]:
                inside |= (ends[:, 0] < stop) & (ends[:, 1] > start) & (ends[:, 0] < ends[:, 1])
        yield np.asarray(ids[begun:], np.int32), inside


def _tokenized(
    rows: Iterable[Json], tokenizer: Tokenizer, bos: int | None
) -> Iterator[tuple[Json, Int[np.ndarray, " n"], Bool[np.ndarray, " n"] | None]]:
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, CHUNK_DOCUMENTS)):
        texts = [document["question"] for document in chunk]
        spans = [document.pop(SPANS) for document in chunk] if SPANS in chunk[0] else None
        for document, (ids, inside) in zip(chunk, _encoded(tokenizer, texts, bos, spans), strict=True):
            yield document, ids, inside


def _schema(buffer: list[Json]) -> tuple[pa.Schema, list[str]]:
    """Columns of the spool, and those without a single value yet, which are taken for text."""
    found = table_of(buffer, "The labels of the texts").schema
    empty = [f.name for f in found if pa.types.is_null(f.type)]
    fields = [pa.field(f.name, pa.string() if f.name in empty else f.type) for f in found]
    return pa.schema(fields), empty
