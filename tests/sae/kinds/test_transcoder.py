"""Transcoders by hand."""

from __future__ import annotations

import pytest
import torch

from tests.sae.kinds.each import inputs, make
from tests.sae.toy import X, by_hand
from thoughtlens import sae as saes
from thoughtlens.core import MismatchError

CFG = saes.TranscoderConfig(d_sae=3, k=1, normalization="none")
Y = torch.tensor([[1.0, 1.0], [0.0, 0.0]])


def test_loss_by_hand():
    # latent 0 fires with 3, latent 2 with 2.2: y_hat (3, 0) and (1.32, 1.76)
    # squared errors 4 + 1 and 1.7424 + 3.0976 = 4.84: mean over 4 entries 2.46
    loss = by_hand(CFG).loss(saes.Batch(torch.tensor(X), y=Y))
    assert loss.terms["reconstruction"].item() == pytest.approx(2.46, rel=1e-5)


def test_skip_loss_by_hand():
    # W_skip sends x_0 to y_1: y_hat (3, 3) and (1.32, 2.76)
    # squared errors 4 + 4 and 1.7424 + 7.6176 = 9.36: mean over 4 entries 4.34
    sae = by_hand(CFG.model_copy(update={"skip": True}))
    assert not sae.W_skip.any()
    with torch.no_grad():
        sae.W_skip[0, 1] = 1
    loss = sae.loss(saes.Batch(torch.tensor(X), y=Y))
    assert loss.terms["reconstruction"].item() == pytest.approx(4.34, rel=1e-5)
    assert sae(torch.tensor(X))[0].tolist() == [3.0, 3.0]


def test_pairs_are_required():
    sae = by_hand(CFG)
    with pytest.raises(MismatchError, match="pairs"):
        sae.loss(saes.Batch(torch.tensor(X)))
    with pytest.raises(MismatchError, match="pairs"):
        sae.initialize(torch.tensor(X))


def test_a_skip_transcoder_needs_its_input_to_decode():
    sae = by_hand(CFG.model_copy(update={"skip": True}))
    acts = sae.encode(torch.tensor(X))
    with pytest.raises(MismatchError, match="skip"):
        sae.decode(acts)
    with pytest.raises(MismatchError, match="skip"):
        sae.decode_sparse(sae.encode_sparse(torch.tensor(X)))


@torch.no_grad()
def test_input_and_output_have_scales_of_their_own():
    cfg = saes.TranscoderConfig(d_sae=20, k=3)
    sample = inputs(cfg, 100)
    loud = {"x": 50 * sample["x"], "y": 0.01 * sample["y"]}
    plain, scaled = make(cfg, sample=sample), make(cfg, sample=loud)
    assert torch.allclose(scaled(loud["x"]), 0.01 * plain(sample["x"]))
    loss = [sae.loss(saes.Batch(**rows)).total for sae, rows in ((plain, sample), (scaled, loud))]
    assert torch.allclose(*loss)


@torch.no_grad()
def test_it_starts_centred():
    # at the input's centre nothing fires beyond chance and the output's centre comes out
    cfg = saes.TranscoderConfig(d_sae=20, k=3)
    sample = inputs(cfg, 1000)
    sae = saes.create(cfg, 6, seed=0, d_out=4).double()
    sae.initialize(**sample)
    centre = sae(sample["x"].median(0).values[None])
    spread = sample["y"].std(0)
    assert ((centre - sample["y"].mean(0)).abs() < spread).all()
    assert (sae.encode(sample["x"]) != 0).double().sum(1).mean() > 2.5
