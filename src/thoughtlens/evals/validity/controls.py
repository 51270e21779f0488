"""The model to judge and the controls beside it: trained on the same problems, without thoughts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from thoughtlens.evals.validity.config import GatesConfig
from thoughtlens.evals.validity.verdicts import MODES
from thoughtlens.interventions import Bench, Counts
from thoughtlens.models import ThoughtModel, is_right, thoughts, tiny

BATCH_SHIPPED, BATCH_OTHERS = 512, 32
CONTROLS = ("no_cot", "pause", "plain", "bottleneck")


def load_model(cfg: GatesConfig, seed: int | None) -> ThoughtModel:
    """The model to judge, which has the modes that are asked for."""
    model = _shipped(cfg, seed, "thoughts") or _named(cfg, cfg.model)
    for mode in cfg.modes or ():
        thoughts.require_mode(model, mode)
    return model


def run_controls(cfg: GatesConfig, seed: int | None, table: pa.Table) -> dict[str, Bench]:
    """Every control there is, with its answers counted; shipped beside the model, or named."""
    benches = {}
    for name in CONTROLS:
        named = getattr(cfg, name, None)
        model = _shipped(cfg, seed, name) if named is None else _named(cfg, named)
        if model is not None:
            benches[name] = bench_of(cfg, model, table)
            benches[name].run([])
    return benches


def in_modes(cfg: GatesConfig, bench: Bench) -> Counts:
    """Answers of the model itself in words and directly, where it can, beside those after its thoughts.

    Raises:
        ConfigError: a mode that was asked for and that it has not.
    """
    counts: Counts = {}
    for mode in bench.model.modes if cfg.modes is None else cfg.modes:
        said = thoughts.write(
            bench.model, mode, bench.questions,
            max_new_tokens=cfg.max_new_tokens, batch_size=bench.batch_size,
        )  # fmt: skip
        rows = zip(said.text, said.value, bench.wanted, strict=True)
        right, name = np.array([is_right(*row) for row in rows]), MODES[mode]
        counts[name] = (int(right.sum()), len(right))
        counts |= _apart(bench.right, right, name)
        for k in [] if bench.steps is None else np.unique(bench.steps).tolist():
            own = right[bench.steps == k]
            counts[f"{name}|{k}"] = (int(own.sum()), len(own))
    return counts


def counts_of(controls: dict[str, Bench], suffix: str = "") -> Counts:
    """Counts of the controls' answers under their own names."""
    return {
        key.replace("thoughts", name + suffix): pair
        for name, bench in controls.items()
        for key, pair in bench.counts.items()
    }


def discordant(ours: Bench, controls: dict[str, Bench]) -> Counts:
    """Problems that only the thoughts solve, and that only the control solves: the paired difference."""
    counts: Counts = {}
    for name, theirs in controls.items():
        counts |= _apart(ours.right, theirs.right, name)
    return counts


def _apart(ours: np.ndarray, theirs: np.ndarray, name: str) -> Counts:
    return {
        f"thoughts_not_{name}": (int((ours & ~theirs).sum()), len(ours)),
        f"{name}_not_thoughts": (int((theirs & ~ours).sum()), len(ours)),
    }


def bench_of(cfg: GatesConfig, model: ThoughtModel, table: pa.Table, seed: int = 0) -> Bench:
    """A model on a table, with the sizes of the config."""
    return Bench(model, table, seed=seed, batch_size=batch_size(cfg), max_new_tokens=cfg.max_new_tokens)


def _named(cfg: GatesConfig, name: str) -> ThoughtModel:
    return thoughts.load(name, dtype=cfg.dtype, device=cfg.device, **cfg.thought_options())


def batch_size(cfg: GatesConfig) -> int:
    """Problems at a time."""
    return cfg.batch_size or (BATCH_SHIPPED if tiny.knows(cfg.model) else BATCH_OTHERS)


def _shipped(cfg: GatesConfig, seed: int | None, variant: str) -> ThoughtModel | None:
    if tiny.knows(cfg.model) and (seed, variant) in tiny.members(cfg.model):
        return tiny.load(cfg.model, seed=seed, variant=variant, dtype=cfg.dtype, device=cfg.device)
    return None
