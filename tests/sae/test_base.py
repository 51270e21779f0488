"""What all architectures share, on each of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sae.toy import random_sae, rows
from thoughtlens import sae as saes
from thoughtlens.core import ConfigError, MismatchError
from thoughtlens.sae.kinds.base import counts

CONFIGS = [saes.TopKConfig(d_sae=20, k=3), saes.ReLUConfig(d_sae=20)]
CELLS = [("a:out", 0), ("a:out", 1)]
each = pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: c.kind)


@each
def test_new_sae_is_a_function_of_the_seed(cfg):
    a, b, c = (saes.create(cfg, 6, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.W_dec, b.W_dec) and not torch.equal(a.W_dec, c.W_dec)
    assert torch.equal(a.W_enc, a.W_dec.T)
    assert torch.allclose(a.W_dec.norm(dim=1), torch.ones(20))


def test_weights_are_not_the_random_numbers_of_whoever_uses_the_same_seed():
    # else atoms drawn after manual_seed(0) would be found by an untrained SAE of seed 0
    atoms = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.normalize(atoms, dim=1) @ saes.create(CONFIGS[0], 6, seed=0).W_dec.T
    assert cosines.diagonal().mean() < 0.5


@each
def test_sparse_and_dense_codes_agree(cfg):
    sae, x = random_sae(cfg), rows(32)
    sparse, dense = sae.encode_sparse(x), sae.encode(x)
    assert torch.equal(sparse.to_dense(20), dense)
    assert torch.allclose(sae.decode_sparse(sparse), sae.decode(dense))
    assert torch.allclose(sae(x), sae.decode(dense))
    assert torch.equal(counts(sparse, 20), counts(dense, 20))
    assert counts(dense, 20).sum() == (dense != 0).sum() > 0


@each
def test_leading_dimensions_are_kept(cfg):
    sae, x = random_sae(cfg), rows(24)
    assert torch.allclose(sae(x.view(2, 3, 4, 6)).reshape(24, 6), sae(x))
    assert torch.equal(sae.encode(x.view(4, 6, 6)).reshape(24, 20), sae.encode(x))
    assert sae.encode_sparse(x.view(4, 6, 6)).values.shape[:2] == (4, 6)
    assert torch.allclose(sae.encode(x[0]), sae.encode(x)[0])


@each
@pytest.mark.parametrize("mode", ["global", "mean"])
@pytest.mark.parametrize("pre_bias", [True, False])
@torch.no_grad()
def test_folding_changes_units_only(cfg, mode, pre_bias):
    cfg = cfg.model_copy(update={"normalization": mode, "pre_bias": pre_bias})
    sae, x = random_sae(cfg).float(), rows(200).float()
    sae.initialize(x)
    sae.b_dec.add_(torch.randn(6, generator=torch.Generator().manual_seed(3)))
    norm, x_hat, acts, W_dec = sae.normalization, sae(x), sae.encode(x), sae.W_dec.clone()
    z_hat = norm.apply_to(x_hat, None)
    sae.fold()
    assert sae.normalization is None
    assert torch.allclose(sae(x), x_hat, rtol=1e-5, atol=1e-5 * float(x_hat.abs().max()))
    assert torch.allclose(norm.apply_to(sae(x), None), z_hat, rtol=1e-5, atol=1e-5 * float(z_hat.abs().max()))
    assert torch.equal(sae.encode(x) != 0, acts != 0)
    assert torch.allclose(sae.encode(x), acts * norm.spread[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(sae.W_dec, W_dec)


@each
def test_training_in_normalised_units_is_training_on_normalised_rows(cfg):
    x = rows(64)
    sae = random_sae(cfg)
    bare = random_sae(cfg.model_copy(update={"normalization": "none"}))
    sae.initialize(x)
    bare.load_state_dict({n: t for n, t in sae.state_dict().items() if not n.startswith("normalization")})
    z = sae.normalization.apply_to(x, None)
    assert torch.allclose(sae.loss(saes.Batch(x)).total, bare.loss(saes.Batch(z)).total)


@given(shift=st.floats(-50, 50), scale=st.floats(0.1, 100))
@settings(max_examples=15, deadline=None)
def test_shifted_and_scaled_data_give_the_same_codes(shift, scale):
    x = rows(300)
    acts = []
    for data in (x, scale * (x + shift)):
        sae = saes.create(saes.TopKConfig(d_sae=20, k=3), 6, seed=0).double()
        sae.initialize(data)
        acts.append(sae.encode(data))
    assert torch.allclose(acts[0], acts[1], atol=1e-4)


@each
def test_per_cell_table_takes_raw_rows_and_their_cells(cfg):
    x, cell = rows(80), torch.arange(80) % 2
    x[cell == 1] *= 1000
    sae = saes.create(cfg, 6, seed=0).double()
    sae.initialize(x, cell, CELLS)
    sae.fold()  # a table stays
    assert sae.cells == CELLS
    error = (x - sae(x, cell)).square().sum(1)
    variance = torch.stack([(x[cell == c] - x[cell == c].mean(0)).square().sum(1).mean() for c in (0, 1)])
    shares = torch.stack([error[cell == c].mean() for c in (0, 1)]) / variance
    assert shares.max() / shares.min() < 2  # the loud cell is not reconstructed better
    one = sae(x[:1], cell[:1])
    assert torch.allclose(one, sae(x, cell)[:1])
    with pytest.raises(MismatchError, match="indices into its 2 cells, got None"):
        sae(x)


def test_cell_index_translates_the_callers_cells():
    x, cell = rows(80), torch.arange(80) % 2
    sae = saes.create(CONFIGS[0], 6, seed=0).double()
    assert sae.cell_index([("x:out", None)], np.array([0, 0])) is None  # nothing to index yet
    sae.initialize(x, cell, CELLS)
    theirs = [("z:out", 0), ("a:out", 1), ("a:out", 0)]
    assert sae.cell_index(theirs, np.array([1, 2, 2])).tolist() == [1, 0, 0]
    with pytest.raises(MismatchError, match=r"cells .*'a:out', 1.*, got a row of \('z:out', 0\)"):
        sae.cell_index(theirs, np.array([1, 0]))


def test_an_sae_at_a_cell_needs_no_index():
    x, cell = rows(80), torch.arange(80) % 2
    sae = saes.create(CONFIGS[0], 6, seed=0).double()
    assert torch.equal(sae.at("any:out", 3)(x), sae(x))  # one scale for all
    sae.initialize(x, cell, CELLS)
    here = sae.at(*CELLS[1])
    one = torch.ones(80, dtype=torch.long)
    acts = sae.encode(x, one)
    assert torch.equal(here.encode(x), acts) and torch.equal(here.encode(x[3]), acts[3])
    assert torch.equal(here.decode(acts), sae.decode(acts, one)) and torch.equal(here(x), sae(x, one))
    cube = x.view(8, 10, 6)
    sparse = here.encode_sparse(cube)
    assert torch.equal(here.decode_sparse(sparse, cube), sae.decode_sparse(sparse, one.view(8, 10)))
    with pytest.raises(MismatchError, match="got a row of"):
        sae.at("z:out")


def test_an_sae_of_one_cell_knows_it():
    x = rows(80)
    sae = saes.create(CONFIGS[0].model_copy(update={"normalization": "per_cell"}), 6, seed=0).double()
    sae.initialize(x, torch.zeros(80, dtype=torch.long), CELLS[:1])
    assert sae.cells == CELLS[:1]
    assert torch.equal(sae(x), sae(x, torch.zeros(80, dtype=torch.long)))


def test_auto_normalises_per_cell_only_where_there_are_several():
    x = rows(80)
    for cells, expected in ((CELLS[:1], None), (CELLS, CELLS)):
        sae = saes.create(CONFIGS[0], 6, seed=0).double()
        sae.initialize(x, torch.arange(80) % len(cells), cells)
        assert sae.cells == expected


@each
def test_unit_decoder_rows(cfg):
    sae = random_sae(cfg)
    assert sae.unit_from == 0
    with torch.no_grad():
        sae.W_dec.mul_(3)
    sae.normalize_decoder()
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(20).double())


def test_free_decoders_are_left_alone():
    sae = random_sae(saes.ReLUConfig(d_sae=20, decoder_norm="free"))
    with torch.no_grad():
        sae.W_dec.mul_(3)
    before = sae.W_dec.clone()
    sae.normalize_decoder()
    assert sae.unit_from is None and torch.equal(sae.W_dec, before)


@each
def test_another_width_is_refused_with_the_hook(cfg):
    sae = random_sae(cfg)
    sae.hook_names = ["layers.8:out"]
    with pytest.raises(MismatchError, match=r"layers\.8:out.*width 6, got float32 of shape \(4, 7\)"):
        sae(torch.zeros(4, 7))


@each
def test_low_precision_rows_are_taken(cfg):
    sae, x = random_sae(cfg).float(), rows(16).bfloat16()
    assert torch.equal(sae(x), sae(x.float()))


def test_width_from_expansion_and_impossible_k():
    assert saes.create(saes.TopKConfig(expansion=2.5, k=2), 6, seed=0).d_sae == 15
    with pytest.raises(ConfigError, match="expected 1 to d_sae = 12 latents per row, got 13"):
        saes.create(saes.TopKConfig(d_sae=12, k=13), 6, seed=0)
