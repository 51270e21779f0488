"""The lens stage: what a thought would say if it were read out, and how often that is a value on the way.

Every state is read through the model's own final norm and unembedding (logit lens), and, for thoughts,
through an affine translator before them (tuned lens). What is read is compared with the problem's labels,
beside the same readings with shuffled labels.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from thoughtlens.acts.behind import language_model, thought_model
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import Plan, progress, run_stage
from thoughtlens.latents.lens import latents, score, tuned
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.fitting import fit_all, save_translators
from thoughtlens.latents.lens.readings import read_all, readings_table, tokens_table
from thoughtlens.latents.lens.readout import Readout, of_text, of_thoughts
from thoughtlens.latents.lens.rows import cells
from thoughtlens.latents.lens.summary import best, headline, objections, summarise, summary_table
from thoughtlens.models.thought.thoughts import ThoughtModel
from thoughtlens.sae.formats.io import load_members

__all__ = ["LensConfig", "lens", "plan"]

DEFINITIONS = {
    **score.DEFINITIONS,
    "probability": "softmax of the logits that the lens reads",
    "kl": "KL(the model's final distribution at the same thought || the lens), nats, mean over held-out "
    "states; _low, _high: cluster bootstrap 95 %",
    "kl_constant": "the same for the mean final distribution of the fitting problems: what needs no state",
    "kl_gain": "kl of the logit lens minus that of the tuned lens, paired",
    "latents": latents.DEFINITION,
}


def lens(cfg: LensConfig, out: str | Path) -> dict[str, Any]:
    """Read every hook and thought of a store, and every decoder row, through the model's output side.

    The directory holds `readings.parquet`, `summary.parquet`, `tokens.parquet`, with a tuned lens
    `kl.parquet` and `translators.safetensors`, and with an SAE `latents.parquet`.

    Raises:
        MismatchError: other weights than those that made the store, or states that are not residual.
        ConfigError: a label column that the problems do not have.
        DataError: no rows in a split.
    """
    inputs = {"acts": Path(cfg.acts)} | ({} if cfg.sae is None else {"sae": Path(cfg.sae)})
    return run_stage("lens", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def plan(cfg: LensConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where the store does not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file():
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    store = ActivationStore.open(cfg.acts)
    n_cells, d = len(store.cells), max(store.meta.d_in.values())
    per_cell = min(cfg.max_rows, store.n_rows) if store.meta.kind == "text" else cfg.n_problems
    rows, tuned_lens = n_cells * per_cell, _is_tuned(cfg, store)
    steps = n_cells * cfg.fit_steps * cfg.fit_batch if tuned_lens else 0
    return Plan(
        rows=rows,
        memory_bytes=1e9 + 8.0 * cfg.n_fit * d * 4,
        disk_bytes=rows * cfg.top_k * 8.0 + (n_cells * d * d * 4.0 if tuned_lens else 0),
        seconds=5 + rows * d * 1e-8 * 300 + steps * d * (d + 50_000) * 6 / 1e12,
    )


def _work(cfg: LensConfig, tmp: Path) -> dict[str, Any]:
    torch.manual_seed(cfg.seed)
    store = ActivationStore.open(cfg.acts)
    model, readout = _open(store)
    parts = tmp / "parts"
    parts.mkdir(exist_ok=True)
    found = cells(store, cfg.split, cfg.n_problems, cfg.seed, cfg.max_rows)
    translators: dict[int, tuned.Translator] = {}
    gains: list[dict[str, Any]] = []
    if model is not None and _is_tuned(cfg, store):
        translators, gains = fit_all(cfg, store, model, readout, found, parts)
        save_translators(found, translators, tmp / "translators.safetensors")
        pq.write_table(pa.Table.from_pylist(gains), tmp / "kl.parquet")
    readings = read_all(cfg, store, readout, found, translators)
    rows = summarise(cfg, store, readout, readings)
    pq.write_table(readings_table(store, readout, readings), tmp / "readings.parquet", compression="zstd")
    pq.write_table(tokens_table(readout, readings), tmp / "tokens.parquet")
    pq.write_table(summary_table(rows), tmp / "summary.parquet")
    if cfg.sae is not None:
        _write_latents(cfg, cfg.sae, store, readout, tmp)
    shutil.rmtree(parts)
    return {
        "split": cfg.split,
        "kind": store.meta.kind,
        "model": store.meta.model,
        "model_digest": store.meta.model_digest,
        "n": len(np.unique(found[0].line)),
        "n_vocab": readout.n_vocab,
        "best": best(rows),
        "kl": gains,
        "headline": headline(cfg, rows, gains),
        "definitions": DEFINITIONS,
        "warnings": objections(cfg, store, rows),
    }


def _open(store: ActivationStore) -> tuple[ThoughtModel | None, Readout]:
    if store.meta.kind == "text":
        return None, of_text(language_model(store))
    model = thought_model(store)
    return model, of_thoughts(model)


def _is_tuned(cfg: LensConfig, store: ActivationStore) -> bool:
    return "tuned" in cfg.lenses and store.meta.kind == "thoughts"


def _write_latents(
    cfg: LensConfig, sae_path: Path, store: ActivationStore, readout: Readout, tmp: Path
) -> None:
    members = load_members(sae_path, joined=True, hooks=store.meta.d_in)
    with progress("lens: latents", len(members), "SAEs") as bar:
        tables = []
        for name, sae in members.items():
            tables.append(latents.latent_table(readout, name, sae, cfg.latent_tokens))
            bar.advance(1)
    table = pa.concat_tables(tables).unify_dictionaries()
    pq.write_table(table, tmp / "latents.parquet", compression="zstd")
