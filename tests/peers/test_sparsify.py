"""sparsify writes what we read, and reads what we write; both compute the same."""

from __future__ import annotations

import pytest
import torch

from tests.sae.formats import foreign
from thoughtlens import sae as saes
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert

pytest.importorskip("sparsify", reason="sparsify is not installed")
pytestmark = pytest.mark.filterwarnings("default")
X = 2 * foreign.draw(40, foreign.D_IN, seed=3)


def outputs(path) -> tuple[torch.Tensor, torch.Tensor]:
    from sparsify import SparseCoder

    peer = SparseCoder.load_from_disk(path)
    found = peer.encode(X)
    acts = torch.zeros(len(X), peer.num_latents).scatter_(1, found.top_indices, found.top_acts)
    return acts, peer(X).sae_out


@pytest.mark.parametrize("name", [name for name in foreign.ALL if name.startswith("sparsify")])
@torch.no_grad()
def test_both_ways(tmp_path, name):
    from sparsify import SparseCoder

    by_hand = foreign.ALL[name](tmp_path / "hand")
    SparseCoder.load_from_disk(by_hand).save_to_disk(tmp_path / "layers.2.mlp")
    ours = saes.load(tmp_path / "layers.2.mlp")
    acts, x_hat = outputs(tmp_path / "layers.2.mlp")
    assert torch.allclose(ours.encode(X), acts, rtol=1e-5, atol=1e-5)
    assert torch.allclose(ours(X), x_hat, rtol=1e-5, atol=1e-5)
    saes.save(ours, tmp_path / "ours")
    convert(ConvertConfig(source=tmp_path / "ours", to="sparsify"), tmp_path / "back")
    again = outputs(tmp_path / "back")
    assert torch.equal(again[0], acts) and torch.equal(again[1], x_hat)
