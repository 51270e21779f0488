"""Evaluation suites of others, offline on any model, with this project's statistics beside theirs."""

from __future__ import annotations

import difflib
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import (
    ConfigError,
    DataError,
    MismatchError,
    Plan,
    progress,
    read_json,
    run_stage,
    warn,
    write_json,
)
from thoughtlens.evals.suites import ours, summary, theirs
from thoughtlens.evals.suites.adaptor import as_sae_lens
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.evals.suites.reading import last_tokens, latents, load_sae
from thoughtlens.models.hf.load import LanguageModel, load
from thoughtlens.problems.labelled import PREFIX, binary_sets, labelled
from thoughtlens.sae.base import SAE

__all__ = ["SuiteConfig", "as_sae_lens", "plan", "suite"]

TEXTS, TOKENS = 3000, 60
"""Texts of a set, and tokens of a text, as most sets have them."""
SECONDS = 110.0
"""For one set on one core: reading with a model of 135 million parameters, and all fits."""


def suite(cfg: SuiteConfig, out: str | Path) -> dict[str, Any]:
    """Run a suite; an interrupted call continues with the set it was at.

    Returns:
        The stage's result: means over the sets under the suite's own protocol and under this project's,
        differences between latents and raw activations with verdicts, and one line for each set.

    Raises:
        NotThereError: the suite's package, the model or the SAE is not there.
        ConfigError: an unknown set, or several SAEs and none chosen.
        MismatchError: the SAE has another width than the model's hook.
    """
    return run_stage("suite", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"sae": Path(cfg.sae)})


def plan(cfg: SuiteConfig) -> Plan:
    """Rows, memory, disk and time of the stage, of sets as they usually are."""
    n = len(cfg.datasets or binary_sets())
    return Plan(rows=n * TEXTS, memory_bytes=1.5e9, disk_bytes=3e4 * n, seconds=SECONDS * n)


def _work(cfg: SuiteConfig, tmp: Path) -> dict[str, Any]:
    names = _names(cfg)
    folder = tmp / "parts"
    folder.mkdir(exist_ok=True)
    sae, hook = load_sae(Path(cfg.sae), cfg.member, cfg.hook_name)
    lm = functools.cache(lambda: load(**cfg.model.model_dump()))
    missing = [name for name in names if not (folder / f"{name}.json").is_file()]
    with progress(cfg.suite, len(names), "sets", start=len(names) - len(missing)) as bar:
        for name in missing:
            write_json(folder / f"{name}.json", _one(cfg, name, lm, sae, hook))
            bar.advance(1, name)
    parts = [read_json(folder / f"{name}.json") for name in names]
    return _collect(cfg, tmp, parts, hook)


def _names(cfg: SuiteConfig) -> list[str]:
    known = binary_sets()
    if cfg.datasets is None:
        return known
    for name in cfg.datasets:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; for example {', '.join(known[:3])}"
            raise ConfigError(f"datasets: sae-probes has no set of two classes {name!r}{hint}")
    return list(dict.fromkeys(cfg.datasets))


def _one(cfg: SuiteConfig, name: str, lm: Callable[[], LanguageModel], sae: SAE, hook: str) -> dict[str, Any]:
    """Both protocols on one set."""
    table = labelled(PREFIX + name)
    texts, labels = table["text"].to_pylist(), np.array(table["label"].to_pylist(), object)
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) != 2:
        raise DataError(f"{name}: expected two classes, got {', '.join(classes[:5])}")
    groups = np.unique(np.array(table["group"].to_pylist(), object), return_inverse=True)[1]
    x = last_tokens(lm(), hook, texts, cfg)
    if x.shape[1] != sae.d_in:
        raise MismatchError(
            f"The SAE in {cfg.sae} takes activations of width {sae.d_in}, {cfg.model.name} has "
            f"{x.shape[1]} at {hook}; give the model and the hook that it was trained on"
        )
    acts = latents(sae, hook, x)
    raw = x.numpy()
    return {
        "dataset": name,
        "n": len(y),
        "n_texts": int(groups.max()) + 1,
        "classes": classes.tolist(),
        "model_digest": lm().digest,
        "theirs": theirs.theirs(raw, acts, y, groups, cfg),
        "ours": ours.ours(raw, acts, texts, y, groups, classes.tolist(), cfg) if cfg.own else None,
    }


def _collect(cfg: SuiteConfig, tmp: Path, parts: list[dict[str, Any]], hook: str) -> dict[str, Any]:
    """Tables on disk, and the stage's result."""
    found = summary.tables(parts)
    for name, rows in found.items():
        if rows:
            pq.write_table(pa.Table.from_pylist(rows), tmp / f"{name}.parquet", compression="zstd")
    over = summary.summary(parts, found["comparisons"], cfg)
    warnings = _warnings(parts)
    for text in warnings:
        warn(text)
    shutil.rmtree(tmp / "parts")
    return {
        "suite": cfg.suite,
        "model": cfg.model.name,
        "model_digest": parts[0]["model_digest"],
        "hook_name": hook,
        "n": len(parts),
        "split": "last tokens of the suite's texts",
        "datasets": [_line(p) for p in parts],
        **over,
        "headline": summary.headline(over),
        "definitions": summary.definitions(),
        "warnings": warnings,
    }


def _line(part: dict[str, Any]) -> dict[str, Any]:
    their = part["theirs"]
    return {
        **{key: part[key] for key in ("dataset", "n", "n_texts", "classes")},
        "best_k": their["best_k"],
        "latents": their["latents"][: their["best_k"]][:10],
        "n_leaked": their["table"][0]["n_leaked"],
        "auc_sae_minus_raw": their["sae_minus_raw"]["auc"],
    }


def _warnings(parts: list[dict[str, Any]]) -> list[str]:
    out = []
    if leaky := [p["dataset"] for p in parts if p["theirs"]["table"][0]["n_leaked"]]:
        out.append(
            f"{len(leaky)} of {len(parts)} sets have test rows whose text sae-probes' split also trains on "
            f"({', '.join(leaky[:3])}{', ...' if len(leaky) > 3 else ''}): n_leaked counts them; this "
            f"project's folds keep copies together"
        )
    late = sum(not row["converged"] for p in parts for row in p["theirs"]["table"])
    if late:
        n = sum(len(p["theirs"]["table"]) for p in parts)
        out.append(f"{late} of {n} of sae-probes' fits end at its limit of steps; it takes them as they are")
    return out
