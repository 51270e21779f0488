"""The loop: exact resumption, what stops it, and what it can find."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file

from tests.sae.fit.runs import run, settings
from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import CheckpointError, DataError
from thoughtlens.sae.fit.checkpoint import Checkpoints
from thoughtlens.sae.fit.loop import stop
from thoughtlens.sae.fit.trainer import Trainer

CONFIGS = [saes.TopKConfig(d_sae=48, k=3), saes.ReLUConfig(d_sae=48, l1=1.0)]


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    x, _ = planted(600, 8, 16, 2 / 16, seed=0, offset=0.5)
    root = write_store(tmp_path_factory.mktemp("acts") / "acts", {"layers.0:out": x})
    return ActivationStore.open(root).view(split="train")


def new(cfg, view, s) -> Trainer:
    sae = saes.create(cfg, view.d_in, seed=1)
    sae.initialize(view.sample(400, 0).x)
    return Trainer(sae, s)


def final(trainer) -> tuple[dict, str]:
    tensors, table = trainer.state()
    return {name: t.clone() for name, t in tensors.items()}, json.dumps(table)


class Killed(Exception):
    pass


class Mortal(Checkpoints):
    """Dies right after its nth checkpoint."""

    def __init__(self, root, lives):
        super().__init__(root)
        self.lives = lives

    def save(self, *state):
        super().save(*state)
        self.lives -= 1
        if self.lives == 0:
            raise Killed


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: c.kind)
@pytest.mark.parametrize("steps", [1, 7, 13, 30])
def test_resuming_after_any_step_is_exact(cfg, steps, view, tmp_path):
    whole = new(cfg, view, settings())
    curve = run(whole, view, tmp_path)
    broken = new(cfg, view, settings(checkpoint_every_s=0.0))
    with pytest.raises(Killed):
        run(broken, view, tmp_path, Mortal(tmp_path / "c", steps))
    resumed = new(cfg, view, settings())
    resumed.restore(*Checkpoints(tmp_path / "c").latest())
    assert resumed.rows_seen == 50 * steps
    assert run(resumed, view, tmp_path) == curve
    (mine, my_table), (theirs, their_table) = final(resumed), final(whole)
    assert my_table == their_table and mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_curve_has_every_term_at_every_measurement(view, tmp_path):
    curve = run(new(CONFIGS[0], view, settings()), view, tmp_path)
    assert [row["rows_seen"] for row in curve] == [350, 700, 1050, 1400, 1500]
    for row in curve:
        assert row["loss"] == pytest.approx(row["loss_reconstruction"] + row["loss_auxk"], rel=1e-5)
        assert row["l0_train"] <= 3
        assert 0 <= row["n_dead"] <= 48
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert curve[-1]["lr"] == pytest.approx(3e-3 / 6)  # the last of six falling steps


def test_seed_decides_the_order_of_rows(view, tmp_path):
    ends = [final(t)[0]["sae.W_enc"] for t in (new(CONFIGS[0], view, settings(seed=s)) for s in (4, 4, 5))
            if run(t, view, tmp_path)]  # fmt: skip
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: c.kind)
def test_decoder_rows_stay_at_length_one(cfg, view, tmp_path):
    trainer = new(cfg, view, settings())
    run(trainer, view, tmp_path)
    assert torch.allclose(trainer.sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-6)


def test_gradient_clipping_bounds_the_step(view):
    # Adam divides by its own second moment, so look at the first one: 0.1 of the gradient after one step
    trainer = new(CONFIGS[1], view, settings(grad_clip=1e-3))
    trainer.step(view.sample(50, 0).x)
    moments = [moments.exp_avg for moments in trainer.optimizer.state.values()]
    assert torch.nn.utils.get_total_norm(moments).item() == pytest.approx(1e-4, rel=1e-3)


def test_auxk_brings_dead_latents_back(view):
    dead = {}
    for auxk in (0.0, 1 / 32):
        cfg = saes.TopKConfig(d_sae=16, k=2, auxk=auxk)
        trainer = new(cfg, view, settings(n_steps=300, lr=1e-2, dead_after_rows=100))
        with torch.no_grad():
            trainer.sae.W_enc[:, :8] *= 1e-3  # far too weak to be among the k
        for batch in islice(view.batches(50, seed=0, epochs=None), 300):
            trainer.step(batch.x)
        dead[auxk] = int(trainer.tracker.dead[:8].sum())
    assert dead[0.0] >= 6 and dead[1 / 32] <= 1


def test_nan_stops_before_the_weights_change(view, tmp_path):
    trainer = new(CONFIGS[0], view, settings(checkpoint_every_s=0.0))
    checkpoints = Checkpoints(tmp_path / "c")
    with pytest.raises(Killed):
        run(trainer, view, tmp_path, Mortal(tmp_path / "c", 5))
    with torch.no_grad():
        trainer.sae.b_enc[0] = torch.inf
    before = trainer.sae.W_dec.detach().clone()
    with pytest.raises(DataError, match=r"after 250 vectors: loss .*offending\.safetensors.*train\.lr"):
        run(trainer, view, tmp_path, checkpoints)
    assert torch.equal(trainer.sae.W_dec, before) and trainer.step_idx == 5
    assert checkpoints.latest()[1]["rows_seen"] == 250
    written = load_file(tmp_path / "offending.safetensors")
    assert torch.equal(written["x"], view.read(written["idx"].numpy()))


def test_nan_before_the_first_checkpoint_keeps_the_state_it_met(view, tmp_path):
    trainer = new(CONFIGS[0], view, settings(checkpoint_every_s=1e9))
    for batch in islice(view.batches(50, seed=0, epochs=None), 3):
        trainer.step(batch.x)
    before = {name: t.clone() for name, t in trainer.state()[0].items()}
    bad = next(view.batches(50, seed=0))
    bad.x[7] = torch.nan
    with pytest.raises(FloatingPointError):
        trainer.step(bad.x)
    checkpoints = Checkpoints(tmp_path / "c")
    with pytest.raises(DataError, match=r"after 150 vectors: .*last good checkpoint: .*000150\. Look"):
        stop(trainer, bad, checkpoints, tmp_path / "bad.safetensors", "loss nan")
    tensors, table = checkpoints.latest()
    assert table["step"] == 3 and all(torch.equal(tensors[name], t) for name, t in before.items())


def test_a_checkpoint_of_another_sae_is_refused(view, tmp_path):
    trainer = new(CONFIGS[0], view, settings())
    trainer.step(view.sample(50, 0).x)
    other = new(saes.TopKConfig(d_sae=40, k=3), view, settings())
    with pytest.raises(CheckpointError, match="does not fit this SAE"):
        other.restore(*trainer.state())


def test_bfloat16_products_train_float32_weights(view, tmp_path):
    trainer = new(CONFIGS[0], view, settings())
    trainer.sae.compute_dtype = torch.bfloat16
    curve = run(trainer, view, tmp_path)
    assert trainer.sae.W_enc.dtype == torch.float32
    assert curve[-1]["loss"] < curve[0]["loss"]
