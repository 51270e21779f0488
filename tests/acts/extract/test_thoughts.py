"""Thoughts on disk against the model's own loop; interruption; bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.models.thought.fake import make_codi
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract, plan
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, DataError, HookError, NotThereError
from thoughtlens.core.stages import config
from thoughtlens.models.thought import thoughts
from thoughtlens.models.thought.thoughts import is_right
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.problems.tasks.source import problems

TINY = {"name": "codi-tiny", "dtype": "float32"}


def tiny(n: int = 60, **options) -> ExtractConfig:
    table = {"model": TINY, "problems": {"source": "arithmetic", "n": n}, "store_dtype": "float32"}
    return config.load_config(ExtractConfig, table | {"batch_problems": 25} | options)


def vectors(store: ActivationStore, hook: str) -> torch.Tensor:
    return store.view([hook]).read(np.arange(store.n_rows))


def test_rows_are_what_the_model_thinks(tmp_path):
    names = ("layers.1:out", "thought_in", "layers.0:out", "thought_out")
    cfg = tiny(hook_names=names)
    result = extract(cfg, tmp_path / "acts")
    store = ActivationStore.open(tmp_path / "acts", verify=True)
    questions = store.problems["question"].to_pylist()
    model = thoughts.load("codi-tiny")
    want = thoughts.collect(model, questions, answers=True)
    assert tuple(store.meta.hook_names) == names and store.meta.kind == "thoughts"
    assert "0 is the begin-of-thought" in store.meta.thought_convention
    assert result["n_rows"] == store.n_rows == 60 * 7 and result["n_problems"] == 60
    for hook, x in (
        ("layers.1:out", want.x[:, :, 1]),
        ("layers.0:out", want.x[:, :, 0]),
        ("thought_in", want.thought_in[:, :, 0]),
        ("thought_out", want.thought_out[:, :, 0]),
    ):
        torch.testing.assert_close(vectors(store, hook), x.flatten(0, 1), atol=1e-5, rtol=1e-5)
    assert store.rows["thought_idx"].to_pylist() == list(range(7)) * 60
    ids = store.problems["problem_id"].to_pylist()
    assert store.rows["problem_id"].to_pylist() == [name for name in ids for _ in range(7)]
    assert store.problems["model_answer"].to_pylist() == want.answers.text


def test_answers_and_labels_lie_beside(tmp_path):
    result = extract(tiny(200), tmp_path / "acts")
    table = ActivationStore.open(tmp_path / "acts").problems
    assert table.drop(["model_answer", "model_value", "correct"]).equals(problems(tiny(200).problems))
    pairs = zip(table["answer"].to_pylist(), table["model_value"].to_pylist(), strict=True)
    right = [float(answer) == value for answer, value in pairs]
    assert table["correct"].to_pylist() == right and np.mean(right) > 0.9
    for row in result["model_accuracy"]:
        chosen = [r for r, s in zip(right, table["split"].to_pylist(), strict=True) if s == row["split"]]
        assert (row["n"], row["accuracy"]) == (len(chosen), pytest.approx(np.mean(chosen)))
    assert sum(row["n"] for row in result["model_accuracy"]) == 200
    assert not (tmp_path / "acts" / "answers").exists()


def test_three_layers_and_six_positions_of_codi_from_a_table(tmp_path):
    """The first study's layout: hooks times problems times thoughts 0..5."""
    fake = make_codi(tmp_path, "llama")
    texts = [f"What is {i} + {i * i % 7}?" for i in range(20)]
    ids = [f"p{i}" for i in range(20)]
    table = pa.table(
        {
            "problem_id": ids, "group_id": ids, "split": ["train"] * 15 + ["test"] * 5, "question": texts,
            "answer": ["7"] * 20, "cot": [""] * 20, "operation": ["addition", "mixed"] * 10,
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "p.parquet")
    cfg = config.load_config(
        ExtractConfig,
        {
            "model": {"name": str(fake.file), "dtype": "float32"},
            "problems": {"kind": "problems", "source": str(tmp_path / "p.parquet")},
            "base": str(fake.base), "remove_eos": True, "max_new_tokens": 3, "store_dtype": "float32",
        },
    )  # fmt: skip
    extract(cfg, tmp_path / "acts")
    store = ActivationStore.open(tmp_path / "acts")
    assert store.meta.modules == {f"layers.{i}:out": f"model.layers.{i}" for i in range(3)}
    seed_cells = store.view(["layers.0:out", "layers.1:out", "layers.2:out"], thoughts=range(6))
    assert seed_cells.n == 20 * 3 * 6 and len(set(seed_cells.cell_of(np.arange(seed_cells.n)))) == 18
    model = thoughts.load(fake.file, base=fake.base, remove_eos=True)
    want = thoughts.collect(model, texts).x[:, :, 2].flatten(0, 1)
    torch.testing.assert_close(vectors(store, "layers.2:out"), want, atol=1e-5, rtol=1e-5)


WORK = """
import sys
from thoughtlens.core import config
from thoughtlens.acts.extract.stage import ExtractConfig, extract
extract(config.load_config(ExtractConfig, sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
def test_kill_9_and_the_same_bytes_in_the_end(tmp_path):
    cfg = tiny(1000, shard_rows=400, batch_problems=50)
    (tmp_path / "c.toml").write_text(config.to_toml(cfg))
    job = subprocess.Popen(
        [sys.executable, "-c", WORK, tmp_path / "c.toml", tmp_path / "killed"], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed.tmp/shards/00001.safetensors").exists() and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "killed").exists(), "killed too late to test anything"
    again, whole = extract(cfg, tmp_path / "killed"), extract(cfg, tmp_path / "whole")
    assert again["digest"] == whole["digest"]
    a, b = (ActivationStore.open(tmp_path / name, verify=True) for name in ("killed", "whole"))
    assert a.meta == b.meta and a.problems.equals(b.problems)


def test_extracting_again_does_nothing(tmp_path):
    first = extract(tiny(20), tmp_path / "acts")
    assert extract(tiny(20), tmp_path / "acts") == first


def test_plan_counts_rows():
    assert plan(tiny(1000)).rows == 7000
    assert plan(tiny(1000, hook_names=["layers.0:out"])).disk_bytes < plan(tiny(1000)).disk_bytes


@pytest.mark.parametrize("name", ["layers.2:out", "layers.0:in", "thought", "layers.0.norm:out"])
def test_hooks_a_thought_model_does_not_have(tmp_path, name):
    with pytest.raises(HookError, match=r"layers\.0:out \.\. layers\.1:out, thought_in or thought_out"):
        extract(tiny(hook_names=[name]), tmp_path / "acts")


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="is a language model, and this needs one"):
        extract(tiny(model={"name": "smollm2-135m"}), tmp_path / "a")
    with pytest.raises(ConfigError, match="no option base"):
        extract(tiny(base="gpt2"), tmp_path / "b")
    with pytest.raises(NotThereError):
        extract(tiny(model={"name": str(tmp_path / "no/such.bin")}), tmp_path / "c")


def test_words_the_model_does_not_know(tmp_path):
    row = {
        "problem_id": "a",
        "group_id": "a",
        "split": "train",
        "question": "how many?",
        "answer": "1",
        "cot": "",
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="how"):
        extract(tiny(problems={"kind": "problems", "source": str(tmp_path / "p.parquet")}), tmp_path / "acts")


@pytest.mark.parametrize(
    ("text", "value", "gold", "right"),
    [
        ("The answer is: 18", 18.0, "18", True),
        ("18.0", 18.0, "18", True),
        ("17", 17.0, "18", False),
        ("nothing", None, "18", False),
        ("1234567", 1234567.0, "1,234,567", True),
        ("yes", None, "yes", True),
        ("no", None, "yes", False),
    ],
)
def test_right_answers(text, value, gold, right):
    assert is_right(text, value, gold) is right


def test_generated_problems_are_those_the_model_was_trained_on(tmp_path):
    wanted = config.load_config(ExtractConfig, {"model": TINY, "problems": {"source": "generated", "n": 30}})
    extract(wanted, tmp_path / "acts")
    store = ActivationStore.open(tmp_path / "acts")
    expected = arithmetic.problems(30, seed=0, p=23)["question"].to_pylist()
    assert store.problems["question"].to_pylist() == expected
    codi = make_codi(tmp_path, "gpt2")
    model, base = {"name": str(codi.file), "dtype": "float32"}, str(codi.base)
    foreign = config.load_config(
        ExtractConfig, {"model": model, "base": base, "problems": {"source": "generated"}}
    )
    with pytest.raises(ConfigError, match="takes a shipped thought model"):
        extract(foreign, tmp_path / "other")


def test_parts_of_a_block_are_stored_with_their_width(tmp_path):
    hooks = ["layers.1.attn:out", "layers.0.mlp:out", "layers.1.head.2:out"]
    extract(tiny(30, hook_names=hooks), tmp_path / "acts")
    store = ActivationStore.open(tmp_path / "acts")
    assert store.meta.d_in == {hooks[0]: 96, hooks[1]: 96, hooks[2]: 32}
    questions = store.problems["question"].to_pylist()
    batch = thoughts.collect(thoughts.load("codi-tiny"), questions, sites=("attn", "mlp", "heads"))
    for hook in hooks:
        torch.testing.assert_close(
            vectors(store, hook), batch[thoughts.Place(hook)].flatten(0, 1), atol=1e-6, rtol=1e-6
        )
    with pytest.raises(HookError, match=r"expected a head in 0\.\.2"):
        extract(tiny(30, hook_names=["layers.1.head.3:out"]), tmp_path / "none")


def test_all_questions_that_are_too_long_are_told_before_the_model_runs(tmp_path):
    fake = make_codi(tmp_path / "codi", "gpt2")
    questions = ["What is 7 + 8?", "many words " * 100, "What is 7 + 9?", "words " * 400]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": "15"}) + "\n" for q in questions))
    table = {
        "model": {"name": str(fake.file), "dtype": "float32"}, "base": str(fake.base), "n_thoughts": 2,
        "problems": {"source": str(file), "columns": {"question": "question", "answer": "answer"}},
    }  # fmt: skip
    with pytest.raises(DataError) as refused:
        extract(config.load_config(ExtractConfig, table), tmp_path / "acts")
    said = str(refused.value)
    assert "cannot read 2 of 4 questions: problem row_1: Question 'many words" in said
    assert said.endswith("this model has 160: shorten it or leave it out; and also problems row_3")
