"""The comparison engine where the truth is known."""

from __future__ import annotations

from thoughtlens.core import Json
from thoughtlens.evals.probing import calibration
from thoughtlens.ops.bench.limits import require_positive


def bench_calibration(*, runs: int = 400, coverage_runs: int = 1000, seed: int = 0) -> Json:
    """Count how often the comparison engine's tests and intervals err.

    Returns:
        `null_rejections`, `coverage` and `leak`, as `evals.probing.calibration` has them.
    """
    require_positive(runs=runs, coverage_runs=coverage_runs)
    return {
        "null_rejections": calibration.null_rejections(runs, seed=seed),
        "coverage": calibration.coverage(coverage_runs, seed=seed),
        "leak": calibration.leak(seed=seed),
    }
