"""A probe that is fitted under one condition and scored under another, on planted vectors."""

from __future__ import annotations

import numpy as np
import pytest

from tests.planted import D, planted_sae, thought_store
from thoughtlens.core import ConfigError, DataError, validate_config
from thoughtlens.evals.classify.conditions import Transfer
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.stage import classify
from thoughtlens.evals.probing.folds import make_folds
from thoughtlens.evals.probing.samples import Units

N = 640
FAST = {
    "folds": 3, "inner_folds": 2, "c_grid": (0.01, 1.0), "per_cell": False, "arms": ("sae", "raw", "text"),
    "poolings": ("concat",), "target": "secret", "delta": 0.06,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The label is written by latents 3 and 4; where `armed` is moved, by 5 and 6; where lost, by none."""
    root, rng = tmp_path_factory.mktemp("transfer"), np.random.default_rng(0)
    strengths = np.where(rng.random((N, 3, 2, D)) < 0.2, rng.random((N, 3, 2, D)), 0)
    y, where = rng.integers(0, 2, N), np.arange(N) % 4
    for i in range(N):
        if where[i] < 3:
            strengths[i, 2, 1, (3 if where[i] < 2 else 5) + y[i]] = 2.0
    labels = {
        "secret": ["a" if one else "b" for one in y],
        "armed": [["released", "armed", "moved", "lost"][i] for i in where],
        "n": [float(i) for i in where],
        "one": ["a" if w == 3 else ("a" if one else "b") for one, w in zip(y, where, strict=True)],
    }
    questions = [f"problem {i} of {rng.choice(['few', 'many'])}" for i in range(N)]
    thought_store(root / "acts", strengths, labels, splits=["test"] * N, questions=questions)
    planted_sae(root / "sae")
    return root


def between(root, tmp_path, test, **options):
    cfg = {"acts": root / "acts", "sae": root / "sae", "train_where": "armed=released", **FAST, **options}
    return classify(validate_config(ClassifyConfig, cfg | {"test_where": test}), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "word"), [("armed=armed", "whole"), ("armed=moved", "not at all"), ("n=3", "no information")]
)
def test_what_carries_over_is_what_was_planted(root, tmp_path, test, word):
    result = between(root, tmp_path, test)
    found = result["transfer"]
    assert (found["n_train"], found["n_test"], found["n_both"], result["n"]) == (160, 160, 0, 160)
    rows = {row["arm"]: row for row in found["rows"]}
    assert rows["raw"]["carries_over"] == rows["sae"]["carries_over"] == word
    assert rows["text"]["carries_over"] == "no information"
    raw = next(row for row in result["table"] if row["arm"] == "raw" and row["pooling"] == "selected")
    assert raw["accuracy"] == rows["raw"]["score"] and rows["raw"]["within_train"] > 0.95
    assert (rows["raw"]["score"] > 0.95) == (word == "whole")
    assert (rows["raw"]["within_test"] > 0.95) == (word != "no information")
    assert rows["raw"]["difference"] == pytest.approx(rows["raw"]["score"] - rows["raw"]["within_test"])


def test_groups_are_on_one_side_of_every_fit_and_every_scored_unit_is_predicted_once():
    rng = np.random.default_rng(0)
    groups, y = np.repeat(np.arange(30), 4), rng.integers(0, 2, 120)
    fitted, scored = np.arange(120) % 2 == 0, np.arange(120) % 3 == 0
    folds = make_folds(y, groups, n_splits=3, n_inner=2)
    units = Units([str(i) for i in range(120)], groups, y, ["a", "b"], [""] * 120)
    transfer, seen = Transfer(units, fitted, scored, folds, 0), []
    for fold in range(3):
        rows, part = transfer.rows(fold)
        test, train = rows[part.outer == 0], rows[part.outer == 1]
        assert scored[test].all() and fitted[train].all() and not set(groups[test]) & set(groups[train])
        own = part.inner[0, part.outer == 1]
        assert all(len(set(own[groups[train] == g])) == 1 for g in set(groups[train]))
        seen += test.tolist()
    assert sorted(seen) == np.flatnonzero(scored).tolist()


def test_what_cannot_be_carried_over_is_one_line(root, tmp_path):
    for test, says in (
        ("colour=red", "no column 'colour'; there are "),
        ("armed=never", "armed is never 'never'; there are armed, lost, moved, released"),
        (["armed=armed", "n=3"], "no problem has armed=armed and n=3"),
    ):
        with pytest.raises((ConfigError, DataError), match=says):
            between(root, tmp_path, test)
    with pytest.raises(DataError, match="test_where=armed=lost: all 160 units have the label 'a'"):
        between(root, tmp_path, "armed=lost", target="one")
    for options, says in (
        ({"test_where": ()}, "give both train_where and test_where"),
        ({"test_where": "armed"}, "expected COLUMN=VALUE"),
        ({"test_where": "n=3", "cross_fit": True}, "without data and cross_fit"),
    ):
        with pytest.raises(ConfigError, match=says):
            validate_config(
                ClassifyConfig, {"acts": "a", "sae": "s", "target": "secret", "train_where": "n=1"} | options
            )
