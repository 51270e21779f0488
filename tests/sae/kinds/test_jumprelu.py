"""JumpReLU by hand: loss, straight-through rule, controller."""

from __future__ import annotations

import math

import pytest
import torch

from tests.sae.kinds.each import inputs, make
from tests.sae.toy import X, by_hand, directional_error, rows
from thoughtlens import sae as saes
from thoughtlens.sae.kinds.jumprelu import JumpReLU, Step

CFG = saes.JumpReLUConfig(d_sae=3, target_l0=1, coefficient=2, bandwidth=1.0, normalization="none")
THRESHOLD = (1.0, 1.9, 2.0)


def toy(cfg=CFG):
    sae = by_hand(cfg)
    with torch.no_grad():
        sae.threshold.copy_(torch.tensor(THRESHOLD))
    return sae


def test_loss_by_hand():
    # pre-activations (3, 0, 1.8) and (1, 2, 2.2); strictly above (1, 1.9, 2): 3 | 2 and 2.2
    # x_hat (3, 0) and (0, 2) + (1.32, 1.76) = (1.32, 3.76): squared errors 0 and 0.32^2 + 1.76^2 = 3.2
    # l0 = 1.5, gap = 0.5: 2 * 0.25 = 0.5
    loss = toy().loss(saes.Batch(torch.tensor(X)))
    assert loss.acts.tolist() == [[3.0, 0.0, 0.0], [0.0, 2.0, pytest.approx(2.2)]]
    assert loss.terms["reconstruction"].item() == pytest.approx(0.8, rel=1e-5)
    assert loss.terms["sparsity"].item() == pytest.approx(0.5, rel=1e-5)


def test_threshold_gradients_by_hand():
    # |z - threshold| < 0.5 on: latent 0 row 1 (|1 - 1|), latent 1 row 1 (0.1), latent 2 both rows (0.2)
    # sparsity: 2 * 2 gap = 2, times -1 / (bandwidth target rows) = -0.5 for each of these
    # reconstruction: residual (0, 0) and (-0.32, -1.76); d/d act = -2/4 residual . row of W_dec
    #   = 0.16, 0.88, 0.8 on row 1 and 0 on row 0; times -threshold / bandwidth
    batch = saes.Batch(torch.tensor(X))
    sae = toy()
    sae.loss(batch).terms["sparsity"].backward()
    assert sae.threshold.grad.tolist() == pytest.approx([-1.0, -1.0, -2.0], rel=1e-5)
    assert sae.W_enc.grad is None or not sae.W_enc.grad.any()
    sae = toy()
    sae.loss(batch).terms["reconstruction"].backward()
    assert sae.threshold.grad.tolist() == pytest.approx([-0.16, -1.9 * 0.88, -1.6], rel=1e-4)


def test_straight_through_rule():
    z = torch.linspace(-1, 3, 81, dtype=torch.float64)[:, None].requires_grad_()
    threshold = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    near = ((z - 0.5).abs() < 0.19).sum().item()
    assert near == 7
    Step.apply(z, threshold, 0.38).sum().backward()
    assert threshold.grad.item() == pytest.approx(-near / 0.38) and z.grad is None
    threshold.grad = None
    JumpReLU.apply(z, threshold, 0.38).sum().backward()
    assert threshold.grad.item() == pytest.approx(-near * 0.5 / 0.38)
    assert torch.equal(z.grad, (z > 0.5).double())


def test_weights_have_their_exact_gradient():
    cfg = saes.JumpReLUConfig(d_sae=20, target_l0=3, auxk=0, normalization="none")
    sae, batch = make(cfg), saes.Batch(**inputs(cfg, 32))
    sae.threshold.requires_grad_(False)
    assert directional_error(sae, lambda: sae.loss(batch).terms["reconstruction"]) < 1e-5


def test_other_penalties_by_hand():
    # l0: 0.01 * 1.5. tanh with scale 0.5: 0.01 * (tanh 1.5 + tanh 1 + tanh 1.1) / 2
    batch = saes.Batch(torch.tensor(X))
    l0 = toy(CFG.model_copy(update={"penalty": "l0", "coefficient": 0.01})).loss(batch)
    assert l0.terms["sparsity"].item() == pytest.approx(0.015, rel=1e-5)
    cfg = CFG.model_copy(update={"penalty": "tanh", "coefficient": 0.01, "tanh_scale": 0.5})
    expected = 0.01 * (math.tanh(1.5) + math.tanh(1) + math.tanh(1.1)) / 2
    assert toy(cfg).loss(batch).terms["sparsity"].item() == pytest.approx(expected, rel=1e-5)


def test_pre_act_loss_by_hand():
    # latent 1 dead, threshold 1.9: relu(1.9 - 0) + relu(1.9 - 2) = 1.9, mean over 2 rows, times 0.1
    cfg = CFG.model_copy(update={"pre_act": 0.1, "auxk": 0.0})
    terms = toy(cfg).loss(saes.Batch(torch.tensor(X), dead=torch.tensor([False, True, False]))).terms
    assert terms["pre_act"].item() == pytest.approx(0.095, rel=1e-5)
    assert "auxk" not in terms


def test_after_step_moves_thresholds_together_and_keeps_them_positive():
    sae = toy()
    with torch.no_grad():
        sae.threshold[1] = -0.1
    batch = saes.Batch(torch.tensor(X))
    loss = toy().loss(batch)
    sae.after_step(batch, loss)
    assert sae.threshold.tolist() == pytest.approx([1.025, 0.0, 2.05])  # 1 + 0.05 * 0.5
    fixed = toy(CFG.model_copy(update={"penalty": "l0"}))
    fixed.after_step(batch, loss)
    assert fixed.threshold.tolist() == pytest.approx(THRESHOLD)
    far = toy(CFG.model_copy(update={"target_l0": 0.1}))
    far.after_step(batch, loss)  # a gap of 14 counts as 1
    assert far.threshold.tolist() == pytest.approx([1.05 * t for t in THRESHOLD])


def test_the_start_fires_as_often_as_the_target_says():
    x = rows(500).float()
    sae = saes.create(saes.JumpReLUConfig(d_sae=40, target_l0=5), 6, seed=0)
    sae.initialize(x)
    assert (sae.encode(x) != 0).sum().item() / 500 == pytest.approx(5, abs=0.01)
    given = saes.create(saes.JumpReLUConfig(d_sae=40, target_l0=5, threshold_init=0.3), 6, seed=0)
    given.initialize(x)
    assert given.threshold.tolist() == pytest.approx([0.3] * 40)


def test_thresholds_learn_faster_than_weights():
    # in log space, or at the weights' rate, Adam would leave them where they start
    assert saes.JumpReLUSAE.lr_factor == {"threshold": 10.0}
