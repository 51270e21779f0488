"""k-means as a dictionary, by hand."""

from __future__ import annotations

import pytest
import torch

from thoughtlens.core import DataError
from thoughtlens.sae import KMeans

CELLS = [("layers.0:out", 0), ("layers.0:out", 1)]


def by_hand() -> KMeans:
    centroids = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    return KMeans(centroids, torch.tensor([[0.0, 0.0], [10.0, 0.0]]), CELLS)


def test_a_row_is_its_nearest_centroid_once_its_cell_is_centred():
    x, cell = torch.tensor([[1.9, 0.2], [12.0, 0.0], [10.0, 0.8]]), torch.tensor([0, 1, 1])
    acts = by_hand().encode(x, cell)
    assert acts.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert by_hand().decode(acts, cell).tolist() == [[2, 0], [12, 0], [10, 1]]


def test_what_is_left_is_coded_again():
    # (2.1, 0.9) less (2, 0) leaves (0.1, 0.9), whose nearest centroid is (0, 1)
    x, cell = torch.tensor([[2.1, 0.9]]), torch.tensor([0])
    twice = by_hand().with_k(2)
    assert twice.encode(x, cell).tolist() == [[1, 1]]
    assert twice(x, cell).tolist() == [[2, 1]]


def test_separate_clusters_are_found_and_too_few_rows_refused():
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(300) % 3
    x = 10 * torch.eye(3)[which] + 0.01 * torch.randn(300, 3, generator=generator)
    cell = torch.zeros(300, dtype=torch.long)
    found = KMeans.fit(x, 3, seed=0, cell=cell, cells=CELLS[:1])
    assert (found(x, cell) - x).norm(dim=1).max() < 0.1
    with pytest.raises(DataError, match="as many rows"):
        KMeans.fit(x[:2], 3, seed=0, cell=cell[:2], cells=CELLS[:1])
