"""Recipes that cannot work are refused before anything is extracted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from thoughtlens.core import BY_NAME, ConfigError
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


@pytest.mark.parametrize("do", [pipeline.run, pipeline.plan])
def test_a_crosscoder_is_not_classified_with(do, tmp_path):
    recipe = pipeline.load("pilot", ["sae=crosscoder"])
    with pytest.raises(ConfigError, match=r'leave it out: stages=\["extract", "train", "validate", "interp'):
        do(recipe, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


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
