"""How sure a number is, and whether two differ: intervals, paired tests, power, and the verdict.

Numpy and scipy only.
"""

from __future__ import annotations

from thoughtlens.metrics.uncertainty.intervals import (
    LEVEL,
    N_RESAMPLES,
    Interval,
    bootstrap_mean,
    bootstrap_means,
    bootstrap_ratio,
    cluster_bootstrap,
    paired_difference,
    paired_proportions,
    wilson,
)
from thoughtlens.metrics.uncertainty.significance import (
    TTest,
    corrected_resampled_t,
    holm,
    max_statistic,
    mcnemar_exact,
    mcnemar_power,
    minimal_detectable_difference,
    permutation_p,
    shuffled_blocks,
)
from thoughtlens.metrics.uncertainty.verdicts import DELTA, Comparison, compare, compare_values, verdict

__all__ = [
    "DELTA", "LEVEL", "N_RESAMPLES", "Comparison", "Interval", "TTest", "bootstrap_mean", "bootstrap_means",
    "bootstrap_ratio",
    "cluster_bootstrap", "compare", "compare_values", "corrected_resampled_t", "holm", "max_statistic",
    "mcnemar_exact", "mcnemar_power", "minimal_detectable_difference", "paired_difference",
    "paired_proportions", "permutation_p", "shuffled_blocks", "verdict", "wilson",
]  # fmt: skip
