"""Tables that somebody made: columns by name, what is made where something lacks, sets by members."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.core import ConfigError, DataError, NotThereError, load_config
from thoughtlens.problems.config import ColumnsConfig, TableConfig
from thoughtlens.problems.tasks.source import count, find, shares
from thoughtlens.problems.tasks.tables import MOST_MEMBERS, with_members

ROWS = [
    {"prompt": f"What is {i} plus 1?", "gold": i + 1, "why": ["add", str(i)], "fold": "dev", "kind": i % 3}
    for i in range(40)
]
BOTH = {"question": "prompt", "answer": "gold"}
ENDINGS = ("csv", "jsonl", "json", "parquet")


def save(path, rows, ending="jsonl"):
    file = path / f"mine.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif ending == "csv":
        names = list(rows[0])
        lines = [",".join(f'"{row[name]}"' for name in names) for row in rows]
        file.write_text("\n".join([",".join(names), *lines]))
    else:
        file.write_text(json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)))
    return str(file)


def named(source, **columns):
    return TableConfig(source=source, columns=ColumnsConfig(**columns))


@pytest.mark.parametrize("ending", ENDINGS)
def test_columns_by_name(tmp_path, ending):
    cfg = named(save(tmp_path, ROWS, ending), **BOTH, split="fold")
    table, notes = find(cfg)
    assert table.column_names[:6] == ["problem_id", "group_id", "split", "question", "answer", "cot"]
    assert table.column_names[6:] == ["why", "kind"] and notes == []
    first = table.to_pylist()[0]
    assert (first["question"], first["answer"], first["split"]) == ("What is 0 plus 1?", "1", "validation")
    assert count(cfg) == 40 and shares(cfg) == {"validation": 1.0}


def test_what_is_missing_is_made(tmp_path):
    table, notes = find(named(save(tmp_path, ROWS), **BOTH, chain="why"))
    assert table["problem_id"].to_pylist()[:2] == ["row_0", "row_1"] == table["group_id"].to_pylist()[:2]
    assert table["cot"].to_pylist()[3] == "add\n3"
    assert set(table["split"].to_pylist()) <= {"train", "validation", "test"}
    assert "80% train, 10% validation, 10% test" in notes[0]


def test_made_splits_keep_groups_and_copies_together(tmp_path):
    rows = [row | {"kind": i // 2} for i, row in enumerate(ROWS)] + [ROWS[0] | {"prompt": "what is 0 plus 1"}]
    table, _ = find(named(save(tmp_path, rows), **BOTH, group_id="kind"))
    split = table["split"].to_pylist()
    assert split[0:40:2] == split[1:40:2] and split[0] == split[40]


def test_a_solution_with_its_answer_behind_the_mark(tmp_path):
    row = {"q": "Three times four?", "a": "It is <<3*4=12>>12.\n#### 12"}
    found = find(named(save(tmp_path, [row]), question="q", answer="a")).table.to_pylist()[0]
    assert (found["answer"], found["cot"]) == ("12", "It is <<3*4=12>>12.")


def test_a_few_answers_that_are_no_numbers_are_told(tmp_path):
    rows = [*ROWS, {"prompt": "And this?", "gold": "n/a"}]
    notes = find(named(save(tmp_path, rows), **BOTH)).notes
    assert "1 of 41 answers are no numbers, the first 'n/a' in row 40" in notes[0]


@pytest.mark.parametrize(
    ("columns", "error", "says"),
    [
        ({"question": "promt"}, NotThereError, "Expected a column 'promt' .* found prompt, gold"),
        ({"question": "prompt"}, NotThereError, r"'answer' .* set problems\.columns\.answer"),
        ({"question": "prompt", "answer": "prompt"}, ConfigError, "'prompt' is named twice"),
        ({**BOTH, "problem_id": "kind"}, DataError, "37 problem ids occur twice"),
        ({**BOTH, "split": "kind"}, DataError, "expected splits train, .* got 0, 1"),
        ({**BOTH, "question": "why"}, DataError, "expected text in the column of questions, got list"),
        ({}, DataError, r"answer, cot missing, there are prompt, .* problems\.columns\.question=NAME"),
    ],
)  # fmt: skip
def test_columns_that_are_wrong(tmp_path, columns, error, says):
    with pytest.raises(error, match=says) as caught:
        find(named(save(tmp_path, ROWS), **columns))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ending", "text"), [("csv", ""), ("jsonl", "\n"), ("json", ""), ("csv", "q,a\n")])
def test_empty_files(tmp_path, ending, text):
    file = tmp_path / f"mine.{ending}"
    file.write_text(text)
    with pytest.raises(DataError, match=r"is empty|has no problems"):
        find(named(str(file), question="q", answer="a"))


@pytest.mark.parametrize("empty", ["prompt", "gold"])
def test_empty_cells(tmp_path, empty):
    rows = [row | {"gold": str(row["gold"])} for row in ROWS[:4]]
    with pytest.raises(DataError, match="row 3: an empty"):
        find(named(save(tmp_path, [*rows[:3], rows[3] | {empty: " "}]), **BOTH))


def test_a_table_is_named_on_the_command_line():
    given = ["problems=my.csv", "problems.columns.question=q", "problems.columns.answer=a"]
    assert load_config(ExtractConfig, {}, given).problems == named("my.csv", question="q", answer="a")


def test_members_of_sets():
    sets = [["a", "b c"], ["b c"], None, []]
    table = pa.table({"found": pa.array(sets, pa.list_(pa.string())), "x": [1, 2, 3, 4]})
    wide, notes = with_members(table, ["found"])
    assert wide["found_has_a"].to_pylist() == [True, False, None, False] and notes == []
    assert wide["found_has_b_c"].to_pylist() == [True, True, None, False]
    many = pa.table({"found": [[f"m{i}", f"m{i + 1}"] for i in range(MOST_MEMBERS)]})
    wide, notes = with_members(many, ["found"])
    assert wide.num_columns == 1 + MOST_MEMBERS and "64 most frequent of its 65 members" in notes[0]
    with pytest.raises(ConfigError, match=r"columns of sets \(found\), got 'x'"):
        with_members(table, ["x"])
