"""What people read where a pipe gets JSON."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from thoughtlens import cli
from thoughtlens.cli.commands.app import TASKS, app, show
from thoughtlens.cli.commands.terminal import people, to_open
from thoughtlens.core import BY_NAME, load_config, to_toml
from thoughtlens.studies import pipeline


class Terminal(io.StringIO):
    def isatty(self):
        return True


STAGE = {
    "schema": 1, "stage": "gates", "model": "codi-tiny", "latent_reasoning": True,
    "per_seed": [
        {"seed": 1, "model": "x", "thoughts": {"value": 0.975, "low": 0.9, "high": 1.0}, "deep": {"a": {}}},
        {"seed": 2, "model": "x", "thoughts": {"value": 0.5, "low": 0.25, "high": 0.75}, "deep": {"a": {}}},
    ],
    "headline": {"thoughts": {"value": 0.75, "low": 0.5, "high": 0.9, "n": 60, "split": "test"}},
    "definitions": {"thoughts": "right answers / problems"}, "warnings": ["few problems"], "seconds": 2.5,
    "digest": "0f3a", "versions": {"python": "3.11"},
}  # fmt: skip


def test_a_stage_shows_its_headline_its_tables_and_its_warnings(tmp_path):
    lines = people(STAGE, tmp_path).splitlines()
    assert lines[0] == f"gates: {tmp_path}, 2.500 s"
    assert "  latent_reasoning: yes" in lines
    table = lines.index("  per_seed:")
    assert [line.split() for line in lines[table + 1 : table + 3]] == [
        ["seed", "thoughts"],
        ["1", "0.9750", "[0.9000,", "1.000]"],
    ]
    assert "  thoughts  0.7500  0.5000 to 0.9000  n = 60  test" in lines
    assert lines[-1] == "  WARNING: few problems"
    assert not [line for line in lines if "0f3a" in line or "python" in line or "schema" in line]


def test_a_run_ends_with_the_way_to_its_report():
    stages = {
        "train": {
            "path": "runs/a/sae",
            "digest": "x",
            "seconds": 1.0,
            "headline": {"fvu": {"value": 0.25, "n": 9}},
        },
        "report": {"path": "runs/a/report", "digest": "x", "seconds": 0.5},
    }
    run = {
        "run": "runs/a",
        "name": "pilot",
        "seed": 0,
        "stages": stages,
        "warnings": ["w1", "w2"],
        "seconds": 2.0,
    }
    text = people(run)
    assert "  fvu  0.2500  n = 9" in text
    assert "2 warnings, all in runs/a/result.json; the first: w1" in text
    assert text.splitlines()[-2:] == ["report: runs/a/report/report.html", "pilot, seed 0: done in 2.000 s"]
    assert to_open({**run, "run": "my runs/a", "stages": {}}) == [
        "to look at it: thoughtlens view 'my runs/a'"
    ]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"recipes": ["pilot", "text-demo"]}, "  recipes: pilot, text-demo"),
        ({"path": "a.parquet", "n_problems": 1200}, "  path: a.parquet\n  n_problems: 1,200"),
        ({"url": "http://127.0.0.1:1/", "left": None, "none": []}, "  url: http://127.0.0.1:1/"),
        ({"rows": [{"a": i, "b": 1} for i in range(25)]}, "    and 5 more"),
    ],
)
def test_other_results_are_lines(result, text):
    assert people(result).endswith(text)


def test_a_pipe_gets_json_and_a_terminal_text(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stdout", stream)
        show({"n": 1})
        assert stream.getvalue() == ("  n: 1\n" if stream.isatty() else json.dumps({"n": 1}) + "\n")


@pytest.mark.parametrize("words", [["-h"], ["run", "-h"], ["problems", "gsm8k", "-h"], ["--version"]])
def test_short_help_and_version(words, capsys):
    with pytest.raises(SystemExit) as end:
        app(words, prog_name="thoughtlens")
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert said.startswith("thoughtlens 0") if words == ["--version"] else "Usage: thoughtlens" in said
    assert words != ["-h"] or "--install-completion" in said


def completed(line, shell="bash"):
    """What a shell is told that could stand in the place of the last word, by the protocol of each."""
    bash = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    other = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    env = {"_THOUGHTLENS_COMPLETE": f"complete_{shell}", **(bash if shell == "bash" else other)}
    return CliRunner().invoke(app, [], prog_name="thoughtlens", env=env, catch_exceptions=False).output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "there", "not_there"),
    [
        ("thoughtlens comp", ["compare"], ["run", "look"]),
        ("thoughtlens run te", ["text-demo"], ["pilot"]),
        ("thoughtlens recipe pi", ["pilot"], ["text-demo"]),
        ("thoughtlens run pilot train.l", ["train.lr="], ["train.epochs=", "sae.k="]),
        ("thoughtlens sweep pilot sae.d_", ["sae.d_sae="], ["sae.k="]),
        ("thoughtlens intervene runs/a edit", ["edit="], ["sae.k="]),
        ("thoughtlens run pilot model", ["model=", "model.name="], ["columns="]),
        ("thoughtlens run pilot classi", ["classify.target="], ["classify="]),
        ("thoughtlens run --pl", ["--plan"], ["--out"]),
    ],
)
def test_shells_complete_commands_recipes_and_settings(shell, line, there, not_there):
    said = completed(line, shell)
    assert all(word in said for word in there) and not any(word in said for word in not_there)


def test_completion_loads_nothing_that_takes_seconds():
    code = (
        "import atexit, sys; from thoughtlens.cli import main; "
        "atexit.register(lambda: print('torch' in sys.modules)); main()"
    )
    asked = {"COMP_WORDS": "thoughtlens run pilot sae.d_", "COMP_CWORD": "3"}
    env = {**os.environ, "_THOUGHTLENS_COMPLETE": "complete_bash", **asked}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["sae.d_sae=", "False"], done.stderr


def of(*words, at):
    """What a command says, run from a folder: exit code and text."""
    found = CliRunner().invoke(app, [*words], env={"HOME": str(at)}, catch_exceptions=True)
    return found.exit_code, f"{found.output} {found.exception}"


@pytest.mark.parametrize("command", ["run", "train", "validate", "report", "classify"])
def test_without_a_place_the_command_is_shown_with_one(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my recipe.toml").write_text('name = "mine"\n')
    code, said = of(command, "my recipe.toml" if command != "run" else "pilot", at=tmp_path)
    shown = "'my recipe.toml' --out 'runs/my recipe'" if command != "run" else "pilot --out runs/pilot"
    assert code == 2 and f"thoughtlens {command} {shown}" in " ".join(said.split())


@pytest.mark.parametrize(
    "words", [["lens"], ["lens", "--plan"], ["recovery"], ["recovery", "--plan"], ["explain"]]
)
def test_a_run_that_is_not_there_is_not_planned(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, said = of(words[0], "my runs/a", *words[1:], at=tmp_path)
    assert "thoughtlens run text-demo --out 'my runs/a' (text)" in said


@pytest.mark.parametrize("stage", ["lens", "recovery", "explain"])
def test_a_stage_of_a_run_has_the_settings_of_its_recipe(stage, tmp_path):
    assert BY_NAME[stage].settings_of(tmp_path) == {}
    cfg = pipeline.load(
        "pilot", ["seed=3", "lens.fit_steps=7", "explain.min_units=2", "recovery.max_rows=900"]
    )
    (tmp_path / "config.toml").write_text(to_toml(cfg), "utf-8")
    whole = pipeline.stage_config(cfg, stage, tmp_path)
    inputs = {key: getattr(whole, key) for key in BY_NAME[stage].inputs}
    assert load_config(BY_NAME[stage].config, BY_NAME[stage].settings_of(tmp_path) | inputs) == whole


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("--out=~/a b", "--out={}/a b"), ("problems.source=~/x.jsonl", "problems.source={}/x.jsonl"),
        ("~/runs/a", "{}/runs/a"), ("a~/b", "a~/b"), ("extract.prompt=~", "extract.prompt=~"), ("~x", "~x"),
    ],
)  # fmt: skip
def test_places_in_the_home_directory(written, meant, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli._of_home(written) == meant.format(tmp_path)


def test_help_lists_every_command_once_by_its_task():
    listed = [name for rows in TASKS.values() for names in rows for name in names.split(", ")]
    there = set(get_command(app).commands)
    assert len(set(listed)) == len(listed) and set(listed) == there


def test_help_stays_on_one_screen_and_cuts_no_line():
    lines = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output.splitlines()
    assert len(lines) < 50 and max(map(len, lines)) <= 80  # the prompt stands below
    for rows in TASKS.values():
        for names, what in rows.items():
            assert any(line.split() == [*names.split(), *what.split()] for line in lines), names


@pytest.mark.slow
@pytest.mark.parametrize(("offered", "spaceless"), [("sae.k=", True), ("pilot", False)])
def test_bash_leaves_no_space_behind_the_equals_of_a_setting(offered, spaceless):
    command = [sys.executable, "-c", "from thoughtlens.cli import main; main()", "--show-completion", "bash"]
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    name = re.search(r"^(_\w+)\(\)", script, re.M)[1]
    asked = f"""
        env() {{ echo {offered}; }}
        compopt() {{ echo told "$@"; }}
        {script}
        COMP_WORDS=(thoughtlens run pilot x); COMP_CWORD=3
        {name} thoughtlens
        echo "${{COMPREPLY[@]}}"
    """
    said = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[:-1] == [*["told -o nospace"] * spaceless, offered]
