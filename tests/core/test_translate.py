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


@pytest.mark.parametrize(
    ("key", "name", "place"),
    [
        (
            "largest_effect (ablate_mean resid[1, 3], of 12 edits)",
            "largest_effect",
            {"edit": "ablate_mean", "site": "resid", "layer": 1, "thought_idx": 3, "n_edits": 12},
        ),
        (
            "largest_effect (steer_latent_5 thought_in[3], dose -2, of 6 edits)",
            "largest_effect",
            {"edit": "steer_latent_5", "site": "thought_in", "thought_idx": 3, "dose": -2.0, "n_edits": 6},
        ),
        ("moved_both, thought 3: kv", "moved_both_3", {"thought_idx": 3, "carried_by": "kv"}),
        ("accuracy_untouched", "accuracy_untouched", {}),
    ],
)
def test_the_headline_of_an_intervention_told_its_place_in_the_key(key, name, place):
    old = {"stage": "intervene", "headline": {key: {"value": 0.5, "n": 60}}}
    assert translate_result(old)["headline"] == {name: {"value": 0.5, "n": 60} | place}
    assert translate_result(translate_result(old)) == translate_result(old)


def test_one_switch_for_eos_became_two():
    old = {"name": "x", "extract": {"remove_eos": False, "base": "gpt2"}}
    assert translate_config(old)["extract"] == {"eos_before": True, "eos_after": True, "base": "gpt2"}
    assert translate_config({"remove_eos": True}) == {"eos_before": False, "eos_after": False}
    own = {"remove_eos": True, "eos_after": True}
    assert translate_config(own) == {"eos_before": False, "eos_after": True}
    assert translate_config({"extract": {"base": "gpt2"}}) == {"extract": {"base": "gpt2"}}


def test_a_side_that_was_named_by_chance_is_undecided():
    row = {"difference": 0.2, "low": 0.02, "high": 0.4, "p": 0.01, "p_holm": 0.118, "verdict": "better"}
    sound = row | {"p_holm": 0.01, "low": 0.1}
    alone = row | {"p_holm": None}
    for stage in ("classify", "suite"):
        old = {"stage": stage, "comparisons": [row, sound, alone]}
        words = [one["verdict"] for one in translate_result(old)["comparisons"]]
        assert words == ["inconclusive", "better", "better"]
    line = {"low": 0.01, "high": 0.2, "p": 0.053, "verdict": "better"}
    assert translate_result({"stage": "replay", "ladder": [line]})["ladder"][0]["verdict"] == "inconclusive"
    largest = {"value": 0.2, "low": 0.02, "high": 0.4, "verdict": "better"}
    old = {"stage": "intervene", "effects": [row, sound], "headline": {"largest_effect": largest}}
    new = translate_result(old)
    assert new["headline"]["largest_effect"]["verdict"] == "inconclusive"
    assert [one["verdict"] for one in new["effects"]] == ["inconclusive", "better"]
    kept = old | {"headline": {"largest_effect": largest | {"low": 0.1}}}
    assert translate_result(kept)["headline"]["largest_effect"]["verdict"] == "better"
    assert translate_result(old | {"stage": "other"}) == old | {"stage": "other"}
