"""Tensors as the arrays that compiled loops take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def array(t: Tensor) -> np.ndarray:
    """The same memory as a C-contiguous array; a copy where it is not contiguous. bfloat16 as its bits."""
    t = t.detach().contiguous()
    return t.view(torch.int16).numpy().view(np.uint16) if t.dtype == torch.bfloat16 else t.numpy()
