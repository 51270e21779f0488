"""The explorer says no more than the tables: signs, reasons, which problems, commands that can be pasted."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import typer.main

from tests.planted import HOOKS, D
from tests.show.explorer.pages import tables
from tests.show.explorer.runs import HOSTILE, thought_run
from tests.show.explorer.tables import plant_explain, plant_lens, write
from thoughtlens.cli.commands.app import app
from thoughtlens.core import MismatchError, write_json
from thoughtlens.core.records.manifest import UNCHECKED
from thoughtlens.models import CONVENTION
from thoughtlens.sae import load, save
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.overview import unexplained
from thoughtlens.show.explorer.sources import commands, sources
from thoughtlens.show.explorer.stage import explorer
from thoughtlens.show.explorer.summary import said_of, summary, words
from thoughtlens.show.pages import run as pages_run
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import at_thought
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.stage import report

HELD, OPEN = 0.01, 0.5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Latent 0 prefers mul and 1 avoids it, 2 avoids it more than it prefers add, 3 by chance."""
    root = thought_run(tmp_path_factory.mktemp("runs") / "my run", n=40)
    rows = [(0, "mul", 0.3, HELD), (1, "mul", -0.3, HELD), (2, "add", 0.1, HELD), (2, "mul", -0.2, HELD),
            (3, "mul", -0.4, OPEN)]  # fmt: skip
    latent, level, estimate, q = zip(*rows, strict=True)
    n = len(rows)
    write(root / "interpret" / "associations.parquet", {
        "member": ["pooled"] * n, "latent": np.array(latent, np.int32), "factor": ["label:operation"] * n,
        "level": level, "statistic": ["rate difference"] * n, "estimate": estimate, "low": np.zeros(n),
        "high": np.zeros(n), "q_value": q, "n_fires": latent, "n_problems": latent,
    })  # fmt: skip
    return root


@pytest.fixture(scope="module")
def source(root):
    return sources([Run.open(root)])[0]


def test_a_label_says_where_the_latent_fires_less(source):
    found = summary(source, source_directions(source), said_of(source), {}, 64)
    assert found.label[:4] == ["operation = mul", "fires less at operation = mul",
                               "fires less at operation = mul", None]  # fmt: skip
    assert found.columns.label_strength[:4] == [0.3, -0.3, -0.2, -0.4]


def source_directions(source):
    from thoughtlens.sae import load

    return load(source.sae_dir).W_dec.detach().flatten(1)


def test_words_stand_apart_by_what_the_latent_does_at_them(root, source):
    said = [
        "operation is mul (+0.8); v1 is 3 (-0.9)",
        "not [operation is mul] and v1 <= 3 (fires on 4 %)",
        "operation is add (+0.2)",
    ]
    plant_explain(root, D, said)
    plant_lens(root, D, ["for", "it", "against", "that"], ["p3"], list(HOOKS))
    toward, away = words(source)
    assert "operation is mul" in toward[0] and "v1 is 3" in away[0] and "v1 is 3" not in toward[0]
    assert "operation is mul" in away[1] and "mul" not in toward[1] and "v1 <= 3" in toward[1]
    assert {"for", "it"} <= set(toward[0].split()) and {"against", "that"} <= set(away[0].split())
    assert away[2].split() == ["for", "it"]  # of latent 2 these have the other sign


def told(root, source, latents=None, n_explained=2, n_eligible=5, member="pooled"):
    """The reason, after an explain stage that took so many."""
    folder = root / "explain"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text("" if latents is None else f"latents = {latents}\n")
    summary = {"member": member, "hook_names": list(HOOKS), "d_sae": D, "n_eligible": n_eligible,
               "n_explained": n_explained, "n_graphs": 0, "parts": {}}  # fmt: skip
    result = {
        "stage": "explain",
        "kind": "thoughts",
        "members": [summary],
        "methods": [],
        "choice": "",
    }
    write_json(folder / "result.json", result)
    return unexplained(source)


def test_why_a_latent_is_not_explained_is_true(root, source):
    assert "2 were drawn of the 5" in told(root, source)
    assert "of 16 latents 5 fire in enough problems" in told(root, source, n_explained=5)
    assert "asked for" in told(root, source, latents=[1, 2])
    assert "did not read this SAE" in told(root, source, member="another")


def test_wrong_answers_are_always_among_the_problems(root, tmp_path, monkeypatch):
    # Of p0 to p39 the odd ones are wrong: half of the places are for them.
    explorer(ExplorerConfig(run=root, n_problems=10), tmp_path / "some")
    found = tables(tmp_path / "some")["run"]
    assert [p["right"] for p in found["problems"]].count(False) >= 5
    assert (
        found["problems_are"].startswith("10 of 40: ")
        and "of the 20 that the model gets wrong" in (found["problems_are"])
    )
    file = root / "acts" / "problems.parquet"
    monkeypatch.setenv(UNCHECKED, "1")
    monkeypatch.setattr(pages_run, "require_made_from", lambda folder, inputs: None)
    kept = pq.read_table(file)
    right = [True] * 39 + [False]
    at = kept.column_names.index("correct")
    write(file, kept.set_column(at, "correct", [right]))
    try:
        explorer(ExplorerConfig(run=root, n_problems=3), tmp_path / "one")
    finally:
        write(file, kept)
    assert "p39" in {p["id"] for p in tables(tmp_path / "one")["run"]["problems"]}


def test_notes_belong_to_the_sae_and_not_to_the_name_of_the_folder(root, tmp_path):
    ids = {}
    for place, n in (("a", 20), ("b", 24)):
        run = thought_run(tmp_path / place / "run", n=n, members={"": HOOKS if place == "a" else HOOKS[:1]})
        explorer(ExplorerConfig(run=run, n_problems=1), tmp_path / place / "explorer")
        ids[place] = tables(tmp_path / place / "explorer")["run"]
    assert ids["a"]["name"] == ids["b"]["name"] and ids["a"]["id"] != ids["b"]["id"]


def test_every_command_can_be_pasted(root, tmp_path):
    run = Run.open(root)
    (root / "config.toml").write_text("seed = 3\n")
    found = commands(run)
    assert f"--out {shlex.quote(str(root) + '-seed4')}" in found["matches"]
    (root / "config.toml").unlink()
    for made in (found, commands(run), commands(run, [run])):
        for command in made.values():
            filled = re.sub("<(SAE|LATENT|PROBLEM)>", "7", command)
            for line in (shlex.split(part) for part in filled.split(" && ")):
                assert line[0] == "thoughtlens" and not any(w.isupper() and len(w) > 2 for w in line), line
                command_of = typer.main.get_command(app).commands[line[1]]
                command_of.make_context(line[1], line[2:])  # refuses options that do not exist


def test_a_place_names_both_thoughts():
    assert at_thought("thought_in", 3) == "enters thought 3 = what thought 2 wrote"
    assert at_thought("thought_in", 0) == "enters thought 0"
    assert at_thought("thought_in", 3, fed_back=False) == "enters thought 3"
    assert at_thought("thought_out", 2) == "what thought 2 wrote = enters thought 3"
    assert at_thought("resid", 2) == "in thought 2" and at_thought("resid", None) == "all thoughts"


def test_tables_keep_the_hostile_words(root, source):
    plant_explain(root, D, HOSTILE)
    assert all(text in toward for text, toward in zip(HOSTILE, words(source).toward, strict=False))


@pytest.mark.parametrize(
    "control", [None, "no thoughts: the answer follows", "pause tokens: no thought is made"]
)
def test_a_control_of_pause_tokens_feeds_nothing_back(root, control):
    run = Run.open(root)
    run.__dict__["meta"] = run.meta.model_copy(update={"thought_convention": CONVENTION})
    run.__dict__["results"] = {"extract": {"control": control}}
    assert run.fed_back == (control is None or "pause" not in control)
    assert ("which is what the thought before it wrote" in run.thoughts_are) == run.fed_back
    assert ("nothing is fed back" in run.thoughts_are) != run.fed_back


def test_saes_trained_again_are_never_mixed_with_what_was_said_of_the_old_ones(tmp_path):
    root = thought_run(tmp_path / "run", n=40)
    trained = load(root / "sae")
    with torch.no_grad():
        trained.W_enc *= 2
    save(trained, root / "sae")
    for stage, cfg in ((explorer, ExplorerConfig(run=root)), (report, ReportConfig(run=root))):
        with pytest.raises(MismatchError, match=r"interpret was made from another sae"):
            stage(cfg, tmp_path / "out")
