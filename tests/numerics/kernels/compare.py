"""One device's sparse kernels beside the reference, values and gradients."""

from __future__ import annotations

import torch

from thoughtlens.numerics.kernels import reference


def compare_select(kernels, rows, k, device="cpu"):
    """The same values as the reference, from as many different latents that have them; NaN too."""
    rows = rows.to(device)
    values, indices = kernels.topk(rows, k)
    theirs, _ = reference.topk(rows, k)
    mine, theirs = (v.nan_to_num(9e37, posinf=8e37).sort(1).values for v in (values, theirs))
    assert torch.equal(mine, theirs)
    found = rows.gather(1, indices).relu()
    assert torch.equal(found.nan_to_num(9e37), values.nan_to_num(9e37))
    assert all(len(set(row)) == k for row in indices.tolist())


def compare_encode(kernels, members, batch, d_in, d_sae, k, dtype, device="cpu", centred=False):
    shapes = ((*members, batch, d_in), (*members, d_sae, d_in), (*members, d_sae), (*members, d_in))
    z, W, b, centre = draw(0, device, *shapes)
    inputs = [t.requires_grad_() for t in (z, W.mT, b, centre)[: 4 if centred else 3]]
    dense = []
    for module in (kernels, reference):
        values, indices = module.encode_topk(*inputs[:3], k, dtype, *inputs[3:])
        wide = torch.zeros(values[..., 0].numel(), b.numel(), device=device)
        dense.append(wide.scatter_add(1, indices.flatten(0, -2), values.flatten(0, -2)))
    assert torch.equal(*dense)
    (weights,) = draw(1, device, tuple(dense[0].shape))
    near([torch.autograd.grad((d * weights).sum(), inputs) for d in dense], dtype)


def compare_relu(kernels, batch, d_in, d_sae, dtype, device="cpu", centred=True):
    shapes = ((batch, d_in), (d_in,), (d_sae, d_in), (d_sae,), (batch, d_sae), (d_sae,))
    z, centre, W, b, weights, slopes = draw(0, device, *shapes)
    inputs = [t.requires_grad_() for t in ([centre] if centred else []) + [W.T, b]]
    found = [
        module.encode_relu(z, centre if centred else None, inputs[-2], b, dtype)
        for module in (kernels, reference)
    ]
    assert found[0][0].dtype == dtype
    torch.testing.assert_close(found[0][0], found[1][0])
    near([f[1:2] for f in found], dtype)
    assert torch.equal(found[0][2], found[1][2])
    for used in (slice(0, 1), slice(1, 2), slice(0, 2)):
        totals = [
            sum((out * w).sum() for out, w in zip(f[used], (weights, slopes)[used], strict=True))
            for f in found
        ]
        near([torch.autograd.grad(t, inputs, retain_graph=True) for t in totals], dtype)


def compare_batchtopk(kernels, batch, d_in, d_sae, k, dtype, device="cpu", centred=True):
    shapes = ((batch, d_in), (d_in,), (d_sae, d_in), (d_sae,), (batch, d_sae))
    z, centre, W, b, weights = draw(0, device, *shapes)
    inputs = [t.requires_grad_() for t in ([centre] if centred else []) + [W.T, b]]
    found = [
        module.encode_batchtopk(z, centre if centred else None, inputs[-2], b, k, dtype)
        for module in (kernels, reference)
    ]
    near([[f.float()] for f in found], dtype)
    assert torch.equal(found[0] != 0, found[1] != 0)
    near([torch.autograd.grad((f * weights).sum(), inputs) for f in found], dtype)


def compare_decode(kernels, batch, k, d_sae, d_out, device="cpu"):
    values, W_dec, weights = draw(0, device, (batch, k), (d_sae, d_out), (batch, d_out))
    values = values.relu().requires_grad_()
    indices = latents(batch, k, d_sae).to(device)
    inputs = [values, W_dec.requires_grad_()]
    outs = [module.decode(values, indices, W_dec) for module in (kernels, reference)]
    near([outs[:1], outs[1:]], torch.float32)
    near([torch.autograd.grad((out * weights).sum(), inputs) for out in outs], torch.float32)


def compare_decode_error(kernels, members, batch, k, d_sae, d_out, device="cpu"):
    shapes = ((*members, batch, k), (*members, d_sae, d_out), (*members, batch, d_out), (*members, d_out))
    values, W_dec, z, b_dec, weights = draw(0, device, *shapes, members)
    indices = latents(values[..., 0].numel(), k, W_dec[..., 0].numel()).view(values.shape).to(device)
    inputs = [t.requires_grad_() for t in (values.relu(), W_dec, b_dec)]
    outs = [module.decode_error(inputs[0], indices, W_dec, z, b_dec) for module in (kernels, reference)]
    near(outs, torch.float32)
    assert not outs[0][1].requires_grad
    near([torch.autograd.grad((out[0] * weights).sum(), inputs) for out in outs], torch.float32)


def compare_adam(kernels, n, d, unit_from, lazy, device="cpu"):
    """Eight steps, at each of which some rows are idle and the last one always is."""
    (start,) = draw(0, device, (n, d))
    first = n if unit_from is None else unit_from
    start[first:] /= start[first:].norm(dim=1, keepdim=True)
    mine, theirs = start.clone(), start.clone()
    states = [adam_state(n, d, device) for _ in range(2)]
    generator = torch.Generator().manual_seed(1)
    for step in range(8):
        idle = torch.rand(n, generator=generator) < 0.4
        idle[-1] = True
        grad = torch.where(idle[:, None], 0, torch.randn(n, d, generator=generator)).to(device)
        idle = idle.to(device)
        torch.testing.assert_close(*(k.grad_squares(mine, grad, idle, first) for k in (kernels, reference)))
        settings = {"lr": 0.01 * (step + 1), "betas": (0.9, 0.99), "eps": 1e-8, "factor": 0.7}
        unread = grad.masked_fill(idle[:, None], torch.nan)
        kernels.adam_rows(mine, unread, states[0], idle, unit_from=unit_from, lazy=lazy, **settings)
        reference.adam_rows(theirs, grad, states[1], idle, unit_from=unit_from, lazy=lazy, **settings)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(*(getattr(s, name) for s in states), rtol=1e-4, atol=1e-7)
        assert torch.equal(states[0].last, states[1].last) and states[0].step == step + 1
    assert torch.equal(mine[-1], start[-1]) and states[0].last[-1] == 0


def adam_state(n, d, device="cpu"):
    last = torch.zeros(n, dtype=torch.long, device=device)
    return reference.AdamState(
        torch.zeros(()), torch.zeros(n, d, device=device), torch.zeros(n, d, device=device), last
    )


def latents(batch, k, d_sae):
    return torch.randint(d_sae, (batch, k), generator=torch.Generator().manual_seed(0))


def draw(seed, device, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def near(pair, dtype):
    """The length of each difference within the dtype's rounding."""
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    for mine, theirs in zip(*pair, strict=True):
        assert (mine - theirs).norm() <= limit * theirs.norm()
