"""Gated SAE and p-annealing by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests.sae.kinds.each import inputs, make
from tests.sae.toy import X, by_hand, directional_error
from thoughtlens import sae as saes

GATED = saes.GatedConfig(d_sae=3, l1=2.0, normalization="none")
P_ANNEAL = saes.PAnnealConfig(d_sae=3, l1=2.0, normalization="none")


def gated():
    sae = by_hand(GATED)
    with torch.no_grad():
        sae.b_enc.fill_(-2)
        sae.r_mag.fill_(math.log(2))
        sae.b_mag.fill_(0.5)
    return sae


def test_gated_loss_by_hand():
    # p = (3, 0, 1.8) and (1, 2, 2.2); gate = p - 2 = (1, -2, -0.2) and (-1, 0, 0.2)
    # magnitude = 2 p + 0.5 where the gate is open: 6.5 on latent 0, 4.9 on latent 2 (a gate of 0 is shut)
    # x_hat (6.5, 0) and 4.9 (0.6, 0.8) = (2.94, 3.92): errors 3.5^2 = 12.25 and 1.94^2 + 1.92^2 = 7.45
    # l1: 2 * (1 + 0.2) / 2 = 1.2
    # gate alone: (1, 0) and 0.2 (0.6, 0.8) = (0.12, 0.16): errors 4 and 0.88^2 + 1.84^2 = 4.16
    loss = gated().loss(saes.Batch(torch.tensor(X)))
    assert loss.acts.tolist() == [[6.5, 0.0, 0.0], [0.0, 0.0, pytest.approx(4.9)]]
    assert loss.terms["reconstruction"].item() == pytest.approx((12.25 + 7.45) / 2, rel=1e-5)
    assert loss.terms["l1"].item() == pytest.approx(1.2, rel=1e-5)
    assert loss.terms["gate"].item() == pytest.approx(4.08, rel=1e-5)
    half = gated().loss(saes.Batch(torch.tensor(X), progress=0.15)).terms["l1"].item()
    assert half == pytest.approx(0.6, rel=1e-5)


def test_the_gate_term_sees_a_frozen_decoder():
    cfg = saes.GatedConfig(d_sae=20, normalization="none")
    sae, batch = make(cfg), saes.Batch(**inputs(cfg, 32))
    W_dec, b_dec = sae.W_dec.detach().clone(), sae.b_dec.detach().clone()

    def frozen():
        z_hat = sae.pre_acts(batch.x).relu() @ W_dec + b_dec
        return (batch.x - z_hat).square().sum(-1).mean()

    assert directional_error(sae, frozen) < 1e-5
    expected = {n: p.grad.clone() for n, p in sae.named_parameters() if p.grad is not None}
    sae.zero_grad()
    sae.loss(batch).terms["gate"].backward()
    found = {n: p.grad for n, p in sae.named_parameters() if p.grad is not None and p.grad.any()}
    assert found.keys() == {"W_enc", "b_enc", "b_dec"}
    assert all(torch.allclose(found[n], expected[n]) for n in found)


@pytest.mark.parametrize("term", ["reconstruction", "l1"])
def test_gated_gradients_match_finite_differences(term):
    cfg = saes.GatedConfig(d_sae=20, normalization="none")
    sae, batch = make(cfg), saes.Batch(**inputs(cfg, 32))
    assert directional_error(sae, lambda: sae.loss(batch).terms[term], step=1e-5) < 1e-5


def test_a_gate_does_not_learn_from_what_it_lets_through():
    sae = gated()
    sae.loss(saes.Batch(torch.tensor(X))).terms["reconstruction"].backward()
    assert sae.b_enc.grad[1] == 0 and sae.b_mag.grad[0] != 0
    # b_enc enters the magnitude as -r b_enc and the pre-activation as +b_enc: nothing is left
    assert torch.allclose(sae.b_enc.grad, torch.zeros(3), atol=1e-6)


def test_p_falls_on_schedule():
    cfg = saes.PAnnealConfig(anneal_start=0.2, anneal_end=1.0, p_end=0.2)
    assert [cfg.p_at(t) for t in (0.0, 0.2, 0.6, 1.0)] == pytest.approx([1.0, 1.0, 0.6, 0.2])


def test_p_anneal_loss_by_hand():
    # acts (3, 0, 1.8) and (1, 2, 2.2); x_hat (4.08, 1.44) and (2.32, 3.76): errors 3.24 and 4.84
    # p = 1: 2 * (4.8 + 5.2) / 2 = 10. p = 0.5, with 0.001 added under the root and its root taken off:
    sae, batch = by_hand(P_ANNEAL), saes.Batch(torch.tensor(X))
    terms = sae.loss(batch).terms
    assert terms["reconstruction"].item() == pytest.approx(4.04, rel=1e-5)
    assert terms["lp"].item() == pytest.approx(10.0, rel=1e-5)
    sae.p.fill_(0.5)
    root = [math.sqrt(a + 1e-3) - math.sqrt(1e-3) for a in (3, 1.8, 1, 2, 2.2)]
    assert sae.loss(batch).terms["lp"].item() == pytest.approx(sum(root), rel=1e-5)


def test_lowering_p_does_not_change_the_penalty_s_strength():
    sae = by_hand(P_ANNEAL)
    batch = saes.Batch(torch.tensor(X), progress=0.6)
    before = sae.loss(batch)
    sae.after_step(batch, before)
    assert sae.p.item() == pytest.approx(0.6)
    assert sae.loss(batch).terms["lp"].item() == pytest.approx(before.terms["lp"].item(), rel=1e-5)
    silent = saes.Batch(-torch.ones(2, 2), progress=0.8)
    scale = sae.scale.item()
    sae.after_step(silent, sae.loss(silent))
    assert sae.scale.item() == scale and sae.p.item() == pytest.approx(0.4)


def test_the_penalty_s_gradient_is_finite_at_zero():
    sae = by_hand(P_ANNEAL)
    sae.p.fill_(0.2)
    sae.loss(saes.Batch(torch.zeros(2, 2))).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in sae.parameters())
