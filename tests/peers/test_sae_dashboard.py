"""SAEDashboard's own classes take our batches field by field, and write them as they came."""

from __future__ import annotations

import json

import pytest

from thoughtlens.show.neuronpedia.formats import Example, Feature, Latent, Names, dashboard

pytestmark = pytest.mark.filterwarnings("default")
NAMES = Names(
    model_id="gpt2-small", layer=3, source_set="res-ours", source="3-res-ours", dataset="d", n_prompts=20,
    n_tokens_in_prompt=12,
)  # fmt: skip
EXAMPLE = Example(
    bin_min=1.0, bin_max=2.0, bin_contains=0.1, tokens=["a", " b"], values=[0.0, 1.5],
    qualifying_token_index=1,
)  # fmt: skip
FEATURE = Feature(
    feature_index=7, neuron_alignment_indices=[3], neuron_alignment_values=[0.5], neuron_alignment_l1=[0.1],
    pos_str=["x"], pos_values=[1.0], frac_nonzero=0.1, freq_hist_data_bar_values=[1.0],
    freq_hist_data_bar_heights=[4.0], activations=[EXAMPLE],
)  # fmt: skip


def test_batches_are_theirs():
    module = "sae_dashboard.neuronpedia.neuronpedia_dashboard"
    peer = pytest.importorskip(module, reason="SAEDashboard is not installed")
    batch = json.loads(json.dumps(dashboard(NAMES, [Latent(FEATURE, ["text"])])))
    theirs = peer.NeuronpediaDashboardBatch(**batch)
    assert theirs.to_dict() == batch
    assert vars(theirs.features[0]).keys() == batch["features"][0].keys()
    assert theirs.features[0].activations[0].values == [0.0, 1.5]
