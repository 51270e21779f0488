"""The latents of a run as Neuronpedia takes them: its upload batches, and SAEDashboard's batches.

`upload/batch-N.json` is a request's body for `POST /api/feature/upload-batch`, for a source set of one's own.
`dashboard/batch-N.json` and `skipped_indexes.json` are what SAEDashboard 0.8 writes, and what Neuronpedia's
`convert-saedashboard-to-neuronpedia-export` makes a bulk import of. Both are of August 2026.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thoughtlens.core import ConfigError, MismatchError, read_recipe, read_result, run_stage
from thoughtlens.sae.formats.hooks import layer_of
from thoughtlens.sae.formats.io import load as load_sae
from thoughtlens.sae.formats.io import member_path
from thoughtlens.show.neuronpedia.config import NeuronpediaConfig
from thoughtlens.show.neuronpedia.formats import MAX_TOKENS, dashboard, upload
from thoughtlens.show.neuronpedia.tables import OPTIONAL, Tables

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


def neuronpedia(cfg: NeuronpediaConfig, out: str | Path) -> dict[str, Any]:
    """Write the upload batches of one SAE of a run.

    Examples come from `interpret/`; tokens spoken for and against from `lens/`, explanations from `explain/`,
    each where the run has it.

    Returns:
        The stage's result: names, numbers of latents, and what was left out for want of a stage.

    Raises:
        NotThereError: no finished interpret stage.
        ConfigError: several SAEs and none chosen, or no such one.
        MismatchError: a run of thoughts, which have no tokens to show, or an SAE of several hooks.
    """
    root = Path(cfg.run)
    inputs = {name: root / name for name in ("interpret", "lens", "explain") if (root / name).is_dir()}
    if "interpret" not in inputs:
        read_result(root / "interpret")
    return run_stage("neuronpedia", cfg, out, lambda tmp: _work(cfg, root, tmp), inputs=inputs)


def _work(cfg: NeuronpediaConfig, root: Path, tmp: Path) -> dict[str, Any]:
    result = read_result(root / "interpret")
    member = _member(cfg, result)
    names = _names(cfg, root, member)
    tables = Tables(root, member["member"])
    features = _features(cfg, root, result, member, tables)
    skipped = set(range(member["d_sae"]))
    for folder in ("dashboard", "upload"):
        (tmp / folder).mkdir(exist_ok=True)
    n_batches = 0
    while batch := list(itertools.islice(features, cfg.per_batch)):
        _write(tmp / "dashboard" / f"batch-{n_batches}.json", dashboard(names, batch))
        _write(tmp / "upload" / f"batch-{n_batches}.json", upload(names, batch))
        skipped -= {f["feature_index"] for f in batch}
        n_batches += 1
    head = {"model_id": names["model_id"], "layer": str(names["layer"]), "sae_set": names["source_set"]}
    about = {"log_sparsity": 0, "skipped_indexes": sorted(skipped)}
    _write(tmp / "dashboard" / "skipped_indexes.json", head | about)
    absent = [what for name, what in OPTIONAL.items() if name not in tables.tables]
    n = member["d_sae"] - len(skipped)
    return {
        **names,
        "member": member["member"],
        "n": n,
        "n_skipped": len(skipped),
        "n_batches": n_batches,
        "split": member["split"],
        "left_out": absent,
        "headline": {"n_latents": n, "n_skipped": len(skipped)},
        "definitions": DEFINITIONS,
        "warnings": [f"left out, because the run does not have them: {', '.join(absent)}"] if absent else [],
    }


def _member(cfg: NeuronpediaConfig, result: Mapping[str, Any]) -> dict[str, Any]:
    if result["kind"] != "text":
        raise MismatchError(
            "Neuronpedia shows activations on tokens of text, this run is of thoughts; `thoughtlens explore` "
            "shows those"
        )
    members = {m["member"]: m for m in result["members"]}
    if cfg.member is None and len(members) > 1:
        raise ConfigError(f"member: expected one of {', '.join(members)}, none was chosen")
    name = next(iter(members)) if cfg.member is None else cfg.member
    if name not in members:
        raise ConfigError(f"member: expected one of {', '.join(members)}, got {name!r}")
    if len(members[name]["hook_names"]) != 1:
        hooks = ", ".join(members[name]["hook_names"])
        raise MismatchError(f"A source of Neuronpedia is one layer's, this SAE reads {hooks}")
    return members[name]


def _names(cfg: NeuronpediaConfig, root: Path, member: Mapping[str, Any]) -> dict[str, Any]:
    """model_id, layer, source_set and source, in lower case as Neuronpedia keeps them."""
    recipe = read_recipe(root / "acts") if (root / "acts" / "config.toml").is_file() else {}
    hook = member["hook_names"][0]
    layer = layer_of(hook)
    if layer is None:
        raise MismatchError(f"A source of Neuronpedia belongs to a layer, {hook!r} is in none")
    model = cfg.model_id or Path(recipe.get("model", {}).get("name", "")).name
    if not model:
        raise ConfigError("model_id: expected Neuronpedia's name of the model, the run does not say it")
    site = "mlp" if ".mlp" in hook else "att" if "attn" in hook or "attention" in hook else "res"
    chosen = (cfg.source_set or f"{site}-{member['d_sae']}").lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", chosen):
        raise ConfigError(f"source_set: expected letters, digits, dashes and underscores, got {chosen!r}")
    problems = recipe.get("problems", {})
    return {
        "model_id": model.lower(),
        "layer": layer,
        "source_set": chosen,
        "source": f"{layer}-{chosen}",
        "dataset": str(problems.get("source", "")),
        "n_prompts": member["n_problems"],
        "n_tokens_in_prompt": recipe.get("context_length", 0),
    }


def _features(
    cfg: NeuronpediaConfig, root: Path, result: Mapping[str, Any], member: Mapping[str, Any], tables: Tables
) -> Iterator[dict[str, Any]]:
    """Every latent that has an example, under SAEDashboard's names; `explanations` beside them."""
    aligned = _alignment(load_sae(member_path(root / "sae", member["member"])).W_dec.detach().float())
    edges = np.asarray(result.get("histogram_edges", ()), float)
    for latent in range(member["d_sae"]):
        top = sorted(tables.rows("top", latent), key=lambda r: r["rank"])[: cfg.n_top]
        if not top:
            continue
        (row,) = tables.rows("latents", latent)
        examples = [_example(r, -1.0, row["max_active"], -1.0) for r in top]
        for r in tables.rows("deciles", latent):
            low, high = row["deciles"][r["decile"] - 1 : r["decile"] + 1]
            examples.append(_example(r, low, high, 0.1))
        logits = tables.rows("logits", latent)
        written = tables.rows("explanations", latent)
        yield {
            "feature_index": latent,
            **aligned(latent),
            **_tokens("pos", [r for r in logits if r["sign"] > 0][: cfg.n_logits]),
            **_tokens("neg", [r for r in logits if r["sign"] < 0][: cfg.n_logits]),
            "frac_nonzero": row["density"],
            **_histogram(row.get("histogram"), edges),
            "activations": examples,
            "explanations": [r["text"] for r in written if r.get("chosen") and r["text"].strip()],
        }


def _example(row: Mapping[str, Any], low: float, high: float, share: float) -> dict[str, Any]:
    return {
        "bin_min": _round(low),
        "bin_max": _round(high),
        "bin_contains": share,
        "tokens": [token or " " for token in row["tokens"][:MAX_TOKENS]],  # empty ones are refused
        "values": [_round(v) for v in row["acts"][:MAX_TOKENS]],
        "qualifying_token_index": row["peak"],
    }


def _tokens(side: str, rows: list[dict]) -> dict[str, Any]:
    rows = sorted(rows, key=lambda r: r["rank"])
    return {
        f"{side}_str": [r["token"] or " " for r in rows],
        f"{side}_values": [_round(r["logit"]) for r in rows],
    }


def _histogram(counts: list[int] | None, edges: np.ndarray) -> dict[str, list[float]]:
    """Bars of the bins between the first and the last that hold a fire."""
    own = np.flatnonzero(counts) if counts else np.zeros(0, int)
    if not len(own) or len(edges) != len(counts or ()) + 1:
        return {"freq_hist_data_bar_values": [], "freq_hist_data_bar_heights": []}
    bins = slice(own[0], own[-1] + 1)
    middles = np.sqrt(edges[:-1] * edges[1:])[bins]
    heights = np.asarray(counts, float)[bins]
    return {
        "freq_hist_data_bar_values": [_round(v) for v in middles],
        "freq_hist_data_bar_heights": heights.tolist(),
    }


def _alignment(directions: torch.Tensor) -> Any:
    """Of a latent: the coordinates of largest value in its decoder row."""
    sums = directions.abs().sum(1).clamp(min=1e-12)
    values, index = directions.topk(min(ALIGNED, directions.shape[1]), dim=1)
    share = values.abs() / sums[:, None]
    return lambda latent: {
        "neuron_alignment_indices": index[latent].tolist(),
        "neuron_alignment_values": [_round(v) for v in values[latent].tolist()],
        "neuron_alignment_l1": [_round(v) for v in share[latent].tolist()],
    }


def _write(file: Path, table: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(table, ensure_ascii=False, allow_nan=False), "utf-8")


def _round(value: float) -> float:
    return round(float(value), DIGITS)
