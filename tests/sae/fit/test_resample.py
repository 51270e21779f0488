"""Resampling by hand, on every architecture, and in the loop."""

from __future__ import annotations

import pytest
import torch

from tests.sae.kinds.each import CONFIGS, D_SAE, inputs, make, name
from thoughtlens import sae as saes
from thoughtlens.sae.fit.adam import Adam
from thoughtlens.sae.fit.resample import resample
from thoughtlens.sae.fit.trainer import Settings, Trainer

DEAD = torch.tensor([False, True, True])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy() -> saes.SAE:
    """Latent 0 reads and writes (1, 0) with gain 2; latents 1 and 2 are elsewhere."""
    sae = saes.create(saes.ReLUConfig(d_sae=3, normalization="none"), 2, seed=0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]))
        sae.W_enc.copy_(torch.tensor([[2.0, -1.0, -1.0], [0.0, 0.0, 0.0]]))
        sae.b_enc.copy_(torch.tensor([0.0, -5.0, -5.0]))
    return sae


def test_dead_latents_take_the_direction_of_a_bad_row():
    # rows (0, 0): error 0; (0, 4): error 16, the only one that can be drawn
    # decoder (0, 1); encoder 0.2 * 2 (the norm of the living latent's column) * (0, 1); bias 0
    sae = toy()
    optimizer = Adam(sae, (0.9, 0.999))
    n = resample(sae, optimizer, saes.Batch(torch.tensor([[0.0, 0.0], [0.0, 4.0]])), DEAD, generator())
    assert n == 2
    assert sae.W_dec.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert torch.allclose(sae.W_enc, torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.4, 0.4]]))
    assert sae.b_enc.tolist() == [0.0, 0.0, 0.0]


def test_rows_are_drawn_by_their_squared_error_squared():
    # squared errors 1 and 4 on the two axes: odds 1 to 16
    drawn = 0
    for seed in range(300):
        sae = toy()
        resample(sae, Adam(sae, (0.9, 0.999)), saes.Batch(torch.tensor([[-1.0, 0.0], [0.0, 2.0]])),
                 torch.tensor([False, True, False]), generator(seed))  # fmt: skip
        drawn += int(sae.W_dec[1, 1] == 1)
    assert drawn / 300 == pytest.approx(16 / 17, abs=0.04)


def test_adam_forgets_what_it_knew_of_them_and_of_nobody_else():
    sae = toy()
    with torch.no_grad():
        sae.b_enc[:] = 1
    optimizer = Adam(sae, (0.9, 0.999))
    sae.loss(saes.Batch(torch.tensor([[1.0, 2.0], [-3.0, 1.0]]))).total.backward()
    optimizer.step([1e-3], [1.0])
    assert optimizer.state["W_dec"].exp_avg.abs().sum(1).gt(0).all()
    kept = {n: optimizer.state[n].exp_avg.clone() for n, _ in sae.named_parameters()}
    resample(sae, optimizer, saes.Batch(torch.tensor([[0.0, 0.0], [0.0, 4.0]])), DEAD, generator())
    for moment in ("exp_avg", "exp_avg_sq"):
        assert not getattr(optimizer.state["W_dec"], moment)[1:].any()
        assert not getattr(optimizer.state["W_enc"], moment)[:, 1:].any()
        assert not getattr(optimizer.state["b_enc"], moment)[1:].any()
    assert torch.equal(optimizer.state["W_dec"].exp_avg[0], kept["W_dec"][0])
    assert torch.equal(optimizer.state["b_dec"].exp_avg, kept["b_dec"])


@pytest.mark.parametrize(
    ("x", "dead"),
    [
        ([[0.0, 4.0]], [False] * 3),
        ([[0.0, 4.0]], [True] * 3),
        ([[0.0, 0.0], [0.0, 0.0]], [False, True, True]),
    ],
    ids=["none dead", "all dead", "no error"],
)
def test_nothing_to_do(x, dead):
    sae = toy()
    before = {n: t.clone() for n, t in sae.state_dict().items()}
    optimizer = Adam(sae, (0.9, 0.999))
    assert resample(sae, optimizer, saes.Batch(torch.tensor(x)), torch.tensor(dead), generator()) == 0
    assert all(torch.equal(t, before[n]) for n, t in sae.state_dict().items())


@pytest.mark.parametrize("cfg", CONFIGS, ids=name)
def test_every_architecture(cfg):
    sae = make(cfg, sample=inputs(cfg, 200))
    dead = torch.arange(D_SAE) % 4 == 0
    batch = saes.Batch(**inputs(cfg, 64, seed=2), dead=dead)
    optimizer = Adam(sae, (0.9, 0.999))
    sae.loss(batch).total.backward()
    optimizer.step([1e-3], [1.0])
    before = {n: p.detach().clone() for n, p in sae.named_parameters()}
    n = resample(sae, optimizer, batch, dead, generator())
    free = sae.revivable(dead)
    assert n == free.sum() > 0
    moved = sae.W_dec.detach().flatten(1)
    assert torch.allclose(moved[free].norm(dim=1), torch.ones(n, dtype=torch.float64))
    for key, axis in sae.latent_axis.items():
        old, new = before[key].movedim(axis, 0), sae.get_parameter(key).detach().movedim(axis, 0)
        assert torch.equal(old[~free], new[~free])
    with torch.no_grad():
        acts = sae.pre_acts(sae.normalize(batch.x))[:, free]
    assert (acts.max(0).values > 0).all()


def trained(cfg: saes.SAEConfig, every: int | None) -> Trainer:
    x = torch.randn(2048, 8, generator=generator(1))
    sae = saes.create(cfg, 8, seed=0)
    sae.initialize(x)
    with torch.no_grad():
        sae.b_enc[32:] = -10  # half of the latents never fire
    settings = Settings(
        n_steps=120, batch_size=128, lr=3e-3, warmup=0, decay=0, grad_clip=0, dead_after_rows=1000,
        eval_every=1, checkpoint_every_s=60, seed=0, resample_every=every,
    )  # fmt: skip
    trainer = Trainer(sae, settings)
    for step in range(120):
        trainer.step(x[step % 16 * 128 : step % 16 * 128 + 128])
    return trainer


@pytest.mark.parametrize(
    "cfg",
    [saes.ReLUConfig(d_sae=64, l1=0.5), saes.TopKConfig(d_sae=64, k=2, auxk=0)],
    ids=lambda c: c.kind,
)
def test_the_loop_brings_dead_latents_back(cfg):
    without, resampled, again = trained(cfg, None), trained(cfg, 2000), trained(cfg, 2000)
    assert int(without.tracker.dead.sum()) >= 32
    assert int(resampled.tracker.dead.sum()) < 8
    assert torch.equal(resampled.sae.W_dec, again.sae.W_dec)
