"""The Triton kernels on a GPU, and a training on it beside the same on the CPU."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.compare import compare_adam, compare_decode, compare_encode
from thoughtlens import kernels
from thoughtlens.bench.train_step import new_trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("members", "batch", "k"), [((), 500, 32), ((), 1, 1), ((3,), 64, 8)])
def test_encode_topk(members, batch, k, dtype):
    from thoughtlens.kernels import triton

    compare_encode(triton, members, batch, d_in=200, d_sae=1000, k=k, dtype=dtype, device="cuda")


@pytest.mark.parametrize(("batch", "k", "d_out"), [(500, 32, 576), (1, 9, 2048), (64, 1, 5)])
def test_decode(batch, k, d_out):
    from thoughtlens.kernels import triton

    compare_decode(triton, batch, k, d_sae=900, d_out=d_out, device="cuda")


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("d", "unit_from"), [(2048, 0), (5, 4), (300, None), (40_000, 0)])
def test_adam_rows(d, unit_from, lazy):
    from thoughtlens.kernels import triton

    compare_adam(triton, 9, d, unit_from, lazy, device="cuda")


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_training_is_the_cpus(kind):
    x = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    losses = {}
    for device in ("cpu", "cuda"):
        trainer = new_trainer(x.to(device), kind, 128, 8, "float32", steps=20)
        losses[device] = [trainer.step(x.to(device)).total.item() for _ in range(20)]
    assert kernels.name(torch.zeros(1, device="cuda")) == "triton"
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)
