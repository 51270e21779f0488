"""Per-latent statistics, counts and co-activation by hand and against dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.latents.codes.fired import fires_of
from thoughtlens.latents.codes.codes import Compressed
from thoughtlens.latents.codes.statistics import (
    HISTOGRAM_EDGES,
    coactive,
    common_tokens,
    latent_stats,
    level_counts,
)


def test_latent_stats_by_hand():
    # two problems of two rows; latent 0 fires with 1 and 3 in the first, latent 2 with 2 in the second
    acts = np.array([[1, 0, 0], [3, 0, 0], [0, 0, 2], [0, 0, 0]], float)[:, None]
    marks = {"first": np.array([True, False, True, False]), "outlier": np.zeros(4, bool)}
    stats = latent_stats(fires_of(acts, [2, 2]), marks)
    assert stats.fires.tolist() == [2, 0, 1]
    assert stats.density.tolist() == [0.5, 0, 0.25]
    assert stats.mean_active.tolist() == [2, 0, 2]
    assert stats.max.tolist() == [3, 0, 2]
    assert stats.units.tolist() == [1, 0, 1]
    # latent 0 has 1 of its 1 + 3 on marked rows
    assert stats.marked_share(0).tolist() == [0.25, 0, 1]
    assert stats.marked_share(1).tolist() == [0, 0, 0]


def test_histogram_bins_are_octaves_in_four():
    values = np.array([1e-9, 2.0**-12, 0.7, 1.0, 1.18, 1.19, 2.0, 1e9])
    stats = latent_stats(fires_of(values[:, None, None], [len(values)]), {})
    (filled,) = np.nonzero(stats.histogram[0])
    # the first bin takes what lies below, the last what lies above; 2^(1/4) = 1.189
    assert stats.histogram[0].sum() == len(values)
    assert [(HISTOGRAM_EDGES[b], int(stats.histogram[0, b])) for b in filled] == [
        (2.0**-12, 2), (2.0**-0.75, 1), (1.0, 2), (2.0**0.25, 1), (2.0, 1), (HISTOGRAM_EDGES[-2], 1)
    ]  # fmt: skip


def dense(seed: int = 0, n: int = 200, d: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n, 2, d)) < rng.random(d) * 0.5, 1 + rng.random((n, 2, d)), 0)


def test_level_counts_equal_dense_sums():
    acts, level = dense(), np.random.default_rng(1).integers(-1, 4, 400)
    found, n = level_counts(fires_of(acts, [40] * 5), level, 4)
    on = acts.reshape(400, -1) > 0
    for v in range(4):
        assert n[v] == (level == v).sum()
        np.testing.assert_array_equal(found[:, v], on[level == v].sum(0))


def test_common_tokens():
    # latent 0 fires on token 7 three times, on 2 and 5 once each; latent 1 never
    token = np.array([7, 5, 7, 2, 7, 3])
    acts = np.zeros((6, 1, 2))
    acts[:5, 0, 0] = 1
    found, n = common_tokens(fires_of(acts, [6]), token, 4)
    assert found.tolist() == [[7, 2, 5, -1], [-1] * 4]
    assert n.tolist() == [[3, 1, 1, 0], [0] * 4]


@pytest.mark.parametrize("threads", [1, 2])
def test_coactivation_equals_dense_products(threads):
    acts = dense()
    fires, flat = fires_of(acts, [200]), acts.reshape(400, -1) > 0
    indptr, (vectors, latents) = np.r_[0, np.cumsum(flat.sum(1))], np.nonzero(flat)
    by_vector = Compressed(indptr, latents.astype(np.int32), flat[vectors, latents].astype(np.float32))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        other, both, jaccard = coactive(fires, by_vector, 5)
    finally:
        torch.set_num_threads(before)
    product = flat.T.astype(int) @ flat.astype(int)
    n = np.diag(product)
    index = product / np.maximum(n[:, None] + n - product, 1)
    np.fill_diagonal(index, 0)
    for j in range(12):
        best = sorted((-index[j, o], o) for o in range(12) if index[j, o] > 0)[:5]
        assert other[j, : len(best)].tolist() == [o for _, o in best]
        np.testing.assert_allclose(jaccard[j, : len(best)], [-v for v, _ in best])
        np.testing.assert_array_equal(both[j, : len(best)], product[j, other[j, : len(best)]])
