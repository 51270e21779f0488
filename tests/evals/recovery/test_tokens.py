"""Tokens of texts as the values of a variable."""

from __future__ import annotations

import numpy as np
import pytest

from tests.planted import HOOKS, D, planted_sae, text_store
from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError
from thoughtlens.evals.recovery.config import RecoveryConfig
from thoughtlens.evals.recovery.questions import Wanted, tokens
from thoughtlens.evals.recovery.stage import recovery

N = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_lm_dir):
    """Tokens 4 and 5 have latents of their own; 6 stands in one document alone."""
    root, rng = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)
    documents = [rng.permutation([4, 5, 4, 5, 7]).tolist() for _ in range(N)]
    documents[0][0] = 6
    strengths = []
    for document in documents:
        acts = 0.01 * rng.random((len(document), D)) * (np.arange(D) > 8)
        acts[np.arange(len(document)), document] = 1
        strengths.append(acts)
    text_store(
        root / "acts",
        tiny_lm_dir,
        documents,
        strengths,
        np.resize(["train", "validation", "test"], N).tolist(),
    )
    planted_sae(root / "sae", hooks=HOOKS[:1])
    return root


def test_frequent_tokens_are_values(folder):
    store = ActivationStore.open(folder / "acts")
    found = tokens(store, Wanted())
    assert found is not None and len(found.values) == 3 and found.of_rows
    token = store.rows["token_id"].to_numpy()
    assert (found.codes[token == 6] == -1).all() and set(found.codes[token == 4]) == {0}
    assert tokens(store, Wanted(columns=("other",))) is None


def test_each_token_has_its_latent(folder, tmp_path):
    cfg = RecoveryConfig(acts=folder / "acts", sae=folder / "sae", columns=("token",), n_resamples=100)
    result = recovery(cfg, tmp_path / "out")
    assert result["variables"]["token"]["found"]["value"] == 1
    assert result["variables"]["token"]["place"] == {"hook_name": HOOKS[0], "thought_idx": None}
    assert result["variables"]["token"]["permuted"]["found"]["value"] == 0


def test_a_column_that_is_not_there_is_named(folder, tmp_path):
    cfg = RecoveryConfig(acts=folder / "acts", sae=folder / "sae", columns=("token", "nowhere"))
    with pytest.raises(ConfigError, match="nowhere"):
        recovery(cfg, tmp_path / "out")
