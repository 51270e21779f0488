"""What is said of a checkpoint without running it, whether it opens or not."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from tests.models.thought.fake import make_codi
from tests.models.thought.native_layout import make_native
from thoughtlens import cli
from thoughtlens.evals.validity.config import GatesConfig
from thoughtlens.models import load_model, opening
from thoughtlens.models.thought.heard import Heard
from thoughtlens.models.thought.opening import _likely_base, is_checkpoint
from thoughtlens.models.thought.sequence import HFThoughts


@pytest.fixture
def codi(tmp_path):
    return make_native(tmp_path / "weights", "codi")


@pytest.fixture
def trained(tmp_path):
    return make_codi(tmp_path, "gpt2")


def doctor(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["thoughtlens", "doctor", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def test_a_checkpoint_is_described_by_what_its_loader_read_and_does_not_run(codi, monkeypatch):
    monkeypatch.setattr(HFThoughts, "_forward", None)
    seen = opening(codi.folder)
    assert seen.opens and seen.error is None and seen.family == "codi"
    assert seen.digest == load_model(codi.folder).digest
    assert (seen.rows, seen.words) == (289, 286)
    assert {row.id: row.use for row in seen.added} == {
        codi.ids["latent_start_id"]: "begin of thought",
        codi.ids["latent_end_id"]: "end of thought",
        codi.ids["latent_id"]: "mark of a thought's place",
    }
    assert [(part.name, part.tensors, part.used) for part in seen.parts] == [
        ("projector.*", 6, True),
        ("transformer.*", len(codi.tensors()) - 6, True),
    ]
    assert [(one.name, one.value, one.who) for one in seen.settings] == [
        ("n_thoughts", 6, "nobody says it: assumed")
    ]
    (codi.folder / "codi_config.json").write_text(json.dumps({"num_latent": 5}))
    assert [(one.value, one.who) for one in opening(codi.folder).settings] == [(5, "codi_config.json")]


def test_what_a_careless_loader_does_is_counted_on_the_file(codi, trained):
    lm = GPT2LMHeadModel(GPT2Config.from_pretrained(trained.base))
    missing, unexpected = lm.load_state_dict(trained.tensors, strict=False)
    seen = opening(trained.file, base=trained.base)
    assert seen.opens
    line = next(one for one in seen.careless if "strict=False) into" in one)
    counts = list(map(int, re.findall(r"\d+", line)))
    tied = {"lm_head.weight"}
    assert counts == [len(unexpected), len(trained.tensors), *[len(set(missing) - tied)] * 2]
    assert any(one.startswith("without PEFT: 12 adapters dropped") for one in seen.careless)
    assert any("projector.1.bias ..., 6 tensors" in one for one in opening(codi.folder).careless)


def test_transformers_reads_coconuts_class_whole_and_that_is_said(tmp_path):
    seen = opening(make_native(tmp_path / "weights", "coconut").folder)
    assert seen.careless == [
        "none that is known: transformers reads every tensor, and says words without thinking"
    ]


def test_a_broken_checkpoint_is_described_as_far_as_it_was_read(codi):
    kept = codi.tensors()
    codi.save({key: value for key, value in kept.items() if key != "projector.4.bias"})
    seen = opening(codi.folder)
    assert not seen.opens and "projector.4.bias is missing" in seen.error
    assert seen.missing == ["projector.4.bias"] and seen.rows == 289 and seen.settings
    assert {part.used for part in seen.parts} == {None}
    assert seen.text().splitlines()[-1] == f"why not   {seen.error}"
    codi.save({key: value for key, value in kept.items() if key != "transformer.h.1.ln_1.bias"})
    assert opening(codi.folder).missing == ["transformer.h.1.ln_1.bias"]
    (codi.folder / "model.safetensors").write_bytes(b"cut")
    cut = opening(codi.folder)
    assert not cut.opens and cut.files and not cut.parts and cut.digest is None


def test_what_to_pass_is_a_command_that_takes_it(trained, codi):
    for seen in (opening(trained.file, base=trained.base, eos_before=True), opening(codi.folder)):
        words = shlex.split(seen.advice[-1])
        assert words[:2] == ["thoughtlens", "gates"] and words[2] == seen.name and words[-2] == "--out"
        given = dict(word.split("=", 1) for word in words[3:-2])
        assert given.keys() <= GatesConfig.model_fields.keys()
    assert opening(trained.file, base=trained.base).advice[-1].count(f"base={trained.base}") == 1


def test_a_base_model_is_proposed_by_width_and_blocks(trained):
    seen = opening(trained.file)
    assert not seen.opens and "does not say its base model" in seen.error and not seen.advice
    shapes = {f"codi.transformer.h.{i}.ln_1.bias": [768] for i in range(12)}
    assert (
        _likely_base(Heard(shapes=shapes | {"codi.transformer.wte.weight": [50260, 768]}))
        == "openai-community/gpt2"
    )
    assert _likely_base(Heard(shapes=shapes)) is None


def test_doctor_prints_it_and_ends_with_1_where_it_does_not_open(codi, monkeypatch, capsys):
    assert doctor(monkeypatch, codi.folder) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["opens"] and "rows      289 of the embedding" in said.err
    assert "ok    spec" not in said.err
    codi.config(vocab_size=288)
    assert doctor(monkeypatch, codi.folder) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["error"] in said.err and "Traceback" not in said.err
    assert doctor(monkeypatch, codi.folder / "no-such") == 1


@pytest.mark.slow
def test_doctor_also_runs_it_when_asked(codi, monkeypatch, capsys):
    assert doctor(monkeypatch, codi.folder, "--run") == 0
    assert "ok    spec" in capsys.readouterr().err


def test_a_class_that_lost_its_config_is_not_called_a_language_model(codi):
    (codi.folder / "config.json").write_text("[1]")
    assert (
        "projector.1.bias of CODI as a class of transformers, and no config.json"
        in opening(codi.folder).error
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codi-tiny", "codi-words"])
def test_doctor_asks_shipped_models_what_they_can_read(name, monkeypatch, capsys):
    assert doctor(monkeypatch, name) == 0
    assert "ok    kv" in capsys.readouterr().err


def test_code_and_shipped_models_are_no_checkpoints():
    assert not is_checkpoint("mine.py:load") and not is_checkpoint("codi-tiny")
    assert not is_checkpoint("weights", ["family=mine.py:load"]) and is_checkpoint(
        "owner/name", ["base=gpt2"]
    )
