"""Every command that a page shows exists, with its options, and its keys are keys of that recipe."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from tests.docs.repository import ROOT
from thoughtlens.cli.commands.app import app
from thoughtlens.core import STAGES, recipe_names
from thoughtlens.studies import pipeline

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "bench/README.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
OF_RECIPES = {"run", "replay", *(stage.name for stage in STAGES if stage.recipe == "default")}


def shown(page: str) -> list[list[str]]:
    """The words of each command in a page's code, inline or in a block."""
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    found = re.findall(r"(?:^|`)(?:python -m )?thoughtlens(?:\.cli)? ([a-z][^`\n]*)", text, re.M)
    found += re.findall(r"-m thoughtlens\.cli ([a-z][^`\n]*)", text)
    words = [shlex.split(line, comments=True) for line in found]
    return [w[: w.index(">")] if ">" in w else w for w in words]


def resolve(words: list[str]):
    """The command that the first words name, and the rest."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and words[0] != "...":
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES)
def test_commands_options_and_keys_exist(page):
    for words in shown(page):
        command, rest = resolve(words)
        known = {name for parameter in command.params for name in parameter.opts}
        unknown = [word for word in rest if word.startswith("--") and word not in known]
        assert not unknown, f"{page}: {' '.join(words)}: no option {unknown}"
        if command.name in OF_RECIPES and rest and rest[0] in recipe_names():
            pipeline.load(
                rest[0], [w for w in rest[1:] if re.match(r"[a-z_.]+=", w) and not w.startswith("suite.")]
            )


def test_there_are_commands_to_look_at():
    assert sum(len(shown(page)) for page in PAGES) > 60
    with pytest.raises(AssertionError, match="there is no command 'trian'"):
        resolve(["trian", "pilot"])
