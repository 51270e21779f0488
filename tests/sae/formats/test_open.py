"""SAEs by path and by hub id; the hub is its cache's layout in a temporary folder."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.sae.toy import random_sae
from thoughtlens import sae as saes
from thoughtlens.core import ConfigError, NotThereError
from thoughtlens.sae.formats.open import load_sae


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """`mine/saes` in the hub's cache, with an SAE in `layer_3/pooled`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root, commit = tmp_path / "hub" / "models--mine--saes", "a" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    sae = random_sae(saes.TopKConfig(d_sae=8, k=2)).float()
    saes.save(sae, tmp_path / "sae")
    shutil.copytree(tmp_path / "sae", root / "snapshots" / commit / "layer_3" / "pooled")
    return sae


def test_a_path_and_a_hub_id_are_the_same_sae(repository, tmp_path):
    for source in (tmp_path / "sae", "mine/saes:layer_3/pooled", "mine/saes@main:layer_3/pooled"):
        torch.testing.assert_close(load_sae(source).W_dec, repository.W_dec)


def test_what_is_not_there(repository):
    with pytest.raises(NotThereError, match=r"no SAE in its top folder; name .* mine/saes:FOLDER"):
        load_sae("mine/saes")
    with pytest.raises(NotThereError, match="repository no/such on the hub; found neither"):
        load_sae("no/such:here")
    with pytest.raises(ConfigError, match="Expected a folder of mine/saes"):
        load_sae("mine/saes:../../x")
