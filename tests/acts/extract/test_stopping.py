"""Problems that stop thinking early: what they did not think is nowhere, and that is said everywhere."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.models.thought.fake import save_lm
from thoughtlens.acts import ActivationStore, thought_model
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import DataError, validate_config
from thoughtlens.evals.probing.coders import Cover
from thoughtlens.evals.probing.samples import ThoughtSamples
from thoughtlens.interventions.edits import changes
from thoughtlens.interventions.edits.run import Edit, run_edits
from thoughtlens.interventions.effects.rows import rows_of
from thoughtlens.interventions.effects.subject import Problems
from thoughtlens.models import Place, collect
from thoughtlens.problems import TableConfig
from thoughtlens.sae import TopKConfig
from thoughtlens.studies.notebook import fit

N = 24
OPTIONS = ("end=#", "temperature=0.3", "stop_entropy=3.45", "stop_after=1")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopping")
    questions = [f"What is {i} + {3 * i}?" + " Say it." * (i % 3) for i in range(N)]
    ids = [f"p{i}" for i in range(N)]
    split = ["test" if i % 2 else "train" for i in range(N)]
    columns = {"problem_id": ids, "group_id": ids, "split": split, "question": questions}
    pq.write_table(pa.table(columns | {"answer": ["4"] * N, "cot": [""] * N}), root / "problems.parquet")
    table = {
        "model": {"name": str(save_lm(root / "llama")), "dtype": "float32"},
        "family": "soft",
        "options": OPTIONS,
        "n_thoughts": 4,
        "problems": TableConfig(source=str(root / "problems.parquet")),
        "store_dtype": "float32",
        "max_new_tokens": 2,
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    return ActivationStore.open(root / "acts")


@pytest.fixture(scope="module")
def used(store):
    return store.problems["n_thoughts_used"].to_numpy()


@pytest.fixture(scope="module")
def model(store):
    return thought_model(store)


def test_a_store_has_the_thoughts_that_were_thought_and_no_others(store, used, model):
    assert 0 < used.min() < used.max() == 4
    had = np.zeros((N, 5), int)
    np.add.at(had, (store.problem_idx, store.thought_idx), 1)
    np.testing.assert_array_equal(had, np.arange(5) <= used[:, None])
    batch = collect(model, store.questions.to_pylist())
    assert batch.used.tolist() == used.tolist()
    wanted = batch[Place("layers.1:out")][store.problem_idx, store.thought_idx.astype(int)]
    torch.testing.assert_close(store.read("layers.1:out", np.arange(store.n_rows)), wanted)


def test_the_result_counts_them(store, used):
    said = json.loads((store.root / "result.json").read_text())
    assert said["n_rows"] == store.n_rows == int((used + 1).sum())
    assert said["n_stopped_early"] == int((used < 4).sum())
    assert said["mean_thoughts_used"] == pytest.approx(used.mean())
    assert any(
        f"{said['n_stopped_early']} of {N} problems stopped before thought 4" in w for w in said["warnings"]
    )


def test_an_edit_is_made_where_there_is_something_to_edit(store, used, model):
    problems = Problems(store.problems)
    states = collect(model, problems.questions)[Place("thought_in", 3)]
    donor = np.roll(np.arange(N), 1)
    places = [Place("thought_in", 3)]
    edits = [
        Edit.at("resampled", places, lambda _: changes.given(states[donor])),
        Edit.at("mean", places, lambda _: changes.mean_of(states)),
    ]
    plain, (resampled, mean) = run_edits(model, problems.questions, edits, max_new_tokens=1)
    there = used >= 3
    np.testing.assert_array_equal(mean.reached, there)
    np.testing.assert_array_equal(resampled.reached, there & there[donor])
    for outcome in (resampled, mean):
        assert not outcome.moved[~outcome.reached].any() and outcome.moved[outcome.reached].all()
        assert (outcome.changed_site[~outcome.reached] == 0).all()
    rows = rows_of(problems, plain, edits, [resampled, mean], seed=0)
    assert [row.n_edited for row in rows] == [int(resampled.reached.sum()), int(there.sum())]
    assert {row.moved for row in rows} == {1.0} and rows[0].n == N


def test_in_features_a_thought_that_was_not_thought_is_zeros_and_a_lost_one_is_refused(store, used):
    cover = Cover(store, {"one": _sae(store)}, None, 0)
    samples = ThoughtSamples(cover, np.arange(N))
    cell = dict(samples.features("raw", ["cell:layers.1:out/3"]))["cell:layers.1:out/3"]
    cell = cell if isinstance(cell, np.ndarray) else cell.toarray()
    np.testing.assert_array_equal((cell != 0).any(1), used >= 3)
    assert samples.n_short == int((used < 4).sum())
    store.__dict__["problems"] = store.problems.drop_columns(["n_thoughts_used"])
    try:
        with pytest.raises(DataError, match="has no thought"):
            ThoughtSamples(cover, np.arange(N))
    finally:
        del store.__dict__["problems"]


def _sae(store):
    torch.manual_seed(0)
    x = store.read("layers.1:out", np.arange(store.n_rows))
    return fit(TopKConfig(d_sae=8, k=2), x, place="layers.1:out", epochs=1, batch_size=32)
