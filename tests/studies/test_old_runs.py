"""A run that an earlier version began, and that was killed while it trained, is continued by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from thoughtlens import sae
from thoughtlens.core import Config, read_recipe
from thoughtlens.studies import pipeline

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).parents[1] / "fixtures" / "killed_run_schema_1"


def test_a_killed_training_ends_with_the_weights_it_would_have_had(tmp_path, monkeypatch):
    shutil.copytree(FIXTURE / "killed", tmp_path / "killed")
    (tmp_path / "killed" / "sae.unfinished").rename(tmp_path / "killed" / "sae.tmp")
    monkeypatch.chdir(tmp_path)
    recipe: Config = pipeline.load(read_recipe("killed"))
    result = pipeline.run(recipe, "killed")
    assert result["stages"]["extract"]["seconds"] > 0
    for name, whole in load_file(FIXTURE / "whole.safetensors").items():
        torch.testing.assert_close(sae.load("killed/sae").state_dict()[name], whole, rtol=1e-4, atol=1e-5)
