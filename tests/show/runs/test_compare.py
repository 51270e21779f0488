"""Runs side by side: what differs, what is paired, and what is never said."""

from __future__ import annotations

import numpy as np
import pytest

from tests.show.runs.made import run_of, stage
from thoughtlens.core import ConfigError, NotThereError
from thoughtlens.show import compare_runs, expand, write_page


def row(found, stage_name, name):
    return next(one for one in found.numbers if (one.stage, one.name) == (stage_name, name))


def test_the_same_problems_are_paired(tmp_path):
    # 100 problems; b is right where a is, and on 20 more.
    a = run_of(tmp_path / "a", [i < 60 for i in range(100)])
    b = run_of(tmp_path / "b", [i < 80 for i in range(100)], k=16)
    found = compare_runs([a, b])
    gap = row(found, "extract", "right_answers").runs[1].against
    assert gap.paired and gap.n == 100 and gap.verdict == "better"
    assert gap.difference == pytest.approx(0.2, abs=0.005)
    assert [(one.setting, one.values) for one in found.settings] == [("sae.k", ["8", "16"])]


def test_an_order_of_the_table_is_no_difference(tmp_path):
    right = [i % 3 == 0 for i in range(40)]
    a, b = run_of(tmp_path / "a", right), run_of(tmp_path / "b", right)
    gap = row(compare_runs([a, b]), "extract", "right_answers").runs[1].against
    assert gap.difference == 0 and gap.paired


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"first": 1000}, "no problem is the same"),
        ({"says": "other: "}, "the ids are the same and the problems are not"),
        ({"first": 30}, "only 10 of 40 problems are the same"),
    ],
)
def test_other_problems_are_not_paired_and_it_is_said(tmp_path, other, why):
    a = run_of(tmp_path / "a", [i % 2 == 0 for i in range(40)])
    b = run_of(tmp_path / "b", [i % 2 == 0 for i in range(40)], **other)
    found = compare_runs([a, b])
    gap = row(found, "extract", "right_answers").runs[1].against
    assert not gap.paired and gap.why_not_paired == why
    assert any(why in note for note in found.notes) and why in found.text()


def test_a_number_of_which_less_is_better(tmp_path):
    a = run_of(tmp_path / "a", [True] * 40, fvu=0.5)
    b = run_of(tmp_path / "b", [True] * 40, fvu=0.2)
    gap = row(compare_runs([a, b]), "validate", "fvu").runs[1].against
    # Newcombe: sqrt(0.02^2 + 0.02^2) = 0.0283 either way.
    assert (gap.low, gap.high) == pytest.approx((-0.3283, -0.2717), abs=1e-4)
    assert gap.verdict == "better" and not gap.paired


def test_states_of_another_model_are_not_worse(tmp_path):
    a, b = run_of(tmp_path / "a", [True, False] * 30), run_of(tmp_path / "b", [True, False] * 30, fvu=0.6)
    (b / "config.toml").write_text('[model]\nname = "another"\n')
    row = next(one for one in compare_runs([a, b]).numbers if one.name == "fvu")
    assert row.runs[1] is not None and row.runs[1].against is not None
    assert row.runs[1].against.verdict == "higher"


def test_numbers_without_an_interval_and_baselines_are_not_judged(tmp_path):
    runs = [run_of(tmp_path / name, [True] * 30, k=k) for name, k in (("a", 8), ("b", 16))]
    for run in runs:
        table = {"value": 0.3, "low": 0.2, "high": 0.4, "n": 50}
        stage(
            run,
            "recovery",
            "recovery",
            "",
            {"headline": {"x_random": table, "n_x": table, "flat": {**table, "low": 0.3, "high": 0.3}}},
        )
    found = compare_runs(runs)
    for key in (("validate", "l0"), ("recovery", "x_random"), ("recovery", "n_x"), ("recovery", "flat")):
        assert row(found, *key).runs[1].against is None
    assert found.n_compared == 2


@pytest.mark.slow
def test_of_alike_runs_a_side_is_seldom_named(tmp_path):
    """Six runs of the same accuracy, ten times."""
    named = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        runs = [run_of(tmp_path / f"{seed}-{i}", (rng.random(60) < 0.5).tolist(), fvu=0.2) for i in range(6)]
        cells = row(compare_runs(runs), "extract", "right_answers").runs[1:]
        named += any(one.against.verdict in ("better", "worse") for one in cells)
    assert named <= 2  # P(more) = 1.2 % at 5 %


def test_a_stage_that_one_run_lacks_is_a_difference_and_no_number(tmp_path):
    a, b = run_of(tmp_path / "a", [True] * 30), run_of(tmp_path / "b", [True] * 30)
    stage(
        b,
        "explain",
        "explain",
        "n_latents = 5\n",
        {"headline": {"auprc": {"value": 0.5, "low": 0.4, "high": 0.6}}},
    )
    found = compare_runs([a, b])
    assert [one.setting for one in found.settings] == ["stages"]
    assert row(found, "explain", "auprc").runs[0] is None
    assert row(found, "explain", "auprc").runs[1].against is None


def test_the_page_shows_foreign_text_as_text_and_links_reports(tmp_path):
    a = run_of(tmp_path / "a", [True] * 30)
    b = run_of(tmp_path / "<b>", [True] * 30, k=4)
    (b / "report").mkdir()
    (b / "report" / "report.html").touch()
    write_page(compare_runs([a, b]), tmp_path / "pages" / "c.html")
    page = (tmp_path / "pages" / "c.html").read_text()
    assert "<b>" not in page and 'href="../%3Cb%3E/report/report.html"' in page and "sae.k" in page
    with pytest.raises(ConfigError, match="name of a page"):
        write_page(compare_runs([a, b]), tmp_path)


def test_what_cannot_be_compared_is_said_in_a_line(tmp_path):
    a = run_of(tmp_path / "runs" / "a", [True] * 30)
    b = run_of(tmp_path / "runs" / "b", [True] * 30)
    run_of(a / "directions" / "means", [True] * 30)  # is of a, and no rival of it
    assert expand([tmp_path / "runs"]) == [a, b] == expand([a, b])
    with pytest.raises(ConfigError, match="two runs or more"):
        expand([a])
    with pytest.raises(ConfigError, match="named twice"):
        expand([a, tmp_path / "runs"])
    with pytest.raises(NotThereError, match="found none"):
        expand([a, tmp_path / "nothing"])
    sweep = stage(tmp_path, "sweep", "grid of k", "", {})
    with pytest.raises(
        NotThereError, match=r"a sweep, which is compared alone: thoughtlens compare '.*of k'"
    ):
        expand([a, sweep])
