"""Explanations by an endpoint: what it is asked, how its ratings are scored, replies that cannot be used."""

from __future__ import annotations

import json
import re
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.latents.explain.server import completion, serving
from tests.planted import D, planted_sae, thought_store
from thoughtlens.core import ConfigError, DataError, ResourceError
from thoughtlens.latents.explain.config import ExplainConfig, LLMConfig
from thoughtlens.latents.explain.endpoint import Endpoint
from thoughtlens.latents.explain.llm import draw, parse_ratings
from thoughtlens.latents.explain.stage import explain


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Latent 3 fires at thought 1 of problems with the word `times`."""
    root, rng = tmp_path_factory.mktemp("llm"), np.random.default_rng(0)
    label = rng.integers(0, 4, 300)
    strengths = np.zeros((300, 3, 1, D))
    strengths[label == 1, 1, 0, 3] = 1.0
    questions = [f"what is {i} {'times' if label[i] == 1 else 'plus'} 3 ?" for i in range(300)]
    store = thought_store(root / "acts", strengths, {}, questions=questions)
    planted_sae(root / "sae", hooks=["layers.0:out"])
    return root, store


def config(run, url, **options) -> ExplainConfig:
    root, store = run
    llm = LLMConfig(base_url=url, model="test", timeout_s=5, **options)
    return ExplainConfig(
        acts=store, sae=root / "sae", latents=(3,), methods=("token", "llm"), llm=llm, n_resamples=50
    )


def reads_well(body):
    """Explains by the word that all examples share, and rates the places that have it."""
    prompt = body["messages"][0]["content"]
    if "Rate how active" not in prompt:
        return completion("the word \n times" if "times" in prompt and "plus" not in prompt else "unclear")
    places = re.findall(r"^\d+\. (.*)$", prompt, re.MULTILINE)
    return completion(
        "Here you are: " + json.dumps([9 if " times " in p and "thought 1" in p else 1 for p in places])
    )


def test_explanation_is_scored_like_any_other(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(reads_well) as (url, requests):
        explain(config(run, url), tmp_path / "explain")
    rows = {r["method"]: r for r in pq.read_table(tmp_path / "explain" / "explanations.parquet").to_pylist()}
    row = rows["llm"]
    assert row["text"] == "the word times"
    assert (row["auprc"], row["precision"], row["recall"]) == (1.0, 1.0, 1.0)
    assert row["base_rate"] == pytest.approx(rows["token"]["base_rate"])  # ratings of a few stand for all
    assert row["n"] < rows["token"]["n"] and row["random_auprc"] < 0.7
    assert {request["path"] for request in requests} == {"/v1/chat/completions"}
    assert all(request["headers"]["Authorization"] == "Bearer secret" for request in requests)
    assert all(request["body"]["temperature"] == 0 for request in requests)
    written = "".join(
        f.read_text("utf-8", "replace") for f in (tmp_path / "explain").iterdir() if f.is_file()
    )
    assert "secret" not in written


def test_explainer_sees_no_held_out_problem(run, tmp_path):
    with serving(reads_well) as (url, requests):
        explain(config(run, url), tmp_path / "explain")
    shown = [set(re.findall(r"what is (\d+) ", r["body"]["messages"][0]["content"])) for r in requests]
    assert len(shown[0]) >= 5
    assert not any(shown[0] & other for other in shown[1:])


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (lambda _: (200, b"<html>"), DataError, "Expected a chat completion"),
        (lambda _: (200, b'{"choices": []}'), DataError, "Expected a chat completion"),
        (lambda _: (200, b"[" * 100_000), DataError, "Expected a chat completion"),
        (lambda _: (200, b"\xff\xfe"), DataError, "Expected a chat completion"),
        (lambda _: completion(None), DataError, "reply without text"),
        (lambda _: completion("  "), DataError, "reply without text"),
        (lambda _: (401, b"no key"), ConfigError, "answered 401 .* no key"),
        (lambda _: (500, b"oh"), ResourceError, "answered 500"),
        (lambda _: (200, b"x" * (4 * 2**20 + 2)), DataError, "sent more than"),
    ],
)  # fmt: skip
def test_bad_replies_are_one_line(answer, error, match):
    with serving(answer) as (url, requests), pytest.raises(error, match=match) as caught:
        Endpoint(LLMConfig(base_url=url, model="m", timeout_s=5, retries=1, pause_s=0)).ask("hello")
    assert "\n" not in str(caught.value)
    assert len(requests) == (1 if error is ConfigError else 2)  # refusals are not asked again


def test_time_out_is_one_line():
    hold = threading.Event()

    def late(_):
        hold.wait(5)
        return completion("too late")

    with serving(late) as (url, _):
        with pytest.raises(ResourceError, match=r"did not reply within 0\.2 s"):
            Endpoint(LLMConfig(base_url=url, model="m", timeout_s=0.2, retries=0)).ask("hello")
        hold.set()


def test_second_attempt_counts():
    replies = iter([(503, b"busy"), completion("fine")])
    with serving(lambda _: next(replies)) as (url, _):
        assert Endpoint(LLMConfig(base_url=url, model="m", retries=1, pause_s=0)).ask("hello") == "fine"


def test_addresses_that_cannot_be():
    with pytest.raises(ConfigError, match=r"llm\.base_url: expected an address"):
        Endpoint(LLMConfig(base_url="file:///etc/passwd", model="m"))
    with pytest.raises(ResourceError, match="cannot be reached"):
        Endpoint(LLMConfig(base_url="http://127.0.0.1:9/v1", model="m", retries=0)).ask("hello")


def test_ratings_that_are_none(run, tmp_path):
    def babbles(body):
        return completion("the word times" if "Rate" not in body["messages"][0]["content"] else "[1, 2]")

    with (
        serving(babbles) as (url, _),
        pytest.raises(DataError, match=r"JSON list of \d+ ratings .* '\[1, 2\]'"),
    ):
        explain(config(run, url, retries=0), tmp_path / "explain")


def test_parse_ratings():
    assert parse_ratings("[1, 2.5, 10]", 3) == [1.0, 2.5, 10.0]
    assert parse_ratings("as [asked]: [0, 3]", 2) == [0.0, 3.0]
    for bad in ("", "1, 2", "[1]", "[1, 11]", "[-1, 2]", "[true, 1]", '["1", 2]', "[NaN, 1]", "[[1], 2]"):
        assert parse_ratings(bad, 2) is None


def test_drawn_vectors_stand_for_all():
    """100 vectors: 40 fire, the twin fires on 30 others, 30 neither. Nine drawn, three of each kind."""
    acts, twin = np.zeros(100), np.zeros(100)
    acts[:40], twin[30:70] = 1.0, 1.0
    rows, weight = draw(acts, twin, 9, np.random.default_rng(0))
    assert [int((rows < 40).sum()), int(((rows >= 40) & (rows < 70)).sum()), int((rows >= 70).sum())] == [
        3
    ] * 3
    np.testing.assert_allclose(sorted(set(weight)), [10.0, 40 / 3])
    assert weight.sum() == pytest.approx(100)
