"""The definitions of the kernels, by hand and against the dense product."""

from __future__ import annotations

import torch

from thoughtlens.numerics import kernels


def test_topk_by_hand():
    values, indices = kernels.topk(torch.tensor([[1.0, -2.0, 3.0, 2.0], [-1.0, -3.0, 0.5, -2.0]]), 2)
    rows = [dict(zip(i, v, strict=True)) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]
    assert rows == [{2: 3.0, 3: 2.0}, {2: 0.5, 0: 0.0}]


def test_decode_is_the_dense_product_without_zeros():
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.rand(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    indices = torch.stack([torch.randperm(7, generator=generator)[:2] for _ in range(5)])
    dense = torch.zeros(5, 7, dtype=torch.float64).scatter(1, indices, values)
    assert torch.allclose(kernels.decode(values, indices, W_dec), dense @ W_dec)
    weights = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    mine = torch.autograd.grad((kernels.decode(values, indices, W_dec) * weights).sum(), (values, W_dec))
    theirs = torch.autograd.grad((dense @ W_dec * weights).sum(), (values, W_dec))
    assert all(torch.allclose(a, b) for a, b in zip(mine, theirs, strict=True))


def test_linear_in_bfloat16_keeps_the_weights_dtype():
    generator = torch.Generator().manual_seed(0)
    x, W, b = (
        torch.randn(64, 32, generator=generator),
        torch.randn(32, 16, generator=generator),
        torch.ones(16),
    )
    exact, rounded = kernels.linear(x, W, b, torch.float32), kernels.linear(x, W, b, torch.bfloat16)
    assert torch.allclose(exact, x @ W + b, atol=1e-5)
    assert rounded.dtype == torch.float32 and 0 < (rounded - exact).abs().max() < 0.1
