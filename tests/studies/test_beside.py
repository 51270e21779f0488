"""Stages that need not wait for one another are done side by side, and nothing else changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.core.protocol.small import PILOT
from thoughtlens.core import ASKED, BY_NAME, DataError, recipe_names
from thoughtlens.studies import pipeline
from thoughtlens.studies.beside import _Asked

STAGES = ["extract", "train", "validate", "interpret", "lens", "explain", "explorer"]
WORDS = [*PILOT, f"stages={json.dumps(STAGES)}"]
TABLES = ("*.parquet", "*.safetensors")


def test_a_stage_waits_for_those_that_make_what_it_reads():
    pilot = [BY_NAME[name] for name in pipeline.load("pilot").stages]
    waits = {stage.name: stage.waits_for(pilot) for stage in pilot}
    pages = {"explorer", "report"}
    assert waits["validate"] == waits["classify"] == {"extract", "train"}
    assert waits["explain"] == {"extract", "train", "interpret"} and waits["effects"] == {"extract"}
    assert waits["trace"] == {"extract", "train", "lens"}  # the lens is read where there is one
    assert waits["report"] == waits["explorer"] == set(waits) - pages


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if not name.startswith("codi")])
def test_no_stage_of_a_recipe_waits_for_itself_or_for_a_later_one(recipe):
    stages = [BY_NAME[name] for name in pipeline.load(recipe).stages]
    for i, stage in enumerate(stages):
        assert stage.waits_for(stages) <= {one.name for one in stages[:i]}


def tables(run: Path) -> dict[str, bytes]:
    """What a run found, without its times."""
    files = [file for pattern in TABLES for file in run.rglob(pattern)]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def children(pid: int) -> set[int]:
    """Processes below one."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    own = {int(child) for file in files for child in file.read_text().split()}
    return own.union(*map(children, own))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def stopped(command: list[str], run: Path, how: signal.Signals) -> tuple[int, str]:
    """Stop the command once stages are under way in processes beside it, and see that all of them end."""
    own = {"start_new_session": True, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **own) as main:
        while not list(run.glob("*.tmp")):
            assert main.poll() is None, main.stderr.read()
            time.sleep(0.01)
        below = children(main.pid)
        assert len(below) >= 2
        if how == signal.SIGINT:
            os.killpg(main.pid, how)  # as a terminal does
        else:
            main.send_signal(how)
        said = main.communicate()[1]
    for _ in range(600):
        if not any(map(alive, below)):
            return main.returncode, said
        time.sleep(0.1)
    raise AssertionError(f"{below} are still there")


@pytest.mark.slow
def test_a_run_side_by_side_can_be_stopped_and_gives_what_one_after_the_other_gives(
    tmp_path, monkeypatch, capsys
):
    one, two, recipe = tmp_path / "one", tmp_path / "two", pipeline.load("pilot", WORDS)
    result = pipeline.run(recipe, one)
    two.mkdir()
    for name in ("acts", "sae"):
        shutil.copytree(one / name, two / name)
    shutil.copy(one / "config.toml", two)
    command = [sys.executable, "-m", "thoughtlens.cli", "run", str(two), "--jobs", "2"]
    code, said = stopped(command, two, signal.SIGINT)
    assert code == 130 and said.splitlines()[-1].startswith("error: interrupted; what was finished is kept")
    assert stopped(command, two, signal.SIGKILL)[0] == -signal.SIGKILL
    monkeypatch.setenv(ASKED, "1")
    again = pipeline.run(recipe, two, jobs=2)
    assert list(again["stages"]) == list(result["stages"]) == STAGES
    assert sorted(again["warnings"]) == sorted(result["warnings"])
    assert tables(two) == tables(one)
    costs = json.loads((two / "profile.json").read_text())["costs"]
    measured = {entry["stage"] for entry in costs}
    assert {"explorer", "whole command"} <= measured and not {"extract", "train"} & measured
    assert min(entry["processor_seconds"] for entry in costs if not entry.get("part")) > 0
    assert "processor s" in capsys.readouterr().err


def test_a_process_beside_is_told_what_was_wished_since(monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_KERNELS", "reference")
    wish = _Asked.of_now()
    monkeypatch.delenv("THOUGHTLENS_KERNELS")
    monkeypatch.setenv(ASKED, "1")
    wish.take()
    assert os.environ["THOUGHTLENS_KERNELS"] == "reference" and ASKED not in os.environ


@pytest.mark.slow
def test_where_a_stage_fails_what_was_begun_beside_it_is_finished(tmp_path):
    words = [
        *PILOT,
        'stages=["extract", "train", "interpret", "classify", "report"]',
        "classify.members=pooled",
    ]
    with pytest.raises(DataError, match="Expected every class in at least 5 groups"):
        pipeline.run(pipeline.load("pilot", words), tmp_path / "run", jobs=2)
    assert (tmp_path / "run" / "interpret").is_dir() and not (tmp_path / "run" / "report").exists()
