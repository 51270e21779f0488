"""The lens stage: what a thought would say if it were read out, and how often that is a value on the way.

Every state is read through the model's own final norm and unembedding (logit lens), and, for thoughts,
through an affine translator before them (tuned lens). What is read is compared with the problem's labels,
beside the same readings with shuffled labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from thoughtlens.acts import ActivationStore, StoreSize, language_model, thought_model
from thoughtlens.core import (
    ConfigError,
    HookError,
    Parts,
    Plan,
    Result,
    progress,
    run_stage,
    warn,
    write_rows,
)
from thoughtlens.latents.codes.readout import LensInput, of_text, of_thoughts
from thoughtlens.latents.codes.translator import TRANSLATORS, Translator, save_translators
from thoughtlens.latents.lens import latents, score
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.fitting import fit_all
from thoughtlens.latents.lens.readings import read_all, readings_table, tokens_table
from thoughtlens.latents.lens.records import HitRow, KLRow, LensOutcome, ReadingRow, SummaryRow, TokenRow
from thoughtlens.latents.lens.rows import cell_rows
from thoughtlens.latents.lens.summary import best, headline, objections, summarise
from thoughtlens.numerics import too_narrow
from thoughtlens.sae import SAE, differences, load_members

DEFINITIONS = {
    **score.DEFINITIONS,
    "probability": "softmax of the logits that the lens reads",
    "kl": "KL(the model's final distribution at the same thought || the lens), nats, mean over held-out "
    "states; _low, _high: cluster bootstrap 95 %",
    "kl_constant": "the same for the mean final distribution of the fitting problems: what needs no state",
    "kl_gain": "kl of the logit lens minus that of the tuned lens, paired",
    "latents": latents.DEFINITION,
}


def lens(cfg: LensConfig, out: str | Path) -> Result:
    """Read every hook and thought of a store, and every decoder row, through the model's output side.

    The directory holds `readings.parquet`, `summary.parquet`, `tokens.parquet`, with a tuned lens
    `kl.parquet` and `translators.safetensors`, and with an SAE `latents.parquet` and `logits.parquet`.

    Raises:
        MismatchError: other weights than those that made the store, or states that are not residual.
        ConfigError: a label column that the problems do not have.
        DataError: no rows in a split.
    """
    inputs = {"acts": Path(cfg.acts)} | ({} if cfg.sae is None else {"sae": Path(cfg.sae)})
    return run_stage("lens", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def plan(cfg: LensConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where the store does not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    n_cells, d = store.n_cells, max(store.d_in.values())
    per_cell = min(cfg.max_rows, store.n_rows) if store.kind == "text" else cfg.n_problems
    rows, tuned_lens = n_cells * per_cell, _is_tuned(cfg, store.kind)
    steps = n_cells * cfg.fit_steps * cfg.fit_batch if tuned_lens else 0
    return Plan(
        rows=rows,
        memory_bytes=1e9 + 8.0 * cfg.n_fit * d * 4,
        disk_bytes=rows * cfg.top_k * 8.0 + (n_cells * d * d * 4.0 if tuned_lens else 0),
        seconds=5 + rows * d * 1e-8 * 300 + steps * d * (d + 50_000) * 6 / 1e12,
    )


def _work(cfg: LensConfig, tmp: Path) -> LensOutcome:
    torch.manual_seed(cfg.seed)
    store, parts = ActivationStore.open(cfg.acts), Parts(tmp)
    if _is_tuned(cfg, store.meta.kind) and cfg.split == cfg.fit_split:
        raise ConfigError(
            f"lens: split and fit_split are both {cfg.split!r}: a tuned lens would be scored on what it was "
            f"fitted on. Score another split, or leave it out: lens.lenses=[logit]"
        )
    model = None if store.meta.kind == "text" else thought_model(store)
    try:
        readout = of_text(language_model(store)) if model is None else of_thoughts(model)
    except HookError as error:
        return _without_readout(cfg, store, tmp, str(error))
    narrow = [hook for hook, width in store.meta.d_in.items() if width != readout.d]
    if model is not None and narrow:
        readout.unembed(torch.zeros(1, store.meta.d_in[narrow[0]]), narrow[0])  # which refuses it
    given = LensInput(cfg, store, readout)
    found = cell_rows(store, cfg.split, cfg.n_problems, cfg.seed, cfg.max_rows)
    translators: list[Translator] = []
    gains: list[KLRow] = []
    if model is not None and _is_tuned(cfg, store.meta.kind):
        translators = fit_all(given, model, found, parts)
        places = [(cell.hook_name, cell.thought_idx) for cell in found]
        save_translators(dict(zip(places, translators, strict=True)), tmp / TRANSLATORS)
        gains = parts.summaries(range(len(found)), KLRow)
        write_rows(tmp / "kl.parquet", KLRow, gains)
    readings = read_all(given, found, translators)
    rows, hits = summarise(given, readings)
    write_rows(tmp / "hits.parquet", HitRow, hits)
    pq.write_table(readings_table(given, readings), tmp / "readings.parquet", compression="zstd")
    pq.write_table(tokens_table(given.readout, readings), tmp / "tokens.parquet")
    write_rows(tmp / "summary.parquet", SummaryRow, rows)
    notes = objections(given, rows)
    notes += too_narrow("kl_gain", [(f"{r.hook_name}@{r.thought_idx}", r.kl_gain_doubt) for r in gains])
    if cfg.sae is not None:
        members = load_members(cfg.sae, joined=True, hooks=store.meta.d_in)
        notes += differences(members, store)
        _write_latents(given, members, tmp)
    return LensOutcome(
        split=cfg.split,
        kind=store.meta.kind,
        model=store.meta.model,
        model_digest=store.meta.model_digest,
        n=len(np.unique(found[0].line)),
        n_vocab=given.readout.n_vocab,
        best=best(rows),
        kl=gains,
        headline=headline(cfg.split, rows, gains),
        definitions=DEFINITIONS,
        warnings=notes,
    )


def _without_readout(cfg: LensConfig, store: ActivationStore, tmp: Path, why: str) -> LensOutcome:
    """The outcome for a model that states cannot be read through: empty tables, and why."""
    for name, row in (
        ("readings", ReadingRow),
        ("tokens", TokenRow),
        ("summary", SummaryRow),
        ("hits", HitRow),
    ):
        write_rows(tmp / f"{name}.parquet", row, [])
    line = f"nothing was read: {why}"
    warn(line)
    return LensOutcome(
        split=cfg.split,
        kind=store.meta.kind,
        model=store.meta.model,
        model_digest=store.meta.model_digest,
        n=0,
        n_vocab=0,
        best=[],
        kl=[],
        definitions=DEFINITIONS,
        warnings=[line],
    )


def _is_tuned(cfg: LensConfig, kind: str) -> bool:
    return "tuned" in cfg.lenses and kind == "thoughts"


def _write_latents(given: LensInput, members: dict[str, SAE], tmp: Path) -> None:
    with progress("lens: latents", len(members), "SAEs") as bar:
        tables = []
        for name, one in members.items():
            tables.append(latents.latent_tables(given.readout, name, one, given.cfg.latent_tokens))
            bar.advance(1)
    for name, own in zip(("latents", "logits"), zip(*tables, strict=True), strict=True):
        whole = pa.concat_tables(own).unify_dictionaries()
        pq.write_table(whole, tmp / f"{name}.parquet", compression="zstd")
