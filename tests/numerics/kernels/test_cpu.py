"""The compiled kernels give the reference's numbers and gradients, at the edges too."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.numerics.kernels.compare import adam_state, compare_adam, compare_decode_error, near
from thoughtlens.numerics.kernels import cpu, decode_acts, reference
from thoughtlens.numerics.kernels.cpu_ragged import ragged
from thoughtlens.numerics.kernels.ragged import RaggedActs

DTYPES = [torch.float32, torch.bfloat16]


def draw(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def gradients(outputs, weights, inputs):
    total = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True))
    return torch.autograd.grad(total, inputs)


def assert_near(mine, theirs, dtype):
    """Equal but for the order of sums; in bfloat16, the length of the difference within its rounding."""
    if dtype == torch.float32:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    else:
        assert (mine - theirs).norm() <= 1e-2 * theirs.norm()


def assert_same_selection(mine, theirs, pre_acts):
    """Equal values, from latents that have them."""
    assert torch.equal(mine[0].sort(1).values, theirs[0].sort(1).values)
    assert torch.equal(pre_acts.gather(1, mine[1]).relu() * (mine[0] > 0), mine[0])
    for row, latents in zip(*mine, strict=True):
        assert len(set(latents[row > 0].tolist())) == int((row > 0).sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 300), st.data())
def test_topk(seed, batch, width, data):
    k = data.draw(st.integers(1, width))
    (pre_acts,) = draw(seed, (batch, width))
    pre_acts = pre_acts.mul(data.draw(st.sampled_from([1, 2]))).round()  # many equal ones
    assert_same_selection(cpu.topk(pre_acts, k), reference.topk(pre_acts, k), pre_acts)


@pytest.mark.parametrize(
    "row",
    [
        [0.0] * 40,
        [-1.0] * 40,
        [1.0] * 40,
        [float("inf")] + [1.0] * 39,
        [1e-42] * 40,
        [float(i) for i in range(40)],
    ],
    ids=["zero", "negative", "equal", "infinite", "denormal", "ascending"],
)
def test_topk_at_the_edges(row):
    pre_acts = torch.tensor([row, row[::-1]])
    for k in (1, 7, 40):
        assert_same_selection(cpu.topk(pre_acts, k), reference.topk(pre_acts, k), pre_acts)


def test_topk_does_not_hide_nan():
    pre_acts = torch.ones(2, 40)
    pre_acts[1, 3] = torch.nan
    assert not torch.isfinite(cpu.topk(pre_acts, 2)[0][1]).all()
    assert torch.isfinite(cpu.topk(pre_acts, 2)[0][0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("members", "batch"), [((), 33), ((), 1), ((3,), 10)])
@pytest.mark.parametrize("k", [1, 5, 48])
def test_encode_topk(members, batch, k, dtype):
    z, W, b = draw(0, (*members, batch, 12), (*members, 48, 12), (*members, 48))
    (centre,) = draw(2, (*members, 12))
    inputs = [t.requires_grad_() for t in (z, W.mT, b, centre)]
    mine, theirs = (kernels.encode_topk(*inputs[:3], k, dtype, centre) for kernels in (cpu, reference))
    dense = [
        torch.zeros(batch * max(1, *members, 1), 48 * max(1, *members, 1))
        .scatter_add(1, indices.flatten(0, -2), values.flatten(0, -2))
        for values, indices in (mine, theirs)
    ]  # fmt: skip
    assert torch.equal(*dense)
    (weights,) = draw(1, tuple(dense[0].shape))
    pairs = zip(*(gradients([d], [weights], inputs) for d in dense), strict=True)
    for a, c in pairs:
        assert_near(a, c, dtype)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 9), st.integers(1, 30))
def test_decode(seed, batch, k, d_sae):
    values, W_dec, weights = draw(seed, (batch, k), (d_sae, 7), (batch, 7))
    values[values < 0] = 0
    indices = torch.randint(d_sae, (batch, k), generator=torch.Generator().manual_seed(seed))
    inputs = [values.requires_grad_(), W_dec.requires_grad_()]
    mine, theirs = (kernels.decode(values, indices, W_dec) for kernels in (cpu, reference))
    torch.testing.assert_close(mine, theirs)
    for a, c in zip(*(gradients([out], [weights], inputs) for out in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("members", [(), (3,)])
@pytest.mark.parametrize("d_out", [5, 70])
def test_decode_error(members, d_out):
    batch, k, d_sae = 9, 6, 11
    compare_decode_error(cpu, members, batch, k, d_sae, d_out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_of_all_or_few_activations(dtype):
    acts, z, W_dec, b_dec = draw(2, (12, 9), (12, 5), (9, 5), (5,))
    acts = torch.where(acts > 1, acts, 0).to(dtype)
    W_dec, b_dec = W_dec.requires_grad_(), b_dec.requires_grad_()
    for few in (False, True):
        if few:
            row, latents = acts.nonzero(as_tuple=True)
            starts = np.append(0, (acts != 0).sum(1).cumsum(0).numpy())
            values = acts[row, latents].float().requires_grad_()
            mine = replace(ragged(starts, latents.numpy(), values.detach().numpy(), 9), values=values)
            errors = (module.ragged_error(mine, W_dec, z, b_dec) for module in (cpu, reference))
        else:
            values = acts.clone().requires_grad_()
            errors = (module.dense_error(values, W_dec, z, b_dec, dtype) for module in (cpu, reference))
        (one, residual), (other, its) = errors
        torch.testing.assert_close(residual, its)
        torch.testing.assert_close(one, other)
        inputs = [values, W_dec, b_dec]
        near([torch.autograd.grad(3 * error, inputs) for error in (one, other)], dtype)


@pytest.mark.parametrize("shape", [(40, 7000), (5, 8, 7000), (280_000,)])
@pytest.mark.parametrize("least, sign", [(2.5, 1), (2.5, -1), (0.0, 1)])
def test_decode_dense_with_and_without_gradients(shape, least, sign):
    acts, W_dec = draw(4, shape, (shape[-1], 6))
    acts = sign * torch.where(acts > least, acts, 0)  # 1 in 160, or every second one
    want = acts @ W_dec
    with torch.no_grad():
        torch.testing.assert_close(cpu.decode_dense(acts, W_dec), want, rtol=1e-4, atol=1e-3)
        acts.view(-1)[3] = torch.nan
        assert cpu.decode_dense(acts, W_dec).isnan().sum() == 6
        acts.view(-1)[3] = 0
    W_dec.requires_grad_()
    out = cpu.decode_dense(acts, W_dec)
    (grad,) = torch.autograd.grad(out.sum(), W_dec)
    torch.testing.assert_close(
        grad, acts.reshape(-1, shape[-1]).sum(0)[:, None].expand(-1, 6), rtol=1e-4, atol=1e-4
    )


def test_decode_takes_what_is_not_contiguous():
    W, values, indices = torch.randn(6, 9).T, torch.rand(4, 8)[:, ::2], torch.arange(16).view(4, 4).T % 9
    torch.testing.assert_close(cpu.decode(values, indices, W), reference.decode(values, indices, W))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("batch", [1, 40])
def test_encode_relu(batch, centred, dtype):
    z, centre, W, b, weights, slopes = draw(0, (batch, 9), (9,), (30, 9), (30,), (batch, 30), (30,))
    inputs = [t.requires_grad_() for t in ([centre] if centred else []) + [W.T, b]]
    found = [
        kernels.encode_relu(z, centre if centred else None, inputs[-2], b, dtype)
        for kernels in (cpu, reference)
    ]
    for a, c in zip(*found, strict=True):
        torch.testing.assert_close(a, c)
    pairs = zip(*(gradients(f[:2], [weights, slopes], inputs) for f in found), strict=True)
    for a, c in pairs:
        assert_near(a, c, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [-2.4, -3.2])
def test_encode_relu_where_few_fire(bias, dtype):
    z, centre, W, b, slopes, W_dec = draw(0, (40, 9), (9,), (300, 9), (300,), (300,), (300, 7))
    b = 0.1 * b + bias * 3  # pre-activations have standard deviation sqrt(2 * 9)
    inputs = [t.requires_grad_() for t in (centre, W.T, b, W_dec)]
    found = []
    for kernels in (cpu, reference):
        acts, totals, counts = kernels.encode_relu(z, *inputs[:3], dtype)
        few = isinstance(acts, RaggedActs)
        assert few == (kernels is cpu)
        x_hat = decode_acts(acts, W_dec, dtype)
        dense = acts.to_dense(300) if few else acts
        found.append((dense.float(), totals, counts, x_hat))
    (mine, theirs), (weights,) = found, draw(1, (40, 7))
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-2, atol=1e-3 if dtype == torch.bfloat16 else 1e-5)
    assert torch.equal(mine[2], theirs[2])
    for a, c in zip((mine[1], mine[3]), (theirs[1], theirs[3]), strict=True):
        assert_near(a, c, dtype)
    pairs = zip(*(gradients((f[3], f[1]), [weights, slopes], inputs) for f in found), strict=True)
    for a, c in pairs:
        assert_near(a, c, dtype)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 200), st.data())
def test_encode_batchtopk(seed, batch, d_sae, data):
    k = data.draw(st.integers(1, d_sae))
    z, centre, W, b = draw(seed, (batch, 5), (5,), (d_sae, 5), (d_sae,))
    b = b - data.draw(st.sampled_from([0, 3, 50]))
    inputs = [t.requires_grad_() for t in (centre, W.T, b)]
    mine, theirs = (kernels.encode_batchtopk(z, *inputs, k, torch.float32) for kernels in (cpu, reference))
    dense = mine.to_dense(d_sae)
    torch.testing.assert_close(dense, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(mine.counts, (dense != 0).sum(0))
    (weights,) = draw(1, (batch, d_sae))
    pairs = zip(*(gradients([d], [weights], inputs) for d in (dense, theirs)), strict=True)
    for a, c in pairs:
        assert_near(a, c, torch.float32)


def test_ragged_acts_of_a_range_of_latents():
    z, W, b, weights = draw(0, (7, 5), (40, 5), (40,), (7, 13))
    b.requires_grad_()
    acts = cpu.encode_batchtopk(z, None, W.T, b, 6, torch.float32)
    part, whole = acts.between(9, 22), acts.to_dense(40)
    assert torch.equal(part.to_dense(13), whole[:, 9:22])
    assert torch.equal(part.counts, acts.counts[9:22])
    assert acts.between(9, 9).to_dense(0).shape == (7, 0)
    found = [
        torch.autograd.grad((d * weights).sum(), b, retain_graph=True)[0]
        for d in (part.to_dense(13), whole[:, 9:22])
    ]
    assert torch.equal(*found) and found[0].any()
    W_dec = W[9:22].clone().requires_grad_()  # its gradient needs what is kept by latent
    sums = [decode_acts(part, W_dec, torch.float32), whole[:, 9:22] @ W_dec]
    torch.testing.assert_close(*sums)
    slopes = [torch.autograd.grad(x.square().sum(), W_dec, retain_graph=True)[0] for x in sums]
    torch.testing.assert_close(*slopes)


def test_the_batch_keeps_its_largest_and_no_more_where_many_are_equal():
    z, b = torch.ones(3, 1), torch.zeros(20)
    W = torch.full((1, 20), 2.0)
    W[0, [4, 9]], W[0, 5:8] = 3.0, -1.0
    acts = cpu.encode_batchtopk(z, None, W, b, 4, torch.float32).to_dense(20)
    assert acts.count_nonzero() == 12  # 4 per row; two each are the 3s, the rest some of the 2s
    assert torch.equal(acts[:, [4, 9]], torch.full((3, 2), 3.0))
    assert set(acts.unique().tolist()) == {0.0, 2.0, 3.0}


def test_neither_relu_nor_the_batchs_largest_hide_nan():
    z, W, b = torch.ones(4, 2), torch.full((2, 200), -1.0), torch.zeros(200)
    W[0, 7] = torch.nan
    for acts in (
        cpu.encode_relu(z, None, W, b, torch.float32)[0],
        cpu.encode_batchtopk(z, None, W, b, 2, torch.float32),
    ):
        assert isinstance(acts, RaggedActs) and acts.values.isnan().all() and len(acts.values) == 4


def test_latents_that_are_silent_do_nothing():
    z, W = draw(0, (5, 4), (8, 4))
    b = torch.full((8,), -100.0, requires_grad=True)
    acts, totals, counts = cpu.encode_relu(z, None, W.T, b, torch.float32)
    assert not acts.to_dense(8).any() and not totals.any() and not counts.any()
    assert not torch.autograd.grad(acts.values.sum() + totals.sum(), b)[0].any()
    values, _ = cpu.encode_topk(z, W.T, b, 3, torch.float32)
    assert not values.any() and not torch.autograd.grad(values.sum(), b)[0].any()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("unit_from", [0, 4, None])
def test_adam_rows(unit_from, lazy):
    compare_adam(cpu, 9, 5, unit_from, lazy)


@pytest.mark.parametrize("module", [cpu, reference])
@pytest.mark.parametrize("unit_from", [0, 3, 7])
def test_a_narrow_gradient_counts_as_the_wide_one(module, unit_from):
    start, grad = draw(3, (7, 40), (7, 40))
    start /= start.norm(dim=1, keepdim=True)
    narrow, idle = grad.to(torch.bfloat16), torch.zeros(7, dtype=torch.bool)
    norms, weights = [], []
    for g in (narrow, narrow.float()):
        p, state = start.clone(), adam_state(7, 40)
        norms.append(module.grad_squares(p, g, idle, unit_from))
        module.adam_rows(p, g, state, idle, lr=0.1, betas=(0.9, 0.99), eps=1e-8, unit_from=unit_from)
        weights.append(p)
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(*weights)


def test_what_lazy_leaves_out_is_bounded():
    (start, grad) = draw(0, (3, 50), (3, 50))
    exact, lazy = start.clone(), start.clone()
    states = adam_state(3, 50), adam_state(3, 50)
    nobody, all_idle = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    settings = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8}
    for p, s, flag in ((exact, states[0], False), (lazy, states[1], True)):
        for _ in range(4):
            cpu.adam_rows(p, grad, s, nobody, lazy=flag, **settings)
    r = 0.9 / 0.999**0.5
    bound = 0.01 / (1 - 0.9**4) * (states[1].exp_avg.abs() / states[1].exp_avg_sq.sqrt()) * r / (1 - r)
    before = lazy.clone()
    for p, s, flag in ((exact, states[0], False), (lazy, states[1], True)):
        for _ in range(60):
            cpu.adam_rows(p, torch.zeros_like(grad), s, all_idle, lazy=flag, **settings)
    assert torch.equal(lazy, before)
    assert ((exact - lazy).abs() <= bound).all() and (exact - lazy).abs().max() > 0.01
    for p, s, flag in ((exact, states[0], False), (lazy, states[1], True)):
        cpu.adam_rows(p, grad, s, nobody, lazy=flag, **settings)
    for name in ("exp_avg", "exp_avg_sq"):  # the moments have caught up
        torch.testing.assert_close(getattr(states[0], name), getattr(states[1], name), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_threads(threads):
    z, W, b = draw(0, (200, 16), (64, 16), (64,))
    before = torch.get_num_threads()
    values, indices = cpu.encode_topk(z, W.T, b, 5, torch.float32)
    expected = cpu.decode(values, indices, W)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(cpu.decode(values, indices, W), expected)
        assert torch.equal(cpu.encode_topk(z, W.T, b, 5, torch.float32)[0], values)
    finally:
        torch.set_num_threads(before)


STEPS = """
import hashlib, torch
from thoughtlens.ops.bench.train_step import new_trainer
x = torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
digest = hashlib.sha256()
for kind in ("topk", "relu"):
    trainer = new_trainer(x, kind, 48, 3, dtype="float32", steps=6)
    for _ in range(6):
        trainer.step(x)
    for tensor in trainer.state()[0].values():
        digest.update(tensor.detach().contiguous().numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_code_just_compiled_and_code_from_disk_give_the_same_bytes(tmp_path):
    own = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.run([sys.executable, "-c", STEPS], env=own, stdout=subprocess.PIPE, check=True, text=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert list(tmp_path.rglob("*.nbc"))
