"""The L1 coefficient where none is given: by hand, in every unit, and what it keeps the same."""

from __future__ import annotations

import math

import pytest
import torch

from tests.sae.toy import random_sae, rows
from thoughtlens import sae as saes
from thoughtlens.sae.kinds.stack import Stack

D_IN = 6
SITES = ("a:out", "b:out")


@pytest.mark.parametrize(
    ("cfg", "l1"),
    [
        # d_in 16: 16^(3/4) is 8
        (saes.ReLUConfig(d_sae=8), 0.026 * 8),
        (saes.GatedConfig(d_sae=8), 0.04 * 8),
        (saes.PAnnealConfig(d_sae=8), 0.016 * 8),
        (saes.ReLUConfig(d_sae=8, reconstruction="mean"), 0.026 * 8 / 16),
        (saes.ReLUConfig(d_sae=8, penalty="mean"), 0.026 * 8 * 8),
        (saes.ReLUConfig(expansion=0.5, reconstruction="mean", penalty="mean"), 0.026 * 8 / 16 * 8),
        (saes.CrosscoderConfig(d_sae=8, sites=SITES, sparsity="l1"), 0.026 * 8),
        (saes.ReLUConfig(d_sae=8, l1=1.0), 1.0),
        (saes.GatedConfig(d_sae=8, l1=0.0), 0.0),
        (saes.PAnnealConfig(d_sae=8, l1=3.0), 3.0),
        (saes.CrosscoderConfig(d_sae=8, k=2, sites=SITES), None),  # batchtopk has no penalty
    ],
)
def test_by_hand(cfg, l1):
    assert saes.create(cfg, 16, seed=0).cfg.l1 == (None if l1 is None else pytest.approx(l1))


def test_averages_train_as_sums_do():
    sums = random_sae(saes.ReLUConfig(d_sae=20), D_IN)
    means = random_sae(saes.ReLUConfig(d_sae=20, reconstruction="mean", penalty="mean"), D_IN)
    x = rows(32)
    whole, averaged = sums.loss(saes.Batch(x)), means.loss(saes.Batch(x))
    assert averaged.total.item() * D_IN == pytest.approx(whole.total.item())


@pytest.mark.parametrize("cfg", [saes.ReLUConfig(d_sae=20), saes.GatedConfig(d_sae=20)], ids=lambda c: c.kind)
def test_the_same_code_of_rows_twice_as_wide_weighs_a_little_more(cfg):
    # every coordinate twice: unit rows of the decoder become (w, w) / sqrt(2), activations sqrt(2) times as
    # large, squared errors twice; the penalty 2^(3/4) sqrt(2) times, 2^(1/4) above the balance
    narrow = random_sae(cfg, D_IN)
    wide = saes.create(cfg, 2 * D_IN, seed=0).double()
    state = narrow.state_dict()
    root = math.sqrt(2)
    state |= {
        "W_dec": state["W_dec"].repeat(1, 2) / root,
        "W_enc": state["W_enc"].repeat(2, 1) / root,
        "b_dec": state["b_dec"].repeat(2),
        **{name: root * bias for name, bias in state.items() if name in ("b_enc", "b_mag")},
    }
    wide.load_state_dict(state)
    x = rows(32, D_IN)
    one, two = narrow.loss(saes.Batch(x)), wide.loss(saes.Batch(x.repeat(1, 2)))
    for name, term in one.terms.items():
        factor = 2 * 2**0.25 if name == "l1" else 2
        assert two.terms[name].item() == pytest.approx(factor * term.item()), name


def test_a_saved_sae_says_what_it_was(tmp_path):
    saes.save(saes.create(saes.GatedConfig(d_sae=4), 16, seed=0), tmp_path)
    assert saes.load(tmp_path).cfg.l1 == pytest.approx(0.04 * 8)


def test_members_of_a_stack_have_it_too():
    cfg = saes.ReLUConfig(d_sae=20)
    members = [saes.create(c, D_IN, seed=0) for c in (cfg, cfg.model_copy(update={"l1": 0.026 * D_IN**0.75}))]
    x = rows(16, D_IN).float()
    for sae in members:
        sae.initialize(x)
    terms = Stack(members).loss(
        torch.stack([x, x]), [None, None], torch.zeros(2, 20, dtype=torch.bool), [1.0, 1.0]
    )
    assert terms.terms["l1"][0] == terms.terms["l1"][1] > 0


@pytest.mark.parametrize("normalization", ["none", "mean"])
def test_raw_units_are_warned_about(normalization):
    cfg = saes.ReLUConfig(d_sae=8, normalization=normalization)
    assert f"sae.normalization = '{normalization}': its default, 0.208, is for" in cfg.warnings(16)[0]
    assert cfg.model_copy(update={"l1": 0.001}).warnings(16) == []
    assert saes.ReLUConfig(d_sae=8).warnings(16) == []
    assert saes.CrosscoderConfig(d_sae=8, k=2, sites=SITES, normalization=normalization).warnings(16) == []
