"""What Neuronpedia and SAEDashboard write and read, as of August 2026."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from thoughtlens.core import Json, Record

MAX_LATENTS, MAX_LOGITS, MAX_TOKENS, MAX_TEXT = 128, 20, 1024, 512
"""What one request may hold: latents, logits of either sign, tokens of an example, characters of a text."""


@dataclass(frozen=True, kw_only=True)
class Names(Record):
    """What a source is called, in lower case as Neuronpedia keeps names, and what its texts were."""

    model_id: str
    layer: int
    source_set: str
    source: str
    dataset: str
    n_prompts: int
    n_tokens_in_prompt: int


@dataclass(frozen=True, kw_only=True)
class Example(Record):
    """Activations on the tokens of a text, and the bin of activations that it was drawn from."""

    bin_min: float
    bin_max: float
    bin_contains: float
    tokens: list[str]
    values: list[float]
    qualifying_token_index: int


@dataclass(frozen=True, kw_only=True)
class Feature(Record):
    """A latent under SAEDashboard's names; what is not known here is empty, as it is there."""

    feature_index: int
    neuron_alignment_indices: list[int]
    neuron_alignment_values: list[float]
    neuron_alignment_l1: list[float]
    pos_str: list[str] = field(default_factory=list)
    pos_values: list[float] = field(default_factory=list)
    neg_str: list[str] = field(default_factory=list)
    neg_values: list[float] = field(default_factory=list)
    frac_nonzero: float
    freq_hist_data_bar_values: list[float] = field(default_factory=list)
    freq_hist_data_bar_heights: list[float] = field(default_factory=list)
    activations: list[Example]
    correlated_neurons_indices: list[int] = field(default_factory=list)
    correlated_neurons_l1: list[float] = field(default_factory=list)
    correlated_neurons_pearson: list[float] = field(default_factory=list)
    correlated_features_indices: list[int] = field(default_factory=list)
    correlated_features_l1: list[float] = field(default_factory=list)
    correlated_features_pearson: list[float] = field(default_factory=list)
    logits_hist_data_bar_heights: list[float] = field(default_factory=list)
    logits_hist_data_bar_values: list[float] = field(default_factory=list)
    decoder_weights_dist: list[float] = field(default_factory=list)
    vector: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Latent:
    """A latent, and what it was said to mean."""

    feature: Feature
    explanations: Sequence[str] = ()


def dashboard(names: Names, latents: Sequence[Latent]) -> Json:
    """SAEDashboard's batch."""
    common = {
        "n_prompts_total": names.n_prompts,
        "n_tokens_in_prompt": names.n_tokens_in_prompt,
        "dataset": names.dataset,
    }
    return {
        "model_id": names.model_id,
        "layer": names.layer,
        "sae_set": names.source_set,
        "sae_id_suffix": None,
        "features": [latent.feature.to_json() | common for latent in latents],
    }


def upload(names: Names, latents: Sequence[Latent]) -> Json:
    """The body of one request."""
    return {
        "modelId": names.model_id,
        "source": names.source,
        "features": [_uploaded(latent.feature, latent.explanations) for latent in latents],
    }


def _uploaded(feature: Feature, explanations: Sequence[str]) -> Json:
    return {
        "index": feature.feature_index,
        "density": feature.frac_nonzero,
        "topLogits": _pairs(feature.pos_str, feature.pos_values),
        "bottomLogits": _pairs(feature.neg_str, feature.neg_values),
        "explanations": [{"text": _cut(text)} for text in explanations],
        "activations": [_quantile(example) for example in feature.activations],
    }


def _quantile(example: Example) -> Json:
    own = {"tokens": example.tokens, "values": example.values}
    if example.bin_contains < 0:
        return own
    return own | {
        "quantileMin": example.bin_min,
        "quantileMax": example.bin_max,
        "quantileFraction": example.bin_contains,
    }


def _pairs(tokens: Sequence[str], values: Sequence[float]) -> list[Json]:
    return [{"token": t, "value": v} for t, v in zip(tokens, values, strict=True)]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
