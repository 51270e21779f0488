"""The command line as a user meets it: one JSON object, one line of error, the right exit code."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from thoughtlens import cli
from thoughtlens.cli.commands.app import app
from thoughtlens.cli.commands.bench import bench_app
from thoughtlens.core import (
    ConfigError,
    NotThereError,
    OccupiedError,
    load_config,
    recipe_names,
    to_toml,
)
from thoughtlens.ops import bench
from thoughtlens.studies import pipeline

pytestmark = pytest.mark.slow

ANIMALS = ("dog", "cat", "horse", "owl", "fox")
PLACES = ("a city", "the sea", "our house", "an old wood", "the hills")


def corpus(file: Path, n: int = 160) -> Path:
    """Documents about animals, labelled by whether they are at the sea."""
    lines = []
    for i in range(n):
        place = PLACES[i % 5]
        text = f"The {ANIMALS[i // 5 % 5]} number {i} lives near {place} and walks {i % 7} miles a day. " * 2
        lines.append(json.dumps({"text": text, "label": "sea" if place == "the sea" else "land"}))
    file.write_text("\n".join(lines), "utf-8")
    return file


def run(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "thoughtlens.cli", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )


def settings(tiny_lm_dir: Path, text: Path) -> list[str]:
    """text-demo, small enough for a test."""
    return [
        f"model={tiny_lm_dir}",
        "model.dtype=float32",
        f"problems.source={text}",
        "problems.test=0.3",
        'extract.hook_names=["layers.1:out"]',
        "extract.context_length=96",
        "extract.max_tokens=12000",
        "sae.d_sae=64",
        "sae.k=4",
        "train.batch_size=256",
        "train.epochs=4",
        f"classify.data={text}",
        "classify.folds=3",
    ]


@pytest.fixture(scope="module")
def finished(tiny_lm_dir, tmp_path_factory) -> tuple[Path, list[str], dict]:
    """A run of all stages, through the command line."""
    root = tmp_path_factory.mktemp("runs")
    overrides = settings(tiny_lm_dir, corpus(root / "corpus.jsonl"))
    done = run("run", "text-demo", *overrides, "--out", root / "a")
    assert done.returncode == 0, done.stderr
    return root / "a", overrides, json.loads(done.stdout)


def test_bench_options_are_those_of_the_functions():
    commands = typer.main.get_command(bench_app).commands
    assert {name.removeprefix("bench_").replace("_", "-") for name in bench.__all__} == set(commands)
    for name, command in commands.items():
        theirs = inspect.signature(getattr(bench, f"bench_{name.replace('-', '_')}")).parameters
        assert {one.name: one.default for one in command.params if one.name != "help"} == {
            key: one.default for key, one in theirs.items()
        }


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("whole", [[], ["--all"]])
def test_a_printed_recipe_loads_as_the_same(name, whole, tmp_path):
    said = CliRunner().invoke(app, ["recipe", name, *whole], catch_exceptions=False).output
    file = tmp_path / "mine.toml"
    file.write_text(said)
    assert whole or said.endswith(f"# Every other key: thoughtlens recipe {name} --all\n")
    if name.startswith("codi"):
        from thoughtlens.models.distill.config import DistillConfig

        assert load_config(DistillConfig, file) == load_config(DistillConfig, name)
    else:
        assert pipeline.load(file) == pipeline.load(name)
        assert to_toml(pipeline.load(name)) == to_toml(pipeline.load(file))


def test_a_printed_recipe_shows_what_people_change():
    short, whole = (
        CliRunner().invoke(app, ["recipe", "pilot", *more]).output.splitlines() for more in ([], ["--all"])
    )
    assert len(short) < len(whole) / 4
    assert {'source = "generated"', "# hook_names is unset", "k = 2", "n_control = 60"} <= {*short}


def test_a_run_says_where_it_writes_and_how_long_the_same_took(finished, tmp_path):
    out, overrides, result = finished
    cfg = pipeline.load("text-demo", [*overrides, "seed=5"])
    assert pipeline._foretold(cfg, tmp_path / "new") == f"text-demo: writes to {tmp_path / 'new'}"
    (out.parent / "not-a-recipe").mkdir()
    (out.parent / "not-a-recipe" / "config.toml").write_text("k = [", "utf-8")
    took = pipeline.about(sum(stage["seconds"] for stage in result["stages"].values()))
    beside = out.parent / "new"
    said = f"text-demo: writes to {beside}; the same stages took about {took}, added up"
    assert pipeline._foretold(cfg, beside) == f"{said}, in {out}"
    damaged = out.parent / "damaged"
    shutil.copytree(out, damaged, ignore=shutil.ignore_patterns("shards", "report", "codes"))
    (damaged / "acts" / "result.json").write_text("{", "utf-8")
    assert pipeline._foretold(cfg, beside) == f"{said}, in {out}"
    (damaged / "config.toml").unlink()
    n = len(cfg.stages)
    assert pipeline._foretold(cfg, out) == f"text-demo: writes to {out}, where {n} of {n} stages are done"


def test_what_was_done_with_other_inputs_foretells_nothing(finished):
    out, overrides, result = finished
    other = pipeline.load("text-demo", [*overrides, "classify.max_units=7"])
    assert {*pipeline._took(other, other.stages, out)} == {*result["stages"]} - {"classify"}
    larger = pipeline.load("text-demo", [*overrides, "sae.d_sae=48"])
    assert {*pipeline._took(larger, larger.stages, out)} == {"extract"}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "10 s"), (44, "40 s"), (100, "2 minutes"), (5000, "83 minutes"), (9000, "2.5 hours")],
)
def test_an_estimate_is_said_as_exactly_as_it_is_known(seconds, said):
    assert pipeline.about(seconds) == said


def test_a_run_leaves_every_stage_and_one_json_object(finished):
    out, _, result = finished
    for name in ("acts", "sae", "validate", "interpret", "classify", "report"):
        assert (out / name / "result.json").is_file()
        assert (out / name / "config.toml").is_file()
    assert (out / "report" / "report.html").stat().st_size > 10_000
    assert tuple(result["stages"]) == pipeline.load("text-demo").stages
    assert not list(out.glob("*.tmp"))


def test_the_same_run_again_does_nothing(finished):
    out, overrides, result = finished
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*") if f.parent != out}
    done = run("run", "text-demo", *overrides, "--out", out)
    assert done.returncode == 0
    assert {f: f.stat().st_mtime_ns for f in out.rglob("*") if f.parent != out} == before
    again = json.loads(done.stdout)["stages"]
    assert {n: s["digest"] for n, s in again.items()} == {n: s["digest"] for n, s in result["stages"].items()}


def test_other_settings_never_overwrite(finished):
    out, overrides, _ = finished
    done = run("run", "text-demo", *overrides, "sae.k=5", "--out", out)
    assert done.returncode == 1
    assert "sae.k (4 there, 5 here)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stage_alone_continues_from_a_run(finished, tmp_path):
    out, overrides, result = finished
    done = run("train", out / "sae" / "config.toml", "--out", tmp_path / "sae")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == result["stages"]["train"]["digest"]
    done = run("train", "text-demo", *overrides, "sae.k=3", "--acts", out / "acts", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "sae" / "sae.safetensors").is_file()


def test_fire_names_the_strongest_latents(finished):
    out, _, _ = finished
    done = run("fire", out, "Dogs are man's best friend.", "London is a major city.")
    assert done.returncode == 0, done.stderr
    texts = json.loads(done.stdout)["texts"]
    assert [t["text"] for t in texts] == ["Dogs are man's best friend.", "London is a major city."]


def test_plan_prints_and_stops(tiny_lm_dir, tmp_path):
    overrides = settings(tiny_lm_dir, corpus(tmp_path / "corpus.jsonl"))
    done = run("run", "text-demo", *overrides, "--plan", "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["extract"]["rows"] > 0
    assert "memory" in done.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "text-dmo"], "did you mean 'text-demo'"),
        (["run", "text-demo", "sae.kk=3"], "did you mean 'sae.k'"),
        (["run", "text-demo", "model=no/such-model"], "no/such-model"),
        (["run", "text-demo", "problems.source=missing.txt"], "missing.txt"),
        (["run", "text-demo", "sae.k=5000"], "5000"),
        (["train", "text-demo", "--acts", "nowhere"], "nowhere"),
        (["validate", "text-demo"], "acts"),
        (["fire", "nowhere", "hello"], "nowhere"),
        (["verify", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(args, message, tmp_path):
    out = [] if args[0] in ("fire", "verify") else ["--out", tmp_path / "out"]
    done = run(*args, *out, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    error = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert message in error[0]
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_exit_2():
    assert run("run").returncode == 2
    assert run("nonsense").returncode == 2


def test_debug_shows_where():
    done = run("run", "text-dmo", "--out", "x", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_run_is_not_begun_in_a_foreign_directory(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OccupiedError, match="something else is there"):
        pipeline.run(pipeline.load("text-demo"), tmp_path)


def test_a_refused_run_leaves_its_directory_free(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(NotThereError, match="no-model"):
        pipeline.run(pipeline.load("text-demo", [f"model={tmp_path / 'no-model'}"]), out)
    with pytest.raises(NotThereError, match="other-model"):
        pipeline.run(pipeline.load("text-demo", [f"model={tmp_path / 'other-model'}"]), out)
    own = "# mine\n" + (out / "config.toml").read_text()
    (out / "config.toml").write_text(own)
    with pytest.raises(OccupiedError, match="other settings"):
        pipeline.run(pipeline.load("text-demo", ["sae.k=4"]), out)
    assert (out / "config.toml").read_text() == own
    with pytest.raises(OccupiedError, match="found a file"):
        pipeline.run(pipeline.load("text-demo"), out / "config.toml")


def test_a_recipe_s_tables_are_checked_as_the_stages_are():
    assert pipeline.load("pilot", ["train.members=pooled"]).train.members == ("pooled",)
    with pytest.raises(ConfigError, match=r"train\.members"):
        pipeline.load("pilot", ["train.members=poled"])


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**15), lambda: np.empty(10**15)])
def test_too_little_memory_is_said_in_one_short_line(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    line = cli._unforeseen(caught.value)
    assert line.startswith("too little memory (") and line.endswith("fewer latents")
    assert "\n" not in line and len(line) < 300


def test_bytes_that_are_no_text_are_said_to_be_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["thoughtlens", "circuit", "run", "--text", "a \udcff"])
    with pytest.raises(UnicodeEncodeError) as caught:
        sys.argv[-1].encode()
    assert cli._unforeseen(caught.value) == r"'a \udcff' is not text in UTF-8"


def test_of_an_unforeseen_error_only_the_first_line_is_shown():
    assert cli._unforeseen(RuntimeError("broke\nframe #0\nframe #1")) == "unforeseen RuntimeError: broke"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_said_in_one_line(number):
    process = subprocess.Popen(
        [sys.executable, "-m", "thoughtlens.cli", "bench", "startup", "--repeats", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text().strip() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == (
        "error: interrupted; what was finished is kept, the same command continues"
    )


@pytest.mark.parametrize("source", [[], [""]])
def test_a_look_at_nothing_says_what_is_missing(source):
    done = CliRunner().invoke(app, ["look", *source])
    assert done.exit_code == 2 and "missing, as in: thoughtlens look" in done.output
