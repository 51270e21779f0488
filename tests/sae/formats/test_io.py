"""SAEs on disk: exact round trips, strict reading."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.sae.toy import ROWS, random_sae, rows
from thoughtlens import sae as saes
from thoughtlens.core import LIST, CheckpointError, MismatchError, NotThereError
from thoughtlens.sae.formats.files import write_tensors
from thoughtlens.sae.formats.io import member_names

FIXTURES = Path(__file__).parents[2] / "fixtures"
CONFIGS = [saes.TopKConfig(d_sae=20, k=3), saes.ReLUConfig(d_sae=20)]
CELLS = [("a:out", 0), ("a:out", 1)]


@pytest.fixture
def saved(tmp_path):
    sae = random_sae(CONFIGS[0]).float()
    sae.hook_names, sae.provenance = ["layers.3:out"], {"model": "m", "thoughts": None}
    saes.save(sae, tmp_path)
    (tmp_path / LIST).unlink()  # as one that was written by hand, so that other checks than digests are seen
    return tmp_path


def change(directory, **fields):
    file = directory / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: c.kind)
@pytest.mark.parametrize("several", [False, True])
@torch.no_grad()
def test_round_trip_takes_raw_rows(tmp_path, cfg, several):
    sae, x, cell = random_sae(cfg).float(), rows(50).float(), torch.arange(50) % 2
    sae.initialize(x, cell, CELLS if several else CELLS[:1])
    sae.hook_names, sae.provenance = ["a:out"], {"seed": 3}
    x_hat = sae(x, cell)
    saes.save(sae, tmp_path)
    assert torch.equal(sae(x, cell), x_hat)  # saving folds a copy
    back = saes.load(tmp_path)
    assert torch.allclose(back(x, cell), x_hat, rtol=1e-5, atol=1e-5 * float(x_hat.abs().max()))
    assert (back.cells is not None) == several
    assert (back.cfg, back.hook_names, back.provenance) == (sae.cfg, ["a:out"], {"seed": 3})
    assert not back.training


def test_saving_is_deterministic(saved, tmp_path):
    saes.save(saes.load(saved), tmp_path / "again")
    for name in ("cfg.json", "sae.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["cfg.json", "sae.safetensors", LIST]


def test_schema_1_of_the_disk_format_still_reads():
    sae = saes.load(FIXTURES / "sae_schema_1")
    assert torch.equal(sae.W_dec, torch.tensor(ROWS))
    assert sae.hook_names == ["layers.8:out"] and sae.cells == [("layers.8:out", 0), ("layers.8:out", 1)]
    # cell 1: mean (1, 1), spread 2; x = (7, 1) is z = (3, 0), latent 0 fires with 3, x_hat = 2 z + (1, 1)
    assert sae(torch.tensor([[7.0, 1.0]]), torch.tensor([1])).tolist() == [[7.0, 1.0]]
    assert sae.encode(torch.tensor([[7.0, 1.0]]), torch.tensor([1])).tolist() == [[3.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema": 99}, "has schema 99, this version reads 1"),
        ({"format": "other"}, "not a thoughtlens SAE"),
        ({"kind": "mystery"}, "expected a kind among .*topk.*'mystery'"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"d_sae": 21}, "d_sae is 21, its config gives 20"),
        ({"config": {"kind": "topk", "k": 3, "d_sae": 20, "kk": 1}}, "unknown key 'kk'"),
        ({"config": {"kind": "topk", "k": 99, "d_sae": 20}}, "expected 1 to d_sae = 20"),
        ({"cells": [["a:out", 0]]}, r"keys missing: \['normalization.mean', 'normalization.spread'\]"),
        ({"d_in": 7}, r"expected W_enc of shape \(7, 20\), got \(6, 20\)"),
        ({"d_in": "six"}, "d_in"),
        ({"cells": [["a:out"]]}, "cells"),
        ({"hook_names": None}, "hook_names"),
        ({"provenance": {"thoughts": 3}}, "provenance: .*thoughts"),
        ({"provenance": {"split": ["train"]}}, "provenance: .*split"),
        ({"provenance": {"reading": "float32"}}, "provenance: .*reading"),
    ],
)
def test_headers_that_do_not_fit(saved, fields, message):
    change(saved, **fields)
    with pytest.raises(CheckpointError, match=message) as error:
        saes.load(saved)
    assert str(saved) in str(error.value) and "\n" not in str(error.value)


def weights(saved, edit):
    tensors = load_file(saved / "sae.safetensors")
    edit(tensors)
    save_file(tensors, saved / "sae.safetensors")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("b_enc"), r"keys missing: \['b_enc'\], keys not known: \[\]"),
        (lambda t: t.update(more=torch.zeros(1)), r"keys missing: \[\], keys not known: \['more'\]"),
        (lambda t: t.update(b_enc=torch.zeros(19)), r"expected b_enc of shape \(20,\), got \(19,\)"),
        (lambda t: t.update(b_enc=torch.zeros(20, dtype=torch.long)), "expected b_enc in W_enc's floating"),
        (lambda t: t["W_dec"].fill_(torch.nan), "W_dec holds NaN or Inf"),
    ],
)
def test_weights_that_do_not_fit(saved, edit, message):
    weights(saved, edit)
    with pytest.raises(CheckpointError, match=message):
        saes.load(saved)


def test_truncated_and_foreign_files(saved):
    file = saved / "sae.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-10], whole[:4], b"", b"PK\x03\x04 a zip, as torch.save makes"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
            saes.load(saved)
    (saved / "cfg.json").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(CheckpointError, match="is not JSON"):
        saes.load(saved)


def test_missing_files(saved, tmp_path):
    (saved / "sae.safetensors").unlink()
    with pytest.raises(NotThereError, match=r"Expected weights at .*sae\.safetensors"):
        saes.load(saved)
    with pytest.raises(NotThereError, match=re.escape("found no cfg.json there")):
        saes.load(tmp_path / "nowhere")
    with pytest.raises(NotThereError, match="found none"):
        saes.load_members(tmp_path / "nowhere")


def test_nan_weights_are_not_saved(tmp_path):
    sae = random_sae(CONFIGS[0])
    with torch.no_grad():
        sae.b_enc[0] = torch.nan
    with pytest.raises(CheckpointError, match="b_enc hold NaN or Inf"):
        saes.save(sae, tmp_path)
    assert not (tmp_path / "cfg.json").exists()


def test_members(saved, tmp_path):
    assert member_names(saved) == ["pooled"]
    root = tmp_path / "many"
    for name in ("b", "a"):
        saes.save(random_sae(CONFIGS[0]), root / name)
    (root / "checkpoints").mkdir()
    assert list(saes.load_members(root)) == ["a", "b"]


def test_the_systems_error_number_comes_through(tmp_path):
    # safetensors reports every failure as one of its own; a full disk must still be recognised as such
    with pytest.raises(FileNotFoundError) as error:
        write_tensors({"x": torch.zeros(2)}, tmp_path / "nowhere" / "x.safetensors")
    assert error.value.errno == errno.ENOENT and "nowhere" in str(error.value)


def test_a_transcoder_is_not_taken_for_an_autoencoder(tmp_path):
    cfg = saes.TranscoderConfig(d_sae=12, k=2, hook_in="layers.0:out", hook_out="layers.1:out")
    saes.save(saes.create(cfg, 6, seed=0, d_out=6), tmp_path / "sae")
    assert saes.load(tmp_path / "sae").kind == "transcoder"
    with pytest.raises(MismatchError, match="reconstruct their own input, got a transcoder"):
        saes.load_members(tmp_path / "sae")
