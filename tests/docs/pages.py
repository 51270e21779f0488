"""Runs the examples of pages in the current directory, in order: `python -P tests/docs/pages.py README.md`.

Python blocks share their names, as in a session. Commands go through the program's own arguments but stay in
this process, where torch and all else is imported once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from pathlib import Path

from thoughtlens.cli import app


def blocks(file: Path) -> list[tuple[str, str]]:
    """(language, code) of every fenced block."""
    return re.findall(r"^```(python|sh)\n(.*?)^```", file.read_text("utf-8"), flags=re.M | re.S)


def commands(code: str) -> list[str]:
    """The lines that call the program."""
    return [line for line in code.splitlines() if line.startswith("thoughtlens ")]


def run_command(line: str) -> None:
    """One command; what it prints goes where the line says."""
    _, *words = shlex.split(line, comments=True)
    words, target = (words[:-2], words[-1]) if ">" in words else (words, os.devnull)
    with open(target, "w") as out, contextlib.redirect_stdout(out):
        app(words, prog_name="thoughtlens", standalone_mode=False)


def run_pages(files: list[Path]) -> None:
    """Every Python block and every command of these pages."""
    names = {"__name__": "__main__"}
    for language, code in (block for file in files for block in blocks(file)):
        if language == "python":
            exec(compile(code, "example", "exec"), names)
        else:
            for line in commands(code):
                run_command(line)


if __name__ == "__main__":
    run_pages([Path(name) for name in sys.argv[1:]])
