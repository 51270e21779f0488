"""Learning rate over a run."""

from __future__ import annotations


def lr_at(step: int, n_steps: int, peak: float, warmup: float, decay: float) -> float:
    """Learning rate of step `step` (from 0): linear rise over the first `warmup` share of the run,
    then `peak`, then a linear fall over the last `decay` share, to `peak / n` in the last of n
    falling steps.
    """
    rise = round(warmup * n_steps)
    fall = round(decay * n_steps)
    return peak * min(1.0, (step + 1) / max(rise, 1), (n_steps - step) / max(fall, 1))
