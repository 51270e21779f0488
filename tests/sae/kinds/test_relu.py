"""ReLU + L1: the loss by hand, gradients, and the two published variants to the letter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.sae.toy import X, by_hand, directional_error, random_sae, rows
from thoughtlens import sae as saes
from thoughtlens.sae.fit.trainer import Settings, Trainer

CFG = saes.ReLUConfig(d_sae=3, l1=2.0, l1_warmup=0.1, normalization="none")


@pytest.mark.parametrize(
    ("changes", "progress", "reconstruction", "l1"),
    [
        # acts (3, 0, 1.8) and (1, 2, 2.2); x_hat (4.08, 1.44) and (2.32, 3.76)
        # squared errors 1.08^2 + 1.44^2 = 3.24 and 1.32^2 + 1.76^2 = 4.84: mean over rows 4.04
        # sums of acts 4.8 and 5.2: mean over rows 5, times 2
        ({}, 1.0, 4.04, 10.0),
        ({}, 0.05, 4.04, 5.0),  # half of the warm-up
        ({}, 0.0, 4.04, 0.0),
        ({"l1_warmup": 0.0}, 0.0, 4.04, 10.0),
        ({"reconstruction": "mean"}, 1.0, 2.02, 10.0),  # over 2 dimensions
        ({"penalty": "mean"}, 1.0, 4.04, 10.0 / 3),  # over 3 latents
    ],
)
def test_loss_by_hand(changes, progress, reconstruction, l1):
    sae = by_hand(CFG.model_copy(update=changes))
    loss = sae.loss(saes.Batch(torch.tensor(X), progress=progress))
    assert loss.terms["reconstruction"].item() == pytest.approx(reconstruction, rel=1e-5)
    assert loss.terms["l1"].item() == pytest.approx(l1, rel=1e-5)
    assert loss.total.item() == pytest.approx(reconstruction + l1, rel=1e-5)


def test_penalty_by_decoder_norm_does_not_change_when_scale_moves_to_the_decoder():
    cfg = saes.ReLUConfig(d_sae=20, decoder_norm="free", penalty_by_decoder_norm=True, normalization="none")
    sae, x = random_sae(cfg), rows(16)
    before = sae.loss(saes.Batch(x)).terms["l1"].item()
    with torch.no_grad():
        for parameter, factor in ((sae.W_enc, 0.1), (sae.b_enc, 0.1), (sae.W_dec, 10)):
            parameter.mul_(factor)
    assert sae.loss(saes.Batch(x)).terms["l1"].item() == pytest.approx(before)


@pytest.mark.parametrize("changes", [{}, {"penalty_by_decoder_norm": True, "decoder_norm": "free"}])
def test_gradients_match_finite_differences(changes):
    sae, x = random_sae(CFG.model_copy(update={"d_sae": 20, **changes})), rows(32)
    assert directional_error(sae, lambda: sae.loss(saes.Batch(x)).total) < 1e-5


class Plain(nn.Module):
    """The published script: two linear layers with a ReLU between them."""

    def __init__(self, sae: saes.SAE):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(sae.d_in, sae.d_sae), nn.Linear(sae.d_sae, sae.d_in)
        with torch.no_grad():
            for mine, theirs in (
                (self.encoder.weight, sae.W_enc.T),
                (self.encoder.bias, sae.b_enc),
                (self.decoder.weight, sae.W_dec.T),
                (self.decoder.bias, sae.b_dec),
            ):
                mine.copy_(theirs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        acts = torch.relu(self.encoder(x))
        return self.decoder(acts), acts


SEED = {"l1": 1e-3, "l1_warmup": 0.0, "reconstruction": "mean", "pre_bias": False, "decoder_norm": "free"}
CODI = saes.ReLUConfig(d_sae=24, init="linear", normalization="none", penalty="sum", **SEED)
PYTHIA = saes.ReLUConfig(d_sae=24, init="xavier", normalization="mean", penalty="mean", **SEED)


@pytest.mark.parametrize("cfg", [CODI, PYTHIA], ids=["codi", "pythia"])
def test_published_variant_step_by_step(cfg):
    x = rows(256).float()
    sae = saes.create(cfg, 6, seed=0)
    sae.initialize(x)
    if cfg is CODI:
        assert torch.equal(sae.W_dec, sae.W_enc.T)  # a copy at the start, not tied
    plain = Plain(sae)
    mean = x.mean(0) if cfg.normalization == "mean" else torch.zeros(6)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    trainer = Trainer(
        sae,
        Settings(
            n_steps=20, batch_size=64, lr=1e-3, warmup=0, decay=0, grad_clip=0, dead_after_rows=10**6,
            eval_every=20, checkpoint_every_s=1e9, seed=0,
        ),
    )  # fmt: skip
    for i in range(20):
        batch = x[64 * (i % 4) : 64 * (i % 4 + 1)]
        x_hat, acts = plain(batch - mean)
        penalty = acts.abs().sum(1).mean() if cfg.penalty == "sum" else acts.abs().mean()
        loss = nn.functional.mse_loss(x_hat, batch - mean) + 1e-3 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(batch).total.item() == pytest.approx(loss.item(), rel=1e-4)
    assert torch.allclose(sae.W_enc, plain.encoder.weight.T, atol=1e-5)
    assert torch.allclose(sae.W_dec, plain.decoder.weight.T, atol=1e-5)
    sae.fold()
    assert torch.allclose(sae(x), plain(x - mean)[0] + mean, atol=1e-4)
