"""Pairs of SAEs whose relation was planted: the same in another order, unrelated, shared in part."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from tests.planted import HOOKS, D, planted_sae, thought_store
from thoughtlens import sae as saes
from thoughtlens.cli import app
from thoughtlens.core import ConfigError, DataError, MismatchError, NotThereError, load_config
from thoughtlens.latents.geometry import activation
from thoughtlens.latents.geometry.config import GeometryConfig
from thoughtlens.latents.geometry.stage import geometry, plan


def save_sae(root: Path, W_dec: torch.Tensor, name: str = "", digest: str | None = None) -> Path:
    """A ReLU SAE with these decoder rows, tied."""
    d_sae, d = W_dec.shape
    sae = saes.create(saes.ReLUConfig(d_sae=d_sae, normalization="none"), d, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(W_dec.T)
        sae.W_dec.copy_(W_dec)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    sae.hook_names = list(HOOKS)
    sae.provenance = {"split": "train", "thoughts": None} | ({"model_digest": digest} if digest else {})
    saes.save(sae, root / name)
    return root


def gaussian(n, d, seed):
    return torch.nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def run(out, **table):
    table = {k: [str(p) for p in v] if isinstance(v, list) else v for k, v in table.items()}
    return geometry(
        load_config(GeometryConfig, {k: str(v) if isinstance(v, Path) else v for k, v in table.items()}), out
    )


def test_the_same_latents_in_another_order_match_perfectly(tmp_path):
    W, order = gaussian(60, 16, 0), torch.randperm(60, generator=torch.Generator().manual_seed(1))
    a, b = save_sae(tmp_path / "a", W), save_sae(tmp_path / "b", 3 * W[order])
    result = run(tmp_path / "out", sae=a, others=[b])
    (pair,) = result["pairs"]
    assert pair["by"] == "decoder" and pair["mcc"] == pytest.approx(1, abs=1e-5) and pair["mcc_exact"]
    assert pair["mmcs_of_a"] == pair["mmcs_of_b"] == pytest.approx(1, abs=1e-5)
    assert pair["mcc_chance"] < 0.7 and pair["share_matched"]["0.9"] == 1
    matches = pq.read_table(tmp_path / "out" / "matches.parquet").to_pylist()
    assert [order[m["other"]].item() for m in matches] == [m["latent"] for m in matches] == list(range(60))
    assert all(m["score"] == pytest.approx(1, abs=1e-5) and m["null_score"] < 0.95 for m in matches)


def test_unrelated_directions_score_what_chance_scores(tmp_path):
    a, b = save_sae(tmp_path / "a", gaussian(80, 32, 0)), save_sae(tmp_path / "b", gaussian(80, 32, 1))
    (pair,) = run(tmp_path / "out", sae=a, others=[b])["pairs"]
    for name in ("mcc", "mmcs_of_a", "mmcs_of_b"):
        assert pair[name] == pytest.approx(pair[f"{name}_chance"], abs=0.03)


def test_stability_over_three_seeds_takes_every_pair(tmp_path):
    W = gaussian(20, 32, 0)
    dirs = [save_sae(tmp_path / str(i), torch.cat([W, gaussian(20, 32, i + 1)]), "pooled") for i in range(3)]
    result = run(tmp_path / "out", sae=dirs[0], others=dirs[1:])
    (row,) = result["stability"]
    assert row["n_pairs"] == 3 and row["member"] == "pooled" and row["share_matched"]["0.9"] == 0.5
    assert row["mcc_chance"] < row["mcc_least"] <= row["mcc"] < 0.8


def test_neighbours_by_hand(tmp_path):
    W = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 0], [0.3, 0, -2], [0, 0.8, 0.6]])
    run(tmp_path / "out", sae=save_sae(tmp_path / "a", W), k=1)
    rows = pq.read_table(tmp_path / "out" / "neighbours.parquet").to_pylist()
    # cosines: 0-1 0.6, 1-4 0.64, 0-3 0.3 / sqrt(4.09) = 0.148, 1-3 0.6 * 0.148; zeros have no direction
    assert [(r["latent"], r["other"]) for r in rows] == [(0, 1), (1, 4), (3, 0), (4, 1)]
    assert [r["cosine"] for r in rows] == pytest.approx([0.6, 0.64, 0.14834, 0.64], abs=1e-5)


def test_an_sae_of_unknown_hook_is_taken_for_the_only_one_of_its_width_in_the_store(tmp_path):
    thought_store(tmp_path / "acts", np.random.default_rng(0).random((20, 2, 1, D)), {})
    sae = saes.create(saes.ReLUConfig(d_sae=8, normalization="none"), D, seed=0)
    sae.hook_names, sae.provenance = [], {"imported": {}, "split": "train", "thoughts": None}
    saes.save(sae, tmp_path / "a")
    assert run(tmp_path / "out", sae=tmp_path / "a", acts=tmp_path / "acts")["members"] == ["pooled"]
    with pytest.raises(MismatchError, match=r"trained. Say it, .* --hook layers.8:out --out \S+/a-named$"):
        run(tmp_path / "none", sae=tmp_path / "a")


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """Two "models" on the same problems: latent j of one does what 15 - j of the other does, for j < 4."""
    root = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(3)
    n, shared = 300, 4
    ours, theirs = (np.where(rng.random((n, 3, 2, D)) < 0.5, rng.random((n, 3, 2, D)), 0) for _ in range(2))
    strong = np.where(rng.random((n, shared)) < 0.4, 2 + rng.random((n, shared)), 0)
    for j in range(shared):
        ours[:, 1, :, j] = strong[:, [j]]
        theirs[:, 2, :, D - 1 - j] = strong[:, [j]]
    thought_store(root / "one", ours, {})
    thought_store(root / "two", theirs, {})
    planted_sae(root / "sae_one")
    planted_sae(root / "sae_two")
    return root


def test_planted_latents_exceed_permuted_problems_and_the_others_do_not(two_models, tmp_path):
    root = two_models
    result = run(
        tmp_path / "out", sae=root / "sae_one", others=[root / "sae_two"], acts=root / "one",
        other_acts=[root / "two"], by=["activation"],
    )  # fmt: skip
    (pair,) = result["pairs"]
    assert pair["n_units_fit"] == pair["n_units_held_out"] == 150 and pair["n"] == D
    matches = pq.read_table(tmp_path / "out" / "matches.parquet").to_pylist()
    for match in matches[:4]:
        assert match["other"] == D - 1 - match["latent"] and match["score"] > 0.5
        assert match["p_max"] <= 0.05 and abs(match["null_score"]) < 0.4
    assert all(match["p_max"] > 0.05 for match in matches[4:])
    assert pair["share_above_permuted"] == 4 / D
    assert pair["mcc"] > 0.1 > abs(pair["mcc_chance"])


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Two SAEs that know the 40 sparse atoms behind a store, beside 24 directions, and two untrained."""
    root, rng = tmp_path_factory.mktemp("learned"), np.random.default_rng(1)
    atoms, *own = (gaussian(n, D, seed) for n, seed in ((40, 101), (24, 201), (24, 301)))
    strengths = np.where(rng.random((600, 2, 1, 40)) < 0.08, 1 + rng.random((600, 2, 1, 40)), 0)
    thought_store(root / "acts", strengths @ atoms.numpy(), {})
    known = {"learned": torch.cat([atoms, own[0]]), "again": torch.cat([own[1], atoms])}
    for seed, name in enumerate(("learned", "again", "new", "other_new")):
        sae = saes.create(saes.TopKConfig(d_sae=64, k=8, normalization="none"), D, seed=seed)
        if name in known:
            with torch.no_grad():
                sae.W_enc.copy_(known[name].T)
                sae.W_dec.copy_(known[name])
        sae.hook_names, sae.provenance = [HOOKS[0]], {"split": "train", "thoughts": None}
        saes.save(sae, root / name)
    return root


@pytest.mark.parametrize("one", ["learned", "new"])
@pytest.mark.parametrize("other", ["again", "other_new"])
def test_what_untrained_saes_share_is_not_transferred(learned, tmp_path, one, other):
    result = run(
        tmp_path / "out", sae=learned / one, others=[learned / other], acts=learned / "acts",
        by=["activation"], n_permutations=60,
    )  # fmt: skip
    (pair,), headline = result["pairs"], result["headline"]
    # all read the same rows, so nearly all exceed permuted problems, untrained ones too
    assert pair["share_above_permuted"] > 0.7 and pair["share_above_permuted_untrained"] > 0.7
    assert headline["share_above_permuted"]["chance"] == pair["share_above_permuted_untrained"]
    if (one, other) == ("learned", "again"):
        assert 30 / 64 < pair["share_transferred"] <= 44 / 64
    else:
        assert pair["share_transferred"] <= 0.08
    rows = pq.read_table(tmp_path / "out" / "matches.parquet").to_pylist()
    assert sum(row["transferred"] for row in rows) == round(64 * pair["share_transferred"])


def test_shares_by_decoder_stand_beside_untrained_directions(learned, tmp_path):
    result = run(tmp_path / "out", sae=learned / "new", others=[learned / "other_new"])
    (pair,), (row,) = result["pairs"], result["stability"]
    for t, share in pair["share_matched"].items():
        assert share == pytest.approx(pair["share_matched_chance"][t], abs=0.12)
    assert row["share_matched_chance"] == pair["share_matched_chance"]
    (known,) = run(tmp_path / "known", sae=learned / "learned", others=[learned / "again"])["pairs"]
    assert known["share_matched"]["0.9"] > 0.5 > 0.1 > known["share_matched_chance"]["0.9"]


def test_noise_is_not_transferred_however_many_candidates_there_are():
    rng = np.random.default_rng(0)
    a, b, *new = (torch.from_numpy(rng.random((200, 60)).astype(np.float32)) for _ in range(5))
    new = activation.Untrained(new[0], (new[1], new[2]))
    summary, table = activation.compare(a, b, np.arange(60), new, n_permutations=60, seed=0)
    assert table.fit_score.mean() > 0.3  # the best of 200 on 30 problems
    assert abs(summary.mean_score) < 0.05 and summary.share_transferred == 0


def test_dependent_problems_stay_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    a, b, *new = (
        torch.from_numpy(np.repeat(rng.random((30, 40)), 5, axis=1).astype(np.float32)) for _ in range(5)
    )
    new = activation.Untrained(new[0], (new[1], new[2]))
    summary, table = activation.compare(a, b, groups, new, n_permutations=100, seed=0)
    assert summary.n_units_fit == 100 and summary.share_transferred == 0
    assert (table.p <= 0.05).mean() < 0.2


def test_rows_can_be_the_unit(two_models, tmp_path):
    root = two_models
    result = run(
        tmp_path / "out", sae=root / "sae_one", others=[root / "sae_one"], acts=root / "one", unit="row",
        n_units=600, by=["activation"],
    )  # fmt: skip
    (pair,) = result["pairs"]
    assert pair["mcc"] == pytest.approx(1, abs=1e-4) and pair["n_units_fit"] + pair["n_units_held_out"] == 600


def test_dead_latents_are_left_out(two_models, tmp_path):
    strengths = np.random.default_rng(0).random((30, 3, 2, D))
    strengths[..., 5] = 0
    thought_store(tmp_path / "acts", strengths, {})
    sae = planted_sae(tmp_path / "sae")
    (pair,) = run(tmp_path / "out", sae=sae, others=[sae], acts=tmp_path / "acts", by=["decoder"])["pairs"]
    assert pair["n"] == D - 1 and pair["mcc"] == 1


def test_members_of_one_directory_are_compared_with_each_other(tmp_path):
    root = save_sae(tmp_path / "sae", gaussian(10, 8, 0), "x")
    save_sae(root, gaussian(10, 8, 1), "y")
    save_sae(root, gaussian(10, 9, 1), "narrow")
    result = run(tmp_path / "out", sae=root)
    assert [(p["member"], p["other_member"], p["other_sae"]) for p in result["pairs"]] == [("x", "y", "")]
    assert result["stability"] == [] and plan(GeometryConfig(sae=root)).rows == 30


def test_refusals(two_models, tmp_path):
    root = two_models
    a, b = (
        save_sae(tmp_path / "a", gaussian(6, 8, 0), digest="1"),
        save_sae(tmp_path / "b", gaussian(6, 8, 0), digest="2"),
    )
    with pytest.raises(ConfigError, match="one model and width"):
        run(tmp_path / "1", sae=a, others=[b])
    with pytest.raises(ConfigError, match="stores of both"):
        run(tmp_path / "2", sae=a, others=[a], by=["activation"])
    with pytest.raises(NotThereError, match="members"):
        run(tmp_path / "3", sae=a, members=["none"])
    with pytest.raises(MismatchError, match="--acts"):
        run(tmp_path / "4", sae=a, others=[b], acts=root / "one")
    with pytest.raises(ConfigError, match="other_acts"):
        run(tmp_path / "5", sae=a, others=[b], acts=root / "one", other_acts=[root / "one", root / "two"])
    strengths = np.random.default_rng(0).random((30, 3, 2, D))
    other = thought_store(tmp_path / "acts", strengths, {}, questions=[f"another {i}" for i in range(30)])
    pair = {
        "sae": root / "sae_one",
        "others": [root / "sae_two"],
        "acts": root / "one",
        "other_acts": [other],
    }
    with pytest.raises(MismatchError, match="same_questions"):
        run(tmp_path / "6", **pair)
    assert run(tmp_path / "7", **pair, same_questions=False)["pairs"][1]["n_units_fit"] == 15
    few = thought_store(tmp_path / "few", strengths[:7], {})
    with pytest.raises(DataError, match="at least 8 groups"):
        run(tmp_path / "8", **pair | {"other_acts": [few]})


def test_the_command_takes_saes_and_stores_in_turn(two_models, tmp_path):
    root, out = two_models, tmp_path / "out"
    words = ["geometry", "--sae", root / "sae_one", "--acts", root / "one", "--sae", root / "sae_two"]
    words += ["--acts", root / "two", "--out", out, "n_permutations=20"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    pairs = json.loads((out / "result.json").read_text())["pairs"]
    assert [pair["by"] for pair in pairs] == ["decoder", "activation"]
    assert pairs[0]["mcc"] == pytest.approx(1) and pairs[1]["other_member"] == "pooled"
    one = CliRunner().invoke(app, ["geometry", "--sae", str(root / "sae_one"), "--plan", "--out", str(out)])
    assert json.loads(one.stdout)["plan"]["rows"] == D
