"""The model to judge and the controls beside it: trained on the same problems, without thoughts."""

from __future__ import annotations

import pyarrow as pa

from thoughtlens.evals.validity.config import GatesConfig
from thoughtlens.interventions import Bench, Counts
from thoughtlens.models import ThoughtModel, thoughts, tiny

BATCH_SHIPPED, BATCH_OTHERS = 512, 32
CONTROLS = ("no_cot", "pause", "plain", "bottleneck")


def load_model(cfg: GatesConfig, seed: int | None) -> ThoughtModel:
    """The model to judge."""
    return _shipped(cfg, seed, "thoughts") or _named(cfg, cfg.model)


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
        n = len(ours.right)
        counts[f"thoughts_not_{name}"] = (int((ours.right & ~theirs.right).sum()), n)
        counts[f"{name}_not_thoughts"] = (int((theirs.right & ~ours.right).sum()), n)
    return counts


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
