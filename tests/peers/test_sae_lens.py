"""SAELens writes what we read, and reads what we write; both compute the same."""

from __future__ import annotations

import pytest
import torch

from tests.sae.formats import foreign
from tests.sae.toy import random_sae
from thoughtlens import sae as saes
from thoughtlens.models import capture, load
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


TOKENS = 24


@torch.no_grad()
def test_its_store_reads_the_model_as_the_sae_that_we_wrote_says(tmp_path, tiny_lm_dir):
    datasets = pytest.importorskip("datasets")
    from sae_lens.training.activations_store import ActivationsStore
    from transformer_lens.model_bridge import TransformerBridge

    said = {"prepend_bos": True, "context_size": TOKENS, "dataset_path": "owner/texts", "model_name": "tiny"}
    lm = load(str(tiny_lm_dir), dtype="float32")
    sae = random_sae(saes.TopKConfig(d_sae=40, k=3), d_in=32)
    sae.hook_names = ["layers.1:out"]
    sae.provenance = {
        "model": "tiny",
        "says": {"prepend_bos": True, "context_size": TOKENS, "dataset": "owner/texts"},
    }
    saes.save(sae, tmp_path / "ours")
    convert(ConvertConfig(source=tmp_path / "ours", to="sae_lens"), tmp_path / "theirs")
    peer = peers(tmp_path / "theirs")
    assert {key: peer.cfg.metadata[key] for key in said} == said
    bridge = TransformerBridge.boot_transformers(str(tiny_lm_dir), device="cpu")
    texts = datasets.Dataset.from_dict({"text": ["whales and tides and boats " * 9] * 40})
    store = ActivationsStore.from_sae(bridge, peer, texts, streaming=False, store_batch_size_prompts=2)
    ids = store.get_batch_tokens(2)
    x = store.get_activations(ids).reshape(-1, 32)
    assert ids.shape == (2, TOKENS) and ids[:, 0].tolist() == [lm.tokenizer.bos_token_id] * 2
    mine = capture(lm.model, ids, None, ["layers.1:out"])["layers.1:out"].flatten(0, 1)
    assert close(mine, x)
    assert close(peer(x), sae(mine))
