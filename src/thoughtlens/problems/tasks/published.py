"""Published sets of questions: which columns their files have, and what the right answer is.

A file is a list of objects, or an object of objects, as JSON, JSON lines, Parquet or CSV, with the columns
that its authors, or a copy on the hub, gave it. Answers that are numbers are written without commas,
currency, unit or exponent; those of multiple choice are a letter, those of yes or no `True` or `False`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from thoughtlens.core import ConfigError, DataError, Json, NotThereError
from thoughtlens.problems.tasks import gsm8k, numbers
from thoughtlens.problems.tasks.answers import TRUTHS
from thoughtlens.problems.text.files import hub_rows, objects, table_of

SPLIT_WORDS = {"train": "train", "valid": "validation", "dev": "validation", "test": "test"}
"""What a file's name says, by our splits."""


class Entry(NamedTuple):
    """One problem of a set."""

    question: str
    answer: Any
    cot: str = ""
    labels: Mapping[str, Any] = {}


class PublishedSet(NamedTuple):
    """Where a set is, and how its rows are read."""

    hub: str
    splits: Mapping[str, str]
    """Splits that are published and have answers, with what they are here."""
    read: Callable[[Json], Entry | None]
    """None: the row has no answer, as those of a hidden test set."""
    wants: str
    """What an answer is, in words."""
    answer: Callable[[Any], str | None]
    """The answer as it is compared; None: it is none."""
    chain: bool = False
    """Chains with annotations: labels as of GSM8K."""


def _number(value: Any) -> str | None:
    number = numbers.answer(value)
    return None if number is None else numbers.plain(number)


def _letter(value: Any) -> str | None:
    said = str(value).strip().upper()
    return said if len(said) == 1 and said.isalpha() else None


def _truth(value: Any) -> str | None:
    return TRUTHS.get(str(value).strip().lower())


def steps(value: Any) -> str:
    """A chain as one text: lists of steps with one on each line."""
    if value is None:
        return ""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value).strip()


def _gsm8k_aug(row: Json) -> Entry | None:
    chain = row["steps"] if "steps" in row else row["cot"]
    return None if row["answer"] is None else Entry(row["question"], row["answer"], steps(chain))


def _svamp(row: Json) -> Entry:
    question = row.get("question_concat") or f"{row['Body'].strip()} {row['Question'].strip()}"
    return Entry(question, row["Answer"], labels={"operation": row["Type"], "equation": row["Equation"]})


def _multiarith(row: Json) -> Entry:
    if "sQuestion" in row:
        (answer, *_), (equation, *_) = row["lSolutions"], row["lEquations"]
        return Entry(row["sQuestion"], answer, labels={"equation": equation})
    return Entry(row["question"], row["final_ans"])


def _gsm_hard(row: Json) -> Entry:
    if "input" in row:
        return Entry(row["input"], row["target"], labels={"code": row["code"]})
    return Entry(row["instruction"], row["response"])


def _commonsenseqa(row: Json) -> Entry | None:
    if "cot" in row:
        return Entry(row["question"], row["answer"], steps(row["cot"]))
    asked = row["question"]
    stem, choices = (asked["stem"], asked["choices"]) if isinstance(asked, dict) else (asked, row["choices"])
    if isinstance(choices, dict):
        choices = [{"label": a, "text": b} for a, b in zip(choices["label"], choices["text"], strict=True)]
    concept = asked["question_concept"] if isinstance(asked, dict) else row.get("question_concept")
    offered = "\n".join(f"{one['label']}: {one['text']}" for one in choices)
    if not row.get("answerKey"):
        return None
    return Entry(f"{stem}\n{offered}", row["answerKey"], labels={"concept": concept})


def _strategyqa(row: Json) -> Entry | None:
    if row.get("answer") is None:
        return None
    chain = row["cot"] if "cot" in row else row.get("facts")
    return Entry(row["question"], row["answer"], steps(chain), {"term": row.get("term")})


NUMBER, LETTER, TRUTH = ("a number", _number), ("a letter", _letter), ("true or false", _truth)
TWO = {"train": "train", "test": "test"}
THREE = TWO | {"validation": "validation"}
SETS = {
    "gsm8k-aug": PublishedSet("zen-E/GSM8k-Aug", THREE, _gsm8k_aug, *NUMBER, chain=True),
    "gsm8k-aug-nl": PublishedSet("zen-E/GSM8k-Aug-NL", THREE, _gsm8k_aug, *NUMBER, chain=True),
    "svamp": PublishedSet("ChilleD/SVAMP", TWO, _svamp, *NUMBER),
    "multiarith": PublishedSet("ChilleD/MultiArith", TWO, _multiarith, *NUMBER),
    "gsm-hard": PublishedSet("reasoning-machines/gsm-hard", {"train": "test"}, _gsm_hard, *NUMBER),
    "commonsenseqa": PublishedSet(
        "tau/commonsense_qa", {"train": "train", "validation": "test"}, _commonsenseqa, *LETTER
    ),
    "strategyqa": PublishedSet("ChilleD/StrategyQA", TWO, _strategyqa, *TRUTH),
}
"""By the name of the source. Where published test answers are hidden, the validation split is the test."""


def table(source: str, files: Sequence[Path]) -> tuple[pa.Table, list[str]]:
    """A set as a table of problems, and what is to be said of rows that are left out.

    Args:
        source: One of `SETS`.
        files: Its files, told apart by their names; a single one whose name says no split is all `test`.
            None: from the hub, through the library `datasets`.

    Returns:
        `problem_id` (`test_i`: row i), `group_id`, `split`, `question`, `answer`, `cot` and the labels that
        the set has: `operation` and `equation` of SVAMP, `v1..vK` of chains with annotations, and so on.

    Raises:
        NotThereError: no such file, or the hub cannot be reached.
        DataError: other columns than the set's, an answer of another kind, or an empty file.
    """
    known, rows, n_without = SETS[source], [], 0
    for split, part in from_files(files) if files else _from_hub(known):
        for i, (where, row) in enumerate(part):
            entry = _entry(known, source, where, row)
            n_without += entry is None
            if entry is not None:
                rows.append((f"{split}_{i}", known.splits.get(split, split), entry))
    if not rows:
        raise DataError(f"{source}: no row has an answer")
    notes = [f"{source}: {n_without} rows have no answer and are left out"] * (n_without > 0)
    return _columns(known, rows, source), notes


def _entry(known: PublishedSet, source: str, where: str, row: Json) -> Entry | None:
    try:
        entry = known.read(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        lacks = f"; it lacks {error}" if isinstance(error, KeyError) else ""
        raise DataError(f"{where}: not a row of {source}, found {', '.join(map(str, row))}{lacks}") from None
    if entry is None:
        return None
    if not isinstance(entry.question, str) or not entry.question.strip():
        raise DataError(f"{where}: an empty question; drop the row")
    answer = known.answer(entry.answer)
    if answer is None:
        raise DataError(f"{where}: expected {known.wants} as the answer, got {str(entry.answer)[:60]!r}")
    return entry._replace(answer=answer)


def _columns(known: PublishedSet, rows: list[tuple[str, str, Entry]], source: str) -> pa.Table:
    if known.chain:
        made = [gsm8k.Problem(i, split, e.question.strip(), e.answer, e.cot) for i, split, e in rows]
        return gsm8k.columns(made, "annotations")
    entries = [entry for _, _, entry in rows]
    return table_of(
        [
            {"problem_id": i, "group_id": i, "split": split, "question": e.question.strip()}
            | {"answer": e.answer, "cot": e.cot, **e.labels}
            for (i, split, e) in rows
        ],
        source,
    ).select(["problem_id", "group_id", "split", "question", "answer", "cot", *entries[0].labels])


def from_files(files: Sequence[Path]) -> Iterator[tuple[str, list[tuple[str, Json]]]]:
    """The split and the rows of each file, with their places.

    Raises:
        NotThereError: no such file.
        ConfigError: two files of one split.
        DataError: an empty file, or one that cannot be read.
    """
    seen: dict[str, Path] = {}
    for file in map(Path, files):
        said = {ours for word, ours in SPLIT_WORDS.items() if word in file.stem.lower()}
        if len(said) > 1 or (not said and len(files) > 1):
            raise ConfigError(f"{file.name}: the name must say train, valid or test, and one of them only")
        split = said.pop() if said else "test"
        if split in seen:
            raise ConfigError(f"Two files are the {split} split: {seen[split]} and {file}")
        seen[split] = file
        if not file.is_file():
            raise NotThereError(f"Expected a file of problems at {file}, found none")
        rows = [(f"{file} {at}", row) for at, row in objects(file)]
        if not rows:
            raise DataError(f"{file} is empty; expected problems")
        yield split, rows


def _from_hub(known: PublishedSet) -> Iterator[tuple[str, list[tuple[str, Json]]]]:
    remedy = "or give its files: problems.files=[train.json,test.json]"
    for split in known.splits:
        rows = hub_rows(known.hub, None, split, remedy=remedy)
        yield split, [(f"{known.hub} {split} row {i}", row) for i, row in enumerate(rows)]
