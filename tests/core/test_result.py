"""Results as notebooks show them: still dicts, every number with its n, split and interval."""

from __future__ import annotations

import json

import pytest

from thoughtlens.core import Result, headline, number, read_result, write_json

TABLE = {
    "stage": "classify",
    "headline": {
        "accuracy_sae": {"value": 0.73333, "low": 0.6806, "high": 0.78019, "n": 1300, "split": "test"},
        "n_latents": 3840,
        "page": {"page": "index.html"},
        "verdict": {"value": "worse", "n": 300},
        "<b>": {"value": float("nan"), "n": 2, "split": "<i>&'"},
    },
    "definitions": {"accuracy_sae": "right / all, 'out of fold'"},
    "warnings": ["look <here>"],
    "seconds": 1.5,
}


def test_a_headline_line_by_line():
    lines = headline(TABLE)
    assert [line.name for line in lines] == ["accuracy_sae", "n_latents", "verdict", "<b>"]
    first = lines[0]
    assert (first.value, first.interval) == ("0.7333", "0.6806 to 0.7802")
    assert (first.n, first.split) == ("1,300", "test")
    assert (lines[1].value, lines[1].n, lines[1].interval) == ("3,840", "", "")
    assert (lines[2].value, lines[3].value) == ("worse", "not a number")
    assert headline({}) == headline({"headline": None}) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "True"),
        (12345, "12,345"),
        (0.00012345, "0.0001234"),
        (1e9, "1,000,000,000"),
        (1e-9, "1.000e-09"),
    ],
)
def test_numbers_for_people(value, text):
    assert number(value) == text


def test_html_escapes_what_it_shows():
    html = Result(TABLE)._repr_html_()
    for shown in ("accuracy_sae", "0.7333", "0.6806 to 0.7802", "1,300", "test", "1 warnings"):
        assert shown in html
    assert "<b><" not in html and "<i>" not in html and "<here>" not in html
    assert "&lt;b&gt;" in html and "right / all, &#x27;out of fold&#x27;" in html


def test_html_of_a_run_has_a_table_a_stage():
    stages = {"validate": {"headline": {"fvu": {"value": 0.25, "n": 7, "split": "test"}}}, "report": {}}
    html = Result(name="pilot", stages=stages)._repr_html_()
    assert html.count("<table>") == 1 and "<caption>validate</caption>" in html and "0.25" in html


def test_a_result_is_the_dict_on_disk(tmp_path):
    write_json(tmp_path / "result.json", Result(stage="x", n=1))
    result = read_result(tmp_path)
    assert isinstance(result, Result) and result == {"stage": "x", "n": 1}
    assert json.loads(json.dumps(result)) == result


def test_numbers_of_the_headline_are_attributes():
    result = Result(
        {"stage": "train", "headline": {"fvu": {"value": 0.25, "low": 0.2, "n": 7, "split": "test"}}}
    )
    assert (result.fvu.value, result.fvu.low, result.fvu.high, result.fvu.n) == (0.25, 0.2, None, 7)
    assert "fvu" in dir(result)
    with pytest.raises(AttributeError, match="train has no number 'fuv'; it has fvu"):
        _ = result.fuv
