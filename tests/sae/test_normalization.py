"""Centre and spread, by hand."""

from __future__ import annotations

import pytest
import torch

from thoughtlens.core import DataError, MismatchError
from thoughtlens.sae.kinds.normalization import fit_normalization, geometric_median

CELLS = [("a:out", None), ("b:out", None)]


def test_global_by_hand():
    # mean (3, 1); squared distances 4 and 4, mean 4; spread sqrt(4 / 2)
    x = torch.tensor([[1.0, 1.0], [5.0, 1.0]])
    norm = fit_normalization(x, "global")
    z = norm.apply_to(x, None)
    assert torch.allclose(norm.spread, torch.tensor([2.0**0.5]))
    assert torch.allclose(z, x / 2**0.5)  # scaled, not centred
    assert (z - z.mean(0)).square().sum(1).mean().item() == pytest.approx(2)  # = d_in
    assert torch.allclose(norm.undo(z, None), x)


def test_mean_only_centres():
    x = torch.tensor([[1.0, 1.0], [5.0, 1.0]])
    assert torch.equal(
        fit_normalization(x, "mean").apply_to(x, None), torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    )


def test_per_cell_brings_a_loud_cell_to_the_scale_of_a_quiet_one():
    quiet = torch.tensor([[0.0, 0.0], [0.0, 2.0]])  # mean (0, 1), spread sqrt(1 / 2)
    loud = 100 * quiet + 7
    x, cell = torch.cat([quiet, loud]), torch.tensor([0, 0, 1, 1])
    norm = fit_normalization(x, "per_cell", cell, CELLS)
    z = norm.apply_to(x, cell)
    assert torch.allclose(z[:2], z[2:], atol=1e-5)
    assert torch.allclose(z[:2], torch.tensor([[0.0, -(2.0**0.5)], [0.0, 2.0**0.5]]))
    assert torch.allclose(norm.undo(z, cell), x, atol=1e-4)


def test_a_constant_cell_becomes_zero_and_comes_back_as_its_mean():
    x = torch.tensor([[4.0, 5.0], [4.0, 5.0], [0.0, 1.0], [2.0, 1.0]])
    cell = torch.tensor([0, 0, 1, 1])
    norm = fit_normalization(x, "per_cell", cell, CELLS)
    z = norm.apply_to(x, cell)
    assert torch.equal(z[:2], torch.zeros(2, 2))
    assert torch.equal(norm.undo(z + 3, cell)[:2], x[:2])


def test_refusals():
    flat = torch.ones(4, 2)
    with pytest.raises(DataError, match="do not vary over 4 sampled rows"):
        fit_normalization(flat, "global")
    with pytest.raises(DataError, match="not finite"):
        fit_normalization(torch.full((4, 2), torch.inf), "global")
    with pytest.raises(DataError, match=r"at least 2 rows of cell \('b:out', None\).*holds 0"):
        fit_normalization(torch.eye(2), "per_cell", torch.tensor([0, 0]), CELLS)
    norm = fit_normalization(
        torch.cat([torch.eye(2), torch.eye(2)]), "per_cell", torch.tensor([0, 0, 1, 1]), CELLS
    )
    with pytest.raises(MismatchError, match="got None"):
        norm.apply_to(torch.eye(2), None)
    for cell, found in (([0, 2], "got 0 to 2"), ([-1, 1], "got -1 to 1")):
        with pytest.raises(MismatchError, match=f"2 .hook, thought. cells .*{found}"):
            norm.apply_to(torch.eye(2), torch.tensor(cell))
    assert norm.apply_to(torch.empty(0, 2), torch.empty(0, dtype=torch.long)).shape == (0, 2)


def test_geometric_median_by_hand():
    # (0,0), (4,0), (0,3) and far away points: the median of a line is its middle point
    line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1000.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(geometric_median(line, max_iter=2000), torch.tensor([1.0, 0.0]).double(), atol=1e-2)
    # the corners of a square around (2, 2)
    square = torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]])
    assert torch.allclose(geometric_median(square), torch.tensor([2.0, 2.0]))


def test_a_massive_row_moves_the_mean_but_not_the_geometric_median():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 8, generator=generator)
    x[0] = 1e5
    assert x.mean(0).norm() > 100
    assert geometric_median(x).norm() < 1
