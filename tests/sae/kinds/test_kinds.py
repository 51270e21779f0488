"""What every architecture must do: sparse as dense, folding, files, cells, gradients."""

from __future__ import annotations

import tomllib

import pytest
import torch

from tests.sae.kinds.each import CONFIGS, D_IN, D_SAE, inputs, make, name
from tests.sae.toy import directional_error
from thoughtlens import sae as saes
from thoughtlens.core import CheckpointError, ConfigError, MismatchError, to_toml, validate_config
from thoughtlens.sae.kinds.base import counts
from thoughtlens.sae.kinds.config import CONFIGS as REGISTERED
from thoughtlens.sae.train.config import TrainConfig

each = pytest.mark.parametrize("cfg", CONFIGS, ids=name)
CELLS = [("a:out", 1), ("a:out", 2)]


@each
@torch.no_grad()
def test_sparse_and_dense_codes_agree(cfg):
    x = inputs(cfg, 32)["x"]
    sae = make(cfg, sample=inputs(cfg, 100))
    sparse, dense = sae.encode_sparse(x), sae.encode(x)
    assert torch.equal(sparse.to_dense(D_SAE), dense)
    x_hat = sae.decode_sparse(sparse, x=x) if hasattr(cfg, "skip") else sae.decode_sparse(sparse)
    assert torch.allclose(x_hat, sae.decode(dense, x=x))
    assert torch.allclose(sae(x), sae.decode(dense, x=x))
    assert torch.equal(counts(sparse, D_SAE), (dense != 0).sum(0))
    assert (dense >= 0).all() and 0 < (dense != 0).sum() < dense.numel()


@each
@torch.no_grad()
def test_leading_dimensions_are_kept(cfg):
    x = inputs(cfg, 24)["x"]
    sae = make(cfg, sample=inputs(cfg, 100))
    nested = x.reshape(2, 3, 4, *x.shape[1:])
    assert torch.allclose(sae(nested).flatten(0, 2), sae(x))
    assert torch.allclose(sae.encode(nested).flatten(0, 2), sae.encode(x))


BIASED = [(c, b) for c in CONFIGS for b in (True, False) if not (b and c.kind == "transcoder")]


@pytest.mark.parametrize(("cfg", "pre_bias"), BIASED, ids=lambda v: str(v) if v in (True, False) else name(v))
@pytest.mark.parametrize("mode", ["global", "mean"])
@torch.no_grad()
def test_folding_changes_units_only(cfg, mode, pre_bias):
    cfg = cfg.model_copy(update={"normalization": mode, "pre_bias": pre_bias})
    x = inputs(cfg, 64, seed=3)["x"]
    sae = make(cfg, sample=inputs(cfg, 200))
    table = sae.normalization if cfg.kind != "transcoder" else sae.normalization_out
    spread = table.spread[0].item()
    x_hat, acts, W_dec = sae(x), sae.encode(x), sae.W_dec.clone()
    sae.fold()
    assert sae.normalization is None
    assert torch.allclose(sae(x), x_hat, rtol=1e-9, atol=1e-9 * float(x_hat.abs().max()))
    assert torch.allclose(sae.encode(x), acts * spread, rtol=1e-7, atol=1e-9)
    assert torch.equal(sae.W_dec, W_dec)
    assert spread != 1 or mode == "mean"


@each
@torch.no_grad()
def test_round_trip(cfg, tmp_path):
    sae = make(cfg, sample=inputs(cfg, 200))
    sae.hook_names, sae.provenance = ["a:out"], {"seed": 0}
    x = inputs(cfg, 16, seed=5)["x"]
    saes.save(sae, tmp_path)
    loaded = saes.load(tmp_path)
    assert type(loaded) is type(sae) and loaded.cfg == sae.cfg and loaded.hook_names == ["a:out"]
    x_hat = sae(x)
    assert torch.allclose(loaded(x), x_hat, rtol=1e-9, atol=1e-9 * float(x_hat.abs().max()))
    sae.fold()
    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert {n: t.tolist() for n, t in loaded.state_dict().items()} == {
        n: t.tolist() for n, t in sae.state_dict().items()
    }


@each
def test_loading_is_strict(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_UNCHECKED", "1")  # or the exchanged file itself is refused
    saes.save(make(cfg), tmp_path)
    other = next(c for c in CONFIGS if c.kind not in (cfg.kind, "matryoshka", "supervised", "batchtopk"))
    saes.save(make(other), tmp_path / "other")
    (tmp_path / "other" / "sae.safetensors").replace(tmp_path / "sae.safetensors")
    with pytest.raises(CheckpointError, match=r"keys missing|expected \w+ of shape"):
        saes.load(tmp_path)


@pytest.mark.parametrize("cfg", [c for c in CONFIGS if c.kind != "crosscoder"], ids=name)
@torch.no_grad()
def test_per_cell_normalisation(cfg, tmp_path):
    sample = inputs(cfg, 200)
    cell = torch.arange(200) % 2
    loud = torch.where(cell == 1, 100.0, 1.0).double()[:, None]
    sae = make(
        cfg, sample={k: v * loud for k, v in sample.items() if k != "labels"} | {"cell": cell, "cells": CELLS}
    )
    plain = make(cfg, sample=sample | {"cell": cell, "cells": CELLS})
    x = sample["x"]
    assert torch.allclose(sae.encode(x * loud, cell), plain.encode(x, cell), atol=1e-8)
    assert torch.allclose(sae(x * loud, cell), plain(x, cell) * loud, rtol=1e-7, atol=1e-6)
    saes.save(sae, tmp_path)
    loaded = saes.load(tmp_path)
    assert loaded.cells == CELLS
    assert torch.equal(loaded(x * loud, cell), sae(x * loud, cell))
    with pytest.raises(MismatchError, match="cell"):
        loaded(x)


@each
def test_loss_does_not_change_the_sae_and_after_step_does_not_change_the_weights(cfg):
    sae = make(cfg, sample=inputs(cfg, 100))
    batch = saes.Batch(**inputs(cfg, 32), dead=torch.arange(D_SAE) % 5 == 0, progress=0.5)
    before = {n: t.clone() for n, t in sae.state_dict().items()}
    loss = sae.loss(batch)
    assert all(torch.equal(t, before[n]) for n, t in sae.state_dict().items())
    assert loss.total.item() == pytest.approx(sum(t.item() for t in loss.terms.values()))
    assert all(torch.isfinite(t) for t in loss.terms.values())
    sae.after_step(batch, loss)
    after = dict(sae.named_parameters())
    assert all(torch.equal(after[n], before[n]) for n in after if n != "threshold")


SMOOTH = [c for c in CONFIGS if c.kind not in ("gated", "jumprelu", "supervised")]


@pytest.mark.parametrize("cfg", SMOOTH, ids=name)
def test_gradients_match_finite_differences(cfg):
    if hasattr(cfg, "auxk"):
        cfg = cfg.model_copy(update={"auxk": 0.0})
    sae = make(cfg, sample=inputs(cfg, 100))
    if cfg.kind == "p_anneal":
        sae.p.fill_(0.6)
    batch = saes.Batch(**inputs(cfg, 32), progress=0.5)
    assert directional_error(sae, lambda: sae.loss(batch).total) < 1e-5


AUXK = [c for c in CONFIGS if hasattr(c, "auxk") and getattr(c, "sparsity", "") != "l1"]


@pytest.mark.parametrize("cfg", AUXK, ids=name)
def test_auxk_reaches_dead_latents_and_only_these(cfg):
    sae = make(cfg.model_copy(update={"k_aux": D_SAE}), sample=inputs(cfg, 100))
    found = inputs(cfg, 64)
    dead = torch.arange(D_SAE) % 3 == 0
    sae.loss(saes.Batch(**found, dead=dead)).terms["auxk"].backward()
    free = sae.revivable(dead)
    reached = free & (sae.pre_acts(sae.normalize(found["x"])) > 0).any(0)
    encoder = sae.W_enc.grad.flatten(0, -2).norm(dim=0)
    decoder = sae.W_dec.grad.flatten(1).norm(dim=1)
    assert reached.sum() >= 3
    assert (encoder[reached] > 0).all() and (decoder[reached] > 0).all()
    assert (encoder[~free] == 0).all() and (decoder[~free] == 0).all()


@each
def test_latent_axes_name_every_parameter_of_a_latent(cfg):
    sae = make(cfg)
    for key, parameter in sae.named_parameters():
        if D_SAE in parameter.shape:
            assert parameter.shape[sae.latent_axis[key]] == D_SAE
        else:
            assert key not in sae.latent_axis


@each
def test_new_sae_is_a_function_of_the_seed(cfg):
    a, b, c = (saes.create(cfg, D_IN, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.W_dec, b.W_dec) and torch.equal(a.W_enc, b.W_enc)
    assert not torch.equal(a.W_dec, c.W_dec)


@each
def test_another_width_is_refused(cfg):
    sae = make(cfg)
    with pytest.raises(MismatchError, match="takes"):
        sae(torch.zeros(*inputs(cfg, 1)["x"].shape[:-1], D_IN + 1))


BAD = [
    ({"kind": "batchtopk", "k": 21, "d_sae": 20}, "1 to d_sae = 20.*got 21"),
    ({"kind": "matryoshka", "k": 21, "d_sae": 20}, "1 to d_sae = 20.*got 21"),
    ({"kind": "matryoshka", "k": 1, "d_sae": 4}, r"different numbers.*\[0, 0, 1, 2, 4\]"),
    ({"kind": "hierarchical_topk", "k": 21, "d_sae": 20}, "sae.k: expected 1 to d_sae = 20.*got 21"),
    (
        {"kind": "hierarchical_topk", "k": 20, "ks": [20, 40], "d_sae": 20},
        "sae.ks: expected 1 to d_sae = 20.*got 40",
    ),
    ({"kind": "jumprelu", "target_l0": 20.5, "d_sae": 20}, "at most d_sae = 20.*20.5"),
    ({"kind": "transcoder", "k": 21, "d_sae": 20}, "1 to d_sae = 20.*got 21"),
    ({"kind": "transcoder", "k": 1, "d_sae": 20, "pre_bias": True}, "pre_bias.*got true"),
    ({"kind": "transcoder", "k": 1, "hook_in": "a:in", "hook_out": "a:in"}, "both 'a:in'"),
    ({"kind": "crosscoder", "k": 1, "sites": ["a"]}, "at least 2 different sites"),
    ({"kind": "crosscoder", "k": 1, "sites": ["a", "a"]}, "at least 2 different sites"),
    ({"kind": "crosscoder", "k": 21, "d_sae": 20, "sites": ["a", "b"]}, "1 to d_sae = 20.*got 21"),
    ({"kind": "supervised"}, "at least one label column"),
    ({"kind": "supervised", "label_columns": ["op"]}, "expected the classes of op"),
    ({"kind": "supervised", "label_columns": ["op"], "label_classes": [["+"]]}, "2 to 64.*'op', got 1"),
    (
        {"kind": "supervised", "label_columns": ["op"], "label_classes": [["+", "-"]], "d_sae": 20, "k": 19},
        "1 to d_sae = 18.*got 19",
    ),
]


@pytest.mark.parametrize(("table", "message"), BAD, ids=lambda v: v if isinstance(v, str) else v["kind"])
def test_configs_that_cannot_be_used_are_refused(table, message):
    cfg = validate_config(REGISTERED[table["kind"]], table)
    with pytest.raises(ConfigError, match=message):
        saes.create(cfg, D_IN, seed=0)


NEGATIVE = [
    ("gated", "l1", -1.0),
    ("p_anneal", "l1", -1.0),
    ("p_anneal", "p_end", 0.0),
    ("p_anneal", "anneal_end", 0.1),
    ("batchtopk", "auxk", -0.1),
    ("batchtopk", "k", 0),
    ("jumprelu", "coefficient", -1.0),
    ("jumprelu", "target_l0", 0.0),
    ("jumprelu", "bandwidth", 0.0),
    ("matryoshka", "prefixes", [0.5]),
    ("matryoshka", "prefixes", [0.5, 0.25, 1.0]),
    ("matryoshka", "prefix_weights", [1.0]),
    ("matryoshka", "prefix_weights", [1.0, 1.0, 1.0, 1.0, -1.0]),
    ("hierarchical_topk", "ks", [32, 16]),
    ("hierarchical_topk", "ks", [0, 32]),
    ("hierarchical_topk", "ks", [16, 64]),
    ("supervised", "label", -1.0),
    ("crosscoder", "l1", -1.0),
]


@pytest.mark.parametrize(("kind", "key", "value"), NEGATIVE)
def test_values_out_of_range_are_refused_in_the_recipe(kind, key, value):
    with pytest.raises(ConfigError, match=key):
        validate_config(TrainConfig, {"acts": "x", "sae": {"kind": kind, key: value}})


@each
def test_configs_survive_toml(cfg, tmp_path):
    train = TrainConfig(acts=tmp_path, sae=cfg)
    assert validate_config(TrainConfig, tomllib.loads(to_toml(train))) == train


@pytest.mark.parametrize("cfg", [c for c in CONFIGS if c.kind != "transcoder"], ids=name)
@torch.no_grad()
def test_the_first_reconstructions_have_the_length_that_fits_best(cfg):
    sample = inputs(cfg, 500)
    found = {}
    for init in ("data", "xavier"):
        sae = saes.create(cfg.model_copy(update={"init": "data"}), D_IN, seed=0).double()
        sae.cfg = cfg.model_copy(update={"init": init})
        sae.initialize(sample["x"])
        z = sae.normalize(sample["x"])
        found[init] = sae, z, sae.train_acts(sae.pre_acts(z)) @ sae.W_dec.flatten(1)
    sae, z, written = found["data"]
    target = (z - sae.b_dec).flatten(1)
    error = [(target - factor * written).square().sum() for factor in (0.99, 1.0, 1.01)]
    assert error[1] < error[0] and error[1] < error[2]
    sae, z, written = found["xavier"]
    assert error[1] < ((z - sae.b_dec).flatten(1) - written).square().sum()
