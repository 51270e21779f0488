"""The recipes of the two first studies do what plain torch does with their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.sae.fit.job import plan_jobs, settings, start
from thoughtlens.sae.fit.trainer import Trainer
from thoughtlens.studies import pipeline

X = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
W_ENC = torch.tensor([[1.0, 0.5, -1.0], [0.0, -1.0, 1.0]])
W_DEC = torch.tensor([[2.0, 0.0], [0.0, -1.0], [1.0, 1.0]])


def tiny(recipe: str, **changes) -> saes.SAE:
    cfg = pipeline.load(recipe).sae.model_copy(update={"d_sae": 3, **changes})
    sae = saes.create(cfg, 2, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(W_ENC)
        sae.W_dec.copy_(W_DEC)
        sae.b_enc.copy_(torch.tensor([0.5, 0.0, 0.0]))
        sae.b_dec.copy_(torch.tensor([0.0, 1.0]))
    return sae


def terms_of(sae: saes.SAE) -> dict[str, float]:
    return {name: term.item() for name, term in sae.loss(saes.Batch(X)).terms.items()}


def test_seed_codi_by_hand():
    # rows (1, -2), (3, 1/2): pre-activations (1.5, 2.5, -3), (3.5, 1, -2.5); acts (1.5, 2.5, 0), (3.5, 1, 0)
    # x_hat (3, -1.5), (7, 0): squared errors 4, 1/4, 16, 1/4, mean 20.5 / 4
    # sum of acts 4 and 4.5, mean over rows 4.25
    terms = terms_of(tiny("seed-codi"))
    assert terms["reconstruction"] == pytest.approx(20.5 / 4)
    assert terms["l1"] == pytest.approx(0.001 * 4.25)


def test_seed_pythia_by_hand():
    # centred on the mean (2, -3/4): z = (-1, -5/4), (1, 5/4)
    # pre-activations (-1/2, 3/4, -1/4), (3/2, -3/4, 1/4); acts (0, 3/4, 0), (3/2, 0, 1/4)
    # z_hat (0, 1/4), (13/4, 5/4): squared errors 1, 9/4, 81/16, 0; mean of six acts 2.5 / 6
    sae = tiny("seed-pythia")
    sae.initialize(X)
    terms = terms_of(sae)
    assert terms["reconstruction"] == pytest.approx((1 + 9 / 4 + 81 / 16) / 4)
    assert terms["l1"] == pytest.approx(0.001 * 2.5 / 6)


@pytest.mark.parametrize("recipe", ["seed-codi", "seed-pythia"])
def test_a_run_is_plain_adam_on_the_formula(recipe, tmp_path):
    x, _ = planted(600, 8, 12, 0.2, seed=0, offset=3.0)
    acts = write_store(tmp_path / "acts", {"layers.0:out": 4 * x})
    whole = pipeline.load(recipe, ["sae.d_sae=16", "train.epochs=1"])
    cfg = pipeline.stage_config(whole, "train", tmp_path).model_copy(update={"thoughts": None})
    (job,) = plan_jobs(cfg, ActivationStore.open(acts))
    sae, sample = start(job, torch.device("cpu"))
    found = settings(job)
    assert (found.batch_size, found.lr) == (256, 1e-3) if recipe == "seed-codi" else (32, 1e-3)
    plain = [p.detach().clone().requires_grad_() for p in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)]
    if recipe == "seed-codi":  # as torch starts its linear layers, the decoder a copy of the encoder
        assert torch.equal(sae.W_dec, sae.W_enc.T)
        assert float(sae.W_enc.detach().abs().max()) == pytest.approx(8**-0.5, rel=0.05)
    centre = sample.x.mean(0) if recipe == "seed-pythia" else torch.zeros(8)
    optimizer = torch.optim.Adam(plain, lr=1e-3)
    trainer = Trainer(sae, found)
    for batch in job.source.batches(found.batch_size, seed=0, epochs=1):
        trainer.step(batch.x)
        z = batch.x - centre
        hidden = (z @ plain[0] + plain[1]).relu()
        penalty = hidden.sum(1).mean() if recipe == "seed-codi" else hidden.mean()
        loss = F.mse_loss(hidden @ plain[2] + plain[3], z) + 1e-3 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, theirs in zip((sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec), plain, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_the_recipes_are_those_of_the_studies():
    codi, pythia = pipeline.load("seed-codi"), pipeline.load("seed-pythia")
    assert (codi.sae.d_sae, codi.train.epochs) == (8192, 25)
    assert (pythia.sae.d_sae, pythia.train.epochs) == (2048, 100)
    assert codi.problems.seed_protocol
    assert codi.train.thoughts == (0, 1, 2, 3, 4, 5)
    for cfg in (codi, pythia):
        assert (cfg.train.warmup, cfg.train.decay, cfg.train.grad_clip) == (0, 0, 0)
        assert cfg.sae.l1 == 0.001
