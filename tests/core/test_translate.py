"""What earlier versions wrote is read in today's words."""

from __future__ import annotations

import pytest

from thoughtlens.core import translate_result


@pytest.mark.parametrize(("stage", "rows"), [("classify", "chosen"), ("convert", "members")])
def test_the_only_sae_had_an_empty_name(stage, rows):
    old = {"stage": stage, rows: [{"member": "", "index": 3}, {"member": "layers.0-out"}]}
    assert translate_result(old)[rows] == [{"member": "pooled", "index": 3}, {"member": "layers.0-out"}]
    assert translate_result({"stage": stage}) == {"stage": stage}
