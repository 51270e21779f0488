"""What people read where a pipe gets JSON."""

from __future__ import annotations

import io
import json

import pytest

from thoughtlens.cli.commands.app import app, show
from thoughtlens.cli.commands.terminal import people


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


def test_recipes_are_completed(monkeypatch, capsys):
    monkeypatch.setenv("_THOUGHTLENS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "thoughtlens run te")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        app([], prog_name="thoughtlens")
    assert capsys.readouterr().out.split() == ["text-demo"]
