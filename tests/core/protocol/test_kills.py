"""A stage killed at any of its file operations ends with the same bytes, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.core.protocol.small import BESIDE, OF_PILOT, OF_TEXTS, pilot, planted, texts
from thoughtlens.core import STAGES, read_result, verify

REPOSITORY = Path(__file__).parents[3]
NOT_COMPARED = ("result.json", "thoughtlens-files.json")
"""They hold times and the digest of what does."""


class Killer:
    """A process that forks a child for each kill."""

    def __init__(self, root: Path, stage: str) -> None:
        self.root = root
        path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.core.protocol.small", str(root), stage],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(root / "stderr.txt").open("w"), text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, cwd=REPOSITORY,
        )  # fmt: skip

    def __call__(self, n: int) -> int:
        """Run the stage, killed at its n-th operation; the status it ended with."""
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(f"{n}\n")
        self.child.stdin.flush()
        status = int(self.child.stdout.readline() or -1)
        assert status in (0, 9), (self.root / "stderr.txt").read_text()[-2000:]
        return status

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait(60)


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.name not in NOT_COMPARED
    }


Choose = Callable[[list[str]], list[int]]
"""Which operations are killed at, by their number from 1."""


def kill_and_compare(root: Path, stage: str, choose: Choose) -> int:
    """Kill the stage at the operations that `choose` takes of all, each time from the beginning."""
    out, killer = root / "out", Killer(root, stage)
    try:
        assert killer(0) == 0
        operations = (root / "operations.txt").read_text().splitlines()
        whole, digest, beside = tree(out), read_result(out)["digest"], sorted(os.listdir(root))
        for at in (chosen := choose(operations)):
            shutil.rmtree(out)
            if killer(at) == 9:
                assert killer(0) == 0
            assert tree(out) == whole, f"{stage}: other files after {at}: {operations[at - 1]}"
            assert read_result(out)["digest"] == digest
            assert sorted(os.listdir(root)) == beside, (
                f"{stage}: something is left after {at}: {operations[at - 1]}"
            )
            assert not verify(out).unlisted
        assert not [f for f in out.rglob("*") if f.name.startswith(".") or f.name in ("parts", "checkpoints")]
        new = root / "new"
        new.touch()
        assert {f.stat().st_mode for f in out.rglob("*") if f.is_file()} == {new.stat().st_mode}
        return len(chosen)
    finally:
        killer.close()


def few(operations: list[str]) -> list[int]:
    """Two before the end, three within the clean-up."""
    n = len(operations)
    return [n // 3, 3 * n // 4, n - 7, n - 3, n - 1]


def every(operations: list[str]) -> list[int]:
    return list(range(1, len(operations) + 1))


REMOVALS = ("os.remove", "os.rmdir", "shutil.rmtree", "os.rename")


def clean_up(operations: list[str]) -> list[int]:
    """Those that remove or rename, and all from the one that says that the stage is done."""
    done = next(i for i, line in enumerate(operations, 1) if "result.json" in line)
    return [i for i, line in enumerate(operations, 1) if i >= done or line.startswith(REMOVALS)]


def spread(operations: list[str]) -> list[int]:
    """The clean-up, and two dozen others."""
    others = np.linspace(1, len(operations), min(24, len(operations)), dtype=int).tolist()
    return sorted({*clean_up(operations), *others})


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["import", "train", "interpret", "explain", "recovery"])
def test_a_few_operations(stage, tmp_path):
    assert kill_and_compare(planted(tmp_path), stage, few) == 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return pilot(tmp_path_factory.mktemp("pilot") / "run")


OF_PLANTED = ("import", "train", "interpret", "explain", "recovery", "convert")
ELSEWHERE = {
    "replay": "trains two SAEs of fixed size, minutes for each kill",
    "suite": "needs the labelled sets of a package; tests/evals/suites holds its pieces",
    "distill": "tests/models/distill stops its training between two checkpoints",
}
"""Stages that are not killed here, and why."""


def test_every_stage_is_killed_here_or_is_named_with_its_reason():
    killed = {*OF_PLANTED, *OF_PILOT, *BESIDE, *OF_TEXTS}
    assert killed ^ {*ELSEWHERE} == {stage.name for stage in STAGES}


@pytest.mark.long
@pytest.mark.parametrize("stage", OF_PLANTED)
def test_every_operation(stage, tmp_path):
    kill_and_compare(planted(tmp_path), stage, every)


@pytest.mark.long
@pytest.mark.parametrize("stage", [*OF_PILOT, *BESIDE])
def test_the_clean_up_of_every_stage_of_a_run(stage, made):
    kill_and_compare(made, stage, spread)
    shutil.rmtree(made / "out")


@pytest.mark.long
@pytest.mark.parametrize("stage", OF_TEXTS)
def test_the_clean_up_of_a_stage_on_texts(stage, tmp_path):
    kill_and_compare(texts(tmp_path), stage, spread)
