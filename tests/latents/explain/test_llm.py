"""Explanations by an endpoint: what it is asked, how its ratings are scored, replies that cannot be used."""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import socket
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.latents.explain.server import completion, serving
from tests.planted import D, planted_sae, thought_store
from thoughtlens.core import ConfigError, DataError, ResourceError
from thoughtlens.latents.explain.config import ExplainConfig, LLMConfig
from thoughtlens.latents.explain.endpoint import Endpoint, without_thoughts
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

    with serving(babbles) as (url, requests):
        result = explain(config(run, url, retries=0), tmp_path / "explain")
    n_rating = sum("Rate" in r["body"]["messages"][0]["content"] for r in requests)
    assert any(f"replies to {n_rating} questions could not be read" in line for line in result["warnings"])
    rows = pq.read_table(tmp_path / "explain" / "explanations.parquet").to_pylist()
    assert rows and "llm" not in {row["method"] for row in rows}


def test_one_rating_that_is_none_costs_its_places_only(run, tmp_path):
    whole = {}

    def once(body):
        said = reads_well(body)
        prompt = body["messages"][0]["content"]
        if "Rate" in prompt and whole.setdefault("first", prompt) == prompt:
            return completion("I would rather not")
        return said

    with serving(once) as (url, _):
        result = explain(config(run, url, retries=1, parallel=1), tmp_path / "explain")
    row = next(
        r
        for r in pq.read_table(tmp_path / "explain" / "explanations.parquet").to_pylist()
        if r["method"] == "llm"
    )
    assert (row["auprc"], row["text"]) == (1.0, "the word times")
    assert any("replies to 1 questions could not be read" in line for line in result["warnings"])


def test_what_was_paid_for_is_not_asked_again(run, tmp_path):
    n = 0

    def breaks(body):
        nonlocal n
        n += 1
        return reads_well(body) if n <= 4 else (500, b"out of order")

    with serving(breaks) as (url, requests):
        with pytest.raises(ResourceError, match="answered 500"):
            explain(config(run, url, retries=0, parallel=1), tmp_path / "explain")
        n, paid = -1000, [json.dumps(r["body"]) for r in requests[:4]]
        del requests[:]
        explain(config(run, url, retries=0, parallel=1), tmp_path / "explain")
        assert not set(paid) & {json.dumps(r["body"]) for r in requests} and len(requests) > 3
    assert not list((tmp_path / "explain").rglob("*replies*"))


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<think>Okay, the user wants [1, 2].</think>\n the word times", "the word times"),
        ("<THINK>a</THINK><think>b</think>times", "times"),
        ("it was opened by the template</think> times", "times"),
        ("[THINK]hm[/THINK]times", "times"),
        ("fires where a < b and <b>bold</b> begins", "fires where a < b and <b>bold</b> begins"),
        ("<think>Okay, the user", ""),
    ],
)
def test_thoughts_of_a_reasoning_model_are_no_explanation(said, text):
    assert without_thoughts(said) == text


def test_a_reply_that_ended_in_thoughts_says_what_to_raise():
    with (
        serving(lambda _: completion("<think>Okay")) as (url, _),
        pytest.raises(DataError, match=r"raise llm\.max_tokens"),
    ):
        endpoint(url).ask("hello")


def test_newer_endpoints_get_their_spelling():
    def newer(body):
        if "max_tokens" in body:
            return 400, b"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        if "temperature" in body:
            return 400, b"Unsupported value: 'temperature' does not support 0 with this model."
        return completion("fine") if body["max_completion_tokens"] == 900 else (500, b"")

    with serving(newer) as (url, requests):
        one = endpoint(url, max_tokens=900)
        assert [one.ask("a"), one.ask("b")] == ["fine", "fine"]
    assert len(requests) == 4  # three to learn it, one that knows


def test_settings_that_are_unset_are_not_sent():
    with serving(lambda _: completion("fine")) as (url, requests):
        endpoint(url, max_tokens=None, temperature=None).ask("hello")
    assert requests[0]["body"].keys() == {"model", "messages"}


@pytest.mark.parametrize("value", ["0.3", lambda: email.utils.formatdate(time.time() + 2, usegmt=True)])
def test_it_waits_as_long_as_it_is_told(value):
    replies = iter([(429, b"slow down"), completion("fine")])
    start = time.monotonic()
    text = value if isinstance(value, str) else value()
    with serving(lambda _: next(replies), headers={"Retry-After": text}) as (url, _):
        assert endpoint(url, retries=1).ask("hello") == "fine"
    assert time.monotonic() - start >= 0.29


def test_who_asks_for_hours_is_left():
    with (
        serving(lambda _: (429, b"tomorrow"), headers={"Retry-After": "86400"}) as (url, requests),
        pytest.raises(ResourceError, match="answered 429"),
    ):
        endpoint(url, retries=5).ask("hello")
    assert len(requests) == 1


def test_a_key_stays_with_its_host(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda _: completion("stolen")) as (elsewhere, thefts):
        for status in (301, 302, 303, 307, 308):
            with (
                serving(lambda _, s=status: (s, b"moved"), headers={"Location": f"{elsewhere}/x"}) as (
                    url,
                    _,
                ),
                pytest.raises(ConfigError, match="leads elsewhere"),
            ):
                endpoint(url).ask("hello")
    assert thefts == []


def test_a_key_is_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with (
        serving(lambda _: (401, b"Incorrect key sk-secret")) as (url, _),
        pytest.raises(ConfigError, match="Incorrect key KEY"),
    ):
        endpoint(url).ask("hello")
    with pytest.raises(ConfigError, match="holds a name or a password"):
        endpoint("http://me:secret@127.0.0.1/v1")


@pytest.mark.parametrize("of_head", [True, False])
def test_a_server_that_drips_is_left_in_time(of_head):
    """One byte every 0.05 s: each arrives in time, the whole never does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            one, _ = server.accept()
            with one, contextlib.suppress(OSError):
                one.recv(65536)
                one.sendall(b"HTTP/1.1 200 OK\r\n" + (b"" if of_head else b"Content-Length: 9999\r\n\r\n"))
                for _ in range(200):
                    one.sendall(b"X")
                    time.sleep(0.05)

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        start = time.monotonic()
        with pytest.raises(ResourceError, match=r"did not reply within 0\.4 s"):
            endpoint(f"http://127.0.0.1:{server.getsockname()[1]}/v1", timeout_s=0.4).ask("hello")
        assert time.monotonic() - start < 5
        thread.join(2)


def test_questions_are_asked_side_by_side():
    both = threading.Barrier(2)

    def together(_):
        both.wait(10)
        return completion("fine")

    with serving(together) as (url, _):
        one = endpoint(url, parallel=2)
        assert one.each(one.ask, ["a", "b"]) == ["fine", "fine"]


def endpoint(url, **settings):
    return Endpoint(LLMConfig(base_url=url, model="m", **{"retries": 0, "pause_s": 0, **settings}))


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
