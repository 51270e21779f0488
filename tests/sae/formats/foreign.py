"""Small SAEs as other libraries write them, put together here tensor by tensor in their exact layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_SAE, D_OUT, K = 6, 20, 4, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Random float32 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 31 * len(shape) + sum(shape)))


def four(d_out: int = D_IN) -> dict[str, Tensor]:
    """The tensors of every SAE, right-multiplied."""
    return {
        "W_enc": draw(D_IN, D_SAE),
        "b_enc": draw(D_SAE),
        "W_dec": draw(D_SAE, d_out, seed=1),
        "b_dec": draw(d_out, seed=2),
    }


def linear(d_in: int = D_IN) -> dict[str, Tensor]:
    """Those of two `nn.Linear`."""
    return {
        "encoder.weight": draw(D_SAE, d_in),
        "encoder.bias": draw(D_SAE),
        "decoder.weight": draw(d_in, D_SAE, seed=1),
    }


def write_json(file: Path, table: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(table))


def sae_lens(root: Path, architecture: str, **cfg) -> Path:
    """SAELens 6: cfg.json + sae_weights.safetensors."""
    d_out = D_OUT if "transcoder" in architecture else D_IN
    t = four(d_out)
    if "jumprelu" in architecture:
        t["threshold"] = draw(D_SAE, seed=5).abs()
    if "skip" in architecture:
        t["W_skip"] = draw(d_out, D_IN, seed=6)
    if architecture == "gated":
        del t["b_enc"]
        t |= {"b_gate": draw(D_SAE), "b_mag": draw(D_SAE, seed=7), "r_mag": draw(D_SAE, seed=8)}
    if architecture == "matching_pursuit":
        t = {"W_dec": t["W_dec"] / t["W_dec"].norm(dim=1, keepdim=True), "b_dec": t["b_dec"]}
    settings = {"topk": {"k": K, "rescale_acts_by_decoder_norm": False}, "abstopk": {"k": K}}
    metadata = {"sae_lens_version": "6.54.12", "model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post"}
    if "transcoder" in architecture:
        metadata["hook_name_out"] = "blocks.3.hook_mlp_out"
    table = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": "transcoder" not in architecture,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
        **({"d_out": d_out} if "transcoder" in architecture else {}),
        **settings.get(architecture, {}),
    }
    write_json(root / "cfg.json", table | cfg)
    save_file({name: tensor.contiguous() for name, tensor in t.items()}, root / "sae_weights.safetensors")
    return root


def sparsify(root: Path, **cfg) -> Path:
    """sparsify: cfg.json + sae.safetensors in a folder named by module."""
    root = root / "layers.2.mlp"
    table = {
        "activation": "topk",
        "expansion_factor": 4,
        "normalize_decoder": True,
        "num_latents": D_SAE,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D_IN,
    } | cfg
    t = {"encoder.weight": draw(D_SAE, D_IN), "encoder.bias": draw(D_SAE)}
    t |= {"W_dec": draw(D_SAE, D_IN, seed=1), "b_dec": draw(D_IN, seed=2)}
    if table["skip_connection"]:
        t["W_skip"] = draw(D_IN, D_IN, seed=3)
    write_json(root / "cfg.json", table)
    save_file(t, root / "sae.safetensors")
    return root


def dictionary(root: Path, cls: str, **trainer) -> Path:
    """dictionary_learning: ae.pt + config.json."""
    state: dict[str, Tensor] = linear()
    if cls == "AutoEncoder":
        state["bias"] = draw(D_IN, seed=2)
    elif cls == "AutoEncoderNew":
        state["decoder.bias"] = draw(D_IN, seed=2)
    elif cls == "GatedAutoEncoder":
        del state["encoder.bias"]
        state |= {"decoder_bias": draw(D_IN), "r_mag": draw(D_SAE), "gate_bias": draw(D_SAE, seed=3)}
        state["mag_bias"] = draw(D_SAE, seed=4)
    elif cls in ("AutoEncoderTopK", "BatchTopKSAE"):
        state |= {"b_dec": draw(D_IN), "k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.8)}
    else:
        state = four() | {"threshold": draw(D_SAE, seed=5).abs()}
    if cls == "MatryoshkaBatchTopKSAE":
        state |= {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.8)}
        state["group_sizes"] = torch.tensor([5, 15])
    table = {
        "trainer": {
            "dict_class": cls,
            "activation_dim": D_IN,
            "dict_size": D_SAE,
            "layer": 3,
            "lm_name": "EleutherAI/pythia-70m",
            "submodule_name": "resid_post_layer_3",
            "k": K,
            **trainer,
        },
        "buffer": {"d_submodule": D_IN, "io": "out"},
    }
    write_json(root / "config.json", table)
    torch.save(state, root / "ae.pt")
    return root


def gemma_scope(root: Path) -> Path:
    """Gemma Scope 1: params.npz, in folders of the original names."""
    root = root / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    root.mkdir(parents=True)
    t = four() | {"threshold": draw(D_SAE, seed=5).abs()}
    np.savez(root / "params.npz", **{name: tensor.numpy() for name, tensor in t.items()})
    return root


def gemma_scope_2(root: Path, *, transcoder: bool = False, skip: bool = False) -> Path:
    """Gemma Scope 2: params.safetensors + config.json."""
    t = four(D_OUT if transcoder else D_IN) | {"threshold": draw(D_SAE, seed=5).abs()}
    t = {name.replace("W_", "w_"): tensor for name, tensor in t.items()}
    config = {"architecture": "jump_relu", "model_name": "gemma-3-270m", "affine_connection": skip}
    config["hf_hook_point_in"] = "model.layers.5.output"
    if transcoder:
        config["hf_hook_point_in"] = "model.layers.5.pre_feedforward_layernorm.output"
        config["hf_hook_point_out"] = "model.layers.5.post_feedforward_layernorm.output"
    if skip:
        t["affine_skip_connection"] = draw(D_IN, D_OUT, seed=6)
    write_json(root / "config.json", config)
    save_file(t, root / "params.safetensors")
    return root


def circuit_tracer(
    root: Path, *, skip: bool = False, threshold: bool = False, old: bool = False, k: int = 0
) -> Path:
    """circuit-tracer: layer_N.safetensors + config.yaml."""
    t = four(D_OUT)
    t["W_enc"] = t["W_enc"].T
    t |= {"W_dec": t["W_dec"].T} if old else {}
    t |= {"W_skip": draw(D_OUT, D_IN, seed=6)} if skip else {}
    t |= {"activation_function.threshold": draw(D_SAE, seed=5).abs()} if threshold else {}
    root.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in t.items()}, root / "layer_5.safetensors")
    (root / "config.yaml").write_text(
        'model_name: "meta-llama/Llama-3.2-1B"\nfeature_input_hook: "hook_resid_mid"\n'
        "feature_output_hook: 'mlp.hook_out'\n"
        + (f"activation: topk\nk: {k}\n" if k else "")
        + '\ntranscoders:\n  - id: "a"\n    layer: 0\n'
    )
    return root


def openai(root: Path, activation: str = "TopK") -> Path:
    """OpenAI: one .pt file, as its `Autoencoder.state_dict` writes it."""
    root.mkdir(parents=True, exist_ok=True)
    t = linear()
    state = {
        "pre_bias": draw(D_IN),
        "encoder.weight": t["encoder.weight"],
        "latent_bias": t["encoder.bias"],
        "decoder.weight": t["decoder.weight"],
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long),
        "latents_activation_frequency": torch.ones(D_SAE),
        "latents_mean_square": torch.ones(D_SAE),
        "activation": activation,
        "activation_state_dict": {"k": K, "postact_fn": "ReLU"} if activation == "TopK" else {},
    }
    torch.save(state, root / "8.pt")
    return root / "8.pt"


ALL = {
    **{
        f"sae_lens-{name}": (lambda root, name=name: sae_lens(root, name))
        for name in (
            "standard",
            "gated",
            "topk",
            "abstopk",
            "jumprelu",
            "matching_pursuit",
            "transcoder",
            "skip_transcoder",
            "jumprelu_transcoder",
            "jumprelu_skip_transcoder",
        )
    },
    "sae_lens-layer_norm": lambda root: sae_lens(root, "topk", normalize_activations="layer_norm"),
    "sae_lens-rescale": lambda root: sae_lens(
        root, "standard", normalize_activations="constant_norm_rescale"
    ),
    "sae_lens-no-pre-bias": lambda root: sae_lens(root, "gated", apply_b_dec_to_input=False),
    "sae_lens-by-norm": lambda root: sae_lens(root, "topk", rescale_acts_by_decoder_norm=True),
    "sparsify": sparsify,
    "sparsify-groupmax": lambda root: sparsify(root, activation="groupmax", k=4),
    "sparsify-transcoder": lambda root: sparsify(root, transcode=True),
    "sparsify-skip": lambda root: sparsify(root, transcode=True, skip_connection=True),
    **{
        f"dictionary-{name}": (lambda root, name=name: dictionary(root, name))
        for name in (
            "AutoEncoder",
            "AutoEncoderNew",
            "GatedAutoEncoder",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "MatryoshkaBatchTopKSAE",
            "JumpReluAutoEncoder",
        )
    },
    "gemma_scope": gemma_scope,
    "gemma_scope_2": gemma_scope_2,
    "gemma_scope_2-transcoder": lambda root: gemma_scope_2(root, transcoder=True),
    "gemma_scope_2-skip": lambda root: gemma_scope_2(root, transcoder=True, skip=True),
    "circuit_tracer": circuit_tracer,
    "circuit_tracer-topk": lambda root: circuit_tracer(root, k=K),
    "circuit_tracer-skip": lambda root: circuit_tracer(root, skip=True, threshold=True),
    "openai": openai,
    "openai-ReLU": lambda root: openai(root, "ReLU"),
    "openai-Identity": lambda root: openai(root, "Identity"),
}
"""Every format and rule, by name; each writes into a folder and gives the path to load."""
