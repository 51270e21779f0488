"""What Neuronpedia and SAEDashboard write and read, as of August 2026."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_LATENTS, MAX_LOGITS, MAX_TOKENS, MAX_TEXT = 128, 20, 1024, 512
"""What one request may hold: latents, logits of either sign, tokens of an example, characters of a text."""


def dashboard(names: Mapping[str, Any], features: list[dict[str, Any]]) -> dict[str, Any]:
    """SAEDashboard's batch; what is not known here is empty, as it is there."""
    common = {
        **{f"correlated_{w}_{v}": [] for w in ("neurons", "features") for v in ("indices", "l1", "pearson")},
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "decoder_weights_dist": [],
        "vector": [],
        "n_prompts_total": names["n_prompts"],
        "n_tokens_in_prompt": names["n_tokens_in_prompt"],
        "dataset": names["dataset"],
    }
    return {
        "model_id": names["model_id"],
        "layer": names["layer"],
        "sae_set": names["source_set"],
        "sae_id_suffix": None,
        "features": [{k: v for k, v in f.items() if k != "explanations"} | common for f in features],
    }


def upload(names: Mapping[str, Any], features: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of one request."""
    return {
        "modelId": names["model_id"],
        "source": names["source"],
        "features": [
            {
                "index": f["feature_index"],
                "density": f["frac_nonzero"],
                "topLogits": _pairs(f["pos_str"], f["pos_values"]),
                "bottomLogits": _pairs(f["neg_str"], f["neg_values"]),
                "explanations": [{"text": _cut(text)} for text in f["explanations"]],
                "activations": [_quantile(a) for a in f["activations"]],
            }
            for f in features
        ],
    }


def _quantile(example: Mapping[str, Any]) -> dict[str, Any]:
    own = {"tokens": example["tokens"], "values": example["values"]}
    if example["bin_contains"] < 0:
        return own
    return own | {
        "quantileMin": example["bin_min"],
        "quantileMax": example["bin_max"],
        "quantileFraction": example["bin_contains"],
    }


def _pairs(tokens: list[str], values: list[float]) -> list[dict[str, Any]]:
    return [{"token": t, "value": v} for t, v in zip(tokens, values, strict=True)]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
