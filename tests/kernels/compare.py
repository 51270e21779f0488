"""One device's sparse kernels beside the reference, values and gradients."""

from __future__ import annotations

import torch

from thoughtlens.kernels import reference


def compare_encode(kernels, members, batch, d_in, d_sae, k, dtype, device="cpu"):
    z, W, b = draw(0, device, (*members, batch, d_in), (*members, d_sae, d_in), (*members, d_sae))
    inputs = [t.requires_grad_() for t in (z, W.mT, b)]
    dense = []
    for module in (kernels, reference):
        values, indices = module.encode_topk(*inputs, k, dtype)
        wide = torch.zeros(values[..., 0].numel(), b.numel(), device=device)
        dense.append(wide.scatter_add(1, indices.flatten(0, -2), values.flatten(0, -2)))
    assert torch.equal(*dense)
    (weights,) = draw(1, device, tuple(dense[0].shape))
    near([torch.autograd.grad((d * weights).sum(), inputs) for d in dense], dtype)


def compare_decode(kernels, batch, k, d_sae, d_out, device="cpu"):
    values, W_dec, weights = draw(0, device, (batch, k), (d_sae, d_out), (batch, d_out))
    values = values.relu().requires_grad_()
    indices = torch.randint(d_sae, (batch, k), generator=torch.Generator().manual_seed(0)).to(device)
    inputs = [values, W_dec.requires_grad_()]
    outs = [module.decode(values, indices, W_dec) for module in (kernels, reference)]
    near([outs[:1], outs[1:]], torch.float32)
    near([torch.autograd.grad((out * weights).sum(), inputs) for out in outs], torch.float32)


def draw(seed, device, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(device) for shape in shapes]


def near(pair, dtype):
    """The length of each difference within the dtype's rounding."""
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    for mine, theirs in zip(*pair, strict=True):
        assert (mine - theirs).norm() <= limit * theirs.norm()
