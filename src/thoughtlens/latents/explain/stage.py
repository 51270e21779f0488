"""The explain stage: what each latent responds to, as a predictor with a text and a held-out score.

Explanations are fitted on some problems, the settings and the one that is shown are chosen on others, and
all are scored on a third kind, at the rate at which the latent truly fires: beside a token lookup and a
random twin. `docs/explanations.md` describes the methods and how to read the numbers.
"""

from __future__ import annotations

from pathlib import Path

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import (
    ConfigError,
    NotThereError,
    Parts,
    Plan,
    Result,
    read_result,
    read_rows,
    require_made_from,
    run_stage,
    schema,
    warn,
)
from thoughtlens.latents.codes.codes import Codes, open_codes
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.codes.on_text import pick
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.corpus import Corpus
from thoughtlens.latents.explain.endpoint import Endpoint
from thoughtlens.latents.explain.of_member import MemberExplainer, batches, said_part
from thoughtlens.latents.explain.records import ExplainedPart, ExplainOutcome, ExplanationRow, GraphRow
from thoughtlens.latents.explain.scores import DEFINITIONS
from thoughtlens.latents.explain.statements import Known
from thoughtlens.latents.explain.summary import choice, headline, means
from thoughtlens.latents.explain.token_graph import most_asked
from thoughtlens.sae import SAESize, differences, load_members

SECONDS_A_LATENT = {
    "roles": 0.005,
    "token": 0.1,
    "token_graph": 1.0,
    "windows": 1.5,
    "rules": 0.5,
    "llm": 60.0,
}


def explain(cfg: ExplainConfig, out: str | Path) -> Result:
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
        require_made_from(Path(cfg.interpret), inputs)
        inputs["interpret"] = Path(cfg.interpret)
    return run_stage("explain", cfg, out, lambda tmp: _work(cfg, endpoint, tmp), inputs=inputs)


def plan(cfg: ExplainConfig) -> Plan:
    """Vectors, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    asked = cfg.fit_vectors + cfg.validation_vectors + cfg.test_vectors
    rows, n_latents = 0, 0
    for sae in SAESize.all_of(cfg.sae):
        rows += min(asked, sae.vectors(store))
        wanted = len(cfg.latents) if cfg.latents is not None else cfg.n_latents
        n_latents += sae.d_sae if wanted is None else min(wanted, sae.d_sae)
    each = SECONDS_A_LATENT | {"token_graph": _seconds_per_graph(cfg, store)}
    return Plan(
        rows=rows,
        memory_bytes=1e9 + 600.0 * asked,
        disk_bytes=4e3 * n_latents,
        seconds=10 + n_latents * sum(each[method] for method in cfg.methods),
    )


def _seconds_per_graph(cfg: ExplainConfig, store: StoreSize) -> float:
    """By how long the questions are, and how long the model took for each when the store was made."""
    made = read_result(cfg.acts) if (cfg.acts / "result.json").is_file() else {}
    if store.kind != "thoughts" or made.get("stage") != "extract":
        return SECONDS_A_LATENT["token_graph"]
    questions = ActivationStore.open(cfg.acts).problems["question"].to_pylist()
    asked = sum(most_asked(len(text.split()), cfg.graph_substitutes) for text in questions) / len(questions)
    return cfg.graph_examples * asked * made["seconds"] / store.n_problems


def _work(cfg: ExplainConfig, endpoint: Endpoint | None, tmp: Path) -> ExplainOutcome:
    store, parts, codes = ActivationStore.open(cfg.acts), Parts(tmp), _codes(cfg)
    if endpoint is not None:
        endpoint.keep(parts.path("llm", "replies"))
    saes = list(load_members(cfg.sae, joined=True, hooks=store.meta.d_in).items())
    shown, known = pick(dict(saes), None)[0], Known(store, cfg)
    for i in parts.todo(range(len(saes))):
        name, sae = saes[i]
        member = Member(store, name, sae, split=cfg.split, batch_size=4096)
        corpus = Corpus(member, codes.get(member.name), cfg)
        explainer = MemberExplainer(corpus, endpoint, known, shown=name == shown)
        parts.finish(i, explainer.explain(parts, i))
    done = parts.summaries(range(len(saes)), ExplainedPart)
    members = [part.summary for part in done]
    keys = [
        key
        for i, m in enumerate(members)
        for key in (said_part(i), *batches(i, m.n_refined, cfg.batch_latents))
    ]
    for table, row in (("explanations", ExplanationRow), ("graphs", GraphRow)):
        parts.join(keys, table, tmp / f"{table}.parquet", schema(row))
    rows = read_rows(tmp / "explanations.parquet", ExplanationRow)
    warnings = [*differences(dict(saes), store), *(line for part in done for line in part.warnings)]
    for line in warnings:
        warn(line)
    return ExplainOutcome(
        kind=store.meta.kind,
        members=members,
        methods=means(rows, cfg.seed),
        headline=headline(rows, members, shown, cfg.seed),
        choice=choice(cfg),
        definitions=DEFINITIONS,
        warnings=warnings,
    )


def _codes(cfg: ExplainConfig) -> dict[str, Codes]:
    """The codes that interpret kept, by member; none where it kept none."""
    if cfg.interpret is None:
        return {}
    try:
        return open_codes(cfg.interpret)
    except NotThereError:
        return {}
