"""The Triton kernels under Triton's CPU interpreter give the reference's numbers and gradients."""

from __future__ import annotations

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("tests/gpu compares them on the GPU", allow_module_level=True)
pytest.importorskip("triton")

from tests.numerics.kernels.compare import (
    compare_adam,
    compare_batchtopk,
    compare_decode,
    compare_decode_error,
    compare_encode,
    compare_relu,
    compare_select,
    draw,
)
from thoughtlens.numerics.kernels import (
    reference,
    triton,
    triton_adam,
    triton_check,
    triton_error,
    triton_select,
)

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("members", "batch", "k", "centred"), [((), 5, 3, True), ((), 1, 12, False), ((2,), 3, 4, True)]
)
def test_encode_topk(members, batch, k, centred, dtype):
    compare_encode(triton, members, batch, d_in=7, d_sae=12, k=k, dtype=dtype, centred=centred)


@pytest.mark.parametrize(("width", "k"), [(40, 40), (1500, 7), (1500, 700), (2049, 1)])
def test_select_divides_wide_rows_into_groups(width, k):
    """Many equal ones, too few positive ones, NaN and infinity, all in one batch."""
    rows = draw(width, "cpu", (5, width))[0]
    rows[1] = rows[1].round()
    rows[2] = -rows[2].abs()
    rows[2, width // 2] = 1
    rows[3, -1], rows[3, 3], rows[4, 0] = torch.nan, -torch.nan, torch.inf
    compare_select(triton, rows, k)


def test_select_adds_each_members_bias_to_narrow_products():
    products, b = draw(0, "cpu", (6, 1100), (3, 1100))
    mine = triton.select(products.bfloat16(), b, 4)[0]
    wide = (products.bfloat16().float().view(3, 2, -1) + b[:, None]).flatten(0, 1)
    assert torch.equal(mine.sort(1).values, reference.topk(wide, 4)[0].sort(1).values)


@pytest.mark.parametrize(
    ("width", "k"), [(65_536, 64), (2048, 20), (1 << 20, 64), (131_072, 256), (6000, 5000)]
)
def test_no_program_holds_more_than_it_can(width, k):
    size = triton_select.group_size(width, k)
    held = max(k * size if size < width else size, -(-width // size))
    assert held <= triton_select.WIDEST and (size == width or width >= k * size)


def test_what_no_program_can_hold_is_the_references():
    compare_select(triton, draw(0, "cpu", (2, 33_000))[0], k=17_000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "centred"), [(1, False), (70, True)])
def test_encode_relu(batch, centred, dtype):
    compare_relu(triton, batch, d_in=9, d_sae=30, dtype=dtype, centred=centred)


def test_relu_does_not_hide_nan():
    z, W, b = draw(0, "cpu", (3, 4), (4, 5), (5,))
    z[1, 2] = torch.nan
    acts, totals, _ = triton.encode_relu(z, None, W, b, torch.float32)
    assert acts[1].isnan().all() and totals.isnan().all() and acts[0].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "d_sae", "k"), [(1, 30, 30), (9, 1100, 2), (5, 70, 3)])
def test_encode_batchtopk(batch, d_sae, k, dtype):
    compare_batchtopk(triton, batch, 9, d_sae, k, dtype, centred=batch > 1)


def test_batchtopk_where_few_are_positive():
    """Two of twelve: the rest of the three kept are 0, and nothing else is."""
    z, W = torch.eye(3), -torch.ones(3, 4)
    W[1, 2], W[2, 0] = 5, 3
    acts = triton.encode_batchtopk(z, None, W, torch.zeros(4), 1, torch.float32)
    assert acts.nonzero().tolist() == [[1, 2], [2, 0]] and acts.sum() == 8


@pytest.mark.parametrize(("batch", "k", "d_out"), [(4, 3, 5), (1, 19, 300), (3, 1, 256)])
def test_decode(batch, k, d_out):
    compare_decode(triton, batch, k, d_sae=9, d_out=d_out)


@pytest.mark.parametrize(
    ("members", "k", "d_out"), [((), 3, 5), ((2,), 5, 40), ((), triton_error.MOST + 1, 6), ((), 1, 600)]
)
def test_decode_error(members, k, d_out):
    compare_decode_error(triton, members, 3, k, d_sae=11, d_out=d_out)


def test_no_rows_at_all():
    values, indices = triton.topk(torch.zeros(0, 8), 2)
    assert values.shape == indices.shape == (0, 2)
    assert triton.decode(values, indices, torch.zeros(8, 3)).shape == (0, 3)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("d", "unit_from"), [(5, 0), (5, 4), (300, None), (1, 0)])
def test_adam_rows(d, unit_from, lazy):
    compare_adam(triton, 5, d, unit_from, lazy)


def test_rows_wider_than_a_program_are_the_references():
    compare_adam(triton, 2, triton_adam.WIDEST + 1, 0, lazy=False)


def test_kernels_that_give_the_references_numbers_are_used():
    assert triton_check.fault(torch.device("cpu"), d_sae=13) is None
