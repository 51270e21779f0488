"""Layouts of single publishers, beside their own formula in numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.sae.formats import foreign
from tests.sae.formats.foreign import D_IN, D_SAE, K, draw
from thoughtlens.core import CheckpointError, MismatchError
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert
from thoughtlens.sae.formats.catalogue import releases
from thoughtlens.sae.formats.formats import FORMATS, members, recognise
from thoughtlens.sae.formats.open import load_sae

X = 3 * draw(40, D_IN, seed=9)
NORMS = {"in": 5.0, "out": 7.0}


def linear():
    return {name: t.contiguous() for name, t in (foreign.linear() | {"decoder.bias": draw(D_IN)}).items()}


def llama(root, tensors=None, **settings):
    """As OpenMOSS's Language-Model-SAEs wrote Llama Scope in 2024."""
    said = {"hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post"}
    said |= {"act_fn": "jumprelu", "jump_relu_threshold": 0.35, "norm_activation": "dataset-wise"}
    said |= {"dataset_average_activation_norm": NORMS, "sparsity_include_decoder_norm": True, "d_model": D_IN}
    foreign.write_json(root / "hyperparams.json", said | settings)
    (root / "checkpoints").mkdir()
    save_file(tensors or linear(), root / "checkpoints" / "final.safetensors")
    return root


def arrays(tensors):
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def same(path, acts, x_hat):
    sae = load_sae(path)
    with torch.no_grad():
        mine = sae.encode(X)
        back = sae.decode(mine)
    assert float(np.abs(acts).max()) > 0
    for found, wanted in ((mine, acts), (back, x_hat)):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5 * np.abs(wanted).max())
    return sae


@pytest.mark.parametrize("subtracts", [False, True])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("rule", ["jumprelu", "topk", "relu"])
def test_llama_scope_is_its_loaders_arithmetic(tmp_path, rule, unit, subtracts):
    t, x = arrays(linear()), X.double().numpy()
    settings = {"sparsity_include_decoder_norm": unit, "apply_decoder_bias_to_pre_encoder": subtracts}
    settings |= {"act_fn": rule, "jump_relu_threshold": 0.35 if rule == "jumprelu" else 0.0, "top_k": K}
    path = llama(tmp_path / "Llama3_1-8B-Base-L3R-8x", **settings)
    s_in, s_out = (D_IN**0.5 / NORMS[side] for side in ("in", "out"))
    W_enc, W_dec = t["encoder.weight"], t["decoder.weight"] * s_in / s_out
    b_enc, b_dec = t["encoder.bias"] / s_in, t["decoder.bias"] / s_out
    length = np.linalg.norm(W_dec, axis=0) if unit else np.ones(D_SAE)
    shift = t["decoder.bias"] / s_in if subtracts else 0
    pre = ((x - shift) @ W_enc.T + b_enc) * length
    acts = np.maximum(pre, 0)
    if rule == "jumprelu":
        acts = np.where(pre > 0.35, pre, 0)
    elif rule == "topk":
        acts = acts * (acts >= np.sort(acts, axis=1)[:, -K][:, None])
    sae = same(path, acts, (acts / length) @ W_dec.T + b_dec)
    assert sae.hook_names == ["layers.3:out"]
    assert sae.provenance["model"] == "meta-llama/Llama-3.1-8B" and sae.provenance["says"]["prepend_bos"]


@pytest.mark.parametrize("kept", ["in the file", "in the catalogue"])
def test_llama_scope_of_r1_has_thresholds_on_scaled_activations(tmp_path, kept):
    hook, root = "blocks.7.hook_resid_post", tmp_path / "Llama-Scope-R1-Distill"
    path = root / "800M-Slimpajama-0-OpenR1-Math-220k" / "L7R"
    tensors = linear() | {"log_jumprelu_threshold": draw(D_SAE, seed=4) - 1}
    scale = 7.0
    if kept == "in the file":
        scale, tensors[f"dataset_average_activation_norm.{hook}"] = D_IN**0.5 / 2.5, torch.tensor(2.5)
    said = {"act_fn": "jumprelu", "hook_point_in": hook, "sparsity_include_decoder_norm": True}
    foreign.write_json(path / "config.json", said)
    save_file(tensors, path / "sae_weights.safetensors")
    if kept == "in the catalogue":
        scale = releases()["llama_scope_r1_distill"].scales[str(path.relative_to(root))]
    t, x = arrays(tensors), X.double().numpy()
    pre = scale * x @ t["encoder.weight"].T + t["encoder.bias"]
    fires = pre * np.linalg.norm(t["decoder.weight"], axis=0) > np.exp(t["log_jumprelu_threshold"])
    acts = np.maximum(pre, 0) * fires
    same(path, acts, (acts @ t["decoder.weight"].T + t["decoder.bias"]) / scale)
    assert recognise(path) == "llama_scope_2"


def test_qwen_scope_holds_the_k_largest_of_a_row(tmp_path):
    root = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"
    root.mkdir()
    t = {"W_enc": draw(D_SAE, D_IN), "W_dec": draw(D_IN, D_SAE), "b_enc": draw(D_SAE), "b_dec": draw(D_IN)}
    for layer in (2, 11):
        torch.save(t, root / f"layer{layer}.sae.pt")
    a, x = arrays(t), X.double().numpy()
    pre = x @ a["W_enc"].T + a["b_enc"]
    acts = pre * (pre >= np.sort(pre, axis=1)[:, -3][:, None])
    sae = same(root / "layer11.sae.pt", acts, acts @ a["W_dec"].T + a["b_dec"])
    assert sae.hook_names == ["layers.11:out"] and sae.provenance["model"] == "Qwen/Qwen3-1.7B-Base"
    assert list(members(root)) == ["layer11.sae.pt", "layer2.sae.pt"]
    (alone := tmp_path / "alone").mkdir()
    torch.save(t, alone / "layer0.sae.pt")
    with pytest.raises(CheckpointError, match="k stands in the name of its repository alone"):
        load_sae(alone)
    (alone / "config.json").write_text(json.dumps({"k": 3}))
    assert load_sae(alone).cfg.k == 3


@pytest.mark.parametrize("infix", ["_linear", ""])
def test_goodfires_and_qresearchs_are_two_linears_with_a_relu_between(tmp_path, infix):
    file = tmp_path / f"Llama-3.1-8B-Instruct-SAE-l19.{'pth' if infix else 'pt'}"
    torch.save({name.replace(".", f"{infix}."): t for name, t in linear().items()}, file)
    t, x = arrays(linear()), X.double().numpy()
    acts = np.maximum(x @ t["encoder.weight"].T + t["encoder.bias"], 0)
    sae = same(file, acts, acts @ t["decoder.weight"].T + t["decoder.bias"])
    assert recognise(tmp_path) == "goodfire" and sae.hook_names == ["layers.19:out"]
    assert sae.provenance["model"] == "meta-llama/Llama-3.1-8B-Instruct"
    renamed = file.rename(tmp_path / f"mine{file.suffix}")
    assert FORMATS["goodfire"].read(renamed).hook is None


def test_weights_whose_scale_stands_in_a_table_are_those_of_raw_activations(tmp_path):
    folder = "sae_group_gpt2_blocks.5.hook_mlp_out_24576:v0"
    there = {"normalize_activations": "expected_average_only_in"}
    path = foreign.sae_lens(tmp_path / "gpt2-small-mlp-out-saes" / folder, "standard", **there)
    t, x, scale = arrays(foreign.four()), X.double().numpy(), 1.550234472245924
    acts = np.maximum((x * scale - t["b_dec"]) @ t["W_enc"] + t["b_enc"], 0)
    same(path, acts, (acts @ t["W_dec"] + t["b_dec"]) / scale)
    with pytest.raises(CheckpointError, match="a training checkpoint"):
        load_sae(foreign.sae_lens(tmp_path / "elsewhere", "standard", **there))


def test_rows_whose_norm_stands_in_a_table_are_rescaled(tmp_path):
    path = tmp_path / "Mistral-7B-Residual-Stream-SAEs" / "mistral_7b_layer_8"
    t, x = arrays(foreign.four()), X.double().numpy()
    length = np.linalg.norm(x, axis=1, keepdims=True) / D_IN**0.5
    acts = np.maximum((x / length - t["b_dec"]) @ t["W_enc"] + t["b_enc"], 0)
    sae = load_sae(foreign.sae_lens(path, "standard"))
    with torch.no_grad():
        x_hat = sae(X)
    wanted = (acts @ t["W_dec"] + t["b_dec"]) * length
    np.testing.assert_allclose(x_hat.numpy(), wanted, atol=1e-5 * np.abs(wanted).max())


def test_what_is_not_read_says_so_in_one_line(tmp_path):
    for name, change, words in (
        ("glu", {"use_glu_encoder": True}, "a gated linear encoder is not read here"),
        ("act", {"act_fn": "batchtopk"}, "act_fn 'batchtopk' is not read here, only relu, jumprelu, topk"),
        ("norm", {"norm_activation": "token-wise"}, "norm_activation 'token-wise' is not read here"),
        ("scale", {"dataset_average_activation_norm": None}, "does not hold the dataset_average_activation"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            load_sae(llama(tmp_path / name, **change))
        assert "\n" not in str(caught.value)


def test_nothing_is_written_in_a_publishers_layout(tmp_path):
    path = llama(tmp_path / "theirs")
    with pytest.raises(MismatchError, match="llama_scope is only read here, not written; use --to sae_lens"):
        convert(ConvertConfig(source=path, to="llama_scope"), tmp_path / "out")
    (member,) = convert(ConvertConfig(source=path, to="sae_lens"), tmp_path / "back")["members"]
    assert member["rule"] == "jumprelu" and load_sae(tmp_path / "back").hook_names == ["layers.3:out"]
