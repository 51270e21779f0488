"""A sweep's settings in their order, and what the seeds allow to say."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thoughtlens.core import MismatchError, seal
from thoughtlens.studies.sweep.board import board


def sweep(root, tests: dict[str, list[float]]):
    """A finished sweep with these numbers of its seeds on test rows; validation rows say the same."""
    root.mkdir()
    labels = list(tests)
    rows = [(i, value) for i, label in enumerate(labels) for value in tests[label]]
    table = {
        "setting": [i for i, _ in rows],
        "fvu_validation": [v for _, v in rows],
        "fvu_test": [v for _, v in rows],
    }
    pq.write_table(pa.table(table), root / "table.parquet")
    settings = [
        {
            "idx": i,
            "label": label,
            "values": {},
            "n_seeds": len(tests[label]),
            "reasons": [] if tests[label] else ["no"],
        }
        for i, label in enumerate(labels)
    ]
    said = {
        "setting": labels[0], "idx": 0, "path": None, "rule": "best", "reason": "", "front": [],
        "within_seed_noise": [], "seed_noise_sd_ln_fvu": None, "seed_noise_df": 0, "by": "fvu",
    }  # fmt: skip
    result = {
        "stage": "sweep", "split": "test", "chosen_on": "validation", "reported_on": "test", "n": 10,
        "seeds": [0], "metric": "fvu", "settings": settings, "recommendation": said,
    }  # fmt: skip
    (root / "result.json").write_text(json.dumps(result))
    seal(root)
    return root


def test_settings_are_ranked_and_told_apart_by_their_seeds(tmp_path):
    found = board(
        sweep(tmp_path / "sweep", {"b": [0.40, 0.41], "a": [0.20, 0.21], "c": [0.21, 0.20], "d": []})
    )
    assert [(one.label, one.verdict) for one in found.places] == [
        ("a", ""),
        ("c", "inconclusive"),
        ("b", "worse"),
    ]
    assert found.places[2].ratio == pytest.approx((0.4 * 0.41 / (0.2 * 0.21)) ** 0.5)
    assert found.not_trained == ["d: no"] and "b, recommended" not in found.text()


def test_with_one_seed_nothing_is_told_apart(tmp_path):
    found = board(sweep(tmp_path / "sweep", {"a": [0.2], "b": [0.9]}))
    assert [one.verdict for one in found.places] == ["", "not known"] and "one seed" in found.text()
    assert board(tmp_path) == found


def test_another_stage_has_no_board(tmp_path):
    (tmp_path / "result.json").write_text('{"stage": "grid"}')
    with pytest.raises(MismatchError, match="Expected a sweep"):
        board(tmp_path)
