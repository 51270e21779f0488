"""Latents that write little are taken out of a trained SAE of any kind: which, and what is said of it."""

from __future__ import annotations

import pytest
import torch

from tests.sae.kinds.each import CONFIGS, inputs, make, name
from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.sae.fit.prune import Pruned, only, prune
from thoughtlens.sae.kinds.base import Batch
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

BATCHED = saes.HierarchicalTopKConfig(d_sae=48, k=2, fade=0.8)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    acts = {f"layers.{i}:out": planted(600, 8, 16, 2 / 16, seed=i)[0] + i for i in range(3)}
    return ActivationStore.open(write_store(tmp_path_factory.mktemp("acts") / "acts", acts))


@pytest.fixture(scope="module")
def view(store):
    return store.view(["layers.0:out"], split="train")


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


@pytest.mark.slow
def test_the_stage_says_how_many_went_and_what_they_carried(store, tmp_path):
    cfg = TrainConfig(
        acts=store.root, sae=BATCHED, members=("pooled", "per_layer"), batch_size=64, epochs=3.0, prune=True
    )
    result = train(cfg, tmp_path / "sae")
    whole = train(cfg.model_copy(update={"prune": False}), tmp_path / "all")
    for member, other in zip(result["members"], whole["members"], strict=True):
        assert member["d_sae"] + member["pruned"] == other["d_sae"] == 48 and member["pruned"] > 0
        assert 0 <= member["pruned_firings"] < 0.5
        assert other["fvu_train"] <= member["fvu_train"] < 1.4 * other["fvu_train"]
        assert member["dead_train"] <= other["dead_train"] and "pruned" not in str(other)
        folder = member["member"].replace(":", "-")
        mine, theirs = saes.load(tmp_path / "sae" / folder), saes.load(tmp_path / "all" / folder)
        assert mine.d_sae == member["d_sae"] == mine.cfg.d_sae
        assert {tuple(row) for row in mine.W_dec.tolist()} <= {tuple(row) for row in theirs.W_dec.tolist()}
