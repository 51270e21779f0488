"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168) with operation labels and intermediate values.

A reference solution carries calculator annotations, `<<16-3-4=9>>`. The operation class comes from
the operators in them (default), or from a regular expression over the solution's words, the rule of
a first study of CODI's thoughts. That rule misses `60*.30` and calls a solution without any
operation mixed: it disagrees with the annotations on about one problem in eleven, so both labels
are columns.

`seed_protocol` rebuilds that study's 600 problems: test, then train; classes by regular expression;
200 of each class drawn with seed 42 in the order addition, multiplication, mixed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.text.files import hub_rows, objects

CLASSES = ("addition", "multiplication", "mixed")
LABELS = ("annotations", "regex")
HUB = ("openai/gsm8k", "main")
SPLITS = ("test", "train")
SEED, PER_CLASS = 42, 200
N_PROBLEMS, N_TRAIN = 8792, 7473
"""Problems of both splits together."""
ANNOTATION = re.compile(r"<<([^<>=]*)=([^<>]*)>>")
WORDS_ADD, WORDS_MUL = re.compile(r"\d+\s*[+\-]\s*\d+"), re.compile(r"\d+\s*[*/]\s*\d+")
SIGN = re.compile(r"(?<![\d.%)])[+-]")
"""A plus or minus that nothing stands before: the sign of a number, not an operation."""


class Problem(NamedTuple):
    """One problem as its file has it."""

    problem_id: str
    split: str
    question: str
    answer: str
    cot: str


def table(
    files: Sequence[str | Path] | None = None, *, labels: str | None = None, seed_protocol: bool = False
) -> pa.Table:
    """GSM8K as a table of problems.

    Args:
        files: `test.jsonl` and/or `train.jsonl` (or .parquet), told apart by their names, test first
            whatever their order; None: from the hub, through the library `datasets`.
        labels: Source of `operation`: `annotations` or `regex`; None: annotations, and for
            `seed_protocol` regex.
        seed_protocol: Only the 600 problems described above, in their order.

    Returns:
        `problem_id` (`test_i`, `train_i`: line i), `group_id` (the problem's id), `split`, `question`,
        `answer` (digits, no commas), `cot` (the solution before ####), and the labels `operation,
        n_steps, v1..vK, label_regex, label_annotation`: v are the annotated results in order, null past
        `n_steps`; an operation is null where there is no annotation.

    Raises:
        NotThereError: no such file, or the hub cannot be reached.
        DataError: another format, an empty file, or too few problems of a class.
        ConfigError: an unknown `labels`, or `seed_protocol` without both files.
    """
    labels = labels or ("regex" if seed_protocol else "annotations")
    if labels not in LABELS:
        raise ConfigError(f"labels: expected one of {', '.join(LABELS)}, got {labels!r}")
    parts = _from_files(files) if files else _from_hub()
    if seed_protocol and set(parts) != set(SPLITS):
        raise ConfigError(
            f"The seed protocol draws from test.jsonl and train.jsonl, got only {', '.join(parts)}; give both"
        )
    rows = [row for split in SPLITS if split in parts for row in parts[split]]
    return columns(_seed_sample(rows) if seed_protocol else rows, labels)


def label_by_words(solution: str) -> str:
    """Class by regular expression over the whole solution; `mixed` if neither kind is found."""
    adds, multiplies = bool(WORDS_ADD.search(solution)), bool(WORDS_MUL.search(solution))
    return "mixed" if adds == multiplies else "addition" if adds else "multiplication"


def label_by_annotations(solution: str) -> str | None:
    """Class by the operators left of `=` in the annotations; None if there is no operator."""
    left = [SIGN.sub("", re.sub(r"\s", "", lhs)) for lhs, _ in ANNOTATION.findall(solution)]
    adds = any(re.search(r"[+-]", lhs) for lhs in left)
    multiplies = any(re.search(r"[*/]", lhs) for lhs in left)
    if not adds and not multiplies:
        return None
    return "mixed" if adds and multiplies else "addition" if adds else "multiplication"


def values(solution: str) -> list[float | None]:
    """Results of the annotations in order; None for one that is not a number."""
    return [_number(rhs) for _, rhs in ANNOTATION.findall(solution)]


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("$", "").strip())
    except ValueError:
        return None


def _seed_sample(rows: list[Problem]) -> list[Problem]:
    pools: dict[str, list[Problem]] = {name: [] for name in CLASSES}
    for row in rows:
        pools[label_by_words(row.cot)].append(row)
    rng = random.Random(SEED)
    sample = []
    for name, pool in pools.items():
        if len(pool) < PER_CLASS:
            raise DataError(f"The seed protocol draws {PER_CLASS} problems of {name}, there are {len(pool)}")
        sample += rng.sample(pool, PER_CLASS)
    return sample


def columns(rows: list[Problem], labels: str) -> pa.Table:
    steps = [values(row.cot) for row in rows]
    by_words = [label_by_words(row.cot) for row in rows]
    by_annotation = [label_by_annotations(row.cot) for row in rows]
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in Problem._fields
    }
    columns |= {
        "operation": pa.array(by_annotation if labels == "annotations" else by_words, pa.string()),
        "n_steps": pa.array([len(v) for v in steps], pa.int64()),
    }
    for i in range(max(map(len, steps))):
        columns[f"v{i + 1}"] = pa.array([v[i] if i < len(v) else None for v in steps], pa.float64())
    columns |= {
        "label_regex": pa.array(by_words, pa.string()),
        "label_annotation": pa.array(by_annotation, pa.string()),
    }
    whole = pa.table(columns)
    return whole.add_column(1, "group_id", whole.column(0))


def _from_files(files: Sequence[str | Path]) -> dict[str, list[Problem]]:
    parts: dict[str, list[Problem]] = {}
    for file in map(Path, files):
        split = _split_of(file)
        if split in parts:
            raise ConfigError(f"Two files are the {split} split; {file} is the second")
        if not file.is_file():
            raise NotThereError(f"Expected a GSM8K file at {file}, found none")
        parts[split] = [
            _problem(entry, f"{file} {at}", split, i) for i, (at, entry) in enumerate(objects(file))
        ]
        if not parts[split]:
            raise DataError(f"{file} is empty; expected lines with question and answer")
    return parts


def _split_of(file: Path) -> str:
    found = [split for split in SPLITS if split in file.stem.lower()]
    if len(found) != 1:
        raise ConfigError(
            f"{file.name}: the name must say test or train, because problem ids and splits follow from it"
        )
    return found[0]


def _from_hub() -> dict[str, list[Problem]]:
    remedy = (
        "or give its two files: problems.files=[test.jsonl,train.jsonl] in a recipe, "
        "files=[test.jsonl,train.jsonl] for gates, --file test.jsonl --file train.jsonl for problems"
    )
    return {
        split: [
            _problem(row, f"{HUB[0]} {split} row {i}", split, i)
            for i, row in enumerate(hub_rows(*HUB, split, remedy=remedy))
        ]
        for split in SPLITS
    }


def _problem(entry: Any, where: str, split: str, i: int) -> Problem:
    """One problem, or one line that says what is wrong with it."""
    question, solution = (entry.get("question"), entry.get("answer")) if isinstance(entry, dict) else ("", "")
    if not isinstance(question, str) or not isinstance(solution, str) or not (question.strip() and solution):
        raise DataError(f"{where}: expected an object with question and answer as text, the format of GSM8K")
    cot, mark, answer = solution.rpartition("####")
    answer = answer.strip().replace(",", "")
    if not mark or not answer:
        raise DataError(f"{where}: the answer has no '#### result' at its end; another format than GSM8K")
    return Problem(f"{split}_{i}", split, question, answer, cot.strip())
