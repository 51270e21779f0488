"""The stage of a run that makes several kinds of edits, on codi-tiny, whose thoughts are known."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ConfigError, DataError, read_result, validate_config
from thoughtlens.interventions.intervene.config import EffectsConfig
from thoughtlens.interventions.intervene.stage import effects, plan
from thoughtlens.show.pages.interventions import outcomes_of
from thoughtlens.show.pages.run import Run
from thoughtlens.studies import pipeline

EDITS = ("ablate resample", "swap v1", "patch op2", "swap carry")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("effects") / "run"
    table = {"model": {"name": "codi-tiny"}, "problems": {"kind": "problems", "n": 200}}
    extract(validate_config(ExtractConfig, table | {"hook_names": ["layers.1:out"]}), root / "acts")
    settings = EffectsConfig(acts=root / "acts", edits=EDITS, n=12, scope=("cell",))
    effects(settings, root / "intervene" / "effects")
    return root


def test_each_thought_carries_what_it_is_known_to_hold(run):
    rows = read_result(run / "intervene" / "effects")["effects"]
    at = {(row["edit"], row["thought_idx"]): row for row in rows}
    assert {row["site"] for row in rows} == {"resid"} and {row["layer"] for row in rows} == {1}
    assert at["swap_different_v1", 2]["predicted"] >= 0.9 and at["swap_same_v1", 2]["clean"] >= 0.9
    assert at["patch_op2", 4]["corrupted"] >= 0.9 and at["patch_op2", 2]["corrupted"] == 0
    assert [row["row"] for row in rows] == list(range(len(rows)))


def test_answers_are_those_of_the_rows_and_of_the_stores_own_problems(run):
    folder = run / "intervene" / "effects"
    answers, rows = pq.read_table(folder / "answers.parquet"), read_result(folder)["effects"]
    assert answers["row"].to_numpy().max() == len(rows) - 1
    pairs = list(zip(answers["row"].to_pylist(), answers["class"].to_pylist(), strict=True))
    assert [pairs.count((i, "clean")) for i in range(len(rows))] == [
        round(row["clean"] * row["n"]) for row in rows
    ]
    own = set(pq.read_table(run / "acts" / "problems.parquet")["problem_id"].to_pylist())
    ablated = answers.filter(pc.equal(answers["row"], 0))
    assert set(ablated["problem_id"].to_pylist()) <= own


def test_an_edit_that_the_problems_do_not_allow_is_left_out_and_said(run):
    result = read_result(run / "intervene" / "effects")
    assert result["warnings"][0].startswith("swap carry is left out: swap: the problems have no column")
    with pytest.raises(DataError, match="None of the edits can be made"):
        effects(EffectsConfig(acts=run / "acts", edits=("swap carry",), n=12), run / "none")
    for wrong in ("ablate", "steer up", "ablate twice", "patch op9"):
        with pytest.raises(ConfigError):
            validate_config(EffectsConfig, {"acts": run / "acts", "edits": [wrong]})


def test_pages_show_each_kind_of_edit_apart(run):
    found = outcomes_of(Run.open(run))
    assert list(found) == ["effects_ablate", "effects_swap", "effects_patch"]
    assert {row.edit for row in found["effects_patch"].effects} == {"patch_op2"}
    assert plan(EffectsConfig(acts=run / "acts", edits=EDITS, n=12)).rows == 12 * 7 * 6


def test_a_recipe_has_it_by_name_and_may_still_be_changed_when_it_is_done(run, tmp_path):
    table = {"model": {"name": "codi-tiny"}, "problems": {"n": 300}, "effects": {"edits": list(EDITS)}}
    recipe = pipeline.load({**table, "stages": ["extract", "effects"]})
    out = tmp_path / "run"
    pipeline._claim(recipe, out)
    for folder in ("acts", "intervene/effects"):
        (out / folder).mkdir(parents=True)
    pipeline._claim(pipeline.load({**table, "stages": ["extract", "effects", "report"]}), out)
    with pytest.raises(pipeline.OccupiedError, match="edits"):
        pipeline._claim(pipeline.load({**table, "effects": {"edits": ["swap v1"]}}), out)
