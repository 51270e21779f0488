"""Published files of ProsQA and ProntoQA: as Coconut has them, and as ProntoQA's own program writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from thoughtlens.core import DataError, Json
from thoughtlens.problems.tasks import graphs, prontoqa, prosqa
from thoughtlens.problems.tasks.published import from_files

TOLD = {"prosqa": prosqa.told, "prontoqa": prontoqa.told}
"""What follows from a question, by its source."""


def table(source: str, files: Sequence[Path]) -> tuple[pa.Table, list[str]]:
    """Published questions with the labels of `graphs.label_columns`, and what is to be said of them.

    The answer and the steps are the file's; the labels follow from the question's sentences, and are null for
    questions that have others. `group_id` is the path.

    Raises:
        NotThereError: no such file.
        DataError: rows without question and answer, edges with a circle, or an answer that does not follow.
    """
    rows, asked = [], []
    for split, part in from_files(files):
        for i, (where, row) in enumerate(part):
            question, steps, answer = _published(row, where)
            try:
                _require_edges(row)
                one = graphs.read(question)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
            if one is not None and (follows := TOLD[source](one, question)[1]) != answer.strip():
                raise DataError(f"{where}: the answer is {answer!r}, but {follows!r} follows")
            asked.append(one)
            name = f"{split}_{i}"
            group = name if one is None else ">".join(one.path)
            rows.append((name, group, split, question, answer, "\n".join(steps)))
    names = ("problem_id", "group_id", "split", "question", "answer", "cot")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    unread = sum(one is None for one in asked)
    note = f"{source}: {unread} of {len(asked)} questions have other sentences, so no labels"
    return pa.table(columns | graphs.label_columns(asked)), [note] * (unread > 0)


def _published(row: Json, where: str) -> tuple[str, list[str], str]:
    """Question, steps and answer."""
    own = row.get("test_example", row)
    try:
        if "query" in own:
            sentences = own["chain_of_thought"]
            steps = [" ".join(sentences[i : i + 2]) for i in range(0, len(sentences), 2)]
            return f"{own['question']} {own['query']}", steps, str(own["answer"])
        return own["question"].strip(), list(own["steps"]), str(own["answer"])
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            f"{where}: expected question, steps and answer, or a test_example with question, query, "
            f"chain_of_thought and answer; found {', '.join(map(str, row))}"
        ) from None


def _require_edges(row: Json) -> None:
    """Refuse edges in the file that lead in a circle."""
    names = row.get("idx_to_symbol")
    if row.get("edges") and names:
        graphs.require_no_circle((names[a], names[b]) for a, b in row["edges"])
