"""BatchTopK and Matryoshka by hand, and the threshold between them and inference."""

from __future__ import annotations

import pytest
import torch

from tests.sae.toy import X, by_hand
from thoughtlens import sae as saes
from thoughtlens.numerics.kernels.reference import batch_topk
from thoughtlens.sae.kinds.batchtopk import update_threshold

CFG = saes.BatchTopKConfig(d_sae=3, k=1, normalization="none", k_aux=1)
ROWS = torch.tensor([[3.0, 0.0], [0.5, 0.5]])


def test_loss_by_hand():
    # pre-activations (3, 0, 1.8) and (0.5, 0.5, 0.7); the 2 largest of the batch are 3 and 1.8, both on row 0
    # x_hat (3, 0) + 1.8 (0.6, 0.8) = (4.08, 1.44) and (0, 0)
    # squared errors 1.08^2 + 1.44^2 = 3.24 and 0.5: mean over 4 entries 0.935
    loss = by_hand(CFG).loss(saes.Batch(ROWS))
    assert loss.acts.to_dense(3).tolist() == [[3.0, 0.0, pytest.approx(1.8)], [0.0, 0.0, 0.0]]
    assert {n: t.item() for n, t in loss.terms.items()} == {"reconstruction": pytest.approx(0.935)}


def test_auxk_by_hand():
    # residuals (-1.08, -1.44) and (0.5, 0.5); latent 1 dead: it predicts (0, 0) and (0, 0.5)
    # errors 3.24 + 0.25; centred residuals +-(0.79, 0.97): 2 (0.6241 + 0.9409) = 3.13
    loss = by_hand(CFG).loss(saes.Batch(ROWS, dead=torch.tensor([False, True, False])))
    assert loss.terms["auxk"].item() == pytest.approx(3.49 / 3.13 / 32, rel=1e-5)


def test_rows_share_the_batch_s_k_and_ties_do_not_add_latents():
    pre_acts = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, -2.0, -3.0, 0.0]])
    assert (batch_topk(pre_acts, 1) != 0).sum() == 2
    assert (batch_topk(pre_acts, 3) != 0).sum() == 4  # only positive ones fire


def test_threshold_by_hand():
    sae = by_hand(CFG)
    assert sae.encode(ROWS).tolist()[1] == [0.5, 0.5, pytest.approx(0.7)]  # a new SAE is a ReLU
    batch = saes.Batch(ROWS)
    sae.after_step(batch, sae.loss(batch))
    assert sae.threshold.item() == pytest.approx(1.8)
    # strictly above: the 1.8 that set the threshold is left out
    assert sae.encode(ROWS).tolist() == [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    again = saes.Batch(2 * ROWS)
    sae.after_step(again, sae.loss(again))  # kept: 6 and 3.6
    assert sae.threshold.item() == pytest.approx(0.95 * 1.8 + 0.05 * 3.6)


def test_a_batch_on_which_nothing_fires_leaves_the_threshold():
    threshold = torch.tensor(0.5)
    update_threshold(threshold, torch.zeros(4, 3), 0.9)
    assert threshold == 0.5
    update_threshold(threshold, saes.SparseActs(torch.tensor([[1.0, 0.0]]), torch.tensor([[2, 0]])), 0.9)
    assert threshold.item() == pytest.approx(0.55)


def test_rows_do_not_depend_on_their_neighbours_at_inference():
    sae = by_hand(CFG)
    sae.threshold.fill_(0.6)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sae.encode(x)[3:4], sae.encode(x[3:4]))


@pytest.mark.parametrize(
    ("weights", "expected"), [(None, (0.5, 0.5)), ((3.0, 1.0), (0.75, 0.25)), ((0.0, 2.0), (0.0, 1.0))]
)
def test_matryoshka_loss_by_hand(weights, expected):
    # widths 1 and 3; of the batch's pre-activations (3, 0, 1.8) and (1, 2, 2.2), 3 and 2.2 are kept
    # latent 0 alone: residuals (0, 0) and (1, 2): 5 / 4 = 1.25
    # all: residuals (0, 0) and (1 - 1.32, 2 - 1.76): 0.16 / 4 = 0.04
    cfg = saes.MatryoshkaConfig(
        d_sae=3, k=1, prefixes=(1 / 3, 1.0), prefix_weights=weights, normalization="none"
    )
    terms = by_hand(cfg).loss(saes.Batch(torch.tensor(X))).terms
    assert terms["reconstruction_1"].item() == pytest.approx(expected[0] * 1.25)
    assert terms["reconstruction_3"].item() == pytest.approx(expected[1] * 0.04, rel=1e-5)
    assert len(terms) == 2


def test_one_prefix_is_batchtopk():
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    plain = saes.create(saes.BatchTopKConfig(d_sae=20, k=3), 6, seed=0)
    nested = saes.create(saes.MatryoshkaConfig(d_sae=20, k=3, prefixes=(1.0,)), 6, seed=0)
    assert torch.allclose(plain.loss(saes.Batch(x)).total, nested.loss(saes.Batch(x)).total)


def test_a_prefix_s_error_does_not_train_latents_outside_it():
    sae = by_hand(saes.MatryoshkaConfig(d_sae=3, k=2, prefixes=(1 / 3, 1.0), normalization="none"))
    x = torch.tensor([[3.0, 1.0], [1.0, 2.0]])  # kept: 3 and 2.6, 2 and 2.2
    sae.loss(saes.Batch(x)).terms["reconstruction_1"].backward()
    assert sae.W_dec.grad[0].abs().sum() > 0 and sae.W_dec.grad[1:].abs().sum() == 0
