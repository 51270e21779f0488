"""Block-wise similarities and assignments against the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from thoughtlens.core import DataError, MismatchError
from thoughtlens.latents.geometry import blocks
from thoughtlens.numerics.metrics.geometry import match, mmcs


def rows(n, d, seed):
    return blocks.unit_rows(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def test_nearest_by_hand():
    a = blocks.unit_rows(torch.tensor([[2.0, 0], [0, 1], [0, 0]]))
    b = blocks.unit_rows(torch.tensor([[1.0, 1], [-3, 0]]))
    of_a, of_b = blocks.nearest(a, b)
    # cosines: [[0.7071, -1], [0.7071, 0], [0, 0]]
    assert of_a.index.tolist()[:2] == [0, 0] and of_b.index.tolist()[1] in (1, 2)
    assert of_a.value.tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0])
    assert of_b.value.tolist() == pytest.approx([0.5**0.5, 0])


@pytest.mark.parametrize("block_bytes", [1, 4 * 70 * 3, 1 << 27])
def test_blocks_change_nothing(monkeypatch, block_bytes):
    a, b = rows(50, 6, 0), rows(70, 6, 1)
    whole = a @ b.T
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    of_a, of_b = blocks.nearest(a, b)
    assert torch.equal(of_a.index, whole.argmax(1)) and torch.equal(of_b.index, whole.argmax(0))
    index, cosine = blocks.neighbours(a, 3)
    own = (a @ a.T).fill_diagonal_(-9)
    assert torch.equal(index, own.topk(3).indices) and torch.allclose(cosine, own.topk(3).values)
    assert of_a.value.mean().item() == pytest.approx(mmcs(a, b).precision, abs=1e-6)
    assert of_b.value.mean().item() == pytest.approx(mmcs(a, b).recall, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_the_assignment_is_the_hungarian_one(shape):
    a, b = rows(shape[0], 5, 2), rows(shape[1], 5, 3)
    found, expected = blocks.assign(a, b, absolute=True), match(a, b)
    assert found.exact and len(found.a) == 40
    assert np.abs(found.value).sum() == pytest.approx(np.abs(expected.cosine).sum(), abs=1e-5)
    signed = blocks.assign(a, b, absolute=False)
    best = linear_sum_assignment((a @ b.T).numpy(), maximize=True)
    assert signed.value.sum() == pytest.approx((a @ b.T).numpy()[best].sum(), abs=1e-5)
    assert signed.value == pytest.approx((a[signed.a] * b[signed.b]).sum(1).numpy(), abs=1e-6)


@pytest.mark.parametrize("absolute", [True, False])
def test_the_assignment_among_candidates_is_one_to_one_and_nearly_the_best(monkeypatch, absolute):
    a, b = rows(150, 12, 4), rows(200, 12, 5)
    exact = blocks.assign(a, b, absolute=absolute)
    monkeypatch.setattr(blocks, "EXACT", 0)
    near = blocks.assign(a, b, absolute=absolute)
    assert not near.exact and len(set(near.b.tolist())) == len(set(near.a.tolist())) == 150
    size = np.abs if absolute else np.asarray
    assert 0.99 * size(exact.value).sum() <= size(near.value).sum() <= size(exact.value).sum() + 1e-4
    planted = blocks.assign(
        a, a[torch.randperm(150, generator=torch.Generator().manual_seed(6))], absolute=absolute
    )
    assert planted.value == pytest.approx(np.ones(150), abs=1e-5)


def test_vectors_without_candidates_are_still_paired(monkeypatch):
    monkeypatch.setattr(blocks, "EXACT", 0)
    monkeypatch.setattr(blocks, "CANDIDATES", 1)
    a = blocks.unit_rows(torch.ones(5, 3))  # all want the same partner
    b = blocks.unit_rows(torch.cat([torch.ones(1, 3), torch.eye(3), -torch.ones(1, 3)]))
    found = blocks.assign(a, b, absolute=False)
    assert sorted(found.a.tolist()) == sorted(found.b.tolist()) == list(range(5))


def test_refusals():
    with pytest.raises(MismatchError, match="one width"):
        blocks.nearest(rows(3, 4, 0), rows(3, 5, 0))
    with pytest.raises(DataError, match="live latent"):
        blocks.nearest(rows(0, 4, 0), rows(3, 4, 0))
