"""The Triton kernels on a GPU beside the reference there, at the sizes at which they divide their work."""

from __future__ import annotations

import pytest
import torch

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
from thoughtlens.numerics import kernels
from thoughtlens.numerics.kernels import reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
if torch.cuda.is_available():
    from thoughtlens.numerics.kernels import triton, triton_check, triton_error

DTYPES = [torch.float32, torch.bfloat16]


def test_triton_is_chosen_and_gives_the_references_numbers():
    assert triton_check.fault(torch.device("cuda", 0)) is None
    assert kernels.name(torch.zeros(1, device="cuda")) == "triton"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("members", "batch", "d_sae", "k", "centred"),
    [
        ((), 500, 1000, 32, True),
        ((), 1, 1000, 1, False),
        ((3,), 64, 1000, 8, True),
        ((2,), 37, 2048, 20, True),
        ((), 33, 4608, 32, False),
        ((), 70, 65_536, 64, True),
    ],
)
def test_encode_topk(members, batch, d_sae, k, centred, dtype):
    compare_encode(triton, members, batch, 200, d_sae, k, dtype, device="cuda", centred=centred)


@pytest.mark.parametrize(
    ("width", "k"), [(40, 40), (1500, 700), (4097, 1), (65_536, 64), (131_072, 256), (33_000, 17_000)]
)
def test_select(width, k):
    """Many equal ones, too few positive ones, NaN and infinity, all in one batch."""
    rows = draw(width, "cpu", (9, width))[0]
    rows[1] = rows[1].round()
    rows[2] = -rows[2].abs()
    rows[2, width // 2] = 1
    rows[3, -1], rows[3, 3], rows[4, 0] = torch.nan, -torch.nan, torch.inf
    compare_select(triton, rows, k, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "d_sae", "centred"), [(1, 30, False), (500, 1000, True), (2048, 4608, True)]
)
def test_encode_relu(batch, d_sae, centred, dtype):
    compare_relu(triton, batch, 90, d_sae, dtype, device="cuda", centred=centred)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "d_sae", "k"), [(1, 30, 30), (500, 1100, 20), (2048, 4608, 32)])
def test_encode_batchtopk(batch, d_sae, k, dtype):
    compare_batchtopk(triton, batch, 9, d_sae, k, dtype, centred=batch > 1, device="cuda")


@pytest.mark.parametrize(("batch", "k", "d_out"), [(500, 32, 576), (1, 9, 2048), (64, 1, 5), (90, 300, 4096)])
def test_decode(batch, k, d_out):
    compare_decode(triton, batch, k, d_sae=900, d_out=d_out, device="cuda")


@pytest.mark.parametrize(
    ("members", "batch", "k", "d_out"),
    [((), 500, 32, 576), ((3,), 64, 20, 2048), ((), 70, 64, 2048), ((), 5, 257, 33), ((), 1, 1, 4096)],
)
def test_decode_error(members, batch, k, d_out):
    compare_decode_error(triton, members, batch, k, d_sae=900, d_out=d_out, device="cuda")


def test_gradients_are_the_same_at_every_call():
    values, z, W_dec, b_dec = draw(0, "cuda", (4000, 32), (4000, 256), (500, 256), (256,))
    indices = torch.randint(500, values.shape, generator=torch.Generator().manual_seed(0)).cuda()
    inputs = [values.relu().requires_grad_(), W_dec.requires_grad_()]
    runs = [
        torch.autograd.grad(triton.decode_error(inputs[0], indices, W_dec, z, b_dec)[0], inputs)
        for _ in range(3)
    ]
    for run in runs[1:]:
        assert all(torch.equal(one, first) for one, first in zip(run, runs[0], strict=True))


def test_a_latent_that_fires_on_every_row():
    values, x = draw(0, "cuda", (9000, 2), (9000, 64))
    values, indices = values.abs(), torch.zeros(9000, 2, dtype=torch.long, device="cuda")
    indices[:, 1] = 5
    mine = triton.latent_rows(values, values, indices, x, 7)
    theirs = torch.zeros(7, 64, device="cuda").index_add(
        0, indices.flatten(), (values[..., None] * x[:, None]).flatten(0, 1)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("d", "unit_from"), [(2048, 0), (5, 4), (300, None), (10_000, 0), (40_000, 0)])
def test_adam_rows(d, unit_from, lazy):
    compare_adam(triton, 9, d, unit_from, lazy, device="cuda")


def test_offsets_beyond_31_bits():
    """The last rows of products that take 2^32 entries, and of a decoder with 2^31 entries and more."""
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB")
    products = torch.zeros(65_540, 65_536, dtype=torch.bfloat16, device="cuda")
    products[-1, -3:] = torch.tensor([1.0, 3.0, 2.0])
    values, indices = triton.select(products, torch.zeros(1, 65_536, device="cuda"), 3)
    assert values[-1].sort().values.tolist() == [1, 2, 3]
    assert sorted(indices[-1].tolist()) == [65_533, 65_534, 65_535]
    del products
    W_dec = torch.zeros(1_100_000, 2048, device="cuda")
    W_dec[-1] = 1
    out = triton.decode(torch.ones(1, 1, device="cuda"), torch.full((1, 1), len(W_dec) - 1).cuda(), W_dec)
    assert out.sum() == 2048


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_on_a_gpu_that_is_not_the_current_one():
    with torch.cuda.device(0):
        compare_encode(triton, (), 64, 30, 1500, 8, torch.bfloat16, device="cuda:1")
        compare_decode_error(triton, (), 64, 8, 90, 30, device="cuda:1")


def test_more_latents_a_row_than_are_decoded_in_one_pass():
    compare_decode_error(triton, (2,), 3, triton_error.MOST + 5, 400, 70, device="cuda")


def test_reference_and_triton_select_equally_often_under_autocast():
    """Autocast changes no dtype of what the kernels are given or give."""
    z, W, b = draw(0, "cuda", (50, 64), (1500, 64), (1500,))
    with torch.autocast("cuda", torch.bfloat16):
        mine = triton.encode_topk(z, W.T, b, 8, torch.bfloat16)[0]
    theirs = reference.encode_topk(z, W.T, b, 8, torch.bfloat16)[0]
    assert mine.dtype == torch.float32 and torch.equal(mine.sort(1).values, theirs.sort(1).values)
