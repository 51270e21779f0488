"""The demos are as large as they were: what makes them faster does not make them smaller."""

from __future__ import annotations

from pathlib import Path

import pytest

from thoughtlens.core import Json
from thoughtlens.studies import pipeline

COMMON = {
    "train": {"batch_size": 2048, "evaluations": 20, "eval_rows": 2048},
    "validate": {"baseline_rows": 100_000, "answer_problems": 200},
    "interpret": {"top_k": 20, "n_permutations": 200, "text_permutations": 30, "coactive": 10},
    "classify": {"folds": 5, "inner_folds": 3, "n_permutations": 200, "max_iter": 200},
    "lens": {"n_problems": 2000, "max_rows": 20_000, "n_fit": 4000, "fit_steps": 600, "n_permutations": 200},
    "explain": {"fit_vectors": 100_000, "validation_vectors": 30_000, "test_vectors": 60_000,
                "n_resamples": 400},
    "explorer": {"n_problems": 200, "neighbours": 8},
    "report": {"top_latents": 12},
}  # fmt: skip
OWN = {
    "pilot": {
        "train": {"members": ("pooled", "per_layer", "per_thought"), "epochs": 5.0},
        "validate": {"ce_tokens": 4096},
        "classify": {"max_units": 1200},
        "recovery": {"per_value": 100, "most_made": 25_000, "max_rows": 20_000, "n_permutations": 200,
                     "n_resamples": 500},
        "explain": {"n_latents": 1},
        "effects": {"n": 100, "scope": ("cell", "all")},
        "trace": {"n": 200, "n_control": 60, "n_fit": 800},
    },
    "text-demo": {
        "extract": {"max_tokens": 202_000, "context_length": 256},
        "train": {"members": ("pooled",), "epochs": 2.5},
        "validate": {"ce_tokens": 2048},
        "classify": {"max_units": 1000},
        "explain": {"n_latents": 32},
    },
}  # fmt: skip
"""A larger number is no fault; a smaller one makes other results."""


def found(cfg: pipeline.Recipe, stage: str, wanted: Json) -> Json:
    table = pipeline.stage_config(cfg, stage, Path("run")).model_dump()
    return {key: table[key] for key in wanted}


@pytest.mark.parametrize("recipe", OWN)
def test_a_demo_does_as_much_as_before(recipe):
    cfg = pipeline.load(recipe)
    for part in (COMMON, OWN[recipe]):
        assert {stage: found(cfg, stage, wanted) for stage, wanted in part.items()} == part


def test_the_demos_read_as_much_as_before():
    pilot, text = pipeline.load("pilot"), pipeline.load("text-demo")
    assert pilot.problems.model_dump()["n"] == 30_000 and pilot.sae.model_dump()["expansion"] == 5.0
    assert text.sae.model_dump()["d_sae"] == 4608
    assert {"recovery", "lens", "explain", "effects", "trace", "explorer", "report"} <= set(pilot.stages)
    assert {"classify", "lens", "explain", "explorer", "report"} <= set(text.stages)
