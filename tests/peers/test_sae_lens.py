"""SAELens writes what we read, and reads what we write; both compute the same."""

from __future__ import annotations

import pytest
import torch

from tests.sae.formats import foreign
from thoughtlens import sae as saes
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert

pytest.importorskip("sae_lens", reason="SAELens is not installed")
pytestmark = pytest.mark.filterwarnings("default")
X = 2 * foreign.draw(40, foreign.D_IN, seed=3)


def peers(path):
    from sae_lens import SAE

    return SAE.load_from_disk(str(path))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("name", [name for name in foreign.ALL if name.startswith("sae_lens")])
@torch.no_grad()
def test_what_the_peer_wrote(tmp_path, name):
    peer = peers(foreign.ALL[name](tmp_path / "hand"))  # the layout that the tests put together is the peer's
    peer.save_model(tmp_path / "peer")
    ours = saes.load(tmp_path / "peer")
    assert close(ours.encode(X), peer.encode(X).to_dense())
    assert close(ours(X), peer(X))
    assert ours.hook_names == ["layers.3:out"]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in foreign.ALL
        if name.split("-")[0] in ("dictionary", "gemma_scope", "gemma_scope_2", "openai")
    ]
    + ["sparsify", *(name for name in foreign.ALL if name.startswith("sae_lens"))],
)
@torch.no_grad()
def test_what_the_peer_reads(tmp_path, name):
    source = foreign.ALL[name](tmp_path)
    if name == "openai-Identity":
        pytest.skip("SAELens has no such rule")
    convert(ConvertConfig(source=source, to="sae_lens"), tmp_path / "out")
    peer, ours = peers(tmp_path / "out"), saes.load(source)
    assert close(peer.encode(X).to_dense(), ours.encode(X))
    assert close(peer(X), ours(X))
