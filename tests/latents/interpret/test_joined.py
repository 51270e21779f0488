"""What the latents of transcoders and crosscoders respond to, and where a crosscoder's live."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.planted import HOOKS, D, thought_store
from thoughtlens import sae as saes
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret

N, THOUGHTS = 60, 3


@pytest.fixture
def store(tmp_path):
    """Two hooks, three thoughts; direction 0 in all problems that add, at every place."""
    rng = np.random.default_rng(0)
    strengths = np.zeros((N, THOUGHTS, 2, D))
    strengths[..., 4:] = 0.3 * rng.random((N, THOUGHTS, 2, D - 4))
    strengths[::2, :, :, 0] = 2 + rng.random((N // 2, 1, 1))
    labels = {"operation": ["add" if i % 2 == 0 else "times" for i in range(N)]}
    return thought_store(tmp_path / "acts", strengths, labels), strengths


def crosscoder(root, over, W_dec):
    """Latent j reads direction j from the first site and writes `W_dec[j, site]` times it."""
    hooks = HOOKS if over == "layers" else HOOKS[:1]
    names = HOOKS if over == "layers" else tuple(f"t{i}" for i in range(THOUGHTS))
    cfg = saes.CrosscoderConfig(
        over=over, sites=names, d_sae=D, k=4, normalization="none", decoder_norm="free"
    )
    sae = saes.create(cfg, D, seed=0)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[0] = torch.eye(D)
        sae.b_enc.fill_(-1.0)
        sae.W_dec.copy_(torch.eye(D)[:, None] * W_dec[:, :, None])
        sae.b_dec.zero_()
    sae.hook_names = list(hooks)
    sae.provenance = {"split": "train", "thoughts": None}
    saes.save(sae, root)
    return root


def test_a_crosscoder_over_thoughts_says_what_persists(store, tmp_path):
    acts, strengths = store
    W_dec = torch.zeros(D, THOUGHTS)
    W_dec[0] = torch.tensor([4.0, 2.0, 2.0])
    W_dec[1:] = torch.tensor([1.0, 0.0, 0.0])
    sae = crosscoder(tmp_path / "sae", "thoughts", W_dec)
    result = interpret(InterpretConfig(acts=acts, sae=sae, min_units=5, n_permutations=20), tmp_path / "out")
    member = result["members"][0]
    assert (member["kind"], member["n"], member["n_problems"]) == ("crosscoder", N, N)
    assert member["thoughts"] == [0, 1, 2]
    assert member["n_alive"] == 1  # direction 0; the others stay below the bias of 1
    assert member["persistence"] == {
        "persists": 1, "appears": 0, "vanishes": 0, "passing": 0, "returns": 0, "silent": D - 1
    }  # fmt: skip
    sites = pq.read_table(tmp_path / "out" / "sites.parquet").to_pylist()[:THOUGHTS]
    mean = float(strengths[::2, 0, 0, 0].mean()) - 1
    assert [row["thought_idx"] for row in sites] == [0, 1, 2]
    assert [row["norm"] for row in sites] == [4, 2, 2]
    assert [row["share"] for row in sites] == [1, 0.5, 0.5]
    assert [row["norm_share"] for row in sites] == pytest.approx([16 / 24, 4 / 24, 4 / 24])
    assert [row["written"] for row in sites] == pytest.approx([4 * mean, 2 * mean, 2 * mean], rel=1e-5)
    assert {row["status"] for row in sites} == {"persists"}
    best = pq.read_table(tmp_path / "out" / "top_examples.parquet").to_pylist()[0]
    assert best["problem_id"] == f"p{int(strengths[:, 0, 0, 0].argmax())}"
    assert best["value"] == pytest.approx(strengths[:, 0, 0, 0].max() - 1)
    preferred = pq.read_table(tmp_path / "out" / "associations.parquet").to_pylist()
    (adds,) = [r for r in preferred if r["factor"] == "label:operation" and r["level"] == "add"]
    assert (adds["rate_in"], adds["rate_out"]) == (1, 0)


def test_a_crosscoder_over_layers_has_one_code_a_thought(store, tmp_path):
    acts, strengths = store
    W_dec = torch.ones(D, 2)
    W_dec[0] = torch.tensor([1.0, 0.1])
    sae = crosscoder(tmp_path / "sae", "layers", W_dec)
    config = InterpretConfig(acts=acts, sae=sae, min_units=5, n_permutations=20, present_share=0.2)
    result = interpret(config, tmp_path / "out")
    member = result["members"][0]
    assert (member["n"], member["n_problems"]) == (N * THOUGHTS, N)
    assert member["persistence"]["vanishes"] == 1
    sites = pq.read_table(tmp_path / "out" / "sites.parquet").to_pylist()[:2]
    assert [(row["hook_name"], row["thought_idx"], row["present"]) for row in sites] == [
        (HOOKS[0], None, True), (HOOKS[1], None, False)
    ]  # fmt: skip
    best = pq.read_table(tmp_path / "out" / "top_examples.parquet").to_pylist()[0]
    assert best["strip_thought"] == [0, 1, 2]
    assert best["hook_name"] == "+".join(HOOKS)
    problem = int(best["problem_id"].removeprefix("p"))
    assert best["acts"] == pytest.approx(strengths[problem, :, 0, 0] - 1, rel=1e-5)


def test_a_transcoder_s_latents_are_read_on_its_input(store, tmp_path):
    acts, strengths = store
    cfg = saes.TranscoderConfig(d_sae=D, k=4, normalization="none", hook_in=HOOKS[1], hook_out=HOOKS[0])
    sae = saes.create(cfg, D, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D))
        sae.b_enc.fill_(-1.0)
    sae.hook_names = [HOOKS[1]]
    sae.provenance = {"split": "train", "thoughts": None}
    saes.save(sae, tmp_path / "sae")
    config = InterpretConfig(acts=acts, sae=tmp_path / "sae", min_units=5, n_permutations=20)
    member = interpret(config, tmp_path / "out")["members"][0]
    assert (member["n"], member["n_alive"], member["hook_names"]) == (N * THOUGHTS, 1, [HOOKS[1]])
    latents = pq.read_table(tmp_path / "out" / "latents.parquet").to_pylist()
    assert latents[0]["n_fires"] == N // 2 * THOUGHTS
    assert latents[0]["max_active"] == pytest.approx(strengths[..., 0].max() - 1)
    assert not (tmp_path / "out" / "sites.parquet").exists()
