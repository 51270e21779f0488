"""An SAE under SAELens's names: the same function, decoder rows of length 1."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from tests.evals.suites.planted import D, probe_sae
from thoughtlens import sae as saes
from thoughtlens.core import HookError, MismatchError
from thoughtlens.evals.suites.adaptor import as_sae_lens
from thoughtlens.sae.kinds.config import ImportedConfig
from thoughtlens.sae.kinds.imported import ImportedSAE

X = torch.randn(4, 7, D, generator=torch.Generator().manual_seed(0))


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_by_hand():
    sae = as_sae_lens(probe_sae(), model_name="gpt2", context_size=64, prepend_bos=False)
    # the encoder gives half of each coordinate, the decoder doubles it: in units of what is written: all
    assert close(sae.encode(X), X.relu()) and close(sae(X), X.relu())
    assert close(sae.W_dec, torch.eye(D)) and close(sae.W_enc, torch.eye(D))
    assert (sae.cfg.hook_name, sae.cfg.hook_layer) == ("blocks.1.hook_resid_post", 1)
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.model_name) == (D, D, "gpt2")
    assert (sae.cfg.context_size, sae.cfg.prepend_bos) == (64, False)
    assert sae.cfg.to_dict() == asdict(sae.cfg)


KINDS = [
    saes.TopKConfig(d_sae=40, k=5),
    saes.JumpReLUConfig(d_sae=40, target_l0=5),
    saes.GatedConfig(d_sae=40),
]


@pytest.mark.parametrize("cfg", KINDS, ids=lambda c: c.kind)
@pytest.mark.parametrize("cells", [1, 2])
@torch.no_grad()
def test_same_function_whatever_the_normalization(cfg, cells):
    names = [(f"layers.{i}:out", None) for i in range(cells)]
    raw = saes.create(cfg, D, seed=0)
    rows = 3 * X.flatten(0, 1) + 2
    raw.initialize(rows, torch.arange(len(rows)) % cells, names)
    raw.hook_names = [hook for hook, _ in names]
    sae = as_sae_lens(raw, model_name="m", hook_name=names[-1][0])
    cell = raw.cell_index(names, torch.full((X.shape[0] * X.shape[1],), cells - 1))
    cell = None if cell is None else cell.view(X.shape[:2])
    acts = sae.encode(X)
    assert close(sae(X), raw(X, cell)) and close(sae.decode(acts), sae(X))
    assert ((acts != 0) == (raw.encode(X, cell) != 0)).all()
    alive = raw.W_dec.norm(dim=1) > 0
    assert close(sae.W_dec.norm(dim=1)[alive], torch.ones(int(alive.sum())))
    assert close(acts @ sae.W_dec + sae.b_dec, sae(X))


@torch.no_grad()
def test_runtime_norms_need_their_input():
    cfg = ImportedConfig(d_sae=24, rule="topk", k=3, input_norm="layer_norm")
    raw = ImportedSAE(cfg, D)
    raw.W_enc.copy_(torch.randn(D, 24, generator=torch.Generator().manual_seed(1)))
    raw.W_dec.copy_(raw.W_enc.T)
    sae = as_sae_lens(raw, model_name="m", hook_name="layers.3:out")
    assert close(sae(X), raw(X))
    with pytest.raises(MismatchError, match=r"got no x"):
        sae.decode(sae.encode(X))


@torch.no_grad()
def test_moves_like_a_module():
    sae = as_sae_lens(probe_sae(), model_name="m").to(dtype=torch.bfloat16)
    assert sae.dtype == torch.bfloat16 and sae.cfg.dtype == "bfloat16" and sae.cfg.device == "cpu"
    assert sae.encode(X.bfloat16()).dtype == torch.bfloat16
    assert not sae.training


@pytest.mark.parametrize(
    ("hooks", "given", "error", "message"),
    [
        (("layers.1:out", "layers.2:out"), {}, HookError, "expected one of layers.1:out, layers.2:out"),
        (("layers.1:out",), {"hook_name": "layers.1.post_norm:out"}, HookError, "no name for"),
        (("embed:out",), {}, HookError, "no name for 'embed:out'"),
        (("layers.1:out",), {"model_name": None}, MismatchError, "name of the model"),
    ],
)
def test_what_these_runners_cannot_take(hooks, given, error, message):
    with pytest.raises(error, match=message):
        as_sae_lens(probe_sae(hooks), **{"model_name": "m", **given})


def test_transcoders_are_refused():
    cfg = saes.TranscoderConfig(d_sae=20, k=3)
    with pytest.raises(MismatchError, match="reconstructs its own input, got a transcoder"):
        as_sae_lens(saes.create(cfg, D, seed=0, d_out=D), model_name="m")
