"""Centre and spread of activations, for all rows at once or per (hook, thought) cell.

`z = (x - mean) / spread` makes the rows of a cell have mean squared length d_in around their centre,
so that learning rates and penalties mean the same on every hook, and, per cell, so that a layer of
large norm does not take the dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thoughtlens.core import DataError, MismatchError

Cell = tuple[str, int | None]
"""(hook_name, thought_idx); thought_idx is None on text."""
Mode = Literal["global", "mean", "per_cell"]
INTEGERS = (torch.int64, torch.int32)


class Normalization(nn.Module):
    """`z = (x - mean[cell]) / spread[cell]` and its inverse; one row where there are no cells.

    A spread of 0 stands for a cell whose rows are all the same: its z is 0, its x_hat the mean.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Float[Tensor, "n d"], spread: Float[Tensor, " n"], cells: Sequence[Cell] | None):
        super().__init__()
        if cells is not None and len(cells) != len(mean):
            raise MismatchError(
                f"Expected one row of statistics a cell, got {len(mean)} for {len(cells)} cells"
            )
        self.cells = None if cells is None else [(hook, thought) for hook, thought in cells]
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def apply_to(self, x: Float[Tensor, "*n d"], cell: Int[Tensor, "*n"] | None) -> Float[Tensor, "*n d"]:
        """Raw activations to normalised ones."""
        row = self._row(cell, x)
        spread = self.spread[row].unsqueeze(-1)
        return (x - self.mean[row]) * torch.where(spread > 0, 1 / spread, 0)

    def undo(self, z: Float[Tensor, "*n d"], cell: Int[Tensor, "*n"] | None) -> Float[Tensor, "*n d"]:
        """Normalised activations to raw ones."""
        row = self._row(cell, z)
        return z * self.spread[row].unsqueeze(-1) + self.mean[row]

    def _row(self, cell: Tensor | None, x: Tensor) -> Tensor | int:
        if self.cells is None or (cell is None and len(self.cells) == 1):
            return 0
        if cell is None:
            raise MismatchError(
                f"This SAE normalises each (hook, thought) cell by itself: expected `cell`, indices into its "
                f"{len(self.cells)} cells, got None. `at` and `cell_index` make them"
            )
        if not isinstance(cell, Tensor) or cell.dtype not in INTEGERS or cell.shape != x.shape[:-1]:
            raise MismatchError(
                f"Expected one index into the {len(self.cells)} (hook, thought) cells for each row, shape "
                f"{tuple(x.shape[:-1])}, got {described(cell)}. `at` and `cell_index` make them"
            )
        if cell.numel() and not 0 <= int(cell.min()) <= int(cell.max()) < len(self.cells):
            raise MismatchError(
                f"Expected indices into the {len(self.cells)} (hook, thought) cells that this SAE has "
                f"statistics for, got {int(cell.min())} to {int(cell.max())}. `at` and `cell_index` make them"
            )
        return cell


def cell_index(
    own: Sequence[Cell], theirs: Sequence[Cell], cell: np.ndarray | Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Indices into `theirs` as indices into `own`.

    Raises:
        MismatchError: a row of a cell that `own` lacks.
    """
    known = {c: i for i, c in enumerate(own)}
    lookup = torch.tensor([known.get((hook, thought), -1) for hook, thought in theirs])
    index = lookup[torch.as_tensor(cell).cpu().long()]
    if (index < 0).any():
        missing = theirs[int(torch.as_tensor(cell)[(index < 0).nonzero()[0, 0]])]
        raise MismatchError(
            f"Expected rows of the (hook, thought) cells {list(own)}, whose statistics are known from "
            f"training, got a row of {missing}. Choose rows of these, or train on that one too"
        )
    return index


def described(value: Any) -> str:
    """A value as an error shows it."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}; torch.as_tensor makes a tensor of it"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


def fit_normalization(
    x: Float[Tensor, "n d"], mode: Mode, cell: Int[Tensor, " n"] | None = None, cells: Sequence[Cell] = ()
) -> Normalization:
    """Statistics of a sample.

    Args:
        x: Raw activations.
        mode: `global` only scales, by sqrt(mean squared distance from the mean / d_in). `mean` only
            centres. `per_cell` centres and scales the rows of each cell.
        cell: For `per_cell`, each row's index into `cells`.
        cells: The (hook_name, thought_idx) pairs.

    Raises:
        DataError: nothing varies, something is not finite, or a cell has fewer than two rows.
    """
    if mode != "per_cell":
        mean, spread = _stats(x, "the sample")
        _require_spread(spread, len(x))
        if mode == "global":
            return Normalization(torch.zeros_like(mean)[None], spread[None], None)
        return Normalization(mean[None], torch.ones_like(spread)[None], None)
    if cell is None or not cells:
        raise MismatchError("Expected the cell of each row for normalization = 'per_cell', got none")
    stats = [_stats(x[cell == i], f"cell {c}") for i, c in enumerate(cells)]
    spread = torch.stack([s for _, s in stats])
    _require_spread(spread, len(x))
    return Normalization(torch.stack([m for m, _ in stats]), spread, cells)


def geometric_median(
    x: Float[Tensor, "n d"], *, max_iter: int = 100, tol: float = 1e-6
) -> Float[Tensor, " d"]:
    """The point with the least summed distance to the rows (Weiszfeld 1937); unlike the mean, a few
    rows of huge norm do not move it. Stops when a step is shorter than `tol` of the mean distance.
    """
    point = x.mean(0)
    for _ in range(max_iter):
        distance = (x - point).norm(dim=-1).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
        weight = 1 / distance
        moved = (weight / weight.sum()) @ x
        step = (moved - point).norm()
        point = moved
        if step <= tol * distance.mean():
            break
    return point


def _stats(x: Tensor, where: str) -> tuple[Tensor, Tensor]:
    if len(x) < 2:
        raise DataError(
            f"Normalisation needs at least 2 rows of {where}, the training sample holds {len(x)}. "
            f"Use more rows, leave that hook or thought out, or set sae.normalization=global"
        )
    wide = x.double()
    mean = wide.mean(0)
    variance = (wide - mean).square().sum(-1).mean()
    if not torch.isfinite(variance):
        raise DataError(f"Activations of {where} are not finite; extract them again")
    if variance <= 1e-12 * mean.square().sum():
        variance = torch.zeros_like(variance)
    return mean.to(x.dtype), (variance / x.shape[-1]).sqrt().to(x.dtype)


def _require_spread(spread: Tensor, n: int) -> None:
    if not (spread > 0).any():
        raise DataError(
            f"The activations do not vary over {n} sampled rows: there is nothing to learn from them"
        )
