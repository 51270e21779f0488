"""Every architecture that is trained here, read by the libraries that can hold it."""

from __future__ import annotations

import pytest
import torch

from tests.peers.test_dictionary_learning import peer_of
from tests.sae.kinds import each as kinds
from thoughtlens import sae as saes
from thoughtlens.core import MismatchError, read_json
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert

pytestmark = pytest.mark.filterwarnings("default")
CONFIGS = [
    saes.TopKConfig(d_sae=kinds.D_SAE, k=3),
    saes.ReLUConfig(d_sae=kinds.D_SAE),
    *(c for c in kinds.CONFIGS if not isinstance(c, saes.CrosscoderConfig | saes.TranscoderConfig)),
    saes.TopKConfig(d_sae=kinds.D_SAE, k=3, pre_bias=False),
    saes.ReLUConfig(d_sae=kinds.D_SAE, pre_bias=False),
]
EVERYWHERE = {"topk": {"sparsify"}}
"""Who holds more than SAELens and dictionary_learning do; a supervised SAE is held by nobody."""


def held_by(cfg: saes.SAEConfig) -> set[str]:
    own = {"sae_lens", "dictionary_learning"} | EVERYWHERE.get(cfg.kind, set())
    return set() if cfg.kind == "supervised" else own


def read(target: str, path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """acts and x_hat of the peer's own object."""
    if target == "sae_lens":
        peer = pytest.importorskip("sae_lens").SAE.load_from_disk(str(path))
        return peer.encode(x).to_dense(), peer(x)
    if target == "sparsify":
        peer = pytest.importorskip("sparsify").SparseCoder.load_from_disk(path)
        found = peer.encode(x)
        acts = torch.zeros(len(x), peer.num_latents).scatter_(1, found.top_indices, found.top_acts)
        return acts, peer(x).sae_out
    pytest.importorskip("dictionary_learning")
    peer = peer_of(read_json(path / "config.json")["trainer"]["dict_class"], path)
    return peer.encode(x), peer(x)


@pytest.mark.parametrize("target", ["sae_lens", "sparsify", "dictionary_learning"])
@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: c.kind + ("" if c.pre_bias else "-no-pre-bias"))
@torch.no_grad()
def test_written_here_and_read_there(tmp_path, cfg, target):
    sae = kinds.make(cfg, sample=kinds.inputs(cfg, 50)).float()
    sae.hook_names = ["layers.3:out"]
    saes.save(sae, tmp_path / "ours")
    order = ConvertConfig(source=tmp_path / "ours", to=target)
    if target not in held_by(cfg):
        with pytest.raises(MismatchError):
            convert(order, tmp_path / "theirs")
        return
    convert(order, tmp_path / "theirs")
    x = kinds.inputs(cfg, 40, seed=3)["x"].float()
    ours = saes.load(tmp_path / "ours")
    for mine, theirs in zip((ours.encode(x), ours(x)), read(target, tmp_path / "theirs", x), strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * max(1.0, float(mine.abs().max()))
    assert (ours.encode(x) != 0).any()


@pytest.mark.parametrize("skip", [False, True])
@torch.no_grad()
def test_transcoder_in_sparsify(tmp_path, skip):
    cfg = saes.TranscoderConfig(d_sae=kinds.D_SAE, k=3, skip=skip, normalization="none")
    sae = saes.create(cfg, kinds.D_IN, seed=0, d_out=kinds.D_IN)
    for i, parameter in enumerate(sae.parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    saes.save(sae, tmp_path / "ours")
    convert(ConvertConfig(source=tmp_path / "ours", to="sparsify"), tmp_path / "theirs")
    x = kinds.inputs(cfg, 40, seed=3)["x"].float()
    ours = saes.load(tmp_path / "ours")
    acts, x_hat = read("sparsify", tmp_path / "theirs", x)
    assert torch.allclose(ours.encode(x), acts, rtol=1e-5, atol=1e-5)
    assert torch.allclose(ours(x), x_hat, rtol=1e-5, atol=1e-5)
