"""sae-probes' own runner takes our SAEs, and our reproduction of its protocol gives its numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.evals.suites.planted import planted_rows, probe_sae
from thoughtlens.evals.suites.adaptor import as_sae_lens
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.evals.suites.theirs import theirs
from thoughtlens.problems.text.labelled import PREFIX, binary_sets, labelled

pytest.importorskip("sae_lens", reason="SAELens is not installed")
pytest.importorskip("xgboost", reason="xgboost, which sae-probes imports, is not installed")
sae_probes = pytest.importorskip("sae_probes", reason="sae-probes is not installed")
pytestmark = pytest.mark.filterwarnings("default")
NAME = "119_us_state_TX"
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def planted(tmp_path):
    table = labelled(PREFIX + NAME)
    y = np.unique(table["label"].to_pylist(), return_inverse=True)[1]
    x = planted_rows(y)
    cache = tmp_path / "cache" / "model_activations_tiny"
    cache.mkdir(parents=True)
    torch.save(x, cache / f"{NAME}_{HOOK}.pt")
    groups = np.unique(table["group"].to_pylist(), return_inverse=True)[1]
    return x, y, groups, tmp_path


def test_the_sets_are_those_of_the_package():
    sizes = sae_probes.utils_data.get_dataset_sizes()
    assert list(sizes) == binary_sets()
    for name in list(sizes)[::8]:
        assert len(labelled(PREFIX + name)) == sizes[name]
        theirs = sae_probes.utils_data.get_yvals(name)
        ours = np.unique(labelled(PREFIX + name)["label"].to_pylist(), return_inverse=True)[1]
        assert (ours == theirs).all()


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_scores_are_those_of_the_package(planted, penalty):
    x, y, groups, root = planted
    sae, ks = as_sae_lens(probe_sae(), model_name="tiny"), [1, 4, 16]
    sae_probes.run_sae_evals(
        sae, "tiny", HOOK, penalty, "normal", ks=ks, device="cpu",
        results_path=root / "results", model_cache_path=root / "cache", datasets=[NAME],
    )  # fmt: skip
    sae_probes.run_baseline_evals(
        model_name="tiny", hook_name=HOOK, setting="normal", method="logreg", device="cpu",
        results_path=root / "results", model_cache_path=root / "cache", datasets=[NAME],
    )  # fmt: skip
    cfg = SuiteConfig(sae=root, ks=tuple(ks), penalty=penalty, n_resamples=100)
    found = theirs(x.numpy(), sae.encode(x).detach().numpy(), y, groups, cfg)
    files = sorted((root / "results").rglob("*.json"))
    rows = {row.get("k"): row for file in files for row in json.loads(file.read_text())}
    assert set(rows) == {None, *ks}
    for row in found.table:
        peer = rows[row.k]
        for ours, name in (
            ("auc", "test_auc"),
            ("accuracy", "test_acc"),
            ("f1", "test_f1"),
            ("val_auc",) * 2,
        ):
            assert getattr(row, ours) == pytest.approx(peer[name], abs=1e-12), (row.k, ours)
    assert found.latents == rows[16]["indices"]
