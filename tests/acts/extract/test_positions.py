"""Tokens of the question, and of the answer's cue, as cells of a store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.models.thought.fake import make_codi
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, HookError
from thoughtlens.core.stages import config
from thoughtlens.models import Place
from thoughtlens.models.thought import codi, thoughts

WORDS = {"model": {"name": "codi-words", "dtype": "float32"}, "problems": {"source": "words", "n": 40}}


def stored(out, positions, **more):
    table = WORDS | {"store_dtype": "float32", "positions": positions} | more
    extract(config.load_config(ExtractConfig, table), out)
    return ActivationStore.open(out, verify=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("positions") / "acts", "question,begin,thoughts,answer")


def test_rows_are_the_states_of_every_position_that_a_question_has(store):
    questions = store.problems["question"].to_pylist()
    lengths = [len(question.split()) for question in questions]
    assert store.thoughts == [*range(-max(lengths), 9)] and store.own_thoughts == [*range(7)]
    assert store.n_rows == sum(lengths) + 9 * len(questions)
    assert store.meta.n_thoughts == 6 and "-1 is the question's last token" in store.meta.thought_convention
    model = thoughts.load("codi-words")
    batch = thoughts.collect(model, questions, positions=[p for p in store.thoughts if not 0 <= p <= 6])
    x = store.read("layers.0:out", np.arange(store.n_rows))
    at = torch.tensor([batch.at(int(p)) for p in store.thought_idx])
    want = batch[Place("layers.0:out")][torch.from_numpy(store.problem_idx).long(), at]
    torch.testing.assert_close(x, want, atol=1e-4, rtol=1e-5)


def test_a_view_of_some_positions_has_their_cells(store):
    view = store.view(["layers.0:out"], thoughts=[-1, 3, 8])
    assert view.n_rows == 3 * len(store.problems)
    cells = [view.cells[i] for i in view.cell_of(np.arange(view.n))]
    assert [place for _, place in cells] == store.thought_idx[view.rows_of(np.arange(view.n))].tolist()
    with pytest.raises(HookError, match=r"Expected thoughts that are in .*, got \[-99\]"):
        store.view(thoughts=[-99])


def test_without_them_a_store_is_as_it_always_was(tmp_path):
    plain = stored(tmp_path / "acts", "begin,thoughts")
    assert plain.thoughts == plain.own_thoughts == [*range(7)] and plain.meta.reading == {"dtype": "float32"}
    assert (
        plain.meta.thought_convention
        == "thought_idx 0 is the begin-of-thought position, 1..n the thoughts fed back"
    )
    assert plain.meta.n_thoughts is None


def test_some_positions_alone(tmp_path):
    some = stored(tmp_path / "acts", "-2..-1,answer,3")
    assert some.thoughts == [-2, -1, 3, 7, 8] and some.own_thoughts == [3]
    assert some.n_rows == 5 * 40


@pytest.mark.parametrize(
    ("positions", "error", "says"),
    [
        ("questions", ConfigError, "expected question, begin, thoughts, answer, a position such as -1"),
        ("-1..-5", ConfigError, "a range goes from its first to its last position"),
        ("-99", HookError, r"positions: -99 does not exist here: there are -\d+..8"),
        ("9", HookError, "positions: 9 does not exist here"),
    ],
)
def test_positions_that_do_not_exist_are_one_line(tmp_path, positions, error, says):
    with pytest.raises(error, match=says):
        stored(tmp_path / "acts", positions)


def some_ids(fake):
    return codi.load(
        fake.file, base=fake.base, lora_alpha=8.0, eos_before=False, eos_after=False, n_thoughts=6
    ).read_ids


def test_a_codi_on_gpt2_has_its_one_token_of_cue(tmp_path):
    fake = make_codi(tmp_path / "codi", "gpt2")
    names = ("problem_id", "group_id", "split", "cot")
    rows = [
        dict.fromkeys(names, f"{i}") | {"split": "test", "question": q, "answer": "7"}
        for i, q in enumerate(("What is 7 + 8?", "7?"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "asked.parquet")
    own = {"model": {"name": str(fake.file), "dtype": "float32"}, "base": str(fake.base)}
    asked = {"kind": "problems", "source": str(tmp_path / "asked.parquet")}
    settings = {"eos_before": False, "eos_after": False, "n_thoughts": 6, "lora_alpha": 8.0}
    some = stored(tmp_path / "acts", "question,answer", problems=asked, **settings, **own)
    lengths = [len(model_ids) for model_ids in map(some_ids(fake), some.problems["question"].to_pylist())]
    assert (some.thought_idx == -1).sum() == 2 and some.n_rows == sum(lengths) + 2
