from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thoughtlens import metrics
from thoughtlens.core import DataError, MismatchError


def gaussian(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def orthonormal(n, d, seed=0):
    return torch.linalg.qr(gaussian(d, d, seed))[0][:n]


def test_mmcs_by_hand_has_two_directions():
    truth = torch.eye(2)
    found = torch.tensor([[2.0, 0.0], [3.0, 0.0], [-1.0, 0.0]])
    # truth e1: best 1, e2: best 0; found: 1, 1, and max(-1, 0) = 0
    got = metrics.mmcs(found, truth)
    assert (got.recall, got.precision) == (0.5, pytest.approx(2 / 3))


def test_mcc_assigns_one_to_one_on_absolute_cosine():
    # both rows of a are nearest to b0; one must take b1
    a = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    b = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    # a0-b0 |-1| + a1-b1 0.8 = 1.8, against a0-b1 0 + a1-b0 0.6
    assert metrics.mcc(a, b) == pytest.approx(0.9)
    assert metrics.match(a, b).cosine.tolist() == pytest.approx([-1, 0.8])


def test_the_oracle_dictionary_is_perfect():
    truth = orthonormal(12, 16)
    generator = torch.Generator().manual_seed(2)
    codes = torch.rand(500, 12, generator=generator) * (torch.rand(500, 12, generator=generator) < 0.25)
    x = codes @ truth
    acts = (x @ truth.T).relu() * (codes > 0)  # float noise below 1e-6 is not a firing
    ev, l0 = metrics.ExplainedVariance(), metrics.L0()
    ev.update(x, acts @ truth)
    l0.update(acts)
    assert metrics.mmcs(truth, truth) == (pytest.approx(1), pytest.approx(1))
    assert metrics.mcc(truth, truth) == pytest.approx(1)
    assert metrics.uniqueness(truth, truth) == 1
    assert metrics.firing_scores(acts, codes, metrics.match(truth, truth))["f1"] == pytest.approx(np.ones(12))
    assert ev.compute() == pytest.approx(1)
    assert l0.compute() == (codes != 0).sum().item() / 500


def test_copies_of_every_atom_are_not_unique():
    truth = orthonormal(8, 16)
    copies = truth.repeat(4, 1)
    assert metrics.uniqueness(copies, truth) == 0.25
    assert metrics.mmcs(copies, truth) == (pytest.approx(1), pytest.approx(1))


def test_order_and_length_of_the_directions_change_nothing():
    a, b = gaussian(20, 10, 0), gaussian(15, 10, 1)
    generator = torch.Generator().manual_seed(2)
    other = a[torch.randperm(20, generator=generator)] * (0.1 + 5 * torch.rand(20, 1, generator=generator))
    assert metrics.mmcs(other, b) == pytest.approx(metrics.mmcs(a, b))
    assert metrics.mcc(other, b) == pytest.approx(metrics.mcc(a, b))
    assert metrics.uniqueness(other, b) == metrics.uniqueness(a, b)


def test_chance_level_of_random_directions():
    chance = metrics.chance_level(256, 64, 64)
    assert chance.mmcs_recall == pytest.approx(0.35, abs=0.02)
    assert metrics.mmcs(gaussian(256, 64, 9), gaussian(64, 64, 10)).recall == pytest.approx(0.35, abs=0.02)
    assert chance.mmcs_recall == pytest.approx(math.sqrt(2 * math.log(256) / 64), abs=0.1)
    assert metrics.chance_level(256, 64, 64) == chance


def test_stability_is_one_for_the_same_and_chance_for_unrelated_dictionaries():
    a = gaussian(40, 16, 0)
    same = metrics.stability([a, a[torch.randperm(40, generator=torch.Generator().manual_seed(1))], -2 * a])
    assert same.mcc == pytest.approx(1)
    assert set(same.share_matched.values()) == {1.0}
    assert len(same.mcc_pairs) == 3
    unrelated = metrics.stability([gaussian(40, 16, seed) for seed in (3, 4)])
    assert unrelated.mcc == pytest.approx(unrelated.chance, abs=0.05)


def test_dead_latents_do_not_count_in_stability():
    a = gaussian(40, 16, 0)
    b = a.clone()
    b[20:] = gaussian(20, 16, 7)
    live = torch.arange(40) < 20
    assert metrics.stability([a, b], [live, live]).mcc == pytest.approx(1)
    assert metrics.stability([a, b]).mcc < 0.9


def test_firing_scores_by_hand():
    truth = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    acts = torch.tensor([[2.0], [0.0], [3.0], [0.0]])  # one hit, one miss, one false alarm
    got = metrics.firing_scores(acts, truth, metrics.match(torch.eye(1), torch.eye(1)))
    assert {k: v.tolist() for k, v in got.items()} == {"precision": [0.5], "recall": [0.5], "f1": [0.5]}


def test_encoder_decoder_and_nearest_cosines():
    W_enc = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    W_dec = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert metrics.encoder_decoder_cosine(W_enc, W_dec).tolist() == pytest.approx([1, 0.5**0.5])
    assert metrics.nearest_cosine(W_dec).tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    # a direction of zeros has cosine 0 with everything
    assert metrics.nearest_cosine(torch.tensor([[0.0, 0.0], [1.0, 0.0]])).tolist() == [0, 0]


def test_wrong_shapes_are_refused():
    with pytest.raises(DataError, match="at least one direction"):
        metrics.mcc(torch.empty(0, 3), torch.ones(1, 3))
    with pytest.raises(DataError, match="two seeds"):
        metrics.stability([torch.ones(1, 3)])
    with pytest.raises((MismatchError, TypeError)):
        metrics.mcc(torch.ones(1, 2), torch.ones(1, 3))
