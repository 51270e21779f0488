"""Every command that a page or the program itself shows is run, from a folder of its own, at small size.

Nothing is left out in silence: a command that cannot run here is named below with the reason, and its words,
options and keys are checked all the same.
"""

from __future__ import annotations

import contextlib
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
from thoughtlens.show.explorer import sources
from thoughtlens.show.pages.run import Run
from thoughtlens.studies import pipeline

LOG = "docs/log.md"
"""Says what was run on a day; its commands are checked, not run."""
OF_RECIPES = {"run", "replay", *(stage.name for stage in STAGES if stage.recipe == "default")}
NOT_RUN = {
    "bench": "measures this machine for minutes; tests/ops/bench runs each benchmark at small size",
    "push runs/pilot owner/": "needs an account of the hub; tests/ops/hub pushes to a server of its own",
    "pull owner/": "needs the hub; tests/ops/hub pulls from a server of its own",
    "device=cuda": "needs a GPU",
    "gsm8k:test": "needs GSM8K from the hub; tests/evals/validity runs gates at small size",
    "llm.base_url": "needs an endpoint with a language model; tests/latents/explain has one that answers",
    "wandb": "needs W&B, and an account to be of use",
    "distill": "trains for minutes; planned here, trained at small size by tests/models/distill",
}
"""What is not run to its end, by a part of the command, and why."""
MEANT = {
    "OTHER": "runs/other", "DIR": "made", "SRC": "runs/text/sae", "FORMAT": "sae_lens", "RECIPE": "pilot",
    "MODEL": "codi-tiny", "ACTS": "runs/pilot/acts", "SAE": "runs/pilot/sae", "NAME": "some-model",
    "RUN_OR_MODEL": "runs/pilot", "ID": "any-0-000007", "key=value": "edit=ablate", "PATH": "runs/pilot",
}  # fmt: skip
"""What a reader puts for a word in capitals; RUN is a run of thoughts and then one of text."""


def variants(line: str) -> list[str]:
    """The command with its placeholders filled in; with RUN, once for each kind of run that fits."""
    line = re.sub(r" \.\.\.(?= )| \[--.*?\]", "", line)
    line = re.sub(r"\b(" + "|".join(map(re.escape, MEANT)) + r")(?=[\s/]|$)", lambda m: MEANT[m[0]], line)
    if not re.search(r"\bRUN\b", line):
        return [line]
    runs = ["pilot"] if "pilot" in line else ["text"] if "text-demo" in line else ["pilot", "text"]
    of_thoughts = line.startswith("circuit ") and "--text" not in line
    runs = runs[:1] if "--beside" in line or of_thoughts else runs  # both of one kind
    own = [re.sub(r" (made|--out runs/other)\b", rf" \1/{run}", line) for run in runs]
    return [re.sub(r"\bRUN\b", f"runs/{run}", one) for one, run in zip(own, runs, strict=True)]


def small(words: list[str]) -> list[str]:
    """The same at small size: what the command sets itself stays."""
    command, given = words[0], {word.partition("=")[0] for word in words if "=" in word}
    extra: list[str] = []
    if command in OF_RECIPES | {"sweep", "grid"} and words[1] in standins.RECIPES:
        extra = standins.recipe(words)
    elif command in OF_RECIPES and not words[1].endswith("config.toml"):
        extra = [one for one in standins.SMALL if one.startswith(f"{command}.")]
    elif command == "look" and "--list" not in words:
        extra = standins.LOOK
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
        known = {name for parameter in command.params for name in parameter.opts} | {"--allow", "--profile"}
        unknown = [w for w in rest if w.startswith("--") and w.partition("=")[0] not in known]
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
    first = words[0] in ("run", "look", "extract", "import", "sweep", "grid", "gates", "distill")
    first |= words[0] == "train" and words[1].endswith("config.toml")
    model = words[0] == "intervene" and not words[1].startswith("runs/")
    of_run = words[1].startswith("runs/") and not Path(out).is_relative_to(words[1])
    return out if first or model or of_run or "--acts" in words else None


def needed(words: list[str]) -> dict[str, str]:
    """Runs that a command takes for granted: folder -> which of the shared ones."""
    found = {}
    for word in words[1:]:
        parts = Path(word.partition("=")[2] or word).parts
        if parts[:1] == ("runs",) and len(parts) > 1 and word != makes(words):
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
            if not ((folder / at).exists() or (page, Path(at)) in made):
                shutil.copytree(runs[kind], folder / at)
        if out := makes(words):
            made.update((page, up) for up in (Path(out), *Path(out).parents))
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


MESSAGES = {
    "lens none": "run pilot --out none",
    "recovery 'none of text'": "run text-demo --out 'none of text'",
    "train pilot --out empty": "extract pilot --out empty",
    "train text-demo --out 'empty 2'": "extract text-demo --out 'empty 2'",
    "run empty.toml --out x": "recipe text-demo > recipe.toml",
    "run codi-tiny --out x": "distill codi-tiny --out runs/codi-tiny",
    "validate pilot": "validate pilot --out runs/pilot",
    "report pilot": "report pilot --out runs/pilot",
    "explorer 'only acts' --out e": "train pilot --out 'only acts' && thoughtlens interpret pilot --out "
    "'only acts'",
    "view bare": "interpret bare/config.toml --out bare",
    "serve 'bare again'": "interpret 'bare again/config.toml' --out 'bare again'",
    "neuronpedia runs/pilot --out n": "view runs/pilot",
    "think runs/text 'Whales sing.'": "fire runs/text 'Whales sing.'",
    "intervene runs/text --out x": "serve runs/text",
    "intervene ./tiny-llama --out x": "run text-demo model=./tiny-llama extract.hook_names=null --out "
    "runs/tiny-llama",
    "gates google/gemma-2-2b --out x": "run text-demo model=google/gemma-2-2b extract.hook_names=null --out "
    "runs/gemma-2-2b",
}  # fmt: skip
"""What a command that cannot be done says that one should do instead."""


def panels(run: Path) -> list[str]:
    """What the explorer's panels of a run name; the page puts in an SAE and a latent of it."""
    named = sources.commands(Run.open(run))
    if run.name == "text":  # no page of texts has the panels of edits
        named = {key: line for key, line in named.items() if key not in ("interventions", "effects")}
    lines = " && ".join(named.values()).replace("<SAE>", "pooled").replace("<LATENT>", "3").split(" && ")
    return [line.removeprefix("thoughtlens ") for line in dict.fromkeys(lines)]


@pytest.fixture(scope="module")
def suggested(place):
    """What came of each command that cannot be done; and of each one that it, or a panel, names."""
    runs, folder = shared_runs(place), place / "suggested"
    shutil.copytree(place / "files", folder)
    for name in ("pilot", "text"):
        shutil.copytree(runs[name], folder / "runs" / name)
    shutil.copytree(runs["pilot"] / "acts", folder / "only acts" / "acts")
    half = shutil.ignore_patterns("interpret", "explorer", "explain", "report")
    for name in ("bare", "bare again"):
        shutil.copytree(runs["pilot"], folder / name, ignore=half)
    (folder / "empty.toml").touch()
    lines = [one for line in MESSAGES.values() for one in line.split(" && thoughtlens ")]
    with contextlib.chdir(folder):
        lines += [line for name in ("pilot", "text") for line in panels(Path("runs") / name)]
    commands = [(shown.split(line)[0], None) for line in MESSAGES]
    for words, target in map(shown.split, lines):
        commands.append(([*words, "--plan"] if words[0] == "distill" else small(words), target))
    found = follow(place, [{"folder": str(folder), "words": w, "target": t} for w, t in commands])
    return found[: len(MESSAGES)], list(zip(lines, found[len(MESSAGES) :], strict=True))


@pytest.mark.long
@pytest.mark.xdist_group("commands")
def test_what_messages_and_panels_name_works(suggested):
    said, done = suggested
    for (line, names), found in zip(MESSAGES.items(), said, strict=True):
        assert found["code"] and f"thoughtlens {names}" in " ".join(found["stderr"].split()), (line, found)
    for line, found in done:
        assert found["code"] == 0 and "unforeseen" not in found["stderr"], (line, found["stderr"])
