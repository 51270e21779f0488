"""TopK's loss by hand, its gradients, and the bugs of AuxK that other code has had."""

from __future__ import annotations

import pytest
import torch

from tests.sae.toy import X, by_hand, directional_error, random_sae, rows
from thoughtlens import sae as saes
from thoughtlens.sae.kinds.topk import auxk_loss

CFG = saes.TopKConfig(d_sae=3, k=1, normalization="none", k_aux=1)


def test_loss_by_hand():
    # pre-activations: (3, 0, 1.8) and (1, 2, 2.2)
    # x_hat: (3, 0) and 2.2 * (0.6, 0.8) = (1.32, 1.76); residuals (0, 0) and (-0.32, 0.24)
    # reconstruction: (0.1024 + 0.0576) / 4 entries = 0.04
    # auxk with latent 1 dead: it predicts (0, 0) and (0, 2)
    #   errors: 0 and 0.32^2 + 1.76^2 = 3.2; variance of the residuals: 2 * (0.16^2 + 0.12^2) = 0.08
    #   3.2 / 0.08 = 40, times 1/32
    loss = by_hand(CFG).loss(saes.Batch(torch.tensor(X), dead=torch.tensor([False, True, False])))
    assert loss.terms["reconstruction"].item() == pytest.approx(0.04, rel=1e-5)
    assert loss.terms["auxk"].item() == pytest.approx(40 / 32, rel=1e-5)
    assert loss.total.item() == pytest.approx(0.04 + 40 / 32, rel=1e-5)
    assert loss.acts.to_dense(3).tolist() == [[3.0, 0.0, 0.0], [0.0, 0.0, pytest.approx(2.2)]]


def test_without_dead_latents_auxk_is_zero():
    loss = by_hand(CFG).loss(saes.Batch(torch.tensor(X), dead=torch.zeros(3, dtype=torch.bool)))
    assert loss.terms["auxk"].item() == 0
    assert "auxk" not in by_hand(CFG).loss(saes.Batch(torch.tensor(X))).terms
    off = by_hand(CFG.model_copy(update={"auxk": 0.0}))
    assert "auxk" not in off.loss(saes.Batch(torch.tensor(X), dead=torch.ones(3, dtype=torch.bool))).terms


@pytest.mark.parametrize("dead_share", [0.2, 0.9])
def test_gradients_match_finite_differences(dead_share):
    sae, x = random_sae(saes.TopKConfig(d_sae=20, k=3, auxk=0.0, normalization="none")), rows(32)
    assert directional_error(sae, lambda: sae.loss(saes.Batch(x)).total) < 1e-5
    residual = rows(32, seed=3)
    dead = torch.rand(20, generator=torch.Generator().manual_seed(1)) < dead_share
    error = directional_error(sae, lambda: auxk_loss(residual, sae.pre_acts(x), sae.W_dec, dead, 4))
    assert dead.any() and error < 1e-5


def test_auxk_reaches_encoder_and_decoder_of_dead_latents_and_only_these():
    sae, x = random_sae(saes.TopKConfig(d_sae=20, k=3, normalization="none")), rows(64)
    dead = sae.pre_acts(x).mean(0) < sae.pre_acts(x).mean(0).median()
    loss = sae.loss(saes.Batch(x, dead=dead))
    loss.terms["auxk"].backward()
    positive = (sae.pre_acts(x) > 0).any(0)
    for gradient in (sae.W_enc.grad.T, sae.W_dec.grad, sae.b_enc.grad[:, None]):
        assert (gradient[dead & positive].norm(dim=1) > 0).all()
        assert (gradient[~dead] == 0).all()
    assert (dead & positive).sum() >= 3


def test_the_residual_is_a_target():
    # b_dec shapes the residual and, through the pre-activations, the prediction; with pre_bias off only
    # the residual depends on it, and through a target no gradient flows
    sae, x = random_sae(saes.TopKConfig(d_sae=20, k=3, pre_bias=False, normalization="none")), rows(64)
    loss = sae.loss(saes.Batch(x, dead=torch.ones(20, dtype=torch.bool)))
    loss.terms["auxk"].backward()
    assert sae.b_dec.grad is None or (sae.b_dec.grad == 0).all()


def test_the_bias_is_counted_once():
    # a dead latent that writes exactly the residual makes the auxiliary loss 0, whatever b_dec is
    sae = by_hand(CFG)
    with torch.no_grad():
        sae.b_dec.copy_(torch.tensor([1.0, -1.0]))
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    # x - b_dec = (2, 1) and (3, 2): latent 0 fires with 2 and 3; the residuals are (0, 1) and (0, 2), and
    # the dead latent 1, direction (0, 1), has pre-activations 1 and 2
    x = torch.tensor([[3.0, 0.0], [4.0, 1.0]])
    loss = sae.loss(saes.Batch(x, dead=torch.tensor([False, True, False])))
    assert loss.terms["reconstruction"].item() == pytest.approx((1 + 4) / 4)
    assert loss.terms["auxk"].item() == pytest.approx(0, abs=1e-7)


def test_auxk_keeps_the_strongest_dead_latents():
    # dead latents 0 and 1 have pre-activations 1 and 2 on row 0, 3 and 1 on row 1; with k_aux = 1 they
    # predict (0, 2) and (3, 0). Targets (0, 2) and (3, 1): error 1; mean (1.5, 1.5), variance 2 * 2.5
    residual = torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    pre_acts = torch.tensor([[1.0, 2.0, 9.0], [3.0, 1.0, 9.0]])
    W_dec = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    loss = auxk_loss(residual, pre_acts, W_dec, torch.tensor([True, True, False]), 1)
    assert loss.item() == pytest.approx(1 / 5)


def test_auxk_of_a_perfect_reconstruction_is_finite():
    assert auxk_loss(
        torch.zeros(2, 2), torch.zeros(2, 3), torch.eye(3, 2), torch.ones(3, dtype=torch.bool), 1
    ).isfinite()


def test_k_far_above_what_fires_pads_with_zeros():
    sae = by_hand(saes.TopKConfig(d_sae=3, k=3, normalization="none"))
    sparse = sae.encode_sparse(torch.tensor([[1.0, -5.0]]))
    assert sparse.to_dense(3).tolist() == [[1.0, 0.0, 0.0]]


def test_warning_where_l0_makes_reconstruction_meaningless():
    assert saes.TopKConfig(k=4).warnings(16) == []
    assert "above d_in / 4 = 4" in saes.TopKConfig(k=5).warnings(16)[0]
