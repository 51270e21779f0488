"""What earlier versions wrote is read in today's words."""

from __future__ import annotations

import pytest

from thoughtlens.core import translate_config, translate_result


@pytest.mark.parametrize(("stage", "rows"), [("classify", "chosen"), ("convert", "members")])
def test_the_only_sae_had_an_empty_name(stage, rows):
    old = {"stage": stage, rows: [{"member": "", "index": 3}, {"member": "layers.0-out"}]}
    assert translate_result(old)[rows] == [{"member": "pooled", "index": 3}, {"member": "layers.0-out"}]
    assert translate_result({"stage": stage}) == {"stage": stage}


FLAT = {
    "files": [],
    "seed_protocol": False,
    "validation": 0.1,
    "classes": [],
    "n_steps": [2, 3],
    "kind": "problems",
}


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("generated", {"n_steps"}),
        ("gsm8k", {"files", "seed_protocol", "validation"}),
        ("my.parquet", set()),
    ],
)
def test_problems_had_the_settings_of_every_source(source, kept):
    translated = translate_config({"problems": FLAT | {"source": source}})["problems"]
    assert set(translated) == {"kind", "source", "classes"} | kept
    assert translate_config({"problems": translated}) == {"problems": translated}
