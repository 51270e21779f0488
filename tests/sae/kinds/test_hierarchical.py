"""Hierarchical TopK by hand: several k in one loss, one threshold for each."""

from __future__ import annotations

import pytest
import torch

from tests.sae.toy import X, by_hand
from thoughtlens import sae as saes
from thoughtlens.core import ConfigError

CFG = saes.HierarchicalTopKConfig(d_sae=3, k=1, ks=(1, 2), normalization="none", k_aux=1)


def small(**settings) -> saes.HierarchicalTopKSAE:
    sae = by_hand(CFG.model_copy(update=settings))
    assert isinstance(sae, saes.HierarchicalTopKSAE)
    return sae


def test_loss_and_thresholds_by_hand():
    # pre-activations (3, 0, 1.8) and (1, 2, 2.2)
    # k = 1 keeps 3 and 2.2: residuals (0, 0) and (-0.32, 0.24), 0.16 / 4 entries = 0.04
    # k = 2 keeps 2 and 1.8, too: residuals (-1.08, -1.44) and (-0.32, -1.76), 6.44 / 4 = 1.61
    sae, batch = small(), saes.Batch(torch.tensor(X))
    loss = sae.loss(batch)
    terms = {name: term.item() for name, term in loss.terms.items()}
    assert terms == {
        "reconstruction_1": pytest.approx(0.02, rel=1e-5), "reconstruction_2": pytest.approx(0.805)
    }  # fmt: skip
    assert loss.fired is not None and loss.idle is not None
    assert loss.fired.tolist() == [1, 0, 1] and loss.idle.tolist() == [False, False, False]
    sae.after_step(batch, loss)
    assert sae.thresholds.tolist() == pytest.approx([2.2, 1.8]) and sae.threshold == sae.thresholds[0]


def test_it_is_read_at_each_k_that_it_was_trained_with():
    sae = small()
    sae.thresholds.copy_(torch.tensor([2.1, 1.9]))
    sae.threshold.fill_(2.1)
    x = torch.tensor(X)
    assert (
        sae.encode(x).tolist()
        == sae.encode(x, k=1).tolist()
        == [[3.0, 0.0, 0.0], [0.0, 0.0, pytest.approx(2.2)]]
    )
    assert sae.encode(x, k=2).tolist() == [[3.0, 0.0, 0.0], [0.0, 2.0, pytest.approx(2.2)]]
    with pytest.raises(ConfigError, match="k: expected one of 1, 2, with which this SAE was trained, got 3"):
        sae.encode(x, k=3)


def test_one_k_is_batchtopk():
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    plain = saes.create(saes.BatchTopKConfig(d_sae=20, k=3), 6, seed=0)
    several = saes.create(saes.HierarchicalTopKConfig(d_sae=20, k=3, ks=(3,)), 6, seed=0)
    assert torch.equal(plain.loss(saes.Batch(x)).total, several.loss(saes.Batch(x)).total)


def test_a_latent_is_dead_where_it_does_not_fire_with_the_config_s_k():
    # latent 1 fires with k = 2 alone; it predicts what k = 1 leaves over, (0, 0) and (-0.32, 0.24):
    # errors 0 and 0.1024 + (0.24 - 2)^2 = 3.2; centred residuals +-(0.16, -0.12): 2 * 0.04 = 0.08
    loss = small().loss(saes.Batch(torch.tensor(X), dead=torch.tensor([False, True, False])))
    assert loss.terms["auxk"].item() == pytest.approx(3.2 / 0.08 / 32, rel=1e-4)


@pytest.mark.parametrize(
    ("progress", "weights"), [(0.0, (1 / 3, 1 / 3, 1 / 3)), (0.4, (1 / 4, 1 / 2, 1 / 4)), (0.9, (0, 1, 0))]
)
def test_other_k_lose_their_weight(progress, weights):
    cfg = saes.HierarchicalTopKConfig(k=2, ks=(1, 2, 4), fade=0.8)
    assert cfg.weights_at(progress) == pytest.approx(weights)
    assert cfg.model_copy(update={"fade": None}).weights_at(progress) == pytest.approx([1 / 3] * 3)


def test_the_weights_are_those_of_the_progress():
    x = torch.tensor(X)
    terms = small(fade=0.5).loss(saes.Batch(x, progress=0.25)).terms
    assert terms["reconstruction_1"].item() == pytest.approx(0.04 * 2 / 3, rel=1e-5)
    assert terms["reconstruction_2"].item() == pytest.approx(1.61 / 3)


@pytest.mark.parametrize(("k", "ks"), [(1, (1, 2)), (2, (1, 2, 4)), (32, (16, 32, 64)), (40, (20, 40, 64))])
def test_unset_the_k_are_half_once_and_twice(k, ks):
    assert saes.HierarchicalTopKConfig(k=k, d_sae=64).for_width(6).budgets == ks


def test_the_thresholds_are_folded_and_saved(tmp_path):
    sae = small(normalization="global")
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 7 + 3
    sae.initialize(x)
    sae.thresholds.copy_(torch.tensor([1.0, 0.5]))
    sae.threshold.fill_(1.0)
    saes.save(sae, tmp_path)
    back = saes.load(tmp_path)
    assert isinstance(back, saes.HierarchicalTopKSAE)
    for k in (1, 2):
        assert torch.equal(back.encode(x, k=k) != 0, sae.encode(x, k=k) != 0)
    assert (back.encode(x, k=2) != 0).sum() > (back.encode(x, k=1) != 0).sum() > 0
