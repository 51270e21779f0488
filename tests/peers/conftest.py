"""These tests need another library's own code; each is skipped where it is not installed."""

from __future__ import annotations

import os

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # it would ask for a GPU
os.environ.setdefault("WANDB_MODE", "disabled")
