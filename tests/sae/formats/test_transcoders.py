"""Transcoders are known as such in every layout that they are published in, and never taken for SAEs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.sae.formats import foreign
from thoughtlens import sae as saes
from thoughtlens.core import MismatchError
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert
from thoughtlens.sae.formats.open import load_sae

X = 3 * foreign.draw(30, foreign.D_IN, seed=4)


def early(root, *, unit=True, beside=None, skip=False, **cfg):
    """sparsify before its key `transcode`: the folder's settings do not say what it is."""
    path = foreign.sparsify(root, skip_connection=skip, **cfg)
    table = json.loads((path / "cfg.json").read_text())
    del table["transcode"]
    (path / "cfg.json").write_text(json.dumps(table))
    if unit:
        t = load_file(path / "sae.safetensors")
        t["W_dec"] = t["W_dec"] / t["W_dec"].norm(dim=1, keepdim=True)
        save_file(t, path / "sae.safetensors")
    if beside is not None:
        foreign.write_json(root / "config.json", {"model": "EleutherAI/pythia-70m", "ctx_len": 64} | beside)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sae", {"beside": {"transcode": True}}),
        ("sae", {"beside": {"sae": {"transcode": True}}}),
        ("sae", {"skip": True}),
        ("sae", {"unit": False}),  # SAEs keep rows of length 1
        ("EleutherAI--skip-transcoder-Llama-3.2-1B-128x", {}),
        ("sae", {"beside": {"transcode": True}, "normalize_decoder": False}),
    ],
)
@torch.no_grad()
def test_transcoders_of_an_early_sparsify(tmp_path, name, options):
    path = early(tmp_path / name, **options)
    sae = saes.load(path)
    assert not sae.reconstructs and (sae.hook_names, sae.cfg.hook_out) == (
        ["layers.2.mlp:in"],
        "layers.2.mlp:out",
    )
    assert any("transcoder of an early sparsify" in note for note in sae.provenance["imported"]["notes"])
    with pytest.raises(MismatchError, match="Expected SAEs that reconstruct their own input"):
        saes.load_members(path)
    t = load_file(path / "sae.safetensors")  # its code took b_dec off the input, of transcoders too
    pre = ((X - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    kept = torch.zeros_like(pre).scatter(1, pre.topk(foreign.K).indices, 1.0)
    expected = (pre * kept) @ t["W_dec"] + t["b_dec"]
    expected = expected + X @ t["W_skip"].T if "W_skip" in t else expected
    assert torch.allclose(sae(X), expected, rtol=1e-4, atol=1e-4)
    convert(ConvertConfig(source=path, to="sparsify"), tmp_path / "again" / "layers.2.mlp")
    assert torch.allclose(saes.load(tmp_path / "again" / "layers.2.mlp")(X), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"beside": {"transcode": False}, "unit": False}, {"beside": {}}, {}])
def test_saes_of_an_early_sparsify(tmp_path, options):
    sae = saes.load_members(early(tmp_path / "sae-llama-3-8b-32x", **options))["pooled"]
    assert sae.hook_names == ["layers.2.mlp:out"]
    says = sae.provenance.get("says", {})
    assert says.get("context_size") == (64 if "beside" in options else None)


def test_a_repository_of_sparsify_has_its_embedding_and_its_seeds(tmp_path):
    path = foreign.sparsify(tmp_path)
    shutil.copytree(path, tmp_path / "embed_tokens")
    shutil.copytree(path, tmp_path / "gpt_neox.layers.0" / "seed1")
    members = saes.load_members(tmp_path, hooks={"layers.2.mlp:out": 6, "embed:out": 6})
    assert {name: sae.hook_names for name, sae in members.items()} == {
        "embed_tokens": ["embed:out"],
        "layers.2.mlp": ["layers.2.mlp:out"],
    }
    assert saes.load(tmp_path / "gpt_neox.layers.0" / "seed1").hook_names == ["layers.0:out"]


def gemma_scope(root, repository, *folders):
    path = root.joinpath(repository, *folders)
    path.mkdir(parents=True)
    t = foreign.four() | {"threshold": foreign.draw(foreign.D_SAE, seed=5).abs()}
    np.savez(path / "params.npz", **{name: tensor.numpy() for name, tensor in t.items()})
    return path


@pytest.mark.parametrize(
    ("repository", "folders", "hook", "model"),
    [
        (
            "gemma-scope-2b-pt-res",
            ("layer_20", "width_16k", "average_l0_71"),
            "layers.20:out",
            "google/gemma-2-2b",
        ),
        (
            "gemma-scope-9b-it-res",
            ("layer_9", "width_16k", "canonical"),
            "layers.9:out",
            "google/gemma-2-9b-it",
        ),
        (
            "gemma-scope-2b-pt-mlp-canonical",
            ("layer_3", "width_65k", "canonical"),
            "layers.3.post_feedforward_layernorm:out",
            "google/gemma-2-2b",
        ),
        (
            "gemma-scope-9b-pt-att",
            ("layer_1", "width_16k"),
            "layers.1.self_attn.o_proj:in",
            "google/gemma-2-9b",
        ),
        (
            "gemma-scope-2b-pt-res",
            ("embedding", "width_4k", "average_l0_6"),
            "embed:out",
            "google/gemma-2-2b",
        ),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_gemma_scope_by_its_folders(tmp_path, repository, folders, hook, model, cached):
    where = (f"models--google--{repository}", "snapshots", "a" * 40) if cached else (repository,)
    path = gemma_scope(tmp_path, *where, *folders)
    if cached:  # the hub's cache holds links to files of other names
        blob = tmp_path / where[0] / "blobs" / "b0b"
        blob.parent.mkdir(exist_ok=True)
        (path / "params.npz").rename(blob)
        (path / "params.npz").symlink_to(blob)
    sae = saes.load_members(path)["pooled"]
    assert (sae.hook_names, sae.provenance["model"]) == ([hook], model)
    assert sae.provenance["says"]["prepend_bos"] is True


def test_transcoders_of_gemma_scope_are_known_by_their_repository(tmp_path):
    path = gemma_scope(tmp_path, "gemma-scope-2b-pt-transcoders", "layer_5", "width_16k", "average_l0_76")
    sae = saes.load(path)
    assert not sae.reconstructs and sae.cfg.hook_out == "layers.5.post_feedforward_layernorm:out"
    with pytest.raises(MismatchError, match="Expected SAEs that reconstruct"):
        saes.load_members(path)
    with pytest.raises(MismatchError, match="cannot hold a transcoder"):
        convert(ConvertConfig(source=path, to="gemma_scope"), tmp_path / "out")


def test_one_that_does_not_say_what_it_is_is_looked_at(tmp_path):
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(100, 80, generator=generator)
    other = torch.randn(80, 100, generator=generator)
    for name, W_enc in (("sae", W.T), ("transcoder", other)):
        t = {"W_enc": W_enc, "W_dec": W, "b_enc": torch.zeros(100), "b_dec": torch.zeros(80)}
        (tmp_path / name).mkdir()
        np.savez(
            tmp_path / name / "params.npz", **{k: v.numpy() for k, v in t.items()}, threshold=np.zeros(100)
        )
        notes = saes.load(tmp_path / name).provenance["imported"]["notes"]
        assert [("unrelated directions" in note) for note in notes] == [True] * (name == "transcoder")


@pytest.mark.parametrize("change", [{"hook_name_out": "blocks.3.hook_mlp_out"}, {}])
@torch.no_grad()
def test_sae_lens_before_it_had_a_class_for_them(tmp_path, change):
    metadata = {"sae_lens_version": "6.0.0", "model_name": "gpt2", "hook_name": "blocks.3.hook_resid_mid"}
    if change:
        path = foreign.sae_lens(tmp_path, "standard", metadata=metadata | change)
    else:  # transcoder_circuits' settings
        path = foreign.sae_lens(tmp_path, "standard")
        old = {"d_in": 6, "d_sae": 20, "is_transcoder": True, "hook_point": "blocks.3.hook_resid_mid",
               "out_hook_point": "blocks.3.hook_mlp_out", "model_name": "gpt2"}  # fmt: skip
        (path / "cfg.json").write_text(json.dumps(old))
    sae, t = saes.load(path), foreign.four()
    assert not sae.reconstructs and (sae.hook_names, sae.cfg.hook_out) == (
        ["layers.3.ln_2:in"],
        "layers.3.mlp:out",
    )
    pre = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    assert torch.allclose(sae(X), pre @ t["W_dec"] + t["b_dec"], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dictionary_learning_with_both_sides_of_a_module(tmp_path):
    path = foreign.dictionary(tmp_path, "AutoEncoder", submodule_name="gpt_neox.layers.3.mlp")
    table = json.loads((path / "config.json").read_text())
    plain = saes.load(path)
    (path / "config.json").write_text(json.dumps(table | {"buffer": {"io": "in_and_out"}}))
    sae = saes.load(path)
    assert plain.reconstructs and plain.hook_names == ["layers.3.mlp:out"] and not sae.reconstructs
    assert (sae.hook_names, sae.cfg.hook_out) == (["layers.3.mlp:in"], "layers.3.mlp:out")
    assert torch.allclose(sae(X), plain(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"old": True}, {"skip": True}, {"threshold": True}])
@torch.no_grad()
def test_circuit_tracer(tmp_path, options):
    path = foreign.circuit_tracer(tmp_path, **options)
    for source in (path, path / "layer_5.safetensors"):
        sae = saes.load(source)
        assert not sae.reconstructs
        assert sae.hook_names == ["layers.5.post_attention_layernorm:in"]
        assert sae.cfg.hook_out == "layers.5.mlp:out"
    t = foreign.four(foreign.D_OUT)
    acts = (X @ t["W_enc"] + t["b_enc"]).relu()
    if "threshold" in options:
        acts = acts * (acts > foreign.draw(foreign.D_SAE, seed=5).abs())
    expected = acts @ t["W_dec"] + t["b_dec"]
    if "skip" in options:
        expected = expected + X @ foreign.draw(foreign.D_OUT, foreign.D_IN, seed=6).T
    assert torch.allclose(sae(X), expected, rtol=1e-4, atol=1e-4)


def test_what_circuit_tracer_cannot_hold(tmp_path):
    with pytest.raises(MismatchError, match="cannot hold a reconstruction of its own input"):
        convert(
            ConvertConfig(source=foreign.sae_lens(tmp_path, "standard"), to="circuit_tracer"),
            tmp_path / "out",
        )


def test_a_file_of_a_repository_is_fetched_with_what_stands_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root, commit = tmp_path / "hub" / "models--mine--transcoders", "a" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    foreign.circuit_tracer(root / "snapshots" / commit)
    assert load_sae("mine/transcoders:layer_5.safetensors").hook_names == [
        "layers.5.post_attention_layernorm:in"
    ]


def test_a_finished_folder_of_sae_lens_with_the_state_of_its_trainer(tmp_path):
    path = foreign.sae_lens(tmp_path, "topk")
    torch.save({"optimizer": {"state": {}}, "n_training_steps": 3}, path / "trainer_state.pt")
    save_file({"sparsity": torch.zeros(foreign.D_SAE)}, path / "sparsity.safetensors")
    assert saes.load_members(path)["pooled"].provenance["imported"]["format"] == "sae_lens"
