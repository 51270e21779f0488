"""Other libraries' SAEs: recognised, run as they run them, converted and proved, or refused by name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.sae.formats import foreign
from tests.sae.kinds.each import CONFIGS, make
from tests.sae.toy import random_sae
from thoughtlens import sae as saes
from thoughtlens.cli import app
from thoughtlens.core import CheckpointError, ConfigError, MismatchError, NotThereError
from thoughtlens.sae.convert import proof
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.formats import FORMATS, place, recognise

pytestmark = pytest.mark.slow


def run(source: Path, to: str, out: Path, **settings) -> dict:
    (member,) = convert(ConvertConfig(source=source, to=to, **settings), out)["members"]
    return member


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder or file, whatever holds them."""
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        if file.suffix == ".safetensors":
            return load_file(file)
        if file.suffix == ".npz":
            return {k: torch.from_numpy(v) for k, v in np.load(file).items()}
        if file.suffix == ".pt":
            state = torch.load(file, weights_only=True)
            return {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and "latents_" not in k}
    raise AssertionError(path)


@pytest.mark.parametrize("name", foreign.ALL)
@torch.no_grad()
def test_every_format_runs_as_its_library_runs_it(tmp_path, name):
    path = foreign.ALL[name](tmp_path)
    fmt = FORMATS[recognise(path)]
    plain = fmt.read(place(path))
    x = proof.rows(plain)
    theirs = fmt.forward(place(path), x)
    sae = saes.load(path).double()
    acts, x_hat = sae.encode(x), sae(x)
    scale = theirs.x_hat.abs().amax(1).clamp(min=1)
    bound = 1e-6 if name == "sae_lens-by-norm" else 1e-12  # lengths were folded in float32
    assert float(((acts - theirs.acts).abs().amax(1) / scale).max()) < bound
    assert float(((x_hat - theirs.x_hat).abs().amax(1) / scale).max()) < bound
    assert (theirs.acts != 0).any(1).all()
    sparse = sae.encode_sparse(x)
    assert torch.allclose(sparse.to_dense(sae.d_sae), acts)
    assert torch.allclose(sae.decode(acts, x=x), x_hat, rtol=1e-9, atol=1e-9)
    assert sae.provenance["imported"]["format"] == fmt.name


@pytest.mark.parametrize("name", foreign.ALL)
def test_a_round_trip_through_ours_changes_no_bit(tmp_path, name):
    path = foreign.ALL[name](tmp_path)
    fmt = recognise(path)
    there = run(path, "thoughtlens", tmp_path / "ours")
    back = run(tmp_path / "ours", fmt, tmp_path / "back")
    assert there["proof"]["max_delta_x_hat_relative"] < 1e-5 > back["proof"]["max_delta_x_hat_relative"]
    assert there["proof"]["l0"] > 0 and there["rule"] == back["rule"]
    before, after = tensors_of(path), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys() or "matching" in name
    if name != "sae_lens-by-norm":
        for key, tensor in before.items():
            assert key in ("threshold", "stats_last_nonzero") or torch.equal(after[key], tensor), key
    assert saes.load(tmp_path / "back").hook_names == (saes.load(tmp_path / "ours").hook_names if fmt not in
        ("gemma_scope", "openai") else [])  # fmt: skip


EXPECTED = {
    "topk": {"sae_lens", "sparsify", "dictionary_learning"},
    "relu": {"sae_lens", "dictionary_learning", "gemma_scope", "gemma_scope_2", "openai"},
    "p_anneal": {"sae_lens", "dictionary_learning", "gemma_scope", "gemma_scope_2", "openai"},
    "gated": {"sae_lens", "dictionary_learning"},
    "batchtopk": {"sae_lens", "dictionary_learning", "gemma_scope", "gemma_scope_2"},
    "matryoshka": {"sae_lens", "dictionary_learning", "gemma_scope", "gemma_scope_2"},
    "hierarchical_topk": {"sae_lens", "dictionary_learning", "gemma_scope", "gemma_scope_2"},
    "jumprelu": {"sae_lens", "dictionary_learning", "gemma_scope", "gemma_scope_2"},
    "transcoder": {"sparsify", "circuit_tracer"},
    "supervised": set(),
    "crosscoder": set(),
}


@pytest.mark.parametrize(
    "cfg", [saes.TopKConfig(d_sae=20, k=3), saes.ReLUConfig(d_sae=20), *CONFIGS], ids=str
)
@torch.no_grad()
def test_our_kinds_go_where_their_rule_is_known(tmp_path, cfg):
    sae = make(cfg).float()
    if cfg.kind == "transcoder":
        sae = saes.create(cfg, 6, seed=0)
        torch.nn.init.normal_(sae.W_dec)
    sae.hook_names, sae.provenance = ["layers.3:out"], {"model": "m", "acts_digest": "abc"}
    saes.save(sae, tmp_path / "sae")
    for to in FORMATS.keys() - {"thoughtlens"}:
        if to not in EXPECTED[cfg.kind]:
            with pytest.raises(MismatchError, match=r"cannot hold (the rule|a |topk)|is only read here"):
                run(tmp_path / "sae", to, tmp_path / to)
            assert not (tmp_path / to).exists()
            continue
        run(tmp_path / "sae", to, tmp_path / to)
        back = saes.load(tmp_path / to)
        x = 3 * foreign.draw(30, 6)
        assert torch.allclose(back(x), sae(x), rtol=1e-4, atol=1e-4)
        if to not in ("gemma_scope", "openai"):
            assert back.hook_names == ["layers.3:out"] or cfg.kind == "transcoder"
        if to in ("sae_lens", "sparsify", "dictionary_learning"):
            assert back.provenance["acts_digest"] == "abc"


def test_a_cell_table_stays_here(tmp_path):
    sae = random_sae(saes.TopKConfig(d_sae=20, k=3)).float()
    sae.set_cells([("a:out", 0), ("a:out", 1)])
    saes.save(sae, tmp_path / "sae")
    with pytest.raises(MismatchError, match=r"per-cell normalisation table \(2 cells\)"):
        run(tmp_path / "sae", "sae_lens", tmp_path / "out")


def test_sae_lens_by_hand(tmp_path):
    # W_dec rows (2, 0) and (0, 1), encoder transposed, b_dec (1, 0); x = (3, 1): z = (2, 1), pre = (4, 1)
    cfg = {"architecture": "standard", "dtype": "float32", "metadata": {"sae_lens_version": "6.0.0"}}
    foreign.write_json(tmp_path / "cfg.json", cfg | {"d_in": 2, "d_sae": 2})
    W = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    t = {"W_enc": W.T.contiguous(), "W_dec": W, "b_enc": torch.zeros(2), "b_dec": torch.tensor([1.0, 0.0])}
    foreign.save_file(t, tmp_path / "sae_weights.safetensors")
    sae = saes.load(tmp_path)
    assert sae.encode(torch.tensor([[3.0, 1.0]])).tolist() == [[4.0, 1.0]]
    assert sae(torch.tensor([[3.0, 1.0]])).tolist() == [[9.0, 1.0]]


def test_openai_layer_norm_by_hand(tmp_path):
    # x = (1, 3): mean 2, unbiased std sqrt(2); z = (-1, 1) / (sqrt(2) + 1e-5); latent 0 reads and writes e_1
    state = {"pre_bias": torch.zeros(2), "encoder.weight": torch.tensor([[0.0, 1.0], [0.0, -1.0]]),
             "latent_bias": torch.zeros(2), "decoder.weight": torch.tensor([[0.0, 0.0], [1.0, 0.0]]),
             "activation": "TopK", "activation_state_dict": {"k": 1, "postact_fn": "ReLU"}}  # fmt: skip
    torch.save(state, tmp_path / "a.pt")
    sae, x = saes.load(tmp_path / "a.pt"), torch.tensor([[1.0, 3.0]])
    std = 2**0.5
    assert sae.encode(x)[0].tolist() == pytest.approx([1 / (std + 1e-5), 0.0])
    assert sae(x)[0].tolist() == pytest.approx([2.0, 2 + std / (std + 1e-5)])
    with pytest.raises(MismatchError, match="depends on its input through its norm of each row"):
        sae.decode(sae.encode(x))


def test_old_sae_lens_settings(tmp_path):
    foreign.sae_lens(tmp_path, "topk")
    old = {"d_in": 6, "d_sae": 20, "dtype": "torch.float32", "hook_point": "blocks.1.hook_resid_pre",
           "model_name": "gpt2", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3},
           "normalize_activations": False}  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    sae = saes.load(tmp_path)
    assert (sae.kind, sae.cfg.k, sae.hook_names) == ("topk", 3, ["layers.1:in"])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "sae_lens-topk",
            {"architecture": "temporal"},
            "expected an architecture among standard.*'temporal'",
        ),
        ("sae_lens-topk", {"architecture": "batchtopk"}, "a checkpoint of its training"),
        (
            "sae_lens-topk",
            {"normalize_activations": "expected_average_only_in"},
            "weights live in other units",
        ),
        ("sae_lens-topk", {"k": 21}, "expected k from 1 to d_sae = 20, got 21"),
        ("sae_lens-topk", {"k": "3"}, "k: expected a whole number from 1, got '3'"),
        ("sae_lens-topk", {"dtype": "float8"}, "expected dtype among"),
        ("sparsify", {"activation": "relu"}, "expected activation topk or groupmax"),
        ("sparsify", {"skip_connection": True}, r"keys missing: \['W_skip'\]"),
        ("gemma_scope_2", {"architecture": "topk"}, "expected architecture jump_relu"),
        ("dictionary-BatchTopKSAE", {"trainer": {}}, "keys fit AutoEncoderTopK and BatchTopKSAE"),
        ("dictionary-AutoEncoder", {"trainer": {"dict_class": "IdentityDict"}}, "got 'IdentityDict'"),
    ],
)
def test_settings_that_are_refused(tmp_path, name, change, message):
    path = foreign.ALL[name](tmp_path)
    (file,) = path.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message) as error:
        saes.load(path)
    assert "\n" not in str(error.value)


def test_the_source_is_named_where_it_cannot_be_recognised(tmp_path):
    with pytest.raises(NotThereError, match="found nothing there"):
        run(tmp_path / "nowhere", "sae_lens", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotThereError, match="Expected an SAE of thoughtlens, sae_lens"):
        run(tmp_path / "empty", "sae_lens", tmp_path / "out")
    with pytest.raises(ConfigError, match="Expected a format among"):
        run(foreign.openai(tmp_path), "sealens", tmp_path / "out")
    both = foreign.sae_lens(tmp_path / "both", "topk")
    foreign.gemma_scope_2(both)
    with pytest.raises(ConfigError, match="looks like sae_lens and gemma_scope_2") as caught:
        saes.load_members(both)  # as stages do, which have no --from
    asked = str(caught.value).partition("thoughtlens ")[2]
    assert CliRunner().invoke(app, shlex.split(asked)).exit_code == 0
    assert saes.load(f"{both}-sae_lens").provenance["imported"]["format"] == "sae_lens"
    assert run(both, "thoughtlens", tmp_path / "out", source_format="gemma_scope_2")["rule"] == "jumprelu"


def test_several_at_once_and_hooks_by_hand(tmp_path):
    for layer in (1, 2):
        foreign.openai(tmp_path / "many" / f"layer_{layer}")
    result = convert(ConvertConfig(source=tmp_path / "many", to="thoughtlens"), tmp_path / "ours")
    assert [m["member"] for m in result["members"]] == ["layer_1", "layer_2"]
    assert any("does not say at which hook" in warning for warning in result["warnings"])
    found = saes.load_members(tmp_path / "ours", hooks={"layers.1:out": 6, "layers.9:out": 7})
    assert [(name, *sae.hook_names) for name, sae in found.items()] == [
        ("layer_1", "layers.1:out"),
        ("layer_2", "layers.1:out"),
    ]
    run(tmp_path / "many" / "layer_1", "thoughtlens", tmp_path / "named", hook_name="layers.7:out")
    assert saes.load(tmp_path / "named").hook_names == ["layers.7:out"]
    with pytest.raises(MismatchError, match=r"does not say at which hook.*--hook layers.1:out"):
        saes.load_members(tmp_path / "many" / "layer_1", hooks={"layers.1:out": 6, "layers.2:out": 6})


def test_hook_names():
    for ours in ("layers.8:out", "layers.0:in", "layers.3.mlp:out", "layers.3.attn:out", "embed:out"):
        assert hooks.from_lens(hooks.to_lens(ours)) == ours
    assert hooks.to_lens("layers.8:out") == "blocks.8.hook_resid_post"
    assert hooks.to_lens("layers.8.self_attn:out") == "blocks.8.hook_attn_out"
    assert hooks.from_lens("blocks.3.attn.hook_z") == "blocks.3.attn.hook_z"
    assert hooks.from_hf("model.layers.5.mlp.output") == "layers.5.mlp:out"
    assert hooks.from_hf(hooks.to_hf("layers.5:in")) == "layers.5:in"
    assert hooks.from_folder("gpt_neox.layers.2.mlp", transcoder=True)[1] == "layers.2.mlp:out"
    assert hooks.from_folder("run_2", transcoder=False) == (None, None)
    assert hooks.from_dictionary(hooks.to_dictionary("layers.4:out")) == "layers.4:out"


def test_the_proof_fails_where_something_changed():
    acts, x_hat = torch.ones(64, 3), torch.ones(64, 2)
    same = proof.Forward(acts, x_hat)
    assert proof.compare(same, same).max_delta_x_hat == 0
    with pytest.raises(MismatchError, match="not the same"):
        proof.compare(same, proof.Forward(acts, x_hat + 1e-4))
    silent = acts.clone()
    silent[:5] = 0
    with pytest.raises(MismatchError, match="other latents fire on 5 rows"):
        proof.compare(same, proof.Forward(silent, x_hat))
    silent[1:5] = 1
    assert proof.compare(same, proof.Forward(silent, x_hat)).n_edge_rows == 1
