"""What stages cost, kept in a run."""

from __future__ import annotations

import pytest

from thoughtlens.core import ASKED, Cost, metered, read_json, taken_costs
from thoughtlens.core.machine.profile import FILE, keep


@pytest.mark.parametrize("held", ["{", "[]", "{}", '{"costs": 3}', '{"costs": [{"a": 1}]}'])
def test_a_damaged_profile_is_made_anew_and_ends_no_run(tmp_path, monkeypatch, held):
    monkeypatch.setenv(ASKED, "1")
    taken_costs()
    (tmp_path / FILE).write_text(held, "utf-8")
    with metered(stage="train"):
        pass
    assert any("train" in line for line in keep(tmp_path))
    kept = [Cost.from_json(one) for one in read_json(tmp_path / FILE)["costs"]]
    assert [one.stage for one in kept] == ["train", "whole command"]
