"""A stage that is killed at any of its file operations ends with the same bytes, and leaves nothing behind.

The child ends by `os._exit` at its n-th operation, as a killed process does: no `finally` runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.counting import Count
from thoughtlens.core import OccupiedError, read_result, run_stage, verify

CHILD = """
import os, sys
from pathlib import Path

left = int(sys.argv[1])
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"}


def watch(event, arguments):
    global left
    if event in WATCHED and str(arguments[0]).startswith(sys.argv[2]):
        left -= 1
        if left == 0:
            os._exit(9)


from thoughtlens.core import Outcome, Parts, run_stage
from tests.core.counting import Count

root = Path(sys.argv[2])


def work(tmp):
    parts = Parts(tmp)
    for i in parts.todo(range(3)):
        parts.path(i, "rows.txt").write_text(str(i))
        parts.finish(i, {"i": i})
    joined = "".join(parts.path(i, "rows.txt").read_text() for i in range(3))
    (tmp / "rows.txt").write_text(joined)
    return Outcome(warnings=[str(parts.summary(2))])


sys.addaudithook(watch)
run_stage("count", Count(), root / "out", work, inputs={"text": root / "t.txt"})
"""


def start(root: Path, n: int) -> int:
    """Run the stage, killed at its n-th operation below `root`; its exit status."""
    repository = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", CHILD, str(n), str(root)]
    return subprocess.run(command, env=env, cwd=root, check=False, stderr=subprocess.DEVNULL).returncode


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder but the result, which holds times, and the list with its digest."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.name not in ("result.json", "thoughtlens-files.json")
    }


@pytest.mark.slow
def test_every_operation(tmp_path):
    whole, n = tmp_path / "whole", 0
    whole.mkdir()
    (whole / "t.txt").write_text("input")
    assert start(whole, 0) == 0
    while True:
        n += 1
        root = tmp_path / str(n)
        root.mkdir()
        (root / "t.txt").write_text("input")
        status = start(root, n)
        assert status in (0, 9)
        assert start(root, 0) == 0, f"stuck after a kill at operation {n}"
        assert tree(root) == tree(whole), f"other files after a kill at operation {n}"
        assert read_result(root / "out")["digest"] == read_result(whole / "out")["digest"]
        assert verify(root / "out").unlisted == []
        if status == 0:
            break
    assert n > 20


@pytest.mark.parametrize("left", [(), ("config.toml.part",), ("config.toml", ".begun.json.part")])
def test_an_input_that_changed_since_the_start_is_refused(left, tmp_path):
    """Also where a first start was killed while it wrote down what it began with."""
    (tmp_path / "t.txt").write_text("one")
    (tmp_path / "out.tmp").mkdir()
    for name in left:
        (tmp_path / "out.tmp" / name).touch()

    def killed(tmp):
        (tmp / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("count", Count(), tmp_path / "out", killed, inputs={"text": tmp_path / "t.txt"})
    (tmp_path / "t.txt").write_text("two")
    with pytest.raises(OccupiedError, match="begun with another text than the one given now"):
        run_stage("count", Count(), tmp_path / "out", killed, inputs={"text": tmp_path / "t.txt"})
