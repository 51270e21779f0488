"""dictionary_learning writes what we read, and reads what we write; both compute the same."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from tests.sae.formats import foreign
from thoughtlens import sae as saes
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert

pytest.importorskip("dictionary_learning", reason="dictionary_learning is not installed")
pytestmark = pytest.mark.filterwarnings("default")
X = 2 * foreign.draw(40, foreign.D_IN, seed=3)
MODULES = {
    "AutoEncoderTopK": "trainers.top_k",
    "BatchTopKSAE": "trainers.batch_top_k",
    "MatryoshkaBatchTopKSAE": "trainers.matryoshka_batch_top_k",
}


def peer_of(cls: str, path):
    module = importlib.import_module(f"dictionary_learning.{MODULES.get(cls, 'dictionary')}")
    settings = {"normalize_decoder": False} if cls == "AutoEncoder" else {}
    return getattr(module, cls).from_pretrained(str(path / "ae.pt"), **settings)


@pytest.mark.parametrize("name", [name for name in foreign.ALL if name.startswith("dictionary")])
@torch.no_grad()
def test_both_ways(tmp_path, name):
    by_hand = foreign.ALL[name](tmp_path / "hand")
    cls = json.loads((by_hand / "config.json").read_text())["trainer"]["dict_class"]
    peer = peer_of(cls, by_hand)
    torch.save(peer.state_dict(), by_hand / "ae.pt")
    ours = saes.load(by_hand)
    assert torch.allclose(ours.encode(X), peer.encode(X), rtol=1e-5, atol=1e-5)
    assert torch.allclose(ours(X), peer(X), rtol=1e-5, atol=1e-5)
    saes.save(ours, tmp_path / "ours")
    convert(ConvertConfig(source=tmp_path / "ours", to="dictionary_learning"), tmp_path / "back")
    back = json.loads((tmp_path / "back" / "config.json").read_text())["trainer"]["dict_class"]
    again = peer_of(back, tmp_path / "back")
    assert torch.allclose(again(X), peer(X), rtol=1e-5, atol=1e-5)
    assert back == cls
