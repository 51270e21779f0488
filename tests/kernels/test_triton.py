"""The Triton kernels under Triton's CPU interpreter give the reference's numbers and gradients."""

from __future__ import annotations

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("tests/gpu compares them on the GPU", allow_module_level=True)
pytest.importorskip("triton")

from tests.kernels.compare import compare_adam, compare_decode, compare_encode
from thoughtlens.kernels import triton, triton_adam


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("members", "batch", "k"), [((), 5, 3), ((), 1, 12), ((2,), 3, 4)])
def test_encode_topk(members, batch, k, dtype):
    compare_encode(triton, members, batch, d_in=7, d_sae=12, k=k, dtype=dtype)


@pytest.mark.parametrize(("batch", "k", "d_out"), [(4, 3, 5), (1, 9, 300), (3, 1, 256)])
def test_decode(batch, k, d_out):
    compare_decode(triton, batch, k, d_sae=9, d_out=d_out)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("d", "unit_from"), [(5, 0), (5, 4), (300, None), (1, 0)])
def test_adam_rows(d, unit_from, lazy):
    compare_adam(triton, 9, d, unit_from, lazy)


def test_rows_wider_than_a_program_are_the_references():
    compare_adam(triton, 2, triton_adam.WIDEST + 1, 0, lazy=False)
