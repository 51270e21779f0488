"""Schedule, dead counters, running means and checkpoints, by hand."""

from __future__ import annotations

import errno
import json

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests.sae.fit.runs import settings
from thoughtlens import sae as saes
from thoughtlens.core import CheckpointError
from thoughtlens.sae.fit.adam import Adam
from thoughtlens.sae.fit.checkpoint import Checkpoints
from thoughtlens.sae.fit.track import Means, write_curves
from thoughtlens.sae.fit.trainer import DeadTracker


def test_learning_rate_by_hand():
    # 10 steps: 2 of warm-up (1/2, 1), 4 of decay (1, 3/4, 2/4, 1/4)
    s = settings(n_steps=10, lr=2.0, warmup=0.2, decay=0.4)
    rates = [s.lr_at(i) for i in range(10)]
    assert rates == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5]
    flat = settings(n_steps=10, lr=2.0, warmup=0.0, decay=0.0)
    assert {flat.lr_at(i) for i in range(10)} == {2.0}


def test_dead_is_counted_in_rows():
    tracker = DeadTracker(torch.zeros(3, dtype=torch.long), dead_after_rows=100)
    tracker.update(torch.tensor([5, 0, 1]), 60)
    assert tracker.silent_rows.tolist() == [0, 60, 0]
    tracker.update(torch.tensor([1, 0, 0]), 40)
    assert tracker.silent_rows.tolist() == [0, 100, 40]
    assert tracker.dead.tolist() == [False, True, False]
    tracker.update(torch.tensor([0, 7, 0]), 1)  # it came back
    assert tracker.dead.tolist() == [False, False, False]


@pytest.mark.parametrize("batch", [1, 4, 20])
def test_dead_does_not_depend_on_the_batch(batch):
    fires = torch.zeros(20, 2, dtype=torch.long)
    fires[3, 0] = 1
    tracker = DeadTracker(torch.zeros(2, dtype=torch.long), dead_after_rows=20)
    for rows in fires.split(batch):
        tracker.update(rows.sum(0), len(rows))
    assert tracker.dead.tolist() == [False, True]


def test_means_are_of_the_steps_since_the_last():
    means = Means()
    means.add({"a": 1.0})
    means.add({"a": 2.0})
    assert means.take() == {"a": 1.5}
    means.add({"a": 7.0})
    assert means.take() == {"a": 7.0}


def test_curves_of_members_with_different_columns(tmp_path):
    write_curves(
        {"x": [{"rows_seen": 1, "a": 0.5}], "y": [{"rows_seen": 2, "b": 1.0}]}, tmp_path / "m.parquet"
    )
    assert pq.read_table(tmp_path / "m.parquet").to_pylist() == [
        {"member": "x", "rows_seen": 1, "a": 0.5, "b": None},
        {"member": "y", "rows_seen": 2, "a": None, "b": 1.0},
    ]


def test_adam_is_torchs():
    sae = saes.create(saes.ReLUConfig(d_sae=12, decoder_norm="free"), 6, seed=0)
    theirs = {name: nn.Parameter(p.detach().clone()) for name, p in sae.named_parameters()}
    optimizer = torch.optim.Adam(theirs.values(), betas=(0.8, 0.99), fused=True)
    mine = Adam(sae, (0.8, 0.99))
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        for name, p in sae.named_parameters():
            p.grad = torch.empty_like(p).normal_(generator=generator)
            theirs[name].grad = p.grad.clone()
        if step == 2:  # no gradient, no update
            sae.b_enc.grad = theirs["b_enc"].grad = None
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
        optimizer.step()
        mine.step([0.01 * (step + 1)], [1.0])
    for name, p in sae.named_parameters():
        assert torch.allclose(p, theirs[name], rtol=1e-5, atol=1e-7)
    mine.zero_grad()
    assert all(p.grad is None for p in sae.parameters())


def test_biases_move_while_the_only_latent_is_idle():
    sae = saes.create(saes.ReLUConfig(d_sae=1), 2, seed=0)
    for p in sae.parameters():
        p.grad = torch.zeros_like(p)
    sae.b_dec.grad = torch.tensor([3.0, -4.0])
    before = sae.W_dec.detach().clone()
    optimizer = Adam(sae, (0.9, 0.999))
    assert optimizer.norms(torch.tensor([[True]])) == 5  # sqrt(9 + 16)
    optimizer.step([0.1], [1.0], torch.tensor([[True]]))
    torch.testing.assert_close(sae.b_dec.detach(), torch.tensor([-0.1, 0.1]))  # Adam's first step: lr * sign
    assert torch.equal(sae.W_dec, before)


@pytest.fixture
def three(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for rows in (10, 900, 10_000):
        checkpoints.save(rows, {"w": torch.full((4,), float(rows))}, {"note": rows})
    return checkpoints


def names(checkpoints):
    return sorted(p.name for p in checkpoints.root.iterdir())


def test_the_last_two_checkpoints_stay(three):
    assert names(three) == ["000000000000900", "000000000010000"]
    tensors, table = three.latest()
    assert tensors["w"].tolist() == [10_000.0] * 4 and table["note"] == 10_000
    three.clear()
    assert not three.root.exists() and three.latest() is None


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(three, file, capsys):
    newest = three.root / "000000000010000" / file
    newest.write_bytes(newest.read_bytes()[:-7])
    assert three.latest()[1]["note"] == 900
    assert "000000000010000 is damaged" in capsys.readouterr().err
    (three.root / "000000000000900" / file).unlink()
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* can be read; delete that folder"):
        three.latest()


def test_an_unknown_schema_is_refused(three):
    for folder in three.root.iterdir():
        file = folder / "state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 7}))
    with pytest.raises(CheckpointError, match="No checkpoint"):
        three.latest()


def test_half_written_checkpoints_are_not_seen(three):
    (three.root / "part").mkdir()
    (three.root / "part" / "state.safetensors").write_bytes(b"half")
    assert three.latest()[1]["note"] == 10_000
    three.save(20_000, {"w": torch.zeros(4)}, {"note": 20_000})
    assert names(three) == ["000000000010000", "000000000020000"]


def test_a_full_disk_is_the_systems_error(three, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        three.save(20_000, {"w": torch.zeros(4)}, {"note": 20_000})
    monkeypatch.undo()
    assert three.latest()[1]["note"] == 10_000
