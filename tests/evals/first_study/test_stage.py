"""The first study's pipeline on planted thoughts, and what each correction moves."""

from __future__ import annotations

import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.planted import D, thought_store
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, DataError
from thoughtlens.evals.first_study.config import ReplayConfig
from thoughtlens.evals.first_study.data import load_problems
from thoughtlens.evals.first_study.protocol import LADDER, Replay, first_sae, protocols
from thoughtlens.evals.first_study.stage import plan, replay
from thoughtlens.problems.tasks.gsm8k import CLASSES
from thoughtlens.studies import pipeline

pytestmark = pytest.mark.slow

N = 120


def planted(root, *, n=N, twins=1, noise=0.0, seed=0, thoughts=7):
    """Labels written at hook 1, thought 2; `twins` copies of every problem share a group."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) // twins % 3
    strengths = np.where(rng.random((n, thoughts, 2, D)) < 0.2, rng.random((n, thoughts, 2, D)), 0)
    strengths[:, 2, 1, 3], strengths[:, 2, 1, 4] = 2.0 * (y == 1), 2.0 * (y == 2)
    checked = [CLASSES[i] for i in y]
    wrong = rng.random(n) < noise
    first = [CLASSES[(i + 1) % 3] if w else CLASSES[i] for i, w in zip(y, wrong, strict=True)]
    groups = [f"g{i // twins}" for i in range(n)]
    labels = {"operation": first, "label_regex": first, "label_annotation": checked}
    return thought_store(root / "acts", strengths, labels, groups=groups), wrong


def fast(acts, **options):
    return ReplayConfig(acts=acts, **{"n_per_class": 30, "epochs": 3.0, "k": 6, "folds": 3, **options})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("replay")
    acts, wrong = planted(root, noise=0.1)
    return root, wrong, replay(fast(acts), root / "replay")


def test_every_line_changes_one_thing(run):
    root, _, result = run
    assert [row["change"] for row in result["ladder"]] == [name for name, _, _ in LADDER]
    before = None
    for row, (_, _, protocol) in zip(result["ladder"], protocols(), strict=True):
        if before is not None:
            changed = [k for k in vars(protocol) if getattr(protocol, k) != getattr(before[1], k)]
            assert len(changed) == 1
            assert row["moved"] == pytest.approx(row["difference"] - before[0]["difference"])
        before = row, protocol
    text = (root / "replay" / "table.md").read_text()
    assert all(f"**{name}**" in text for name, _, _ in LADDER)


def test_two_test_sets_cannot_be_paired(run):
    first, second, third = run[2]["ladder"][:3]
    assert first["verdict"] == "not paired" and first["low"] is None
    assert first["n"] == 18 and first["n_tested_by_both"] < 18  # 20 % of 90
    assert second["n_tested_by_both"] == second["n"] == 18 and second["low"] is not None
    assert third["n"] == 90


def test_label_noise_is_what_it_costs(run):
    _, _, result = run
    rows = {row["change"]: row for row in result["ladder"]}
    assert 0 < result["labels_differ"] < 25 and result["unlabelled"] == 0
    ceiling = 1 - result["labels_differ"] / result["n_problems"]
    assert rows["test-set SAE"]["raw"] <= ceiling + 0.05
    assert rows["label noise"]["raw"] > rows["test-set SAE"]["raw"]


def test_the_draw_is_the_studys(tmp_path):
    acts, _ = planted(tmp_path, n=150)
    data = load_problems(ActivationStore.open(acts), 25)
    labels = [CLASSES[i % 3] for i in range(150)]
    rng = random.Random(42)
    expected = [i for name in CLASSES for i in rng.sample([j for j in range(150) if labels[j] == name], 25)]
    assert data.first == [labels[i] for i in expected]
    store = ActivationStore.open(acts)
    # rows stand problem by problem, seven thoughts each
    np.testing.assert_array_equal(
        data.x[3, 2, 1], store.read(store.hook_names[1], np.array([7 * expected[3] + 2]))[0]
    )
    # a store of exactly these problems keeps its own order
    assert load_problems(store, 50).first == labels


def test_twins_help_until_they_are_kept_together(tmp_path):
    acts, _ = planted(tmp_path, twins=3)
    study = Replay(fast(acts), load_problems(ActivationStore.open(acts), 200))
    torn, whole = study.folds["folds"].outer, study.folds["grouped folds"].outer
    groups = study.data.groups
    assert any(len(set(torn[groups == g])) > 1 for g in np.unique(groups))
    assert all(len(set(whole[groups == g])) == 1 for g in np.unique(groups))


def test_saes_of_folds_have_not_seen_them(tmp_path):
    acts, _ = planted(tmp_path)
    data = load_problems(ActivationStore.open(acts), 30)
    last = protocols()[-1][2]
    before = Replay(fast(acts, epochs=1.0), data)
    weights = before.sae(last, 0).W_enc.clone()
    data.x[torch.from_numpy(before.folds["grouped folds"].outer == 0)] += 100.0
    torch.testing.assert_close(
        Replay(fast(acts, epochs=1.0), data).sae(last, 0).W_enc, weights, rtol=0, atol=0
    )


def test_the_studys_sae():
    cfg = first_sae(ReplayConfig(acts="x"))
    assert (cfg.l1, cfg.reconstruction, cfg.penalty, cfg.normalization) == (1e-3, "mean", "sum", "none")
    assert (cfg.decoder_norm, cfg.pre_bias, cfg.init, cfg.l1_warmup) == ("free", False, "linear", 0.0)


def test_refusals(tmp_path):
    acts, _ = planted(tmp_path / "few", n=45)
    with pytest.raises(DataError, match=r"20 problems of each .*15 of addition"):
        replay(fast(acts), tmp_path / "out")
    acts, _ = planted(tmp_path / "short", thoughts=4)
    with pytest.raises(ConfigError, match="thoughts 0 to 6"):
        replay(fast(acts), tmp_path / "out2")
    with pytest.raises(ConfigError, match="recipe has texts"):
        pipeline.load("text-demo", ["seed_protocol=true"])


def test_recipe_with_the_seed_protocol():
    assert "replay" not in pipeline.load("pilot").stages
    cfg = pipeline.load("pilot", ["seed_protocol=true"])
    assert set(cfg.stages) - set(pipeline.load("pilot").stages) == {"replay"} and cfg.stages[-1] == "report"
    assert not hasattr(cfg.problems, "seed_protocol")
    assert pipeline.load("pilot", ["seed_protocol=true", "problems.source=gsm8k"]).problems.seed_protocol


def test_same_bytes_again(run, tmp_path):
    root, _, result = run
    assert replay(fast(root / "acts"), tmp_path / "again")["digest"] == result["digest"]
    assert plan(fast(root / "acts")).rows > 0 and plan(fast(tmp_path)).rows == 0
    assert pq.read_table(root / "acts" / "problems.parquet").num_rows == N
