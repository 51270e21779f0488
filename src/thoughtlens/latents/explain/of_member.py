"""One SAE's latents, batch by batch, so that an interrupted stage loses one batch at most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import (
    CheckpointError,
    ConfigError,
    HookError,
    MismatchError,
    NotThereError,
    ResourceError,
    StoreError,
    progress,
    whole,
)
from thoughtlens.latents.codes.codes import Codes
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.codes.tokens import load_tokenizer, token_texts
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.corpus import Corpus
from thoughtlens.latents.explain.endpoint import Endpoint
from thoughtlens.latents.explain.graphs import token_graphs
from thoughtlens.latents.explain.llm import Explainer
from thoughtlens.latents.explain.methods import Explaining
from thoughtlens.latents.explain.patterns import TokenGraph
from thoughtlens.latents.explain.probes import TextProbe, ThoughtProbe, probe_of
from thoughtlens.latents.explain.tokens import Neighbours

NUMBERS = ("auprc", "precision_at_half_recall", "pearson", "precision", "recall", "base_rate")
COUNTS = ("n", "n_units", "n_fires")
SCORES = ("auprc_low", "auprc_high", "token_auprc", "random_auprc", "validation_auprc")
EXPLANATIONS = pa.schema(
    {"member": pa.string(), "latent": pa.int32(), "method": pa.string(), "text": pa.string()}
    | dict.fromkeys(NUMBERS, pa.float64())
    | dict.fromkeys(COUNTS, pa.int64())
    | {"split": pa.string()}
    | dict.fromkeys(SCORES, pa.float64())
    | {"chosen": pa.bool_()}
)
GRAPHS = pa.schema({"member": pa.string(), "latent": pa.int32(), "graph": pa.string()})
NO_MODEL = (
    CheckpointError, ConfigError, HookError, MismatchError, NotThereError, ResourceError, StoreError,
)  # fmt: skip
"""Why a store's model may be out of reach; the other methods need none."""


def explain_member(
    cfg: ExplainConfig, member: Member, codes: Codes | None, endpoint: Endpoint | None, folder: Path
) -> dict[str, Any]:
    """Write a pair of tables for each batch of latents, and say what was done.

    Raises:
        ConfigError: a latent that the SAE does not have.
    """
    corpus = Corpus(member, codes, cfg)
    eligible = corpus.eligible()
    latents, warnings = _latents(cfg, member, eligible)
    names = _names(corpus)
    explainer = None if endpoint is None else Explainer(endpoint, corpus, names)
    explaining = Explaining(corpus, names, explainer) if len(latents) else None
    probe = neighbours = None
    if "token_graph" in cfg.methods and len(latents):
        try:
            probe = probe_of(member, corpus.cells, corpus.vocabulary, cfg.batch_tokens)
            neighbours = Neighbours(corpus.fit.tokens, names)
        except NO_MODEL as error:
            warnings.append(
                f"{member.name}: no token graphs, the model cannot be run on edited text: {error}"
            )
    with progress(f"explain {member.name}", len(latents), "latents") as bar:
        for low in range(0, len(latents), cfg.batch_latents):
            batch = latents[low : low + cfg.batch_latents]
            if not (folder / f"{low:08d}.explanations.parquet").is_file():
                graphs: dict[int, TokenGraph] = {}
                if probe is not None and neighbours is not None:
                    graphs = _graphs(corpus, batch, probe, neighbours)
                assert explaining is not None
                _write(explaining, member.name, batch, graphs, low, folder, names)
            bar.advance(len(batch))
    parts = {"fit": corpus.fit, "validation": corpus.validation, "test": corpus.test}
    return {
        "member": member.name,
        "hook_names": member.hook_names,
        "d_sae": member.sae.d_sae,
        "n_eligible": int(eligible.sum()),
        "n_explained": len(latents),
        "n_graphs": len(latents) if probe is not None else 0,
        "parts": {n: {"split": p.split, "n": p.n, "n_units": p.n_units} for n, p in parts.items()},
        "warnings": warnings,
    }


def _latents(cfg: ExplainConfig, member: Member, eligible: np.ndarray) -> tuple[list[int], list[str]]:
    """Those asked for, or a seeded draw of those that fire enough; and what is to be said about them."""
    d_sae, name = member.sae.d_sae, member.name
    need = (
        f"fire in {cfg.min_units} fitting, {cfg.min_held_units} validation and {cfg.min_held_units} test "
        f"problems, and not everywhere"
    )
    if cfg.latents is not None:
        asked = sorted(set(cfg.latents))
        if outside := [i for i in asked if not 0 <= i < d_sae]:
            raise ConfigError(f"latents: expected some of 0..{d_sae - 1} of {name}, got {outside[0]}")
        short = [i for i in asked if not eligible[i]]
        said = f"{name}: not explained, as they do not {need}: {', '.join(map(str, short))}"
        return [i for i in asked if eligible[i]], [said] if short else []
    found = np.flatnonzero(eligible)
    if not len(found):
        return [], [f"{name}: nothing to explain, as no latents {need}"]
    if cfg.n_latents is not None and len(found) > cfg.n_latents:
        found = np.sort(np.random.default_rng(cfg.seed).choice(found, cfg.n_latents, replace=False))
    return found.tolist(), []


def _names(corpus: Corpus) -> dict[int, str]:
    """What each token of the corpus reads as."""
    if corpus.vocabulary is not None:
        return dict(enumerate(corpus.vocabulary))
    parts = (corpus.fit, corpus.validation, corpus.test)
    ids = np.unique(np.concatenate([part.tokens.ids for part in parts]))
    meta = corpus.member.store.meta
    return token_texts(load_tokenizer(meta.model, meta.model_revision), ids)


def _graphs(
    corpus: Corpus, batch: list[int], probe: TextProbe | ThoughtProbe, neighbours: Neighbours
) -> dict[int, TokenGraph]:
    acts = [corpus.fit.column(latent) for latent in batch]
    made = token_graphs(corpus.fit, acts, batch, probe.bound, neighbours, corpus.cfg, len(corpus.cells))
    return dict(zip(batch, made, strict=True))


def _write(
    explaining: Explaining,
    member: str,
    batch: list[int],
    graphs: dict[int, TokenGraph],
    low: int,
    folder: Path,
    names: dict[int, str],
) -> None:
    cfg = explaining.cfg
    rows: list[dict[str, Any]] = []
    for i, latent in enumerate(batch):
        use_llm = cfg.llm is not None and low + i < cfg.llm.max_latents
        rows += explaining.rows(latent, graphs.get(latent), use_llm)
    drawn = [
        {"latent": latent, "graph": json.dumps(graph.drawing(names), ensure_ascii=False)}
        for latent, graph in graphs.items()
    ]
    # explanations last: a batch counts as done when they are there
    for name, schema, table in (("graphs", GRAPHS, drawn), ("explanations", EXPLANATIONS, rows)):
        with whole(folder / f"{low:08d}.{name}.parquet") as part:
            pq.write_table(pa.Table.from_pylist([{"member": member, **row} for row in table], schema), part)
