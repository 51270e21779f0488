"""Clauses on stores whose latents are known."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from tests.latents.explain.words import texts
from tests.planted import HOOKS, D, planted_sae, text_store, thought_store
from thoughtlens.core import load_config
from thoughtlens.latents.explain import clauses
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.stage import explain
from thoughtlens.latents.explain.statements import Context, Stated
from thoughtlens.latents.explain.wording import listed
from thoughtlens.problems.tasks import arithmetic

OP, VALUE, END, RARE, NOISE, TWICE = range(6)


def planted(problems, rng):
    """Latents 0 to 5 at hook 1: an operation wherever it is read, a value, the end, and noise."""
    n = len(problems)
    found = np.zeros((n, 7, 2, D), np.float32)
    column = {name: np.array(problems[name].to_pylist(), object) for name in problems.column_names}
    n_steps = column["n_steps"].astype(int)
    for i in range(3):
        used = n_steps > i
        found[used & (column[f"op{i + 1}"] == "+3"), 2 * i + 1, 1, OP] = 2.0
        found[used & (column[f"v{i + 1}"] == 7), 2 * i + 2, 1, VALUE] = 1.0
        found[used & (column[f"v{i + 1}"] == 4), 2 * i + 2, :, TWICE] = 1.0
    found[(n_steps == 2) & (column["v2"] == 7), 5, 1, VALUE] = 1.0
    found[n_steps == 2, 5:, 1, END] = 1.0
    found[..., NOISE] = (rng.random((n, 7, 2)) < 0.1) * 1.0
    found[:4, 3, 0, RARE] = 1.0
    return found


def labels_of(problems):
    own = ("problem_id", "group_id", "split", "question", "cot")
    return {name: problems[name].to_pylist() for name in problems.column_names if name not in own}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("meanings"), np.random.default_rng(0)
    problems = arithmetic.problems(1500, seed=3, p=11)
    thought_store(
        root / "acts", planted(problems, rng), labels_of(problems), problems["split"].to_pylist(),
        problems["question"].to_pylist(),
    )  # fmt: skip
    planted_sae(root / "sae")
    cfg = ExplainConfig(acts=root / "acts", sae=root / "sae", methods=("roles",), n_resamples=50)
    return root, cfg, explain(cfg, root / "explain")


def rows_of(root):
    return {row["latent"]: row for row in pq.read_table(root / "explain/explanations.parquet").to_pylist()}


def test_planted_meanings_are_said_in_the_words_of_the_task(run):
    root, _, _ = run
    rows, at = rows_of(root), f"at {HOOKS[1]}"
    assert rows[OP]["text"] == f"the operation being read is +3 (thoughts 1, 3, 5; {at})"
    assert (rows[OP]["says"], rows[OP]["value"], rows[OP]["thoughts"]) == (
        "operation being read",
        "+3",
        [1, 3, 5],
    )
    also = "in two-step problems also 5; in three-step problems also 6"
    assert rows[VALUE]["text"] == f"the value so far is 7 (thoughts 2, 4; {also}; {at})"
    assert rows[END]["text"] == f"the chain is finished (thoughts 5, 6; {at})"
    assert rows[TWICE]["text"] == "the value so far is 4 (thoughts 2, 4; in three-step problems also 6)"
    for latent in (OP, VALUE, END, TWICE):
        row = rows[latent]
        assert (row["auprc"], row["precision"], row["recall"], row["pearson"]) == pytest.approx((1, 1, 1, 1))
        assert row["auprc_low"] <= 1 <= row["auprc_high"] + 1e-9 and row["random_auprc"] < 0.6
        assert row["chosen"] and row["verdict"] == "strong" and row["token_auprc"] is None
    clause = json.loads(rows[VALUE]["clauses"])[0]
    assert clause["also"] == {"two-step problems": [5], "three-step problems": [6]} and clause["hooks"] == [
        HOOKS[1]
    ]
    assert (clause["precision"], clause["recall"]) == (1.0, 1.0)


def test_noise_is_unknown(run):
    root, _, _ = run
    row = rows_of(root)[NOISE]
    assert (row["text"], row["says"], row["value"], row["thoughts"]) == ("unknown", None, None, None)
    assert row["auprc"] < 0.3 and row["auprc_thinking"] < 0.3
    assert 0 < row["n_fires_thinking"] < row["n_fires"]


def test_shares_count_what_is_live_and_not_what_could_be_fitted(run):
    root, _, result = run
    found = result["headline"]
    assert sorted(rows_of(root)) == [OP, VALUE, END, NOISE, TWICE]  # RARE fires in too few problems
    assert (found["explained_latents"]["value"], found["explained_latents"]["n"]) == (pytest.approx(4 / 6), 6)
    assert found["unknown_latents"]["value"] == pytest.approx(2 / 6)
    assert found["explained_firings"]["value"] + found["unknown_firings"]["value"] == pytest.approx(1)
    assert found["explained_latents_thinking"]["n"] == 6
    assert found["explained_permuted"]["value"] == 0
    assert found["explained_random"]["n"] > 0
    assert found["reused_codes"] == 3  # +3, 7 and 4 at several steps; the end is one thing
    assert found["explained_latents"]["low"] < 4 / 6 < found["explained_latents"]["high"]


def test_what_is_well_explained_is_left_alone_by_the_other_methods(run, tmp_path):
    _, cfg, _ = run
    result = explain(cfg.model_copy(update={"methods": ("roles", "token")}), tmp_path / "explain")
    methods = pq.read_table(tmp_path / "explain/explanations.parquet").to_pylist()
    assert [row["latent"] for row in methods if row["method"] == "token"] == [NOISE]
    assert sum(row["chosen"] for row in methods) == 5
    assert result["members"][0]["n_refined"] == 1 and result["headline"]["n_explained"] == 5


def test_an_explanation_never_sees_the_test_problems(run, tmp_path):
    """Other codes on the test problems leave every text as it is."""
    root, cfg, _ = run
    problems = arithmetic.problems(1500, seed=3, p=11)
    strengths = planted(problems, np.random.default_rng(0))
    test = np.array(problems["split"].to_pylist()) == "test"
    strengths[test] = strengths[test][::-1]
    store = thought_store(
        tmp_path / "acts", strengths, labels_of(problems), problems["split"].to_pylist(),
        problems["question"].to_pylist(),
    )  # fmt: skip
    explain(cfg.model_copy(update={"acts": store}), tmp_path / "explain")
    first, second = rows_of(root), rows_of(tmp_path)
    assert {i: row["text"] for i, row in first.items()} == {i: row["text"] for i, row in second.items()}
    assert second[OP]["auprc"] < 0.5


def test_tokens_of_a_text_are_said_too(tmp_path, tiny_lm_dir):
    rng, documents = np.random.default_rng(1), [d + 100 for d in texts(200, 20, 5)]
    strengths = []
    for document in documents:
        own = np.zeros((len(document), D), np.float32)
        own[document == 103, 0] = 1.0
        own[:-1][document[1:] == 104, 1] = 1.0
        own[:, 2] = rng.random(len(document)) < 0.1
        strengths.append(own)
    text_store(tmp_path / "acts", tiny_lm_dir, documents, strengths)
    planted_sae(tmp_path / "sae", hooks=[HOOKS[0]])
    cfg = ExplainConfig(acts=tmp_path / "acts", sae=tmp_path / "sae", methods=("roles",), n_resamples=50)
    found = explain(cfg, tmp_path / "explain")["headline"]
    rows = rows_of(tmp_path)
    assert [rows[i]["says"] for i in range(3)] == ["token", "next token", None]
    assert rows[0]["text"].startswith('the token is "') and rows[0]["thoughts"] is None
    assert rows[0]["auprc"] == rows[1]["auprc"] == 1.0
    assert found["explained_permuted"]["value"] == 0 and found["reused_codes"] == 0


def test_roles_that_a_table_brings_are_used(tmp_path):
    rng = np.random.default_rng(2)
    carry = rng.integers(0, 2, (300, 2))
    strengths = np.zeros((300, 4, 1, D), np.float32)
    strengths[carry[:, 0] == 1, 1, 0, 0] = strengths[carry[:, 1] == 1, 3, 0, 0] = 1.0
    strengths[..., 1] = rng.random((300, 4, 1)) < 0.1
    thought_store(
        tmp_path / "acts", strengths, {"carry@1": carry[:, 0].tolist(), "carry@3": carry[:, 1].tolist()}
    )
    planted_sae(tmp_path / "sae", hooks=[HOOKS[0]])
    cfg = ExplainConfig(acts=tmp_path / "acts", sae=tmp_path / "sae", methods=("roles",), n_resamples=50)
    explain(cfg, tmp_path / "explain")
    assert rows_of(tmp_path)[0]["text"] == "carry is 1 (thoughts 1, 3)"


def stated(holds, context):
    table = sp.csr_array(np.array(holds, np.float32))
    return Stated(table, sp.csc_array(table), np.array(context))


def test_clauses_and_their_average_precision_by_hand():
    # 40 vectors in two contexts of 20. Statement 0 holds on the first 10 of either. The latent fires on
    # these 10 in context 0, on 6 of the 10 in context 1, and on 4 others that nothing tells.
    holds = np.zeros((40, 2))
    holds[:10, 0] = holds[20:30, 0] = 1
    holds[:, 1] = 1
    fires = np.r_[0:10, 20:26, 30:34]
    known = stated(holds, np.repeat([0, 1], 20))
    (first, second) = clauses.Fitter.of(known, 2).fit(fires)
    assert (first.statement, first.contexts.tolist(), first.precision) == (0, [True, False], 1.0)
    assert (second.statement, second.contexts.tolist(), second.precision) == (0, [False, True], 0.6)
    # Levels: 10 of 10, 6 of 10, 4 of 20. Average precision: 10/20 * 1 + 6/20 * 16/20 + 4/20 * 20/40.
    assert clauses.average_precision(np.array([10, 6, 4]), np.array([10, 10, 20])) == pytest.approx(
        0.5 + 0.3 * 0.8 + 0.2 * 0.5
    )
    assert clauses.levels_of([first, second], known).tolist() == [0] * 10 + [2] * 10 + [1] * 10 + [2] * 10


def test_a_latent_that_hardly_fires_gets_no_clause():
    known = stated(np.eye(20), np.zeros(20, int))
    assert clauses.Fitter.of(known, 1).fit(np.array([1, 2, 3])) == []


def test_thoughts_are_listed_as_people_say_them():
    assert listed([1, 3, 5]) == "thoughts 1, 3, 5"
    assert listed([2]) == "thought 2"
    assert listed([0]) == "begin-of-thought"
    assert listed([0, 1]) == "begin-of-thought and thought 1"
    assert listed([1, 2, 3, 4]) == "thoughts 1 to 4"


def test_settings_from_before_there_were_roles_are_read():
    table = {"acts": "a", "sae": "s", "methods": ["token", "rules"]}
    assert load_config(ExplainConfig, table).methods == ("token", "rules")
    assert ExplainConfig(acts="a", sae="s").methods[0] == "roles"  # type: ignore[arg-type]
    assert Context(HOOKS[0], 1, "").condition == ""
