"""The examples of README and tutorial run as they stand, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(names: Sequence[str], folder: Path) -> None:
    """The examples of these pages, in a process of their own."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", ROOT / "tests" / "docs" / "pages.py", *[ROOT / name for name in names]]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_examples_run(name, tmp_path):
    run([name], tmp_path)
    assert list(tmp_path.glob("runs/*/report/report.html"))


def test_the_interventions_run(tmp_path):
    run(["docs/interventions.md"], tmp_path)
    assert len(list(tmp_path.glob("runs/*/effects.parquet"))) == 3


def test_readme_stays_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 75


def test_links_lead_somewhere():
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", file.read_text("utf-8")):
            if "://" not in link:
                assert (file.parent / link).exists(), f"{file.name} links to {link}, which is not there"
