"""Transcoders are known as such in every layout that they are published in, and never taken for SAEs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.sae.formats import foreign
from thoughtlens import sae as saes
from thoughtlens.core import CheckpointError, ConfigError, MismatchError, NotThereError
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert
from thoughtlens.sae.formats.open import load_sae
from thoughtlens.sae.kinds.config import ImportedConfig

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


@pytest.mark.parametrize("options", [{}, {"old": True}, {"skip": True}, {"threshold": True}, {"k": 12}])
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
    if "k" in options:  # some rows have fewer than 12 of 20 above 0: what is below stays, too
        pre = X @ t["W_enc"] + t["b_enc"]
        acts = pre * torch.zeros_like(pre).scatter(1, pre.topk(12).indices, 1.0)
        assert (acts < 0).any()
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


def transcoders(root, model, sides, n=2, rules=("topk",), width=8, d=6):
    """Transcoders of some layers in this project's own format."""
    for layer in range(n):
        hook_in, hook_out = (side.format(layer) for side in sides)
        rule = rules[layer % len(rules)]
        table = {"d_sae": width, "hook_out": hook_out, "skip": layer % 2 == 1, "pre_bias": False, "k": 3}
        if rule == "topk":
            cfg = saes.TranscoderConfig(**table, hook_in=hook_in, normalization="none", decoder_norm="free")
        else:
            cfg = ImportedConfig(
                **table, rule=rule, transcoder=True, normalization="none", decoder_norm="free"
            )
        sae = saes.create(cfg, d, seed=layer)
        for p in sae.parameters():
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(layer))
            p.data = p.data.abs() if p is getattr(sae, "threshold", None) else p.data
        sae.hook_names, sae.provenance = [hook_in], {"model": model}
        saes.save(sae, root / f"layers.{layer}")
    return root


SIDES = {
    "gpt2": ("layers.{}.mlp:in", "layers.{}.mlp:out", "mlp.hook_in", "hook_mlp_out"),
    "meta-llama/Llama-3.2-1B": (
        "layers.{}.post_attention_layernorm:in", "layers.{}.mlp:out", "hook_resid_mid", "hook_mlp_out"),
    "google/gemma-2-2b": ("layers.{}.mlp:in", "layers.{}.mlp:out", "mlp.hook_in", "mlp.hook_out"),
    "EleutherAI/pythia-70m": ("layers.{}:in", "layers.{}:out", "hook_resid_pre", "hook_resid_post"),
    "facebook/opt-125m": ("layers.{}.fc1:in", "layers.{}.fc2:out", "mlp.hook_in", "hook_mlp_out"),
    "somebody/newmodel": ("layers.{}.mlp:in", "layers.{}.mlp:out", "mlp.hook_in", "hook_mlp_out"),
}  # fmt: skip


@pytest.mark.parametrize("model", SIDES)
@pytest.mark.parametrize("rules", [("topk",), ("jumprelu", "relu")])
@torch.no_grad()
def test_layers_go_to_circuit_tracer_in_one_folder_and_come_back(tmp_path, model, rules):
    *sides, read, written = SIDES[model]
    convert(
        ConvertConfig(source=transcoders(tmp_path / "own", model, sides, rules=rules), to="circuit_tracer"),
        tmp_path / "out",
    )
    said = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert said.pop("k", None) == (3 if rules == ("topk",) else None)
    assert said.pop("activation", None) == ("topk" if rules == ("topk",) else None)
    assert said == {
        "model_name": model, "model_kind": "transcoder_set",
        "feature_input_hook": read, "feature_output_hook": written,
    }  # fmt: skip
    convert(ConvertConfig(source=tmp_path / "out", to="thoughtlens"), tmp_path / "back")
    own, there = (
        saes.load_members(tmp_path / "own", joined=True),
        saes.load_members(tmp_path / "out", joined=True),
    )
    back = saes.load_members(tmp_path / "back", joined=True)
    assert [*there] == [*back] == ["layer_0", "layer_1"]
    for i, sae in enumerate(own.values()):
        t = load_file(tmp_path / "out" / f"layer_{i}.safetensors")  # circuit-tracer's forward pass
        pre = X @ t["W_enc"].T + t["b_enc"]
        acts = pre.relu()
        if rules == ("topk",):
            acts = pre * torch.zeros_like(pre).scatter(1, pre.topk(3).indices, 1.0)
        elif "activation_function.threshold" in t:
            acts = pre * (pre > t["activation_function.threshold"])
        x_hat = acts @ t["W_dec"] + t["b_dec"] + (X @ t["W_skip"].T if "W_skip" in t else 0)
        assert ("W_skip" in t) == (i == 1)
        for other in (sae, there[f"layer_{i}"], back[f"layer_{i}"]):
            assert other.d_sae == 8
            assert torch.allclose(other(X), x_hat, rtol=1e-5, atol=1e-5)
            assert (other.hook_names, other.cfg.hook_out) == (sae.hook_names, sae.cfg.hook_out)


def test_several_layers_of_circuit_tracer_are_named_where_one_is_asked_for(tmp_path):
    sides = SIDES["gpt2"][:2]
    convert(
        ConvertConfig(source=transcoders(tmp_path / "own", "gpt2", sides), to="circuit_tracer"),
        tmp_path / "out",
    )
    with pytest.raises(NotThereError, match=r"found 2 in it \(layer_0, layer_1\)"):
        saes.load(tmp_path / "out")
    with pytest.raises(MismatchError, match=r"layer_0\.safetensors: only validate"):
        saes.load_members(tmp_path / "out")
    foreign.sae_lens(tmp_path / "out", "topk")
    with pytest.raises(ConfigError, match="looks like sae_lens and circuit_tracer"):
        saes.load_members(tmp_path / "out", joined=True)


def test_what_does_not_go_into_one_folder_of_circuit_tracer(tmp_path):
    def go(name, model="gpt2", sides=SIDES["gpt2"][:2], **settings):
        source = transcoders(tmp_path / name, model, sides, **settings)
        return convert(ConvertConfig(source=source, to="circuit_tracer"), tmp_path / f"{name}_out")

    with pytest.raises(MismatchError, match="layer_1 has another activation, k than"):
        go("rules", rules=("topk", "relu"))
    with pytest.raises(MismatchError, match="two of these read layer 3"):
        go("same", sides=("layers.3.mlp:in", "layers.3.mlp:out"))
    with pytest.raises(MismatchError, match=r"no name for the hook layers\.0\.ln_1:out"):
        go("place", sides=("layers.{}.ln_1:out", "layers.{}.mlp:out"))
    source = transcoders(tmp_path / "gap", "gpt2", SIDES["gpt2"][:2], n=3)
    shutil.rmtree(source / "layers.1")
    result = convert(ConvertConfig(source=source, to="circuit_tracer"), tmp_path / "gap_out")
    assert any("layer 1 are missing" in text for text in result["warnings"])
    (tmp_path / "gap_out" / "config.yaml").write_text("model_kind: cross_layer_transcoder\n")
    with pytest.raises(
        CheckpointError, match=r"model_kind .cross_layer_transcoder. of config\.yaml is not read"
    ):
        saes.load(tmp_path / "gap_out" / "layer_0.safetensors")
    (tmp_path / "gap_out" / "config.yaml").write_text("activation: topk\n")
    with pytest.raises(CheckpointError, match="activation topk needs k"):
        saes.load(tmp_path / "gap_out" / "layer_0.safetensors")


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
