"""The stage on runs: its numbers against the definition, its tables, and what it refuses."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ThoughtlensError, read_rows, validate_config
from thoughtlens.models import attention as attention_of
from thoughtlens.models import load_model
from thoughtlens.tracing.attention.config import AttentionConfig
from thoughtlens.tracing.attention.records import AskedRow, AttentionOutcome, WeightsRow
from thoughtlens.tracing.attention.stage import attention, plan


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    out = tmp_path_factory.mktemp("attention") / "acts"
    table = {
        "model": {"name": "codi-words", "dtype": "float32"},
        "problems": {"source": "generated", "n": 120},
        "seed": 3,
    }
    extract(validate_config(ExtractConfig, table), out)
    return out


@pytest.fixture(scope="module")
def found(acts):
    out = acts.parent / "attention"
    result = attention(AttentionConfig(acts=acts, n=16, n_kept=3, batch_size=8), out)
    return out, AttentionOutcome.from_json(result)


def test_weights_of_a_problem_are_those_of_the_model(acts, found):
    out, outcome = found
    asked = read_rows(out / "questions.parquet", AskedRow)
    assert len(asked) == outcome.n_kept == 3 and outcome.n == 16
    table = pq.read_table(acts / "problems.parquet").to_pylist()
    question = next(row["question"] for row in table if row["problem_id"] == asked[1].problem_id)
    assert " ".join(asked[1].tokens) == question
    alone = attention_of(load_model("codi-words"), [question]).weights[0]
    rows = [
        row for row in read_rows(out / "weights.parquet", WeightsRow) if row.problem_id == asked[1].problem_id
    ]
    assert len(rows) == alone[..., 0].numel()
    for row in rows:
        assert len(row.weights) == len(asked[1].tokens) + row.query + 1
        whole = alone[row.query, row.layer, row.head, : len(row.weights)]
        assert row.weights == pytest.approx(whole.tolist(), abs=1e-5) and sum(row.weights) == pytest.approx(
            1, abs=1e-5
        )


def test_means_and_shares_follow_from_every_problem(acts, found):
    out, outcome = found
    table = {row["problem_id"]: row for row in pq.read_table(acts / "problems.parquet").to_pylist()}
    everything = AttentionConfig(acts=acts, n=16, n_kept=20)
    attention(everything, acts.parent / "all")
    rows = read_rows(acts.parent / "all" / "weights.parquet", WeightsRow)
    tokens = {
        row.problem_id: len(row.tokens)
        for row in read_rows(acts.parent / "all" / "questions.parquet", AskedRow)
    }
    assert set(tokens) <= set(table)
    means = {
        (m["query"], m["key"], m["layer"], m["head"]): m
        for m in pq.read_table(out / "means.parquet").to_pylist()
    }
    for query, key, layer, head in ((3, 1, 1, 2), (8, -1, 0, 0), (2, -max(tokens.values()), 1, 1)):
        own = [
            row.weights[key + tokens[row.problem_id]]
            for row in rows
            if (row.query, row.layer, row.head) == (query, layer, head) and key >= -tokens[row.problem_id]
        ]
        got = means[query, key, layer, head]
        assert got["mean"] == pytest.approx(np.mean(own), abs=1e-5) and got["n"] == len(own)
    cue = outcome.looks[-1]
    last = [row for row in rows if row.query == cue.query]
    on = [sum(row.weights[tokens[row.problem_id] + 1 : tokens[row.problem_id] + 7]) for row in last]
    assert cue.thoughts.value == pytest.approx(np.mean(on), abs=1e-5) and cue.thoughts.n == 16
    assert cue.thoughts.low < cue.thoughts.value < cue.thoughts.high
    blind = [6 / (n + 9) for n in tokens.values()]
    assert cue.uniform_on_thoughts == pytest.approx(np.mean(blind))
    for row in outcome.looks:
        assert sum(x.value for x in (row.question, row.begin, row.thoughts, row.rest)) == pytest.approx(1)
    assert outcome.headline["answer_on_thoughts"].value == cue.thoughts.value


def test_a_batch_more_or_less_changes_no_number(acts, found, tmp_path):
    _, outcome = found
    other = attention(AttentionConfig(acts=acts, n=16, n_kept=0, batch_size=20), tmp_path / "other")
    again = AttentionOutcome.from_json(other)
    for a, b in zip(outcome.looks, again.looks, strict=True):
        assert a.thoughts.value == pytest.approx(b.thoughts.value, abs=1e-6)
    assert [row.most for row in again.by_head] == [row.most for row in outcome.by_head]


def test_the_plan_knows_the_store(acts):
    assert plan(AttentionConfig(acts=acts)).rows > 0
    assert plan(AttentionConfig(acts=acts.parent / "nowhere")).rows == 0


def test_what_cannot_be_read_is_one_line(acts, tmp_path):
    with pytest.raises(ThoughtlensError, match="of split 'holiday'") as error:
        attention(AttentionConfig(acts=acts, split="holiday"), tmp_path / "attention")
    assert "\n" not in str(error.value)
