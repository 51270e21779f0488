"""Runs side by side: what differs, what is paired, and what is never said."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.show.runs.made import run_of, stage
from thoughtlens.core import ConfigError, NotThereError, seal
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


def left_of(run, errors, members=("a", "b")):
    """What SAEs leave of problems whose rows vary by 10 each."""
    n = len(errors)
    rows = {
        "member": [m for m in members for _ in range(n)],
        "problem_id": [f"p{i}" for i in range(n)] * len(members),
    }
    n *= len(members)
    rows |= {"n": [7] * n, "error": [float(e) for e in errors] * len(members), "spread": [10.0] * n}
    pq.write_table(pa.table(rows), run / "validate" / "problems.parquet")
    seal(run / "validate")
    return run


def test_what_saes_leave_of_the_same_problems_is_paired(tmp_path):
    # Problems differ far more (1 or 3 of 10) than the two runs do (0.2 to 0.4 of 10, 0.03 on average).
    errors = np.tile([1.0, 3.0], 20)
    less = np.repeat([0.2, 0.4], 20)
    a = left_of(run_of(tmp_path / "a", [True] * 40, fvu=0.2), errors)
    b = left_of(run_of(tmp_path / "b", [True] * 40, fvu=0.17), errors - less)
    gap = row(compare_runs([a, b]), "validate", "fvu").runs[1].against
    # Student's t over 40 problems: 2.0227 * sd(0.02, 0.04) / sqrt(40) = 2.0227 * 0.010127 / 6.3246.
    assert gap.paired and gap.n == 40 and gap.verdict == "better"
    assert (gap.difference, gap.high - gap.difference) == pytest.approx((-0.03, 0.003239), abs=1e-6)


def test_saes_of_other_places_are_not_paired(tmp_path):
    a = left_of(run_of(tmp_path / "a", [True] * 40, fvu=0.2), [2.0] * 40)
    b = left_of(run_of(tmp_path / "b", [True] * 40, fvu=0.17), [1.7] * 40, ("a", "c"))
    gap = row(compare_runs([a, b]), "validate", "fvu").runs[1].against
    assert not gap.paired and gap.why_not_paired == "their SAEs are a b and a c"


def watched(run, scores):
    """Half of the problems' answers broken, with these scores, beside a threshold of 1."""
    ids = [f"p{i}" for i in range(len(scores))]
    detector = {
        "name": "contradicts",
        "about": "",
        "role": "score",
        "alarms": [{"rate": 0.05, "threshold": 1.0}],
    }
    truth = {"name": "broken", "about": "", "score": "contradicts", "says": "", "against": [], "errors": []}
    truth |= {"n_positive": 1, "n_clean": 1, "n_clean_thresholds": 1, "detectors": [detector]}
    recall = {
        "value": sum(one > 1 for one in scores) / len(scores),
        "low": 0.1,
        "high": 0.9,
        "n": len(scores),
    }
    told = {"split": "test", "model": "toy", "model_digest": None, "n": 1, "rule": None, "accuracy": None}
    told |= {"truths": [truth], "headline": {"broken_recall_at_0.05": recall}}
    place, n = stage(run, "monitor", "monitor", "", told), len(ids)
    rows = {"problem_id": ids * 2, "split": ["test"] * 2 * n, "error": ["none"] * n + ["swap"] * n}
    rows |= {"error_idx": pa.array([None] * n + [2] * n, pa.int32()), "answer": ["1"] * 2 * n}
    rows |= {"is_right": [True] * n + [False] * n, "contradicts": [9.0] * n + list(scores)}
    pq.write_table(pa.table(rows), place / "problems.parquet")
    seal(place)
    return run


def test_alarms_on_the_same_broken_answers_are_paired(tmp_path):
    # b has an alarm for the 20 of 40 that a has one for, and for 12 more.
    a = watched(run_of(tmp_path / "a", [True] * 40), [2.0] * 20 + [0.5] * 20)
    b = watched(run_of(tmp_path / "b", [True] * 40), [2.0] * 32 + [0.5] * 8)
    gap = row(compare_runs([a, b]), "monitor", "broken_recall_at_0.05").runs[1].against
    assert gap.paired and gap.n == 40 and gap.difference == pytest.approx(0.3)
    assert gap.verdict == "higher"


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
