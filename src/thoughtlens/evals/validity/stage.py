"""Is it the thoughts that reason? Every answer with its interval, on shipped and on foreign models.

A model may be called latent-reasoning only if G1 (better than fair controls), G2 (not without its
thoughts) and G3 (more thoughts, more right) hold. G0 comes first where an accuracy was published:
a model that does not reproduce it was loaded wrongly.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from thoughtlens.core import ConfigError, NotThereError, Plan, Result, read_json, run_stage, say, write_json
from thoughtlens.evals.validity import controls, probe, verdicts
from thoughtlens.evals.validity.config import GatesConfig, problems_config, published
from thoughtlens.evals.validity.records import EditsBite, Gates, GatesOutcome, SeedCounts
from thoughtlens.interventions import (
    Bench,
    Counts,
    held_out,
    patch_twins,
    require_own,
    same_tokens,
    splice,
)
from thoughtlens.models import ThoughtModel, not_stated, tiny
from thoughtlens.problems import change_of, source, twins, words

STORING = {"start": [3, 5], "op1": [3, 5], "op2": [5]}
"""Thoughts whose input carries what a change alters: v1 is in z3, v2 in z5."""

DEFINITIONS = {
    "thoughts": "right answers / problems, all thoughts thought",
    "cot": "the same model writes its chain of thought in words, greedily",
    "direct": "the same model answers at once, with neither thoughts nor words; of a Coconut with begin- and "
    "end-of-thought token after each other",
    "modes": "the same model with thoughts, in words (cot) and directly; difference: accuracy with thoughts "
    "minus that, same problems, Wald 95 % of paired shares, exact McNemar",
    "no_cot": "control trained without thoughts: begin, end, answer",
    "pause": "control trained with learned pause tokens at the thoughts' positions, no feedback",
    "mean_ablated": "every thought's input replaced by its mean over the problems, per thought",
    "zeroed": "every thought's input replaced by zeros",
    "resampled": "every thought's input replaced by that of one random other problem",
    "by_n_thoughts": "accuracy when leaving after n = 0..6 thoughts",
    "interval": "low, high: Wilson 95 %, problems of all seeds pooled",
    "paired": "accuracy with thoughts - accuracy of the control, same problems; Wald 95 % of paired shares",
}

PER_SEED = ("thoughts", "cot", "no_cot", "pause", "mean_ablated", "resampled", "bag_of_words")


def plan(cfg: GatesConfig) -> Plan:
    """Rows and time expected, from the config alone."""
    n_seeds = len(cfg.seeds) or 3
    rows = cfg.n * n_seeds
    return Plan(rows=rows, memory_bytes=1e9 + cfg.n * 60_000, disk_bytes=1e5, seconds=20 + rows * 0.025)


def gates(cfg: GatesConfig, out: Path) -> Result:
    """Measure every gate of a model; the directory holds `result.json` and one table per seed.

    Raises:
        NotThereError: no such model, seed or problems table.
        DataError: a problems table without question or answer, or too small.
        MismatchError: SAEs of other weights than the model's.
    """
    inputs = source.inputs(problems_config(cfg)) | ({"sae": cfg.sae} if cfg.sae else {})
    return run_stage("gates", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def _work(cfg: GatesConfig, tmp: Path) -> GatesOutcome:
    seeds = []
    for seed in _seeds(cfg):
        file = tmp / f"seed_{seed}.json"
        if not file.is_file():
            say(f"gates: {cfg.model}{'' if seed is None else f', seed {seed}'}")
            write_json(file, _measure(cfg, seed).to_json())
        seeds.append(SeedCounts.from_json(read_json(file)))
    return _outcome(cfg, seeds)


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


def _measure(cfg: GatesConfig, seed: int | None) -> SeedCounts:
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
    counts |= controls.in_modes(cfg, bench)
    counts["majority_answer"] = (int(np.unique(bench.wanted, return_counts=True)[1].max()), len(table))
    probes: dict[str, Counts] = {}
    if cfg.sae is not None:
        splice(bench, cfg.sae)
        counts |= {name: bench.counts[name] for name in bench.counts if name.startswith("spliced")}
    if (generator := _generator(cfg, model)) is not None:
        assert isinstance(model, tiny.TinyThoughts)
        counts |= _twins(cfg, model, generator, shift)
        train = generator.problems(cfg.n, seed=shift + 1000, split="train", p=model.modulus)
        counts["bag_of_words"] = probe.bag_of_words(train, table)
        one_step = _one_step_problems(cfg, model, generator, shift)
        counts |= _one_step(cfg, model, seed, one_step)
    elif change_of(table) is not None:
        counts |= _twins_of_table(cfg, model, table, shift)
    if {"v1", "v2"} <= set(table.column_names):
        probes = _probes(bench)
    return SeedCounts(
        counts=counts,
        probes=probes,
        changed=bench.changed,
        model_settings=dict(model.settings) or None,
        model_settings_assumed=list(model.assumed) or None,
    )


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


def _twins(cfg: GatesConfig, model: tiny.TinyThoughts, generator: ModuleType, seed: int) -> Counts:
    counts: Counts = {}
    n, p = max(cfg.n // 3, 2), model.modulus
    for change in generator.CHANGES:
        one, other = generator.twins(n, seed=seed, split=cfg.split, change=change, p=p)
        counts |= _moved(model, one, other, change, controls.batch_size(cfg))
    return counts


def _twins_of_table(cfg: GatesConfig, model: ThoughtModel, table: pa.Table, seed: int) -> Counts:
    """The same for problems with annotated chains, or along graphs: an operand or an edge is changed."""
    found = twins(table, seed=seed, n=max(cfg.n // 3, 2), fits=same_tokens(model))
    say(f"gates: {found.note}")
    if len(found.first) < 2:
        return {}
    return _moved(model, found.first, found.second, found.change, controls.batch_size(cfg))


def _moved(model: ThoughtModel, one: pa.Table, other: pa.Table, change: str, batch_size: int) -> Counts:
    """By thought, how often the twin's state brings the twin's answer, and how often the own one stays."""
    counts: Counts = {}
    for pos, (moved, own, solved) in patch_twins(model, one, other, batch_size).items():
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


def _outcome(cfg: GatesConfig, seeds: list[SeedCounts]) -> GatesOutcome:
    counts = verdicts.add([one.counts for one in seeds])
    steps = sorted({int(key.split("|")[1]) for key in counts if "|" in key})
    accuracy = verdicts.accuracy_table(counts)
    held = _gates(cfg, seeds, counts, steps)
    first = {name: getattr(accuracy, name) for name in ("thoughts", "no_cot", "pause", "mean_ablated")}
    return GatesOutcome(
        model=cfg.model,
        split=cfg.split,
        n_seeds=len(seeds),
        headline={name: replace(number, split=cfg.split) for name, number in first.items() if number},
        latent_reasoning=all(gate.holds for gate in held.decisive().values()),
        accuracy=accuracy,
        accuracy_by_steps={str(k): verdicts.accuracy_table(counts, f"|{k}") for k in steps},
        gates=held,
        modes=verdicts.modes(counts),
        counts={key: verdicts.share(pair) for key, pair in counts.items() if "|" not in key},
        per_seed=[{name: verdicts.share(one.counts.get(name)) for name in PER_SEED} for one in seeds],
        model_settings=seeds[0].model_settings,
        model_settings_assumed=seeds[0].model_settings_assumed,
        definitions=DEFINITIONS,
        warnings=[
            *not_stated(seeds[0].model_settings or {}, seeds[0].model_settings_assumed or ()),
            *_warnings(held),
        ],
    )


def _gates(cfg: GatesConfig, seeds: list[SeedCounts], counts: Counts, steps: list[int]) -> Gates:
    probes = {v: verdicts.add([one.probes[v] for one in seeds]) for v in seeds[0].probes}
    changed = {name: min(one.changed[name] for one in seeds) for name in seeds[0].changed}
    rule = "each edit moves > half the logits"
    return Gates(
        reproduces=verdicts.reproduces(counts, published(cfg)),
        better_than_controls=verdicts.better_than_controls(counts),
        needs_its_thoughts=verdicts.needs_its_thoughts(counts, verdicts.rate(counts, "majority_answer")),
        grows_with_thoughts=verdicts.grows_with_thoughts(counts),
        at_the_value=verdicts.steps_where_value_is_produced(counts, steps),
        follows_the_donor=verdicts.follows_the_donor(counts),
        twins_move=verdicts.twins_move(counts, STORING),
        thoughts_hold_values=verdicts.thoughts_hold_values(probes),
        survives_splicing=verdicts.survives_splicing(counts),
        text_is_blind=verdicts.text_is_blind(counts),
        edits_bite=EditsBite(holds=min(changed.values()) > 0.5, rule=rule, changed=changed),
    )


def _warnings(held: Gates) -> list[str]:
    names = {one.metadata.get("alias") or one.name: getattr(held, one.name) for one in fields(held)}
    said = [f"{name} does not hold: {gate.rule}" for name, gate in names.items() if gate.holds is False]
    if unjudged := [name for name, gate in held.decisive().items() if gate.holds is None]:
        lacking = held.better_than_controls.lacking
        why = f": no control {' and '.join(lacking)}; name one with {lacking[0]}=" if lacking else ""
        said.append(f"not called latent-reasoning, because {', '.join(unjudged)} could not be judged{why}")
    return said
