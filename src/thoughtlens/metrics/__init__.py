"""Every metric, under its own name; loaded on first use. Formulas in `docs/metrics.md`."""

from __future__ import annotations

import importlib
from typing import Any

MODULES = {
    "accumulator": ("Accumulator", "Moments", "PerKey"),
    "reconstruction": (
        "FVU", "ExplainedVariance", "ExplainedVarianceByNorm", "ExplainedVarianceWithin", "Reconstruction",
        "RelativeReconstructionBias", "ResidualVarianceEV", "ScalarR2", "UncentredEV", "norm_deciles",
    ),
    "rowwise": (
        "MSE", "CosineSimilarity", "L2Ratio", "LegacyExplainedVariance", "MSEMean", "OpenAINormalizedMSE",
    ),
    "sparsity": ("Dead", "Density", "L0", "L1"),
    "fidelity": ("SplicedFidelity", "ce_loss_score", "kl_score", "next_token"),
    "geometry": (
        "chance_level", "encoder_decoder_cosine", "firing_scores", "match", "mcc", "mmcs", "nearest_cosine",
        "stability", "uniqueness",
    ),
    "uncertainty": (
        "Comparison", "Interval", "bootstrap_mean", "bootstrap_ratio", "cluster_bootstrap", "compare",
        "compare_values", "corrected_resampled_t", "holm", "max_statistic", "mcnemar_exact", "mcnemar_power",
        "minimal_detectable_difference", "paired_difference", "paired_proportions", "permutation_p",
        "verdict", "wilson",
    ),
}  # fmt: skip
HOME = {name: module for module, names in MODULES.items() for name in names}
__all__ = sorted(HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in HOME:
        return getattr(importlib.import_module(f"thoughtlens.metrics.{HOME[name]}"), name)
    if name in MODULES:
        return importlib.import_module(f"thoughtlens.metrics.{name}")
    raise AttributeError(f"module 'thoughtlens.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *HOME, *MODULES])
