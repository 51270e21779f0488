"""Latents that write little are taken out: which, exactly resumed, alone and in a stack."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.sae.fit.runs import Member, run, settings
from tests.sae.kinds.each import CONFIGS, inputs, make, name
from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, Progress, Ranks
from thoughtlens.sae.fit.checkpoint import Checkpoints
from thoughtlens.sae.fit.loop import fit
from thoughtlens.sae.fit.parallel import DataParallelTrainer
from thoughtlens.sae.fit.prune import Pruned, only, prune
from thoughtlens.sae.fit.trainer import Trainer
from thoughtlens.sae.kinds.base import Batch
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

BATCHED = saes.HierarchicalTopKConfig(d_sae=48, k=2, fade=0.8)
KINDS = [saes.TopKConfig(d_sae=48, k=2), BATCHED]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    acts = {f"layers.{i}:out": planted(600, 8, 16, 2 / 16, seed=i)[0] + i for i in range(3)}
    return ActivationStore.open(write_store(tmp_path_factory.mktemp("acts") / "acts", acts))


@pytest.fixture(scope="module")
def view(store):
    return store.view(["layers.0:out"], split="train")


class Killed(Exception):
    pass


class Killer(Progress):
    """Ends a run in the step after one."""

    def __init__(self, trainer: Trainer, step: int):
        super().__init__("test", 1)
        self.trainer, self.step = trainer, step

    def advance(self, n: int = 1, note: str = "") -> None:
        if self.trainer.step_idx > self.step:
            raise Killed


def new(cfg, view, **changes) -> Trainer:
    sae = saes.create(cfg, view.d_in, seed=1)
    sae.initialize(view.sample(400, 0).x)
    return Trainer(sae, settings(**{"prune_step": 13} | changes))


def same(mine: Trainer, theirs: Trainer) -> None:
    (a, table), (b, other) = mine.state(), theirs.state()
    assert json.dumps(table) == json.dumps(other) and a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_who_writes_least_by_hand():
    # row 1: 3 of latent 0, 1 of 1, so (3, 1); row 2: 1 of latent 1, 2 of 3, so (1, 1)
    # errors: 5 and 1, a fifth of them 1.2; written, squares summed: 9, 2, 0, 2^2 * 0.5^2 = 1
    sae = saes.create(saes.ReLUConfig(d_sae=4, normalization="none", pre_bias=False), 2, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[3.0, 1.0, -1.0, 0.0], [0.0, 1.0, 0.0, 2.0]]))
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.0]]))
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert prune(sae, [Batch(rows)]) == Pruned([0, 1], 0.25)


@pytest.mark.parametrize("cfg", CONFIGS, ids=name)
def test_some_latents_of_any_kind_read_and_write_as_before(cfg):
    given, kept = inputs(cfg, 30), [0, 1, 2, 4, 5, 6, 7, 11, 13, 19]
    sae = make(cfg, sample=given)
    part = only(sae, kept)
    z = sae.normalize(given["x"])
    torch.testing.assert_close(part.pre_acts(z), sae.pre_acts(z)[:, kept])
    assert torch.equal(part.W_dec, sae.W_dec[kept])
    assert (part.d_sae, part.cfg.width(6), sae.d_sae) == (10, 10, 20)
    with torch.no_grad():
        part.b_enc += 1
    assert not torch.equal(part.b_enc, sae.b_enc[kept])


@pytest.mark.parametrize("cfg", CONFIGS, ids=name)
def test_every_kind_loses_what_it_hardly_writes(cfg, monkeypatch):
    monkeypatch.setattr("thoughtlens.sae.fit.prune.SPARED", 1e-6)
    given = inputs(cfg, 30)
    sae = make(cfg, sample=given)
    with torch.no_grad():
        sae.W_dec[7] *= 1e-4
    found = prune(sae, [Batch(**given)])
    assert 7 not in found.latents and found.latents == sorted(set(found.latents))
    assert found.firings < 0.2 and only(sae, found.latents).d_sae == len(found.latents) > 6


def test_which_stay_depends_on_how_they_fire_and_tied_latents_always_do(view):
    x = view.sample(400, 0).x
    sae = saes.create(saes.BatchTopKConfig(d_sae=20, k=2), 8, seed=0)
    sae.initialize(x)
    with torch.no_grad():
        sae.b_enc[5] = -100
        sae.threshold.fill_(0.5)
    found = prune(sae, [Batch(x)])
    assert 5 not in found.latents and 0 < found.firings < 0.5
    fires = (sae.encode(x) != 0).sum(0).double()
    assert found.firings == pytest.approx(1 - float(fires[found.latents].sum() / fires.sum()))
    cfg = next(c for c in CONFIGS if c.kind == "supervised")
    given = inputs(cfg, 30)
    tied = make(cfg, sample=given)
    with torch.no_grad():
        tied.b_enc[:3] = -100
    assert {0, 1, 2} <= set(prune(tied, [Batch(given["x"])]).latents)


def test_all_stay_where_too_few_would_or_nothing_fires(view):
    x = view.sample(400, 0).x
    one = torch.arange(20) == 3
    for cfg, silent in ((saes.TopKConfig(d_sae=20, k=20), one), (saes.ReLUConfig(d_sae=20), one | True)):
        sae = saes.create(cfg, 8, seed=0)
        sae.initialize(x)
        with torch.no_grad():
            sae.b_enc[silent] = -1e6
        assert prune(sae, [Batch(x)]) == Pruned(list(range(20)), 0.0)


@pytest.mark.parametrize("cfg", KINDS, ids=lambda c: c.kind)
@pytest.mark.parametrize("steps", [7, 13, 20])
def test_resuming_before_and_after_is_exact(cfg, steps, view, tmp_path):
    whole = new(cfg, view)
    curve = run(whole, view, tmp_path)
    assert whole.pruned is not None and 2 < whole.sae.d_sae == len(whole.pruned.latents) < 48
    broken, kept = new(cfg, view, checkpoint_every_s=0.0), Checkpoints(tmp_path / "c")
    with pytest.raises(Killed):
        fit([Member(broken, view, kept, tmp_path / "bad")], Killer(broken, steps))
    resumed = new(cfg, view)
    resumed.restore(*kept.latest())
    assert resumed.step_idx == steps
    assert run(resumed, view, tmp_path) == curve
    same(resumed, whole)


def test_the_rest_fires_as_often_as_it_did(view, tmp_path):
    trainer = new(BATCHED, view)
    curve = run(trainer, view, tmp_path)
    assert trainer.pruned is not None and trainer.pruned.firings > 0
    share = round((1 - trainer.pruned.firings) * 2 * 50) / 50
    assert curve[-1]["l0_train"] == pytest.approx(share, abs=0.05)
    assert curve[0]["l0_train"] == pytest.approx(2, abs=0.05)


def members(store, **changes) -> list[Trainer]:
    views = [store.view([hook], split="train") for hook in store.hook_names]
    steps = (13, 20, None)  # the third is left as it is
    return [
        new(KINDS[0], v, **{"prune_step": s, "seed": i} | changes)
        for i, (v, s) in enumerate(zip(views, steps, strict=True))
    ]


def entries(store, trainers, root) -> list[Member]:
    return [
        Member(one, store.view([hook], split="train"), Checkpoints(root / str(i)), root / f"bad.{i}")
        for i, (one, hook) in enumerate(zip(trainers, store.hook_names, strict=True))
    ]


def test_members_leave_their_stack_one_by_one_and_resume_exactly(store, tmp_path):
    whole = members(store)
    fit(entries(store, whole, tmp_path), Progress("test", 1), stacked=True)
    assert [t.sae.d_sae < 48 for t in whole] == [True, True, False]
    alone = members(store)
    for one, entry in zip(alone, entries(store, alone, tmp_path / "a"), strict=True):
        fit([entry], Progress("test", 1))
        mine = whole[alone.index(one)]
        assert mine.pruned == one.pruned
        torch.testing.assert_close(mine.sae.W_dec, one.sae.W_dec, rtol=1e-3, atol=1e-4)
    for steps in (10, 13, 16, 25):
        broken = members(store, checkpoint_every_s=0.0)
        own = entries(store, broken, tmp_path / f"c{steps}")
        with pytest.raises(Killed):
            fit(own, Killer(broken[0], steps), stacked=True)
        resumed = members(store)
        for one, entry in zip(resumed, own, strict=True):
            one.restore(*entry.checkpoints.latest())
        again = [replace(e, trainer=t) for e, t in zip(own, resumed, strict=True)]
        fit(again, Progress("test", 1), stacked=True)
        for mine, theirs in zip(resumed, whole, strict=True):
            same(mine, theirs)


def test_the_stage_says_how_many_went_and_what_they_carried(store, tmp_path):
    cfg = TrainConfig(
        acts=store.root, sae=BATCHED, members=("pooled", "per_layer"), batch_size=64, epochs=3.0,
        prune_at=0.8,
    )  # fmt: skip
    result = train(cfg, tmp_path / "sae")
    for member in result["members"]:
        assert member["d_sae"] + member["pruned"] == 48 and member["pruned"] > 0
        assert 0 <= member["pruned_firings"] < 0.7
        sae = saes.load(tmp_path / "sae" / member["member"].replace(":", "-"))
        assert sae.d_sae == member["d_sae"] == sae.cfg.d_sae
    assert "pruned" not in str(train(cfg.model_copy(update={"prune_at": None}), tmp_path / "all"))


def test_processes_that_share_an_sae_cannot_prune_it(view):
    ranks = Ranks(rank=0, size=2)
    with pytest.raises(ConfigError, match=r"prune_at cannot be trained by 2 ranks"):
        DataParallelTrainer(saes.create(KINDS[0], 8, seed=0), settings(prune_step=3), ranks)
