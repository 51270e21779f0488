from __future__ import annotations

import pytest
import torch

from thoughtlens import metrics
from thoughtlens.core import DataError, MismatchError
from thoughtlens.numerics.metrics.accumulator import paired, rows_of
from thoughtlens.numerics.metrics.reconstruction import DEFINITIONS

X = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
X_HAT = torch.tensor([[2.0, 1.0], [0.0, 3.0]])

# Errors (0, -1) and (0, 1), so 1 + 1 = 2. Mean (1, 2): total (1 + 4) + (1 + 4) = 10. |x|^2: 4 + 16 = 20.
BY_HAND = {
    "fvu": 2 / 10,
    "explained_variance": 1 - 2 / 10,
    "legacy_explained_variance": ((1 - 1 / 5) + (1 - 1 / 5)) / 2,
    "residual_variance_ev": 1 - 2 / 10,  # the residual's mean is 0
    "uncentred_ev": 1 - 2 / 20,
    "openai_normalized_mse": (1 / 4 + 1 / 16) / 2,
    "scalar_r2": 1 - 2 / 11,  # mean of 2, 0, 0, 4 is 1.5: 0.25 + 2.25 + 2.25 + 6.25 = 11
    "mse": (1 + 1) / 2,
    "mse_mean": 2 / 4,
    "cosine_similarity": (4 / (2 * 5**0.5) + 12 / (4 * 3)) / 2,
    "l2_ratio": (5**0.5 / 2 + 3 / 4) / 2,
    "relative_reconstruction_bias": (5 + 9) / (4 + 12),
}


def feed(metric, x, x_hat, batch_size=None):
    for start in range(0, len(x), batch_size or len(x)):
        rows = slice(start, start + (batch_size or len(x)))
        metric.update(x[rows], x_hat[rows])
    return metric


def noisy(n=200, d=8, mean=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) + mean
    return x, x + 0.5 * torch.randn(n, d, generator=generator)


@pytest.mark.parametrize("cls", DEFINITIONS, ids=lambda cls: cls.name)
def test_by_hand(cls):
    assert feed(cls(), X, X_HAT).compute() == pytest.approx(BY_HAND[cls.name], abs=1e-12)


def test_the_bundle_gives_the_same_numbers_and_every_one_says_what_it_is():
    bundle = feed(metrics.Reconstruction(), X, X_HAT)
    assert bundle.compute() == pytest.approx(BY_HAND)
    assert bundle.n == 2
    assert all(cls.definition for cls in DEFINITIONS)


def test_shrinkage_is_seen_by_ev_and_gamma():
    x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(1))
    x -= x.mean(0)
    # x_hat = 0.7 x on centred x: FVU 0.3^2 = 0.09, gamma 0.49 / 0.7 = 0.7, |x_hat| / |x| = 0.7
    got = feed(metrics.Reconstruction(), x, 0.7 * x).compute()
    assert got["explained_variance"] == pytest.approx(0.91, abs=1e-6)
    assert got["relative_reconstruction_bias"] == pytest.approx(0.7, abs=1e-6)
    assert got["l2_ratio"] == pytest.approx(0.7, abs=1e-6)
    assert got["cosine_similarity"] == pytest.approx(1, abs=1e-6)


def test_an_offset_is_an_error_except_to_the_residual_variance():
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(2))
    offset = torch.arange(8.0) / 10
    got = feed(metrics.Reconstruction(), x, x + offset).compute()
    variance = x.double().var(0, unbiased=False).sum()
    assert got["explained_variance"] == pytest.approx(
        float(1 - offset.double().square().sum() / variance), abs=1e-6
    )
    assert got["residual_variance_ev"] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("cls", [c for c in DEFINITIONS if c.name != "legacy_explained_variance"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_and_their_order_change_nothing(cls, batch_size):
    x, x_hat = noisy(mean=5)
    whole = feed(cls(), x, x_hat).compute()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    assert feed(cls(), x, x_hat, batch_size).compute() == pytest.approx(whole, abs=1e-9)
    assert feed(cls(), x[order], x_hat[order], batch_size).compute() == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("cls", DEFINITIONS)
def test_merged_halves_equal_the_whole(cls):
    x, x_hat = noisy(mean=3)
    halves = feed(cls(), x[:128], x_hat[:128], 64).merge(feed(cls(), x[128:], x_hat[128:], 64))
    assert halves.compute() == pytest.approx(feed(cls(), x, x_hat, 64).compute(), abs=1e-9)
    assert halves.n == 200
    assert feed(cls(), X, X_HAT).merge(cls()).compute() == pytest.approx(BY_HAND[cls.name])


@pytest.mark.parametrize("cls", DEFINITIONS)
def test_scale_changes_only_what_has_a_unit(cls):
    x, x_hat = noisy(mean=1)
    factor = 9 if cls.name in ("mse", "mse_mean") else 1  # units of x squared
    scaled = feed(cls(), 3 * x, 3 * x_hat).compute()
    assert scaled == pytest.approx(factor * feed(cls(), x, x_hat).compute(), rel=1e-6)


@pytest.mark.parametrize("mean", [0.0, 100.0, 1e6])
def test_the_mean_predictor_scores_zero_however_far_the_mean(mean):
    x, _ = noisy(n=3000, d=64, mean=mean)
    x_hat = x.double().mean(0).expand_as(x)
    got = metrics.ExplainedVariance()
    for rows in torch.arange(len(x)).split([1, 7, 992, 2000]):
        got.update(x[rows], x_hat[rows])
    assert got.compute() == pytest.approx(0, abs=1e-9)
    assert feed(metrics.ExplainedVariance(), x, x_hat.float()).compute() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_summed_in_float64(dtype):
    x = torch.full((20_000, 2), 1.0, dtype=dtype)  # bfloat16 sums of ones stop at 256
    x[::2] = 3.0
    # values 1 and 3, mean 2: total 20,000 * 2 * 1; the constant 2 explains nothing
    got = feed(metrics.FVU(), x, torch.full_like(x, 2.0), 512)
    assert got.compute() == 1.0
    assert got.moments.mean.dtype == torch.float64


def test_leading_dimensions_are_rows():
    x, x_hat = noisy(n=24)
    flat = feed(metrics.Reconstruction(), x, x_hat).compute()
    cube = metrics.Reconstruction()
    cube.update(x.reshape(4, 6, 8), x_hat.reshape(4, 6, 8))
    assert cube.compute() == pytest.approx(flat)


def test_explained_variance_within_gives_nothing_for_the_cells_means():
    # cell 0: x 0, 2 (mean 1); cell 1: x 10, 14 (mean 12); one dimension.
    x = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
    cell = torch.tensor([0, 0, 1, 1])
    means = torch.tensor([[1.0], [1.0], [12.0], [12.0]])
    within, pooled = metrics.ExplainedVarianceWithin(), metrics.ExplainedVariance()
    within.update(x, means, cell)
    pooled.update(x, means)
    assert within.compute() == pytest.approx(0)
    # mean 6.5: total 42.25 + 20.25 + 12.25 + 56.25 = 131; error 1 + 1 + 4 + 4 = 10
    assert pooled.compute() == pytest.approx(1 - 10 / 131)
    assert within.per_cell() == {0: pytest.approx(0), 1: pytest.approx(0)}


def test_explained_variance_within_by_hand_and_by_batches():
    # errors 1, 0 in cell 0 (total 1 + 1), 2, 0 in cell 1 (total 4 + 4): 1 - (1 + 4) / (2 + 8)
    x = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
    x_hat = torch.tensor([[1.0], [2.0], [12.0], [14.0]])
    cell = torch.tensor([0, 0, 1, 1])
    whole, parts = metrics.ExplainedVarianceWithin(), metrics.ExplainedVarianceWithin()
    whole.update(x, x_hat, cell)
    other = metrics.ExplainedVarianceWithin()
    parts.update(x[[3, 0]], x_hat[[3, 0]], cell[[3, 0]])
    other.update(x[[1, 2]], x_hat[[1, 2]], cell[[1, 2]])
    assert whole.compute() == pytest.approx(0.5)
    assert whole.per_cell() == {0: pytest.approx(1 - 1 / 2), 1: pytest.approx(1 - 4 / 8)}
    assert parts.merge(other).compute() == pytest.approx(0.5)


def test_a_cell_that_does_not_vary_has_no_value_of_its_own():
    within = metrics.ExplainedVarianceWithin()
    within.update(
        torch.tensor([[0.1], [0.1], [0.1], [2.0], [4.0]]), torch.zeros(5, 1), torch.tensor([0, 0, 0, 1, 1])
    )
    assert within.per_cell()[0] is None
    # error 3 * 0.01 + 4 + 16, variance of cell 1 alone: 1 + 1
    assert within.compute() == pytest.approx(1 - 20.03 / 2)


def test_explained_variance_by_norm_by_hand():
    # bin up to 5: x 1, 3 (mean 2, total 2), error 1; up to 20: x 10, 14 (mean 12, total 8), error 4
    metric = metrics.ExplainedVarianceByNorm(torch.tensor([5.0, 20.0]))
    metric.update(torch.tensor([[1.0], [14.0]]), torch.tensor([[2.0], [14.0]]))
    metric.update(torch.tensor([[3.0], [10.0]]), torch.tensor([[3.0], [8.0]]))
    low, high, none = metric.compute()
    assert low == {"low": None, "high": 5.0, "n": 2, "explained_variance": pytest.approx(1 - 1 / 2)}
    assert high == {"low": 5.0, "high": 20.0, "n": 2, "explained_variance": pytest.approx(1 - 4 / 8)}
    assert none == {"low": 20.0, "high": None, "n": 0, "explained_variance": None}


def test_massive_rows_hide_in_the_total_and_show_by_norm():
    x, _ = noisy(n=1000, d=4)
    x[:10] *= 1000  # ten rows carry nearly all variance
    x_hat = torch.where(x.norm(dim=1, keepdim=True) > 100, x, torch.zeros_like(x))
    total = feed(metrics.ExplainedVariance(), x, x_hat).compute()
    bins = feed(metrics.ExplainedVarianceByNorm(metrics.norm_deciles(x)), x, x_hat).compute()
    assert total > 0.999
    assert [b["n"] for b in bins] == [100] * 10
    assert all(b["explained_variance"] <= 0 for b in bins[:9])
    assert bins[9]["explained_variance"] > 0.999


def test_zero_rows_and_zero_reconstructions_are_counted_as_documented():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    x_hat = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    got = feed(metrics.Reconstruction(), x, x_hat)
    values = got.compute()
    assert values["cosine_similarity"] == 0  # both rows count 0
    assert values["l2_ratio"] == 0  # only the row with |x| = 5
    assert values["openai_normalized_mse"] == 1
    assert got.parts["l2_ratio"].n == 1
    assert values["relative_reconstruction_bias"] is None


@pytest.mark.parametrize(
    "cls", [metrics.FVU, metrics.ExplainedVariance, metrics.ResidualVarianceEV, metrics.ScalarR2]
)
def test_constant_data_is_refused(cls):
    x = torch.full((1000, 3), 0.1)
    with pytest.raises(DataError, match="needs activations that vary; saw 1000 rows"):
        feed(cls(), x, x + 1, 7).compute()


@pytest.mark.parametrize("cls", [*DEFINITIONS, metrics.ExplainedVarianceWithin])
def test_no_rows_is_refused(cls):
    with pytest.raises(DataError, match="saw no rows"):
        cls().compute()


def test_an_empty_batch_changes_nothing():
    got = feed(metrics.Reconstruction(), X, X_HAT)
    got.update(torch.empty(0, 2), torch.empty(0, 2))
    assert got.compute() == pytest.approx(BY_HAND)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_row(bad):
    x_hat = X_HAT.clone()
    x_hat[1, 0] = bad
    with pytest.raises(DataError, match="finite x_hat, got NaN or Inf in row 1"):
        metrics.FVU().update(X, x_hat)


def test_nothing_is_broadcast():
    with pytest.raises(DataError, match=r"one shape, got \[2, 2\] and \[2, 1\]"):
        paired(X, X_HAT[:, :1])
    with pytest.raises(DataError, match="add a batch dimension"):
        rows_of(X[0])


def test_only_equal_metrics_with_equal_settings_merge():
    with pytest.raises(MismatchError, match="Expected a FVU"):
        metrics.FVU().merge(metrics.ExplainedVariance())
    with pytest.raises(MismatchError, match="edges"):
        metrics.ExplainedVarianceByNorm(torch.tensor([1.0])).merge(
            metrics.ExplainedVarianceByNorm(torch.tensor([2.0]))
        )
