"""SAEs trained as a stack end as they do alone, and end, resume and fail one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.sae.fit.runs import Member, run, settings
from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import Progress
from thoughtlens.sae.fit.checkpoint import Checkpoints
from thoughtlens.sae.fit.loop import fit
from thoughtlens.sae.fit.trainer import Trainer

TOPK = [saes.TopKConfig(d_sae=32, k=k) for k in (2, 3, 2)]
RELU = [saes.ReLUConfig(d_sae=32, l1=l1) for l1 in (0.5, 1.0, 2.0)]
SETTINGS = [settings(), settings(lr=1e-3, seed=7, n_steps=40), settings(n_steps=17, dead_after_rows=80)]
HOOKS = ["layers.0:out", "layers.1:out", "layers.2:out"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    acts = {hook: (i + 1) * planted(600, 8, 16, 2 / 16, seed=i)[0] + i for i, hook in enumerate(HOOKS)}
    return ActivationStore.open(write_store(tmp_path_factory.mktemp("acts") / "acts", acts))


def trainer(store, cfg, s, hook, factor=1.0) -> Trainer:
    sae = saes.create(cfg, 8, seed=s.seed)
    sae.initialize(store.view([hook], split="train").sample(400, 0).x)
    with torch.no_grad():
        sae.b_enc *= factor
    return Trainer(sae, s)


class Log:
    """Entries, and what became of them."""

    def __init__(self, store, trainers: list[Trainer], root: Path):
        self.finished, self.failed = [], {}
        self.entries = [
            Member(
                one, store.view([hook], split="train"), Checkpoints(root / str(i)), root / f"bad.{i}",
                finish=lambda i=i: self.finished.append(i),
                fail=lambda why, i=i: self.failed.update({i: why}),
            )
            for i, (one, hook) in enumerate(zip(trainers, HOOKS, strict=True))
        ]  # fmt: skip


def all_trainers(store, cfgs, changes=None) -> list[Trainer]:
    rest = zip(cfgs, SETTINGS, HOOKS, strict=True)
    return [trainer(store, cfg, replace(s, **(changes or {})), hook) for cfg, s, hook in rest]


def alone(store, cfgs, tmp_path) -> list[Trainer]:
    trainers = all_trainers(store, cfgs)
    for i, (one, hook) in enumerate(zip(trainers, HOOKS, strict=True)):
        run(one, store.view([hook], split="train"), tmp_path, Checkpoints(tmp_path / f"a{i}"))
    return trainers


def close(mine: Trainer, theirs: Trainer) -> None:
    """docs/scale.md states the tolerance."""
    for a, b in zip(mine.sae.parameters(), theirs.sae.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert mine.step_idx == theirs.step_idx
    for a, b in zip(mine.curve, theirs.curve, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("cfgs", [TOPK, RELU], ids=["topk", "relu"])
def test_each_ends_as_alone_at_its_own_time(store, tmp_path, cfgs):
    together = all_trainers(store, cfgs)
    log = Log(store, together, tmp_path)
    fit(log.entries, Progress("test", 1), stacked=True)
    assert log.finished == [2, 0, 1] and log.failed == {}  # after 17, 30 and 40 steps
    for mine, theirs in zip(together, alone(store, cfgs, tmp_path), strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("cfgs", [TOPK, RELU], ids=["topk", "relu"])
def test_resuming_is_exact_wherever_each_stands(store, tmp_path, cfgs):
    whole = all_trainers(store, cfgs)
    fit(Log(store, whole, tmp_path).entries, Progress("test", 1), stacked=True)
    broken = all_trainers(store, cfgs, {"checkpoint_every_s": 0.0})
    log = Log(store, broken, tmp_path / "c")
    bar = Progress("test", 1)
    log.entries[2] = replace(log.entries[2], finish=bar.stop)  # dies when the third has ended
    with pytest.raises(KeyboardInterrupt):
        fit(log.entries, bar, stacked=True)
    resumed = all_trainers(store, cfgs)
    log = Log(store, resumed, tmp_path / "d")
    for i in (0, 1):
        resumed[i].restore(*Checkpoints(tmp_path / "c" / str(i)).latest())
        assert 0 < resumed[i].step_idx < 30
    fit(log.entries, Progress("test", 1), stacked=True)
    assert log.finished == [0, 2, 1] or log.finished == [2, 0, 1]
    for mine, theirs in zip(resumed, whole, strict=True):
        assert mine.curve == theirs.curve
        assert all(
            torch.equal(a, b)
            for a, b in zip(mine.state()[0].values(), theirs.state()[0].values(), strict=True)
        )


def test_a_members_sums_do_not_depend_on_another_that_is_there_or_has_ended(store, tmp_path):
    cfgs = [saes.TopKConfig(d_sae=32, k=k) for k in (4, 4, 6)]
    three, two = all_trainers(store, cfgs), all_trainers(store, cfgs)
    fit(Log(store, three, tmp_path / "a").entries, Progress("test", 1), stacked=True)
    fit(Log(store, two, tmp_path / "b").entries[:2], Progress("test", 1), stacked=True, ordered=True)
    for mine, theirs in zip(two[:2], three[:2], strict=True):
        assert mine.curve == theirs.curve
        states = mine.state()[0], theirs.state()[0]
        assert all(torch.equal(states[0][name], t) for name, t in states[1].items())


@pytest.mark.parametrize("cfgs", [TOPK, RELU], ids=["topk", "relu"])
def test_one_that_fails_stops_alone(store, tmp_path, cfgs):
    together = all_trainers(store, cfgs, {"checkpoint_every_s": 0.0})
    log = Log(store, together, tmp_path)
    view = log.entries[1].source
    view.batches = poisoned(view.batches, after=5)  # the rows of one member's sixth batch are NaN
    fit(log.entries, Progress("test", 1), stacked=True)
    assert log.finished == [2, 0] and list(log.failed) == [1]
    assert "stopped after 250 vectors: loss" in log.failed[1] and (tmp_path / "bad.1").is_file()
    tensors, table = log.entries[1].checkpoints.latest()
    assert table["step"] == 5 and all(torch.isfinite(t).all() for t in tensors.values())
    expected = alone(store, cfgs, tmp_path)
    close(together[0], expected[0])
    close(together[2], expected[2])


def poisoned(batches, after):
    def stream(*args, **kwargs):
        for i, batch in enumerate(batches(*args, **kwargs)):
            yield replace(batch, x=batch.x * (float("nan") if i == after else 1.0))

    return stream
