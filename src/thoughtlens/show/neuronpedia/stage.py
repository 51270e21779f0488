"""The latents of a run as Neuronpedia takes them: its upload batches, and SAEDashboard's batches.

`upload/batch-N.json` is a request's body for `POST /api/feature/upload-batch`, for a source set of one's own.
`dashboard/batch-N.json` and `skipped_indexes.json` are what SAEDashboard 0.8 writes, and what Neuronpedia's
`convert-saedashboard-to-neuronpedia-export` makes a bulk import of. Both are of August 2026.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from thoughtlens.core import (
    BY_NAME,
    ConfigError,
    Json,
    MismatchError,
    NotThereError,
    Record,
    Result,
    read_recipe,
    run_stage,
)
from thoughtlens.latents import (
    NO_BETTER,
    ExplanationRow,
    InterpretOutcome,
    LatentRow,
    LatentTokenRow,
    MemberSummary,
    TextExample,
)
from thoughtlens.sae import layer_of, member_path
from thoughtlens.sae import load as load_sae
from thoughtlens.show.neuronpedia.config import NeuronpediaConfig
from thoughtlens.show.neuronpedia.formats import (
    MAX_TOKENS,
    Example,
    Feature,
    Latent,
    Names,
    dashboard,
    upload,
)
from thoughtlens.show.neuronpedia.records import NeuronpediaOutcome
from thoughtlens.show.pages.by_latent import Grouped, member_table
from thoughtlens.show.pages.run import Run

R = TypeVar("R", bound=Record)
ALIGNED = 3
DIGITS = 5
DEFINITIONS = {
    "frac_nonzero, density": "share of vectors on which the latent's activation is not 0",
    "freq_hist": "fires of the latent by size; values are the bins' geometric middles",
    "neuron_alignment": "the coordinates that the decoder row writes most to; l1: share of the row's sum of "
    "magnitudes",
    "bin_min, bin_max, bin_contains": "of an example: -1, the largest activation, -1 for the strongest ones; "
    "else the decile of its fires it is drawn from, and the share of fires in it",
}


def neuronpedia(cfg: NeuronpediaConfig, out: str | Path) -> Result:
    """Write the upload batches of one SAE of a run.

    Examples come from `interpret/`; tokens spoken for and against from `lens/`, explanations from `explain/`,
    each where the run has it.

    Returns:
        The stage's result: names, numbers of latents, and what was left out for want of a stage.

    Raises:
        NotThereError: no finished interpret stage.
        ConfigError: several SAEs and none chosen, or no such one.
        MismatchError: a run of thoughts, which have no tokens to show, or an SAE of several hooks; a stage
            that was made from another SAE or store than the run has now.
    """
    run = Run(Path(cfg.run))
    run.require_one_sae()
    folders = {name: run.folder(name) for name in ("interpret", "lens", "explain")}
    inputs = {name: folder for name, folder in folders.items() if folder.is_dir()}
    outcome = InterpretOutcome.from_json(run.result("interpret"))
    return run_stage("neuronpedia", cfg, out, lambda tmp: _work(cfg, run, outcome, tmp), inputs=inputs)


def _work(cfg: NeuronpediaConfig, run: Run, outcome: InterpretOutcome, tmp: Path) -> NeuronpediaOutcome:
    member = _member(cfg, outcome)
    names = _names(cfg, run, member)
    tables = Tables.of(run, member)
    latents = _latents(cfg, run, outcome, member, tables)
    skipped = set(range(member.d_sae))
    for folder in ("dashboard", "upload"):
        (tmp / folder).mkdir(exist_ok=True)
    n_batches = 0
    while batch := list(itertools.islice(latents, cfg.per_batch)):
        _write(tmp / "dashboard" / f"batch-{n_batches}.json", dashboard(names, batch))
        _write(tmp / "upload" / f"batch-{n_batches}.json", upload(names, batch))
        skipped -= {latent.feature.feature_index for latent in batch}
        n_batches += 1
    head = {"model_id": names.model_id, "layer": str(names.layer), "sae_set": names.source_set}
    about = {"log_sparsity": 0, "skipped_indexes": sorted(skipped)}
    _write(tmp / "dashboard" / "skipped_indexes.json", head | about)
    absent, warnings = tables.absent(), []
    if absent:
        warnings.append(f"left out, because the run does not have them: {', '.join(absent)}")
    said = [one for latent in range(member.d_sae) for one in _of(tables.explanations, latent)]
    if n_poor := sum(one.chosen and one.verdict == NO_BETTER for one in said):
        warnings.append(f"explanations that are {NO_BETTER}, left out: {n_poor}")
    n = member.d_sae - len(skipped)
    return NeuronpediaOutcome(
        **names.to_json(),
        member=member.member,
        n=n,
        n_skipped=len(skipped),
        n_batches=n_batches,
        split=member.split,
        left_out=absent,
        headline={"n_latents": n, "n_skipped": len(skipped)},
        definitions=DEFINITIONS,
        warnings=warnings,
    )


def _member(cfg: NeuronpediaConfig, outcome: InterpretOutcome) -> MemberSummary:
    if outcome.kind != "text":
        raise MismatchError(
            f"Neuronpedia shows activations on tokens of text, this run is of thoughts; these are shown by: "
            f"thoughtlens view {shlex.quote(str(cfg.run))}"
        )
    members = {m.member: m for m in outcome.members}
    if cfg.member is None and len(members) > 1:
        raise ConfigError(f"member: expected one of {', '.join(members)}, none was chosen")
    name = next(iter(members)) if cfg.member is None else cfg.member
    if name not in members:
        raise ConfigError(f"member: expected one of {', '.join(members)}, got {name!r}")
    if len(members[name].hook_names) != 1:
        hooks = ", ".join(members[name].hook_names)
        raise MismatchError(f"A source of Neuronpedia is one layer's, this SAE reads {hooks}")
    return members[name]


def _names(cfg: NeuronpediaConfig, run: Run, member: MemberSummary) -> Names:
    acts = run.folder("extract")
    recipe = read_recipe(acts) if (acts / "config.toml").is_file() else {}
    (hook,) = member.hook_names
    layer = layer_of(hook)
    if layer is None:
        raise MismatchError(f"A source of Neuronpedia belongs to a layer, {hook!r} is in none")
    model = cfg.model_id or Path(recipe.get("model", {}).get("name", "")).name
    if not model:
        raise ConfigError("model_id: expected Neuronpedia's name of the model, the run does not say it")
    site = "mlp" if ".mlp" in hook else "att" if "attn" in hook or "attention" in hook else "res"
    chosen = (cfg.source_set or f"{site}-{member.d_sae}").lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", chosen):
        raise ConfigError(f"source_set: expected letters, digits, dashes and underscores, got {chosen!r}")
    return Names(
        model_id=model.lower(),
        layer=layer,
        source_set=chosen,
        source=f"{layer}-{chosen}",
        dataset=str(recipe.get("problems", {}).get("source", "")),
        n_prompts=member.n_problems,
        n_tokens_in_prompt=recipe.get("context_length", 0),
    )


@dataclass(frozen=True)
class Tables:
    """Rows of one SAE by latent; None: the run does not have them."""

    latents: Grouped[LatentRow]
    top: Grouped[TextExample]
    deciles: Grouped[TextExample] | None
    logits: Grouped[LatentTokenRow] | None
    explanations: Grouped[ExplanationRow] | None

    @classmethod
    def of(cls, run: Run, member: MemberSummary) -> Tables:
        """What the run has.

        Raises:
            NotThereError: a table that the interpret stage always makes is missing.
        """

        def read(stage: str, name: str, row: type[R], *order: str) -> Grouped[R] | None:
            table = member_table(run, stage, name, member.member)
            by = [(column, "ascending") for column in order]
            return None if table is None else Grouped(table, member.d_sae, row, by)

        latents = read("interpret", "latents.parquet", LatentRow)
        top = read("interpret", "top_examples.parquet", TextExample, "rank")
        if latents is None or top is None:
            name = "latents" if latents is None else "top_examples"
            file = run.folder("interpret") / f"{name}.parquet"
            raise NotThereError(
                f"Expected {file}, found none; delete {file.parent} and run: "
                f"{BY_NAME['interpret'].command(file.parent.parent)}"
            )
        return cls(
            latents,
            top,
            read("interpret", "decile_examples.parquet", TextExample),
            read("lens", "latents.parquet", LatentTokenRow, "rank"),
            read("explain", "explanations.parquet", ExplanationRow),
        )

    def absent(self) -> list[str]:
        """What the run does not have, and the stages that make it."""
        what = {
            "examples of each decile (interpret)": self.deciles,
            "tokens spoken for and against (lens)": self.logits,
            "explanations (explain)": self.explanations,
        }
        return [name for name, table in what.items() if table is None]


def _of(table: Grouped[R] | None, latent: int) -> list[R]:
    return table.of(latent, latent + 1)[0] if table else []


def _latents(
    cfg: NeuronpediaConfig, run: Run, outcome: InterpretOutcome, member: MemberSummary, tables: Tables
) -> Iterator[Latent]:
    """Every latent that has an example."""
    sae = load_sae(member_path(run.folder("train"), member.member))
    aligned = _alignment(sae.W_dec.detach().float())
    edges = np.asarray(outcome.histogram_edges, float)
    for latent in range(member.d_sae):
        top = _of(tables.top, latent)[: cfg.n_top]
        if not top:
            continue
        (row,) = _of(tables.latents, latent)
        drawn = ((e, e.decile) for e in _of(tables.deciles, latent) if e.decile is not None)
        logits = _of(tables.logits, latent)
        bars, heights = _histogram(row.histogram, edges)
        feature = Feature(
            feature_index=latent,
            **aligned(latent),
            **_tokens("pos", [one for one in logits if one.sign > 0][: cfg.n_logits]),
            **_tokens("neg", [one for one in logits if one.sign < 0][: cfg.n_logits]),
            frac_nonzero=row.density,
            freq_hist_data_bar_values=bars,
            freq_hist_data_bar_heights=heights,
            activations=[
                *(_example(e, -1.0, row.max_active, -1.0) for e in top),
                *(_example(e, row.deciles[decile - 1], row.deciles[decile], 0.1) for e, decile in drawn),
            ],
        )
        said = _of(tables.explanations, latent)
        said = [one for one in said if one.chosen and one.text.strip()]
        yield Latent(feature, [one.text for one in said if one.verdict != NO_BETTER])


def _example(row: TextExample, low: float, high: float, share: float) -> Example:
    return Example(
        bin_min=_round(low),
        bin_max=_round(high),
        bin_contains=share,
        tokens=[token or " " for token in row.tokens[:MAX_TOKENS]],  # empty ones are refused
        values=[_round(v) for v in row.acts[:MAX_TOKENS]],
        qualifying_token_index=row.peak,
    )


def _tokens(side: str, rows: list[LatentTokenRow]) -> Json:
    return {
        f"{side}_str": [row.token or " " for row in rows],
        f"{side}_values": [_round(row.logit) for row in rows],
    }


def _histogram(counts: list[int], edges: np.ndarray) -> tuple[list[float], list[float]]:
    """Middles and heights of the bins between the first and the last that hold a fire."""
    own = np.flatnonzero(counts)
    if not len(own) or len(edges) != len(counts) + 1:
        return [], []
    bins = slice(own[0], own[-1] + 1)
    middles = np.sqrt(edges[:-1] * edges[1:])[bins]
    return [_round(v) for v in middles], np.asarray(counts, float)[bins].tolist()


def _alignment(directions: torch.Tensor) -> Callable[[int], Json]:
    """Of a latent: the coordinates of largest value in its decoder row."""
    sums = directions.abs().sum(1).clamp(min=1e-12)
    values, index = directions.topk(min(ALIGNED, directions.shape[1]), dim=1)
    share = values.abs() / sums[:, None]
    return lambda latent: {
        "neuron_alignment_indices": index[latent].tolist(),
        "neuron_alignment_values": [_round(v) for v in values[latent].tolist()],
        "neuron_alignment_l1": [_round(v) for v in share[latent].tolist()],
    }


def _write(file: Path, table: Json) -> None:
    file.write_text(json.dumps(table, ensure_ascii=False, allow_nan=False), "utf-8")


def _round(value: float) -> float:
    return round(float(value), DIGITS)
