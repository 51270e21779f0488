from __future__ import annotations

import pytest
import torch

from thoughtlens import sae as saes
from thoughtlens.core import ConfigError, DataError, MismatchError
from thoughtlens.numerics.metrics.reconstruction import FVU
from thoughtlens.numerics.metrics.sparsity import L0
from thoughtlens.sae.baselines.base import Identity, MeanPredictor
from thoughtlens.sae.baselines.pca import PCA, Covariance
from thoughtlens.sae.baselines.random_sae import RandomSAE

CELLS = [("layers.0:out", None), ("layers.1:out", None)]


def data(n=600, d=12, seed=0, mean=3.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator) * torch.linspace(2, 0.1, d)
    return torch.randn(n, d, generator=generator) @ mix.T + mean


def fvu(x, x_hat):
    metric = FVU()
    metric.update(x, x_hat)
    return metric.compute()


def test_pca_by_hand():
    # along (1, 1)/sqrt 2 the rows lie at -2, 0, 2 sqrt-units, across it nothing
    x = torch.tensor([[0.0, 2.0], [2.0, 4.0], [1.0, 3.0]])
    pca = PCA.fit(x, 1)
    assert pca.W_dec[0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    assert pca.mean.tolist() == [[1.0, 3.0]]
    assert pca.encode(x)[:, 0].tolist() == pytest.approx([-(2**0.5), 2**0.5, 0], abs=1e-6)
    assert torch.allclose(pca(x), x, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 12])
def test_pca_leaves_the_smallest_variances(k):
    x = data()
    spectrum = torch.linalg.svdvals((x - x.mean(0)).double()).square()
    assert fvu(x, PCA.fit(x, k)(x)) == pytest.approx((spectrum[k:].sum() / spectrum.sum()).item(), abs=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_a_stream_gives_the_components_of_the_whole(mean):
    x = data(mean=mean)
    covariance = Covariance(12)
    for batch in x.split([1, 250, 9, 340]):
        covariance.update(batch)
    centred = x.double() - x.double().mean(0)
    assert torch.allclose(covariance.scatter, centred.T @ centred, rtol=1e-9)
    assert torch.equal(covariance.pca(4).first(2).W_dec, covariance.pca(2).W_dec)
    assert torch.allclose(covariance.pca(12)(x), x, rtol=1e-4, atol=1e-2)


def test_pca_refuses_more_components_than_dimensions():
    with pytest.raises(ConfigError, match="1 to d_in = 12"):
        PCA.fit(data(), 13)
    with pytest.raises(DataError, match="at least 2 rows"):
        PCA.fit(data(n=1), 1)


def test_the_mean_predictor_explains_nothing_of_its_own_rows():
    x = data()
    mean = MeanPredictor(x.mean(0)[None])
    assert fvu(x, mean(x)) == pytest.approx(1, abs=1e-6)
    assert mean.encode(x).shape == (600, 0)
    assert mean.encode_sparse(x).values.shape == (600, 0)


def test_a_table_of_means_needs_the_cell_and_translates_it():
    means = torch.tensor([[1.0, 1.0], [5.0, 5.0]])
    mean = MeanPredictor(means, CELLS)
    theirs = [("layers.1:out", None), ("layers.9:out", None), ("layers.0:out", None)]
    cell = mean.cell_index(theirs, torch.tensor([0, 2, 2]))
    assert mean(torch.zeros(3, 2), cell)[:, 0].tolist() == [5, 1, 1]
    with pytest.raises(MismatchError, match="a row of"):
        mean.cell_index(theirs, torch.tensor([0, 1]))
    with pytest.raises(MismatchError, match="expected `cell`"):
        mean(torch.zeros(3, 2))
    with pytest.raises(MismatchError, match="one mean per cell"):
        MeanPredictor(means)


def test_identity_is_free():
    x = data()
    assert torch.equal(Identity(12)(x), x)
    assert Identity(12).cell_index(CELLS, torch.tensor([0])) is None


@pytest.mark.parametrize("rule", ["topk", "relu"])
def test_a_random_sae_has_the_sparsity_asked_for_and_explains_little(rule):
    x = data(n=4000, d=32)
    random = RandomSAE.fit(x, d_sae=128, l0=8, rule=rule, seed=0)
    l0 = L0()
    l0.update(random.encode(x))
    assert l0.compute() == pytest.approx(8, abs=0.1)
    assert fvu(x, PCA.fit(x, 8)(x)) < fvu(x, random(x)) < 1
    again = RandomSAE.fit(x, d_sae=128, l0=8, rule=rule, seed=0)
    other = RandomSAE.fit(x, d_sae=128, l0=8, rule=rule, seed=1)
    assert torch.equal(again(x), random(x))
    assert not torch.equal(other(x), random(x))


def test_the_scale_of_a_random_sae_is_the_best_one():
    x = data(n=500, d=16)
    random = RandomSAE.fit(x, d_sae=64, l0=6, rule="topk", seed=2)
    guess = random(x) - random.b_dec
    for factor in (0.9, 1.1):
        assert fvu(x, random(x)) < fvu(x, factor * guess + random.b_dec)


@pytest.mark.parametrize("rule", ["topk", "relu"])
def test_sparse_and_dense_acts_give_the_same(rule):
    x = data(n=50, d=16).reshape(5, 10, 16)
    random = RandomSAE.fit(x.reshape(50, 16), d_sae=64, l0=6, rule=rule, seed=2)
    sparse = random.encode_sparse(x)
    assert torch.allclose(sparse.to_dense(64), random.encode(x), atol=1e-5)
    assert torch.allclose(random.decode_sparse(sparse), random(x), atol=1e-4)


def test_like_takes_kind_width_and_normalisation_from_the_sae():
    x = torch.cat([data(n=300, d=8), 100 + 10 * data(n=300, d=8, seed=1)])
    cell = torch.arange(2).repeat_interleave(300)
    sae = saes.create(saes.TopKConfig(d_sae=24, k=3, normalization="per_cell"), 8, seed=0)
    sae.initialize(x, cell, CELLS)
    random = RandomSAE.like(sae, x, cell, l0=3.0, seed=1)
    assert (random.d_sae, random.k, random.cells) == (24, 3, sae.cells)
    # scale 0 would give each cell's mean: within both cells it must explain something
    for rows in (slice(0, 300), slice(300, 600)):
        assert fvu(x[rows], random(x[rows], cell[rows])) < 1
    relu = saes.create(saes.ReLUConfig(d_sae=24), 8, seed=0)
    assert RandomSAE.like(relu, x, None, l0=5.0, seed=1).k is None


def test_a_random_sae_cannot_have_a_sparsity_out_of_range():
    with pytest.raises(ConfigError, match="0 < l0 <= d_sae"):
        RandomSAE.fit(data(), d_sae=8, l0=0, rule="topk", seed=0)
    with pytest.raises(DataError, match="at least 2 rows"):
        RandomSAE.fit(data(n=1), d_sae=8, l0=1, rule="topk", seed=0)
