"""Is it the thoughts that reason? Every answer with its interval, on shipped and on foreign models.

A model may be called latent-reasoning only if G1 (better than fair controls), G2 (not without its
thoughts) and G3 (more thoughts, more right) hold. G0 comes first where an accuracy was published:
a model that does not reproduce it was loaded wrongly.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from thoughtlens.core import ConfigError, NotThereError, Plan, read_json, run_stage, say, write_json
from thoughtlens.evals.validity import controls, probe, verdicts
from thoughtlens.evals.validity.config import GatesConfig, problems_config, published
from thoughtlens.interventions import Bench, Counts, held_out, patch_twins, require_own, splice
from thoughtlens.models import ThoughtModel, tiny
from thoughtlens.problems import source, words

STORING = {"start": [3, 5], "op1": [3, 5], "op2": [5]}
"""Thoughts whose input carries what a change alters: v1 is in z3, v2 in z5."""

DECISIVE = ("G1", "G2", "G3")
"""What must hold before a model is called latent-reasoning."""

DEFINITIONS = {
    "thoughts": "right answers / problems, all thoughts thought",
    "cot": "the same model writes its chain of thought in words, greedily",
    "no_cot": "control trained without thoughts: begin, end, answer",
    "pause": "control trained with learned pause tokens at the thoughts' positions, no feedback",
    "mean_ablated": "every thought's input replaced by its mean over the problems, per thought",
    "zeroed": "every thought's input replaced by zeros",
    "resampled": "every thought's input replaced by that of one random other problem",
    "by_n_thoughts": "accuracy when leaving after n = 0..6 thoughts",
    "interval": "low, high: Wilson 95 %, problems of all seeds pooled",
    "paired": "accuracy with thoughts - accuracy of the control, same problems; Wald 95 % of paired shares",
}


def plan(cfg: GatesConfig) -> Plan:
    """Rows and time expected, from the config alone."""
    n_seeds = len(cfg.seeds) or 3
    rows = cfg.n * n_seeds
    return Plan(rows=rows, memory_bytes=1e9 + cfg.n * 60_000, disk_bytes=1e5, seconds=20 + rows * 0.025)


def gates(cfg: GatesConfig, out: Path) -> dict[str, Any]:
    """Measure every gate of a model; the directory holds `result.json` and one table a seed.

    Raises:
        NotThereError: no such model, seed or problems table.
        DataError: a problems table without question or answer, or too small.
        MismatchError: SAEs of other weights than the model's.
    """
    inputs = source.inputs(problems_config(cfg)) | ({"sae": cfg.sae} if cfg.sae else {})
    return run_stage("gates", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def _work(cfg: GatesConfig, tmp: Path) -> dict[str, Any]:
    tables = []
    for seed in _seeds(cfg):
        file = tmp / f"seed_{seed}.json"
        if not file.is_file():
            say(f"gates: {cfg.model}{'' if seed is None else f', seed {seed}'}")
            write_json(file, _measure(cfg, seed))
        tables.append(read_json(file))
    merged: dict[str, Any] = {
        "counts": verdicts.add([_pairs(t["counts"]) for t in tables]),
        "probes": {v: verdicts.add([_pairs(t["probes"][v]) for t in tables]) for v in tables[0]["probes"]},
    }
    changed = {name: min(t["changed"][name] for t in tables) for name in tables[0]["changed"]}
    per_seed = [_summary(_pairs(t["counts"])) for t in tables]
    return _result(cfg, merged["counts"], merged["probes"], changed, per_seed)


def _seeds(cfg: GatesConfig) -> list[int | None]:
    if not tiny.knows(cfg.model):
        if cfg.seeds:
            raise ConfigError(
                f"seeds: only shipped models and directories of distill have them, not {cfg.model}"
            )
        return [None]
    there = [seed for seed, variant in tiny.members(cfg.model) if variant == "thoughts"]
    if missing := [seed for seed in cfg.seeds if seed not in there]:
        raise NotThereError(f"{cfg.model} has no seed {missing[0]}; it has {there}")
    return list(cfg.seeds or there) or [None]


def _measure(cfg: GatesConfig, seed: int | None) -> dict[str, Any]:
    """All counts of one seed."""
    shift = cfg.seed + (seed or 0)
    model = controls.load_model(cfg, seed)
    table = _problems(cfg, model, shift)
    if cfg.sae is not None:
        require_own(model, cfg.sae)
    bench = controls.bench_of(cfg, model, table, shift)
    bench.ablations()
    bench.early_exit()
    if "kv" in model.spec.sites:
        bench.tail_swap()
    counts: Counts = dict(bench.counts)
    beside = controls.run_controls(cfg, seed, table)
    counts |= controls.counts_of(beside) | controls.discordant(bench, beside)
    counts["majority_answer"] = (int(np.unique(bench.wanted, return_counts=True)[1].max()), len(table))
    probes: dict[str, Counts] = {}
    if cfg.sae is not None:
        splice(bench, cfg.sae)
        counts |= {name: bench.counts[name] for name in bench.counts if name.startswith("spliced")}
    if (generator := _generator(cfg, model)) is not None:
        assert isinstance(model, tiny.TinyThoughts)
        counts |= _written(model, table)
        counts |= _twins(cfg, model, generator, shift)
        train = generator.problems(cfg.n, seed=shift + 1000, split="train", p=model.modulus)
        counts["bag_of_words"] = probe.bag_of_words(train, table)
        one_step = _one_step_problems(cfg, model, generator, shift)
        counts |= _one_step(cfg, model, seed, one_step)
    if {"v1", "v2"} <= set(table.column_names):
        probes = _probes(bench)
    return {"counts": counts, "probes": probes, "changed": bench.changed}


def _generator(cfg: GatesConfig, model: ThoughtModel) -> ModuleType | None:
    """The module that makes this model's problems; None where they come from elsewhere."""
    if cfg.problems not in (*source.GENERATORS, "generated"):
        return None
    if not isinstance(model, tiny.TinyThoughts):
        raise ConfigError(f"{cfg.model} needs problems=gsm8k:test or a table; it reads no generated problems")
    if cfg.problems not in (model.cfg.problems, "generated"):
        raise ConfigError(f"problems: expected {model.cfg.problems} for {cfg.model}, got {cfg.problems}")
    return source.GENERATORS[model.cfg.problems]


def _problems(cfg: GatesConfig, model: ThoughtModel, seed: int) -> pa.Table:
    if (generator := _generator(cfg, model)) is not None:
        assert isinstance(model, tiny.TinyThoughts)
        return generator.problems(cfg.n, seed=seed, split=cfg.split, p=model.modulus)
    split = cfg.problems.partition(":")[2] or cfg.split
    return held_out(problems_config(cfg), model, split=split, n=cfg.n, seed=seed)


def _one_step_problems(
    cfg: GatesConfig, model: tiny.TinyThoughts, generator: ModuleType, shift: int
) -> pa.Table:
    """Of any path (all one-step facts are trained on), but in the wording of the split."""
    split = cfg.split if generator is words else "any"
    return generator.problems(max(cfg.n // 3, 2), seed=shift, split=split, n_steps=(1,), p=model.modulus)


def _one_step(cfg: GatesConfig, model: tiny.TinyThoughts, seed: int | None, table: pa.Table) -> Counts:
    bench = controls.bench_of(cfg, model, table)
    bench.run([])
    beside = controls.counts_of(controls.run_controls(cfg, seed, table), "_one_step")
    counts = {"thoughts_one_step": bench.counts["thoughts"]} | beside
    return {key: pair for key, pair in counts.items() if "|" not in key}


def _written(model: tiny.TinyThoughts, table: pa.Table) -> Counts:
    said = [text.split()[-1] if text else "" for text in model.write(table["question"].to_pylist())]
    right = np.array(said) == np.array(table["answer"].to_pylist())
    steps = np.array(table["n_steps"])
    counts = {"cot": (int(right.sum()), len(right))}
    for k in np.unique(steps).tolist():
        counts[f"cot|{k}"] = (int(right[steps == k].sum()), int((steps == k).sum()))
    return counts


def _twins(cfg: GatesConfig, model: tiny.TinyThoughts, generator: ModuleType, seed: int) -> Counts:
    counts: Counts = {}
    n, p = max(cfg.n // 3, 2), model.modulus
    for change in generator.CHANGES:
        one, other = generator.twins(n, seed=seed, split=cfg.split, change=change, p=p)
        for pos, (moved, own, solved) in patch_twins(model, one, other, controls.batch_size(cfg)).items():
            counts[f"twin_{change}_z{pos}"] = (moved, solved)
            counts[f"own_{change}_z{pos}"] = (own, solved)
    return counts


def _probes(bench: Bench) -> dict[str, Counts]:
    states, out = probe.cells(bench.batch), {}
    for name in ("v1", "v2"):
        labels = np.array(bench.problems[name].to_pylist(), dtype=float)
        rows = np.flatnonzero(~np.isnan(labels))
        if len(rows) >= 100:
            chosen = {cell: x[rows] for cell, x in states.items()}
            out[name] = probe.read_values(chosen, labels[rows].astype(int), len(rows) // 2)
    return out


def _pairs(table: dict[str, list[int]]) -> Counts:
    return {key: (int(right), int(n)) for key, (right, n) in table.items()}


def _summary(counts: Counts) -> dict[str, Any]:
    names = ("thoughts", "cot", "no_cot", "pause", "mean_ablated", "resampled", "bag_of_words")
    return {name: verdicts.share(counts.get(name)) for name in names}


def _result(
    cfg: GatesConfig, counts: Counts, probes: dict[str, Counts], changed: dict[str, float], per_seed: list
) -> dict[str, Any]:
    steps = sorted({int(key.split("|")[1]) for key in counts if "|" in key})
    n_passes = len(verdicts.accuracy_table(counts)["by_n_thoughts"])
    chance = verdicts.rate(counts, "majority_answer")
    table = {
        "G0": verdicts.reproduces(counts, published(cfg)),
        "G1": verdicts.better_than_controls(counts),
        "G2": verdicts.needs_its_thoughts(counts, chance),
        "G3": verdicts.grows_with_thoughts(counts),
        "G3_at_the_value": verdicts.steps_where_value_is_produced(counts, n_passes, steps),
        "G4": verdicts.follows_the_donor(counts),
        "G5": verdicts.twins_move(counts, STORING),
        "G6": verdicts.thoughts_hold_values(probes),
        "G7": verdicts.survives_splicing(counts),
        "text_is_blind": verdicts.text_is_blind(counts),
        "edits_bite": verdicts.judge(
            min(changed.values()) > 0.5, "each edit moves > half the logits", **changed
        ),
    }
    accuracy = verdicts.accuracy_table(counts)
    first = ("thoughts", "no_cot", "pause", "mean_ablated")
    head = {name: accuracy[name] | {"split": cfg.split} for name in first if accuracy[name]}
    return {
        "model": cfg.model,
        "split": cfg.split,
        "n_seeds": len(per_seed),
        "headline": head,
        "latent_reasoning": all(table[name]["pass"] is True for name in DECISIVE),
        "accuracy": accuracy,
        "accuracy_by_steps": {str(k): verdicts.accuracy_table(counts, f"|{k}") for k in steps},
        "gates": table,
        "counts": {key: verdicts.share(pair) for key, pair in counts.items() if "|" not in key},
        "per_seed": per_seed,
        "definitions": DEFINITIONS,
        "warnings": _warnings(table),
    }


def _warnings(table: dict[str, dict[str, Any]]) -> list[str]:
    said = [f"{name} does not hold: {gate['rule']}" for name, gate in table.items() if gate["pass"] is False]
    if unjudged := [name for name in DECISIVE if table[name]["pass"] is None]:
        lacking = table["G1"]["lacking"]
        why = f": no control {' and '.join(lacking)}; name one with {lacking[0]}=" if lacking else ""
        said.append(f"not called latent-reasoning, because {', '.join(unjudged)} could not be judged{why}")
    return said


__all__ = ["GatesConfig", "gates", "plan"]
