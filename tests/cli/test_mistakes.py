"""What people mistake: a file or a stage for a run, a text for a run, a stage before its inputs."""

from __future__ import annotations

import json

import pytest

from thoughtlens.cli.commands.app import app
from thoughtlens.core import BY_NAME, ThoughtlensError, load_config, verify
from thoughtlens.interventions import InterveneConfig
from thoughtlens.tracing.chains.config import TraceConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run that has been begun, an empty folder, and a file."""
    root = tmp_path_factory.mktemp("mistakes")
    for folder in ("run/acts", "run/sae", "empty", "full"):
        (root / folder).mkdir(parents=True)
    (root / "run" / "config.toml").write_text('name = "mine"\n')
    (root / "run" / "sae" / "config.toml").write_text(
        'acts = "run/acts"\nepochs = 1\n\n[sae]\nkind = "topk"\n'
    )
    for name in ("notes.txt", "full/thesis.txt"):
        (root / name).write_text("a file of notes")
    return root


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fire", "a text", "run"], "run or model first, then texts, as in: thoughtlens fire run 'a text'"),
        (["think", "a b " * 100, "run"], "as in: thoughtlens think run 'a b a b"),
        (["think", "codi-tiny", ""], "Expected a question of 1..15 words, got 0: ''"),
        (["circuit", "run", "--target", " x"], "--target is the next token of a text: give the text"),
        (["circuit", "run", "text=a", "--problem", "b"], "Expected a problem or a text, got both"),
        (["circuit", "run", "--program", "--problem", "b"], "--program: a program is of all problems"),
        (["lens", "notes.txt"], "the directory of a run, got the file notes.txt"),
        (["view", "notes.txt"], "the directory of a run, got the file notes.txt"),
        (["explain", "run/sae"], "got a part of one, run/sae; the run is run"),
        (["recovery", "run/sae"], "got a part of one, run/sae; the run is run"),
        (["effects", "empty"], "make one: thoughtlens run pilot --out empty .thoughts."),
        (["effects", "full"], "make one: thoughtlens run pilot --out runs/pilot .thoughts."),
        (["validate", "empty"], "a run or a recipe in empty, found no config.toml"),
        (["report", "notes.txt"], "notes.txt is not valid TOML"),
        (["interpret", "run/sae"], "settings of train, not of interpret; .* thoughtlens interpret run"),
        (["gates", "run", "--out", "g"], "got the run run; .*: thoughtlens intervene run"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_was_meant(place, monkeypatch, words, says):
    monkeypatch.chdir(place)
    with pytest.raises(ThoughtlensError, match=says):
        app(words, standalone_mode=False)


def test_an_input_that_is_not_there_says_what_makes_it(place, monkeypatch):
    monkeypatch.chdir(place)
    for stage, given, path, way in (
        ("explain", {"acts": "run/acts", "sae": "run/sae"}, "run/interpret", "interpret run --out run"),
        ("recovery", {"acts": "run/acts", "sae": "other/sae"}, "other/sae", "train pilot --out other"),
    ):
        cfg = load_config(BY_NAME[stage].config, given | ({"interpret": path} if stage == "explain" else {}))
        with pytest.raises(ThoughtlensError, match=f"at {path}, .*; make it first: thoughtlens {way}"):
            BY_NAME[stage].run(cfg, "out")


def test_so_does_one_that_is_named_and_not_needed(place, monkeypatch):
    monkeypatch.chdir(place)
    cfg = load_config(BY_NAME["trace"].config, {"acts": "run/acts", "lens": "run/lens"})
    with pytest.raises(ThoughtlensError, match=r"at run/lens, .*; make it first: thoughtlens lens run$"):
        BY_NAME["trace"].run(cfg, "out")


def test_think_says_what_makes_the_activations_that_a_run_lacks(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "old" / "sae").mkdir(parents=True)
    with pytest.raises(ThoughtlensError, match=r"at old/acts, .*: thoughtlens extract pilot --out old"):
        app(["think", "old", "ann +6"], standalone_mode=False)


def test_a_kind_that_is_not_known_is_named_with_those_that_are():
    with pytest.raises(ThoughtlensError, match=r"edit: expected one of 'ablate', 'swap'.* got 'fly'"):
        load_config(InterveneConfig, {}, ["edit=fly"])


def test_a_control_that_does_not_exist_is_named_once():
    with pytest.raises(ThoughtlensError) as told:
        load_config(TraceConfig, {"acts": "run/acts"}, ['controls=["nobody"]', 'lenses=["nothing"]'])
    assert "got 'nobody'" in str(told.value) and "got 'nothing'" in str(told.value)
    assert "at least 1 item" not in str(told.value)


def test_nothing_is_not_verified(place):
    with pytest.raises(ThoughtlensError, match="found none of their files"):
        verify(place / "full")


@pytest.mark.parametrize(("word", "says"), [("zzzz", "goes by 'zzzz'"), ("gpt2-small-res-jb", "")])
def test_a_word_that_no_release_has_is_said(capsys, word, says):
    app(["look", "--list", word], standalone_mode=False)
    out = capsys.readouterr()
    assert says in out.err and bool(json.loads(out.out)["releases"]) is not bool(says)
