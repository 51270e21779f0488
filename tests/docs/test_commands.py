"""Every command that a page or the program itself shows is run, from a folder of its own, at small size.

Nothing is left out in silence: a command that cannot run here is named below with the reason, and its words,
options and keys are checked all the same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.docs import shown, standins
from tests.docs.repository import ROOT
from thoughtlens.cli.commands.app import app
from thoughtlens.core import STAGES, recipe_names
from thoughtlens.studies import pipeline

LOG = "docs/log.md"
"""Says what was run on a day; its commands are checked, not run."""
OF_RECIPES = {"run", "replay", *(stage.name for stage in STAGES if stage.recipe == "default")}
NOT_RUN = {
    "bench": "measures this machine for minutes; tests/ops/bench runs each benchmark at small size",
    "push runs/pilot owner/": "needs an account of the hub; tests/ops/hub pushes to a server of its own",
    "pull owner/": "needs the hub; tests/ops/hub pulls from a server of its own",
    "device=cuda": "needs a GPU",
    "llm.base_url": "needs an endpoint with a language model; tests/latents/explain has one that answers",
    "wandb": "needs W&B, and an account to be of use",
    "distill": "trains for minutes; planned here, trained at small size by tests/models/distill",
}
"""What is not run to its end, by a part of the command, and why."""
MEANT = {
    "OTHER": "runs/other", "DIR": "made", "SRC": "runs/text/sae", "FORMAT": "sae_lens", "RECIPE": "pilot",
    "MODEL": "codi-tiny", "ACTS": "runs/pilot/acts", "SAE": "runs/pilot/sae", "NAME": "some-model",
    "RUN_OR_MODEL": "runs/pilot", "key=value": "edit=ablate", "PATH": "runs/pilot",
}  # fmt: skip
"""What a reader puts for a word in capitals; RUN is a run of thoughts and then one of text."""


def variants(line: str) -> list[str]:
    """The command with its placeholders filled in; with RUN, once for each kind of run that fits."""
    line = re.sub(r" \.\.\.(?= )| \[--.*?\]", "", line)
    line = re.sub(r"\b(" + "|".join(map(re.escape, MEANT)) + r")(?=[\s/]|$)", lambda m: MEANT[m[0]], line)
    if not re.search(r"\bRUN\b", line):
        return [line]
    runs = ["pilot"] if "pilot" in line else ["text"] if "text-demo" in line else ["pilot", "text"]
    runs = runs[:1] if "--beside" in line else runs  # both of one kind
    return [re.sub(r"\bRUN\b", f"runs/{run}", line.replace(" made", f" made/{run}")) for run in runs]


def small(words: list[str]) -> list[str]:
    """The same at small size: what the command sets itself stays."""
    command, given = words[0], {word.partition("=")[0] for word in words if "=" in word}
    extra: list[str] = []
    if command in OF_RECIPES | {"sweep", "grid"} and words[1] in standins.RECIPES:
        extra = standins.recipe(words)
    elif command in OF_RECIPES and not words[1].endswith("config.toml"):
        extra = [one for one in standins.SMALL if one.startswith(f"{command}.")]
    elif command == "intervene":
        extra = ["n=20"]
    elif command == "suite":
        extra = [standins.SUITE]
    return [*words, *(one for one in extra if one.partition("=")[0] not in given)]


def resolve(words: list[str]):
    """The command that the first words name, and the rest."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and words[0] != "...":
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", shown.PAGES)
def test_commands_options_and_keys_exist(page):
    for line in shown.of_page(page):
        words, _ = shown.split(line)
        command, rest = resolve(words)
        known = {name for parameter in command.params for name in parameter.opts}
        unknown = [word for word in rest if word.startswith("--") and word not in known]
        assert not unknown, f"{page}: {line}: no option {unknown}"
        if command.name in OF_RECIPES and rest and rest[0] in recipe_names():
            overrides = [w for w in rest[1:] if re.match(r"[a-z_.]+=", w) and not w.startswith("suite.")]
            pipeline.load(rest[0], overrides)


def test_there_are_commands_to_look_at():
    assert sum(len(shown.of_page(page)) for page in shown.PAGES) > 100
    with pytest.raises(AssertionError, match="there is no command 'trian'"):
        resolve(["trian", "pilot"])


def reason(line: str) -> str | None:
    """Why a command is not run to its end."""
    return next(
        (why for part, why in NOT_RUN.items() if re.search(rf"(^|[ =]){re.escape(part)}", line)), None
    )


def of_pages() -> list[tuple[str, str]]:
    """(page, command) of everything that pages show, the log left out."""
    pages = [page for page in shown.PAGES if page != LOG]
    lines = [(page, line) for page in pages for line in dict.fromkeys(shown.of_page(page))]
    return [(page, full) for page, line in lines for full in variants(line)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_lm_dir):
    """A folder with small files, and a cache that knows the named models."""
    place = tmp_path_factory.mktemp("commands")
    standins.hub(place / "hub")
    (place / "files").mkdir()
    standins.files(place / "files", tiny_lm_dir)
    return place


def follow(place: Path, commands: list[dict]) -> list[dict]:
    """What came of each command, all run by one process with no network."""
    (place / "commands.json").write_text(json.dumps(commands), "utf-8")
    env = {
        **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_CACHE": str(place / "hub"),
        "BROWSER": "true", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }  # fmt: skip
    script = [sys.executable, "-P", ROOT / "tests" / "docs" / "follow.py"]
    done = subprocess.run(
        [*script, place / "commands.json", place / "results.jsonl"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (place / "results.jsonl").read_text("utf-8").splitlines()]


def shared_runs(place: Path) -> dict[str, Path]:
    """A small run of thoughts, one of text, and another of thoughts."""
    folder = place / "shared"
    shutil.copytree(place / "files", folder)
    runs = {
        "pilot": ["run", "pilot"],
        "text": ["run", "text-demo"],
        "other": ["run", "pilot", "seed=1", "problems.seed=0"],
    }
    commands = [
        {"folder": str(folder), "words": [*small(words), "--out", f"runs/{name}"], "target": None}
        for name, words in runs.items()
    ]
    for found in follow(place, commands):
        assert found["code"] == 0, found["stderr"]
    return {name: folder / "runs" / name for name in runs}


def makes(words: list[str]) -> str | None:
    """A folder that a command makes from nothing."""
    if "--out" not in words:
        return None
    out = words[words.index("--out") + 1]
    first = words[0] in ("run", "extract", "sweep", "grid", "gates", "distill")
    model = words[0] == "intervene" and not words[1].startswith("runs/")
    return out if first or model or "--acts" in words else None


def needed(words: list[str]) -> dict[str, str]:
    """Runs that a command takes for granted: folder -> which of the shared ones."""
    found = {}
    for word in words[1:]:
        parts = Path(word).parts
        if parts[:1] == ("runs",) and word != makes(words):
            is_text = "text" in word or {"text-demo", "suite"} & set(words) or parts[1] == "small"
            found["/".join(parts[:2])] = (
                "text" if is_text else "other" if parts[1] in ("other", "b") else "pilot"
            )
    return found


def results_of(place: Path, runs: dict[str, Path], lines: list[tuple[str, str]]) -> dict:
    """What came of each command; those of one page share a folder, in which the runs they need stand."""
    commands, made = [], set()
    for page, line in lines:
        folder = place / page.replace("/", "_")
        if not folder.exists():
            shutil.copytree(place / "files", folder)
        words, target = shown.split(line)
        for at, kind in needed(words).items():
            if not ((folder / at).exists() or (page, at) in made):
                shutil.copytree(runs[kind], folder / at)
        made.add((page, makes(words)))
        words = [*words, "--help"] if reason(line) or len(words) == 1 else small(words)
        commands.append({"folder": str(folder), "words": words, "target": target})
    return dict(zip(lines, follow(place, commands), strict=True))


@pytest.fixture(scope="module")
def results(place):
    return results_of(place, shared_runs(place), of_pages())


@pytest.mark.long
@pytest.mark.parametrize(("page", "line"), of_pages())
def test_a_command_of_a_page_works(results, page, line):
    found = results[page, line]
    assert found["code"] == 0, found["stderr"]
    assert "unforeseen" not in found["stderr"]
