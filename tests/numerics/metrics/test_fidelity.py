from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from thoughtlens import metrics
from thoughtlens.core import DataError


def score(clean, spliced, targets, mask=None, groups=None):
    metric = metrics.SplicedFidelity()
    metric.update(clean, spliced, targets, mask, groups)
    return metric.compute()


def log(*p):
    return torch.tensor(p).log()


def test_by_hand():
    # clean (3/4, 1/4), spliced (1/2, 1/2), target 0:
    # ce ln 4/3 -> ln 2; KL 3/4 ln(3/2) + 1/4 ln(1/2); the most likely token stays 0
    got = score(log(0.75, 0.25)[None], log(0.5, 0.5)[None], torch.tensor([0]))
    assert got["ce_clean"] == pytest.approx(math.log(4 / 3))
    assert got["ce"] == pytest.approx(math.log(2))
    assert got["delta_ce"] == pytest.approx(math.log(3 / 2), abs=1e-6)
    assert got["kl"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert got["top1_agreement"] == 1


def test_logits_need_no_normalising():
    clean, spliced = log(0.7, 0.2, 0.1)[None], log(0.1, 0.2, 0.7)[None]
    plain = score(clean, spliced, torch.tensor([1]))
    assert score(clean + 5, spliced - 3, torch.tensor([1])) == pytest.approx(plain, abs=1e-6)
    assert plain["top1_agreement"] == 0


def test_the_same_logits_cost_nothing():
    logits = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0))
    got = score(logits, logits, torch.zeros(3, 5, dtype=torch.long))
    assert (got["delta_ce"], got["kl"], got["top1_agreement"]) == (0, 0, 1)


def test_scores_by_hand():
    assert metrics.ce_loss_score(2.0, 2.5, 4.0) == 0.75
    assert metrics.kl_score(0.5, 2.0) == 0.75
    assert metrics.ce_loss_score(2.0, 5.0, 4.0) == -0.5  # not clipped
    with pytest.raises(DataError, match="ablation that hurts"):
        metrics.ce_loss_score(2.0, 2.0, 2.0)
    with pytest.raises(DataError, match="KL is 0"):
        metrics.kl_score(0.0, 0.0)


def test_batches_groups_and_merges_change_nothing():
    generator = torch.Generator().manual_seed(1)
    clean, spliced = torch.randn(2, 3000, 7, generator=generator)
    targets = torch.randint(7, (3000,), generator=generator)
    groups = torch.randint(20, (3000,), generator=generator)
    whole = score(clean, spliced, targets)
    first, second = metrics.SplicedFidelity(), metrics.SplicedFidelity()
    for metric, rows in ((first, slice(0, 11)), (first, slice(11, 1500)), (second, slice(1500, 3000))):
        metric.update(clean[rows], spliced[rows], targets[rows], None, groups[rows])
    merged = first.merge(second)
    assert merged.compute() == pytest.approx(whole, abs=1e-9)
    assert merged.per_group().shape == (20, 5)
    assert (merged.per_group()[:, 0] == np.bincount(groups, minlength=20)).all()


def test_nothing_counted_is_refused():
    with pytest.raises(DataError, match="saw no rows"):
        score(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), torch.tensor([False]))
    with pytest.raises(DataError, match="finite logits"):
        score(torch.zeros(1, 2), torch.full((1, 2), float("nan")), torch.tensor([0]))


class Toy(nn.Module):
    """Embedding, one mixing layer over the past, readout: small, causal, with a place to splice."""

    def __init__(self, vocab=13, d=6):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.embed = nn.Parameter(torch.randn(vocab, d, generator=generator))
        self.read = nn.Parameter(torch.randn(d, vocab, generator=generator))

    def forward(self, ids, fn=lambda x: x):
        x = fn(self.embed[ids])
        past = x.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        return (x + past) @ self.read


def at(where, change):
    return lambda x: torch.where(where[..., None], change(x), x)


@pytest.fixture
def toy():
    """The model, text that it wrote itself (so that ablating it hurts), and what is not begin-of-sequence."""
    model, generator = Toy(), torch.Generator().manual_seed(6)
    ids = torch.zeros(4, 1, dtype=torch.long)
    for _ in range(11):
        p = model(ids)[:, -1].detach().softmax(-1)
        ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)], dim=1)
    real = torch.ones_like(ids, dtype=torch.bool)
    real[:, 0] = False
    return model, ids, real


def fidelity(model, ids, counted, fn):
    metric = metrics.SplicedFidelity()
    with torch.no_grad():
        clean, spliced = model(ids), model(ids, fn)
    logits, targets, mask = metrics.next_token(clean, ids, counted)
    metric.update(logits, metrics.next_token(spliced, ids, counted)[0], targets, mask)
    return metric.compute()


@pytest.mark.parametrize("with_bos", [True, False])
def test_an_sae_of_zeros_scores_zero_under_one_mask(toy, with_bos):
    model, ids, real = toy
    counted = torch.ones_like(real) if with_bos else real
    sae = fidelity(model, ids, counted, at(counted, lambda x: 0 * x))
    ablated = fidelity(model, ids, counted, at(counted, torch.zeros_like))
    assert metrics.ce_loss_score(sae["ce_clean"], sae["ce"], ablated["ce"]) == 0
    assert metrics.kl_score(sae["kl"], ablated["kl"]) == 0


def test_zeroing_more_positions_in_one_arm_would_flatter_it(toy):
    model, ids, real = toy
    sae = fidelity(model, ids, real, at(real, torch.zeros_like))
    everywhere = fidelity(model, ids, real, at(torch.ones_like(real), torch.zeros_like))
    assert metrics.kl_score(sae["kl"], everywhere["kl"]) > 0.05


def test_identity_scores_one_and_mean_sae_against_mean_ablation_scores_zero(toy):
    model, ids, real = toy
    mean = model.embed.detach().mean(0)
    untouched = fidelity(model, ids, real, at(real, lambda x: x))
    ablated = fidelity(model, ids, real, at(real, lambda x: mean.expand_as(x)))
    mean_sae = fidelity(model, ids, real, at(real, lambda x: 0 * x + mean))
    assert metrics.ce_loss_score(untouched["ce_clean"], untouched["ce"], ablated["ce"]) == 1
    assert (untouched["delta_ce"], untouched["kl"]) == (0, 0)
    assert metrics.kl_score(mean_sae["kl"], ablated["kl"]) == pytest.approx(0, abs=1e-9)


def test_appended_padding_changes_nothing(toy):
    model, ids, real = toy
    padded = torch.cat([ids, torch.full((4, 5), 7)], dim=1)
    counted = torch.cat([real, torch.zeros(4, 5, dtype=torch.bool)], dim=1)
    short = fidelity(model, ids, real, at(real, lambda x: 0.5 * x))
    long = fidelity(model, padded, counted, at(counted, lambda x: 0.5 * x))
    assert long == pytest.approx(short, abs=1e-6)


def test_a_prediction_needs_both_its_position_and_its_target():
    logits = torch.zeros(1, 4, 3)
    counted = torch.tensor([[False, True, True, False]])
    _, targets, mask = metrics.next_token(logits, torch.tensor([[0, 1, 2, 0]]), counted)
    assert targets[mask].tolist() == [2]
