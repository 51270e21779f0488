"""The examples of README and tutorial run as they stand, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(file: Path) -> list[tuple[str, str]]:
    """(language, code) of every fenced block."""
    return re.findall(r"^```(python|sh)\n(.*?)^```", file.read_text("utf-8"), flags=re.M | re.S)


def commands(code: str) -> list[str]:
    """The lines that call the program, without their comments."""
    return [line for line in code.splitlines() if line.startswith("thoughtlens ")]


def run(arguments: list[str], folder: Path, stdout: Path | None = None) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(stdout or os.devnull, "w") as out:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=env, stdout=out, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0, done.stderr


def run_examples(name: str, folder: Path) -> None:
    """Every Python block, after those before it, and every command, in the folder."""
    program = []
    for language, code in blocks(ROOT / name):
        if language == "python":
            program.append(code)
            run(["-c", "\n".join(program)], folder)
            continue
        for line in commands(code):
            words = shlex.split(line, comments=True)
            target = folder / words.pop() if ">" in words else None
            run(["-m", "thoughtlens.cli", *[w for w in words[1:] if w != ">"]], folder, target)


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_examples_run(name, tmp_path):
    run_examples(name, tmp_path)
    assert list(tmp_path.glob("runs/*/report/report.html"))


def test_the_interventions_run(tmp_path):
    run_examples("docs/interventions.md", tmp_path)
    assert len(list(tmp_path.glob("runs/*/effects.parquet"))) == 3


def test_readme_stays_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 75


def test_links_lead_somewhere():
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", file.read_text("utf-8")):
            if "://" not in link:
                assert (file.parent / link).exists(), f"{file.name} links to {link}, which is not there"
