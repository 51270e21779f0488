"""A model of one's own through the stages that change and test its thoughts."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from tests.models.thought import own_model
from thoughtlens.core import validate_config
from thoughtlens.evals.validity.config import GatesConfig
from thoughtlens.evals.validity.stage import gates
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.stage import intervene
from thoughtlens.models.thought import foreign
from thoughtlens.problems import GeneratedConfig, source

SMALL = {"n": 4, "split": "any", "max_new_tokens": 2, "batch_size": 8}


@pytest.fixture
def named(tmp_path, monkeypatch):
    monkeypatch.chdir(own_model.write(tmp_path))
    monkeypatch.setattr(foreign, "_named", {"depth.py:load"})
    made = source.find(GeneratedConfig(source="arithmetic", n=40))
    pq.write_table(made.table, tmp_path / "problems.parquet")
    return tmp_path


@pytest.mark.slow
def test_gates_test_it(named):
    done = gates(
        validate_config(GatesConfig, {"model": "depth.py:load", "problems": "problems.parquet", **SMALL}),
        named / "gates",
    )
    assert done["accuracy"]["thoughts"]["n"] == 4 and done["gates"]["G1"]["pass"] is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ablate", "exit"])
def test_its_thoughts_are_changed(named, kind):
    settings = {"model": {"name": "depth.py:load", "dtype": "float32"}, "edit": {"kind": kind}, **SMALL}
    settings |= {"problems": {"source": "problems.parquet"}, "controls": False}
    done = intervene(validate_config(InterveneConfig, settings), named / "edits")
    assert {row["thought_idx"] for row in done["effects"]} >= {1, 2, 3}
