"""The steps of a problem's trace, as its page shows them."""

from __future__ import annotations

from thoughtlens.core import write_rows
from thoughtlens.show.explorer.problems import _traced
from thoughtlens.show.pages.run import Run
from thoughtlens.tracing import StepRow

PLAIN = {
    "operation": "12*34",
    "read_idx": 2,
    "before": "",
    "follows": "408",
    "value": "408",
    "word": "40",
    "read_by": "linear probe",
    "thought_idx": 2,
    "probability": 0.9,
    "null": 0.1,
    "label": "verified",
    "route": "state",
    "reading_follows": True,
    "answer_follows": True,
    "next_follows": None,
    "patched": True,
    "patched_at_random": False,
    "right": None,
}


def test_a_problem_has_the_steps_of_its_own_trace_and_none_of_the_controls(tmp_path):
    (tmp_path / "trace").mkdir()
    rows = [
        StepRow(arm=arm, problem_id=who, step=1, **PLAIN) for arm in ("thoughts", "pause") for who in "ab"
    ]
    write_rows(tmp_path / "trace" / "steps.parquet", StepRow, rows)
    found = _traced(Run(tmp_path), ["a", "c"])
    assert set(found) == {"a"} and len(found["a"]) == 1
    assert found["a"][0].said == "12*34 → 408 (read as 40)" and found["a"][0].thought == 2
    assert not _traced(Run(tmp_path / "nowhere"), ["a"])
