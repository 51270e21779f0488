"""The commands that pages and the program itself show, as words."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

from tests.docs.repository import ROOT

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "bench/README.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
CALL = re.compile(
    r"^\s*(?:[A-Z_]+=\S+ )*(?:(?:torchrun|python)\b.*? -m )?thoughtlens(?:\.cli)? (?P<rest>[a-z].*)"
)


def of_page(page: str) -> list[str]:
    """Each command in a page's code, inline or in a block, without the program's name."""
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    blocks = [code for language, code in FENCED.findall(text) if language != "python"]
    rest = FENCED.sub("", text)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [line for line in rest.splitlines() if line.startswith("    ")]
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    return [found["rest"] for line in lines if (found := CALL.match(line))]


def split(line: str) -> tuple[list[str], str | None]:
    """The words of a command, and the file that its output goes to."""
    words = shlex.split(line, comments=True)
    return (words[: words.index(">")], words[words.index(">") + 1]) if ">" in words else (words, None)


def in_source() -> set[tuple[str, str]]:
    """(module, command) of every text in the package, docstrings left out, that names a command."""
    found = set()
    for file in (ROOT / "src" / "thoughtlens").rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                module = file.relative_to(ROOT / "src" / "thoughtlens").as_posix()
                found |= {
                    (module, name) for name in re.findall(r"\bthoughtlens ([a-z][a-z-]*)\b", node.value)
                }
    return found


def target(path: str | Path) -> str:
    """A path as one word of a command."""
    return shlex.quote(str(path))
