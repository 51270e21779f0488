"""Recipes that cannot work are refused before anything is extracted."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from thoughtlens.core import (
    BY_NAME,
    OF_RUNS,
    ConfigError,
    NotThereError,
    ResourceError,
    ThoughtlensError,
    recipe_names,
)
from thoughtlens.problems import GeneratedConfig, source
from thoughtlens.studies import pipeline


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sae.k=65", "sae.d_sae=64"], "1 to d_sae = 64 latents per row, got 65"),
        (["sae=jumprelu", "sae.target_l0=65", "sae.d_sae=64"], "at most d_sae = 64 latents per row, got 65"),
        (["sae=supervised"], "at least one label column"),
        (["sae=supervised", 'sae.label_columns=["operation", "operation"]'], "each column once"),
        (["sae=transcoder", "sae.hook_in=layers.0:out"], "sae.hook_out, got layers.0:out and None"),
        (["sae=transcoder", "sae.hook_in=a:out", "sae.hook_out=a:out"], "are both 'a:out'"),
        (["sae=relu", "sae.l1=-1"], "sae.l1: .*greater than or equal to 0"),
    ],
)
def test_before_a_model_is_loaded(overrides, message):
    with pytest.raises(ConfigError, match=message):
        pipeline.load("pilot", overrides)


SIDES = {"crosscoder": [], "transcoder": ["sae.hook_in=layers.0:out", "sae.hook_out=layers.1:out"]}


@pytest.mark.parametrize("do", [pipeline.run, pipeline.plan])
def test_stages_that_cannot_take_a_kind_are_refused_at_the_start(do, tmp_path):
    for kind, unfit in (("crosscoder", "classify and recovery"), ("transcoder", "recovery")):
        recipe = pipeline.load("pilot", [f"sae.kind={kind}", *SIDES[kind]])
        with pytest.raises(ConfigError, match=rf'{unfit} cannot be .*stages=.\["extract", "train", "valid'):
            do(recipe, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("target", "fails"), [("operation", False), ("colour", True)])
def test_a_label_that_the_problems_do_not_have_is_known_before_anything_is_trained(
    tmp_path, capsys, target, fails
):
    table = source.find(GeneratedConfig(source="arithmetic", n=20)).table.drop_columns(["operation"])
    pq.write_table(table, tmp_path / "mine.parquet")
    words = [
        f"problems={tmp_path / 'mine.parquet'}",
        f"classify.target={target}",
        "stages=[extract,classify]",
    ]
    recipe = pipeline.load("pilot", words)
    if fails:
        with pytest.raises(ConfigError, match="have no 'colour', but n_steps"):
            pipeline.run(recipe, tmp_path / "run")
    else:
        assert list(pipeline.run(recipe, tmp_path / "run")["stages"]) == ["extract"]
        assert "classify is left out" in capsys.readouterr().err


def test_members_that_are_not_trained_are_refused_at_the_start(tmp_path):
    recipe = pipeline.load("pilot", ["train.members=pooled"])
    with pytest.raises(ConfigError, match=r"per_layer is asked for, .*trains pooled alone.*members=pooled"):
        pipeline.plan(recipe, tmp_path / "run")
    for sound in ("classify.members=pooled", "extract.hook_names=layers.1:out"):
        pipeline.plan(pipeline.load("pilot", ["train.members=pooled", sound]), tmp_path / "run")


def test_a_recipe_is_checked_without_torch():
    code = """
import sys
from thoughtlens.core import BY_NAME, ConfigError
from thoughtlens.studies import pipeline
for wrong in ("sae.kk=3", "sae.k=5000"):
    try:
        pipeline.load("pilot", ["sae.d_sae=64", wrong])
    except ConfigError:
        pass
pipeline.load("pilot")
print(*{"torch", "numpy", "pyarrow", "transformers"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_stage_s_options_keep_its_checks_and_lose_what_the_run_decides():
    options = BY_NAME["train"].options
    assert not {"acts", "sae", "seed"} & set(options.model_fields) and "lr" in options.model_fields
    with pytest.raises(ConfigError, match="warmup \\+ decay"):
        pipeline.load("pilot", ["train.warmup=0.8", "train.decay=0.8"])
    with pytest.raises(ConfigError, match=r"train\.seed"):
        pipeline.load("pilot", ["train.seed=3"])


RECIPES = [name for name in recipe_names() if not name.startswith("codi")]
STAGES_OF_A_RUN = [stage.name for stage in OF_RUNS if stage.name != "extract"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("stage", STAGES_OF_A_RUN)
def test_any_stage_starts_from_any_recipe(stage, recipe, tmp_path):
    given = {key: tmp_path / "there" / key for key in ("acts", "sae") if key in BY_NAME[stage].inputs}
    missing = NotThereError if BY_NAME[stage].inputs[0] == "acts" else ThoughtlensError
    with pytest.raises(missing, match=re.escape(str(tmp_path))):
        pipeline.run_one(stage, recipe, [], tmp_path / "run", inputs=given)


@pytest.mark.parametrize("recipe", sorted(set(recipe_names()) - set(RECIPES)))
@pytest.mark.parametrize("stage", ["run", "train", "validate", "report"])
def test_what_is_no_recipe_of_a_run_names_its_command(stage, recipe, tmp_path):
    with pytest.raises(ConfigError, match=f"thoughtlens distill {recipe} --out runs/{recipe}$"):
        pipeline.load(recipe) if stage == "run" else pipeline.run_one(stage, recipe, [], tmp_path)


def test_a_stage_s_own_settings_are_no_recipe_of_a_run(tmp_path):
    file = tmp_path / "my train.toml"
    file.write_text("acts = 'acts'\nbatch_size = 64\n")
    with pytest.raises(ConfigError, match=r"thoughtlens train '.*my train\.toml' --out runs/train$"):
        pipeline.load(file)


@pytest.mark.parametrize("text", ["", "name = 'mine'", "[sae]\nk = 8\n"])
def test_a_recipe_that_names_no_model_is_not_extracted(text, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    for do in (
        lambda: pipeline.run(pipeline.load(file), tmp_path / "run"),
        lambda: pipeline.plan(pipeline.load(file), tmp_path / "run"),
        lambda: pipeline.run_one("extract", file, [], tmp_path / "run"),
    ):
        with pytest.raises(ConfigError, match=r"thoughtlens recipe text-demo > recipe\.toml"):
            do()
    assert not (tmp_path / "run").exists()
    assert pipeline.load(file, ["model=gpt2"]).model.name == "gpt2"


def test_the_commands_that_messages_show_take_the_run_itself(tmp_path):
    run = tmp_path / "my run"
    (run / "acts").mkdir(parents=True)
    (run / "acts" / "result.json").write_text("{}")
    assert BY_NAME["interpret"].command(run) == f"thoughtlens interpret '{run}' --out '{run}'"
    assert BY_NAME["lens"].command("runs/a") == "thoughtlens lens runs/a"
    assert pipeline.load(run) == pipeline.load({})


def test_later_stages_are_planned_from_the_recipe(tmp_path):
    plans = pipeline.plan(pipeline.load("pilot", ["problems.n=2000"]), tmp_path / "run")["plan"]
    assert plans["extract"]["rows"] == 2000 * 7
    # pooled, per layer and per thought: each vector three times, in 5 passes, of the 80 % in split train
    assert plans["train"]["rows"] == pytest.approx(3 * 0.8 * 2000 * 7 * 2 * 5, rel=0.01)
    # two layers, of which a tenth of the problems is the test split
    assert plans["validate"]["rows"] == pytest.approx(3 * 0.1 * 2000 * 7 * 2, rel=0.01)
    assert plans["interpret"]["rows"] == pytest.approx(3 * 2000 * 7 * 2, rel=0.01)
    assert plans["classify"]["rows"] == 1200
    for name in ("train", "validate", "interpret", "classify", "lens", "explain"):
        assert min(plans[name][key] for key in ("rows", "memory_bytes", "disk_bytes", "seconds")) > 0, name
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "read"), [("5,6,7", ("5", "6", "7")), ("[5,x]", ("5", "x")), ("5", ("5",))]
)
def test_numbers_are_names_where_names_are_wanted(given, read):
    assert pipeline.load("pilot", [f"classify.classes={given}"]).classify.classes == read
    assert pipeline.load("pilot", ["name=5"]).name == "5"


@pytest.mark.parametrize("begun", [False, True])
def test_a_recipe_that_found_no_room_is_written_by_the_same_command_later(tmp_path, monkeypatch, begun):
    if begun:
        pipeline._claim(pipeline.load("pilot", ["seed=1"]), tmp_path)

    def full(path, text, *_):
        path.write_bytes(text[:100].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as only, pytest.raises(ResourceError, match=r"disk is full .*config\.toml"):
        only.setattr(Path, "write_text", full)
        pipeline._claim(pipeline.load("pilot"), tmp_path)
    pipeline._claim(pipeline.load("pilot"), tmp_path)
    assert pipeline.load(tmp_path) == pipeline.load("pilot")
