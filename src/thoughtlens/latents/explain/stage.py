"""The explain stage: what each latent responds to, as a predictor with a text and a held-out score.

Explanations are fitted on some problems, the settings and the one that is shown are chosen on others, and
all are scored on a third kind, at the rate at which the latent truly fires: beside a token lookup and a
random twin. `docs/explanations.md` describes the methods and how to read the numbers.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, NotThereError, Plan, read_json, run_stage, warn, write_json
from thoughtlens.latents.codes.codes import Codes, open_codes
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.explain.about import about, render
from thoughtlens.latents.explain.config import ExplainConfig, LLMConfig
from thoughtlens.latents.explain.endpoint import Endpoint
from thoughtlens.latents.explain.of_member import EXPLANATIONS, GRAPHS, explain_member
from thoughtlens.latents.explain.scores import DEFINITIONS
from thoughtlens.latents.explain.settings import settings
from thoughtlens.latents.explain.summary import choice, headline, means
from thoughtlens.sae.formats.io import load as load_sae
from thoughtlens.sae.formats.io import load_members, member_names, member_path

__all__ = ["ExplainConfig", "LLMConfig", "about", "explain", "plan", "render", "settings"]

SECONDS_A_LATENT = {"token": 0.1, "token_graph": 1.0, "windows": 1.5, "rules": 0.5, "llm": 60.0}


def explain(cfg: ExplainConfig, out: str | Path) -> dict[str, Any]:
    """Explain latents of every SAE in a directory; an interrupted call continues after its last batch.

    The directory holds `explanations.parquet` (a row for each latent and method) and `graphs.parquet` (the
    token graph of each latent, as JSON).

    Raises:
        MismatchError: the SAE's hook or width is not the store's.
        ConfigError: a latent that the SAE does not have, or settings that do not fit together.
        DataError: too few problems, or an endpoint's reply that cannot be used.
        ResourceError: the endpoint cannot be reached.
    """
    if ("llm" in cfg.methods) != (cfg.llm is not None):
        raise ConfigError(
            "methods: `llm` and the table `llm` belong together; give both, as in methods=['token','llm'] "
            "llm.base_url=http://127.0.0.1:8000/v1 llm.model=NAME, or neither"
        )
    endpoint = Endpoint(cfg.llm) if cfg.llm is not None else None
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    if cfg.interpret is not None:
        inputs["interpret"] = Path(cfg.interpret)
    return run_stage("explain", cfg, out, lambda tmp: _work(cfg, endpoint, tmp), inputs=inputs)


def plan(cfg: ExplainConfig) -> Plan:
    """Vectors, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file() or not Path(cfg.sae).is_dir():
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    store = ActivationStore.open(cfg.acts)
    asked = cfg.fit_vectors + cfg.validation_vectors + cfg.test_vectors
    rows, n_latents = 0, 0
    for name in member_names(cfg.sae):
        sae = load_sae(member_path(cfg.sae, name))
        rows += min(asked, store.n_rows * max(len(sae.hook_names), 1))
        wanted = len(cfg.latents) if cfg.latents is not None else cfg.n_latents
        n_latents += sae.d_sae if wanted is None else min(wanted, sae.d_sae)
    return Plan(
        rows=rows,
        memory_bytes=1e9 + 600.0 * asked,
        disk_bytes=4e3 * n_latents,
        seconds=10 + n_latents * sum(SECONDS_A_LATENT[method] for method in cfg.methods),
    )


def _work(cfg: ExplainConfig, endpoint: Endpoint | None, tmp: Path) -> dict[str, Any]:
    store = ActivationStore.open(cfg.acts)
    parts = tmp / "parts"
    parts.mkdir(exist_ok=True)
    codes = _codes(cfg)
    members = load_members(cfg.sae, joined=True, hooks=store.meta.d_in)
    for i, (name, sae) in enumerate(members.items()):
        folder = parts / str(i)
        if not (folder / "summary.json").is_file():
            folder.mkdir(exist_ok=True)
            member = Member(store, name, sae, split=cfg.split, batch_size=4096)
            own = codes.get(member.name)
            write_json(folder / "summary.json", explain_member(cfg, member, own, endpoint, folder))
    tables = {}
    for name, schema in (("explanations", EXPLANATIONS), ("graphs", GRAPHS)):
        files = sorted(parts.glob(f"*/*.{name}.parquet"), key=lambda f: (int(f.parent.name), f.name))
        tables[name] = pa.concat_tables([schema.empty_table(), *map(pq.read_table, files)]).combine_chunks()
        pq.write_table(tables[name], tmp / f"{name}.parquet", compression="zstd")
    summaries = [read_json(parts / str(i) / "summary.json") for i in range(len(members))]
    shutil.rmtree(parts)
    warnings = [w for summary in summaries for w in summary.pop("warnings")]
    for line in warnings:
        warn(line)
    return {
        "kind": store.meta.kind,
        "members": summaries,
        "methods": means(tables["explanations"], cfg.seed),
        "headline": headline(tables["explanations"], summaries, cfg.seed),
        "choice": choice(cfg),
        "definitions": DEFINITIONS,
        "warnings": warnings,
    }


def _codes(cfg: ExplainConfig) -> dict[str, Codes]:
    """The codes that interpret kept, by member; none where it kept none."""
    if cfg.interpret is None:
        return {}
    try:
        return open_codes(cfg.interpret)
    except NotThereError:
        return {}
