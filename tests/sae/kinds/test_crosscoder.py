"""Crosscoders by hand, and which latents persist."""

from __future__ import annotations

import pytest
import torch

from tests.sae.kinds.each import inputs, make
from thoughtlens import sae as saes
from thoughtlens.core import ConfigError, MismatchError

CFG = saes.CrosscoderConfig(d_sae=2, k=1, sites=("a:out", "b:out"), normalization="none")
X = torch.tensor([[[3.0], [4.0]], [[1.0], [0.0]]])


def by_hand(cfg=CFG):
    """One dimension a site; latent 0 reads and writes (0.6, 0.8) at sites a and b, latent 1 (1, 0)."""
    sae = saes.create(cfg, 1, seed=0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[[0.6], [0.8]], [[1.0], [0.0]]]))
        sae.W_enc.copy_(sae.W_dec.permute(1, 2, 0))
    return sae


def test_shapes():
    sae = saes.create(saes.CrosscoderConfig(d_sae=20, k=2, sites=("a", "b", "c")), 6, seed=0)
    assert sae.W_enc.shape == (3, 6, 20) and sae.W_dec.shape == (20, 3, 6) and sae.b_dec.shape == (3, 6)
    assert torch.allclose(sae.W_dec.flatten(1).norm(dim=1), torch.ones(20))


def test_loss_by_hand():
    # pre-activations 0.6 * 3 + 0.8 * 4 = 5 and 3; 0.6 and 1: the batch keeps 5 and 3, both on row 0
    # x_hat (3, 4) + (3, 0) and (0, 0): squared errors 9 and 1, mean over 4 entries 2.5
    sae = by_hand()
    batch = saes.Batch(X)
    loss = sae.loss(batch)
    assert loss.acts.tolist() == [[5.0, 3.0], [0.0, 0.0]]
    assert loss.terms["reconstruction"].item() == pytest.approx(2.5, rel=1e-5)
    sae.after_step(batch, loss)
    assert sae.threshold == 3
    assert sae.encode(X).tolist() == [[5.0, 0.0], [0.0, 0.0]]
    assert torch.allclose(sae(X)[0], X[0])


def test_l1_loss_by_hand():
    # weights of the latents 0.6 + 0.8 = 1.4 and 1; row 0: 5 * 1.4 + 3 = 10, row 1: 0.6 * 1.4 + 1 = 1.84
    # errors: 9, and row 1 (1 - 0.36 - 1, -0.48): 0.36
    terms = by_hand(CFG.model_copy(update={"sparsity": "l1", "l1": 2.0})).loss(saes.Batch(X)).terms
    assert terms["l1"].item() == pytest.approx(2 * (10 + 1.84) / 2, rel=1e-5)
    assert terms["reconstruction"].item() == pytest.approx(4.68, rel=1e-5)


@torch.no_grad()
def test_a_loud_site_does_not_take_the_dictionary():
    cfg = saes.CrosscoderConfig(d_sae=20, k=3, sites=("a", "b", "c"))
    sample = inputs(cfg, 200)
    loud = {"x": sample["x"] * torch.tensor([1.0, 1000.0, 1.0])[:, None] + 3}
    plain, scaled = make(cfg, sample=sample), make(cfg, sample=loud)
    assert torch.allclose(scaled.encode(loud["x"]), plain.encode(sample["x"]), atol=1e-8)
    assert torch.equal(saes.persistence(scaled).norms, saes.persistence(plain).norms)


def test_sites_in_another_number_are_refused():
    with pytest.raises(MismatchError, match="a:out, b:out"):
        by_hand()(torch.zeros(4, 3, 1))
    with pytest.raises(MismatchError, match=r"\[..., 2, 1\]"):
        by_hand().encode(torch.zeros(4, 1))


NORMS = [
    [1.0, 1.0, 0.9, 1.0],
    [0.0, 0.1, 1.0, 0.8],
    [2.0, 1.0, 0.1, 0.0],
    [0.0, 1.0, 0.5, 0.2],
    [1.0, 0.0, 0.0, 0.9],
    [0.0, 0.0, 0.0, 0.0],
]
STATUS = ["persists", "appears", "vanishes", "passing", "returns", "silent"]


def persistent():
    cfg = saes.CrosscoderConfig(
        d_sae=6,
        k=1,
        over="thoughts",
        sites=("t1", "t2", "t3", "t4"),
        normalization="none",
        decoder_norm="free",
    )
    sae = saes.create(cfg, 1, seed=0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor(NORMS)[:, :, None])
    return sae


def test_persistence_by_hand():
    found = saes.persistence(persistent())
    assert found.status == STATUS and found.sites == ("t1", "t2", "t3", "t4")
    assert found.share[2].tolist() == pytest.approx([1.0, 0.5, 0.05, 0.0])
    assert found.present[3].tolist() == [False, True, True, False]
    # the bound decides: at 0.01 latent 1 is there from t2 on, at 1 only the largest site counts
    assert saes.persistence(persistent(), bound=0.01).present[1].tolist() == [False, True, True, True]
    assert saes.persistence(persistent(), bound=1.0).status[1] == "passing"
    with pytest.raises(MismatchError, match="no x"):
        _ = found.written


def test_persistence_looks_at_what_fires():
    sae = persistent()
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[0, 0, :2] = torch.tensor([1.0, 2.0])
    x = torch.zeros(4, 4, 1)
    x[:2, 0, 0] = torch.tensor([1.0, 3.0])
    found = saes.persistence(sae, x)
    assert found.status == ["persists", "appears", *["silent"] * 4]
    assert found.density.tolist() == pytest.approx([0.5, 0.5, 0, 0, 0, 0])
    assert found.mean_act.tolist() == pytest.approx([2.0, 4.0, 0, 0, 0, 0])
    assert found.written[1].tolist() == pytest.approx([0.0, 0.4, 4.0, 3.2])


@pytest.mark.parametrize("bound", [0.0, -1.0, 1.5])
def test_a_bound_that_means_nothing_is_refused(bound):
    with pytest.raises(ConfigError, match="bound"):
        saes.persistence(by_hand(), bound=bound)
