"""A training on a GPU beside the same on the CPU, alone and in a stack."""

from __future__ import annotations

import pytest
import torch

from thoughtlens.numerics import kernels
from thoughtlens.ops.bench.train_step import new_trainer
from thoughtlens.sae.fit.trainer import StackTrainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
STEPS = 20


def rows(members: int = 1) -> torch.Tensor:
    return torch.randn(members, 256, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "kind", ["topk", "relu", "batchtopk", "gated", "jumprelu", "matryoshka", "hierarchical_topk"]
)
def test_losses_are_the_cpus(kind):
    losses = {}
    for device in ("cpu", "cuda"):
        x = rows()[0].to(device)
        trainer = new_trainer(x, kind, 128, 8, dtype="float32", steps=STEPS)
        losses[device] = [trainer.step(x).total.item() for _ in range(STEPS)]
    assert kernels.name(torch.zeros(1, device="cuda")) == "triton"
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)


@pytest.mark.parametrize("kind", ["topk", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stack_trains_its_members_as_alone(kind, dtype):
    x = rows(3).cuda()
    alone, stacked = (
        [new_trainer(x[i], kind, 2100, 8, dtype=dtype, steps=STEPS, seed=i) for i in range(3)]
        for _ in range(2)
    )
    together = StackTrainer(stacked)
    for _ in range(STEPS):
        for trainer, own in zip(alone, x, strict=True):
            trainer.step(own)
        together.step(x, [None] * 3)
    for one, other in zip(alone, stacked, strict=True):
        mine, theirs = other.sae(x[0]), one.sae(x[0])
        assert (mine - theirs).norm() <= 0.03 * theirs.norm()


def test_a_step_waits_for_the_gpu_as_often_as_the_loop_reads_numbers():
    """Numbers are read twice a step: before the optimizer, and for the curve. Nothing else may wait."""
    x = rows()[0].cuda()
    trainer = new_trainer(x, "topk", 2100, 8, dtype="bfloat16", steps=STEPS, auxk=0)
    for _ in range(3):
        trainer.step(x)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as caught:
            trainer.step(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in caught if "synchroniz" in str(w.message)]) <= 2
