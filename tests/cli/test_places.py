"""What is made of a run stands in the run, unless another place is named."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import typer

from tests.show.explorer.runs import thought_run
from thoughtlens.cli.commands.app import app
from thoughtlens.core import read_result
from thoughtlens.show import explorer_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("places")
    with tarfile.open(Path(__file__).parents[1] / "fixtures" / "run_schema_1" / "runs.tar.xz") as packed:
        packed.extractall(root, filter="data")
    thought_run(root / "planted")
    (root / "planted" / "config.toml").write_text("seed = 3\n\n[explorer]\nn_problems = 7\n")
    return root


def follow(*words: str) -> None:
    app(list(words), standalone_mode=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["explorer", "planted"], "planted/explorer"),
        (["explorer", "planted", "--single"], "planted/explorer"),
        (["geometry", "--sae", "text/sae"], "text/geometry"),
        (["intervene", "thoughts", "edit=exit", "n=4", "thoughts=[1]"], "thoughts/intervene/exit"),
    ],
)
def test_what_a_stage_makes_of_a_run_stands_in_the_run(runs, monkeypatch, capsys, words, place):
    monkeypatch.chdir(runs)
    follow(*words)
    made = read_result(place)
    assert made["stage"] == words[0] and made.get("n_problems", 7) == 7
    assert json.loads(capsys.readouterr().out)["digest"] == made["digest"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["geometry", "--sae", "text/sae/pooled"], "text/sae/pooled is not the SAE of a run"),
        (["intervene", "codi-tiny"], "thoughtlens intervene codi-tiny --out runs/intervene"),
    ],
)
def test_where_there_is_no_run_a_place_is_asked_for(runs, monkeypatch, words, says):
    monkeypatch.chdir(runs)
    with pytest.raises(typer.BadParameter, match=says):
        follow(*words)


def test_pages_of_a_run_show_what_its_recipe_says(runs):
    assert (explorer_of(runs / "planted").n_problems, explorer_of(runs / "planted").seed) == (7, 3)
    assert (explorer_of(runs / "text").n_problems, explorer_of(runs / "text").run) == (200, runs / "text")
