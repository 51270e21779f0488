from __future__ import annotations

import numpy as np
import pytest
import torch

from thoughtlens import metrics
from thoughtlens.core import DataError, MismatchError


def sparse(acts):
    """Every act of a dense matrix as values and indices, zeros included as padding."""
    indices = torch.arange(acts.shape[1]).expand_as(acts)
    return acts, indices


def codes(n=1000, d_sae=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(n, d_sae, generator=generator) < torch.linspace(0, 0.5, d_sae)
    return torch.rand(n, d_sae, generator=generator) * keep


def test_l0_by_hand():
    # rows fire 1, 2, 2, 0 latents: mean 5/4. A tiny and a negative act count, an exact 0 does not.
    acts = torch.tensor([[1e-30, 0, 0], [1, -2, 0], [0, 1, 1], [0, 0, 0]])
    l0 = metrics.L0()
    l0.update(acts[:3])
    l0.update(acts[3:])
    assert l0.compute() == 5 / 4
    assert [l0.quantile(q) for q in (0, 0.25, 0.5, 0.75, 1)] == [0, 0, 1, 2, 2]
    assert l0.quantiles() == {"q05": 0, "q25": 0, "q50": 1, "q75": 2, "q95": 2}


def test_l1_weighs_by_decoder_norms():
    acts = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    plain, weighted = metrics.L1(), metrics.L1(torch.tensor([2.0, 0.5]))
    plain.update(acts)
    weighted.update(acts)
    assert plain.compute() == (1 + 2 + 3) / 2
    assert weighted.compute() == (1 * 2 + 2 * 0.5 + 3 * 0.5) / 2


def test_l1_does_not_see_how_scale_is_shared():
    acts, norms = codes(), torch.linspace(0.5, 2, 16)
    one, two = metrics.L1(norms), metrics.L1(norms / 4)
    one.update(acts)
    two.update(4 * acts)
    assert one.compute() == pytest.approx(two.compute())


def test_density_by_hand():
    acts = torch.tensor([[1.0, 0, 0], [1, 2, 0], [3, 0, 0], [4, 0, 0]])
    density = metrics.Density(3)
    density.update(acts)
    assert density.compute().tolist() == [1, 0.25, 0]
    assert (density.n_live(), density.n_dense(), density.n_dense(0.5)) == (2, 2, 1)
    assert density.rule_of_three() == 0.75
    # shares 4/5 and 1/5: exp(-(0.8 ln 0.8 + 0.2 ln 0.2))
    assert density.effective_latents() == pytest.approx(np.exp(0.8 * np.log(1.25) + 0.2 * np.log(5)))


def test_density_histogram_holds_every_live_latent_once():
    density = metrics.Density(16)
    density.update(codes())
    bins = density.histogram(bins_per_decade=2)
    assert len(bins) == 6  # 1,000 rows: three decades
    assert (bins[0]["low"], bins[-1]["high"]) == (-3, 0)
    assert sum(b["n_latents"] for b in bins) == density.n_live() == 15
    always = metrics.Density(1)
    always.update(torch.ones(5, 1))
    assert always.histogram()[-1]["n_latents"] == 1


def test_effective_latents_of_equal_latents_is_their_number():
    density = metrics.Density(6)
    density.update(torch.eye(6)[:4])
    assert density.effective_latents() == pytest.approx(4)


@pytest.mark.parametrize("batch_size", [1, 33, 1000])
def test_counts_are_exact_across_batches_merges_and_sparse_input(batch_size):
    acts = codes()
    truth = (acts != 0).sum(0).numpy()
    left, right, as_sparse = metrics.Density(16), metrics.Density(16), metrics.Density(16)
    dead, dead_sparse, tail = metrics.Dead(16, 500), metrics.Dead(16, 500), metrics.Dead(16, 500)
    l0, l0_sparse, l1, l1_sparse = (
        metrics.L0(),
        metrics.L0(),
        metrics.L1(torch.ones(16)),
        metrics.L1(torch.ones(16)),
    )
    for i, batch in enumerate(acts.split(batch_size)):
        (left, right)[i * batch_size >= 500].update(batch)
        (dead, tail)[i * batch_size >= 500].update(batch)
        l0.update(batch)
        l1.update(batch)
        for accumulator in (as_sparse, dead_sparse, l0_sparse, l1_sparse):
            accumulator.update_sparse(*sparse(batch))
    assert (left.merge(right).fires == truth).all()
    assert (as_sparse.fires == truth).all()
    assert (dead.merge(tail).mask() == (acts[:500] == 0).all(0).numpy()).all()
    assert (dead.mask() == dead_sparse.mask()).all() and (dead.idle() == dead_sparse.idle()).all()
    assert l0.compute() == l0_sparse.compute() == truth.sum() / 1000
    assert l1.compute() == pytest.approx(l1_sparse.compute()) == pytest.approx(acts.sum().item() / 1000)


def planted():
    """Latent 0 fires at rows 5,000 and 15,000 only; latent 1 always; latent 2 never."""
    acts = torch.zeros(20_000, 3)
    acts[[5000, 15_000], 0] = 1.0
    acts[:, 1] = 1.0
    return acts


@pytest.mark.parametrize(
    ("window", "first_is_dead"), [(1000, True), (5000, True), (5001, False), (10_000, False), (None, False)]
)
@pytest.mark.parametrize("batch_size", [999, 20_000])
def test_dead_depends_on_the_rows_looked_at(window, first_is_dead, batch_size):
    metric = metrics.Dead(3, window)
    for batch in planted().split(batch_size):
        metric.update(batch)
    assert metric.mask().tolist() == [first_is_dead, False, True]
    assert metric.compute() == first_is_dead + 1


def test_the_idle_counter_resets_at_the_row_that_fires():
    metric, acts = metrics.Dead(3), planted()
    idle = []
    for stop in (5000, 5001, 15_000, 15_001, 20_000):
        metric.update(acts[metric.n : stop])
        idle.append(metric.idle().tolist())
    assert idle == [[5000, 0, 5000], [0, 0, 5001], [9999, 0, 15_000], [0, 0, 15_001], [4999, 0, 20_000]]


def test_dead_needs_as_many_rows_as_it_speaks_of():
    metric = metrics.Dead(2, 1000)
    metric.update(torch.ones(999, 2))
    with pytest.raises(DataError, match="dead@1000 needs 1000 rows, saw 999"):
        metric.compute()


@pytest.mark.parametrize(
    "make", [metrics.L0, metrics.L1, lambda: metrics.Density(2), lambda: metrics.Dead(2)]
)
def test_empty_and_broken_acts_are_refused(make):
    with pytest.raises(DataError, match="saw no rows"):
        make().compute()
    with pytest.raises(DataError, match="finite acts"):
        make().update(torch.tensor([[1.0, float("nan")]]))


def test_acts_of_another_width_are_refused():
    with pytest.raises(MismatchError, match="2 latents, got 3"):
        metrics.Density(2).update(torch.ones(1, 3))
    with pytest.raises(MismatchError, match="latents 0 to 1, got 2 to 2"):
        metrics.Dead(2).update_sparse(torch.ones(1, 1), torch.tensor([[2]]))
    with pytest.raises(MismatchError):
        metrics.Dead(2).merge(metrics.Dead(3))


def test_no_firing_has_no_effective_number():
    density = metrics.Density(2)
    density.update(torch.zeros(5, 2))
    with pytest.raises(DataError, match="needs firings"):
        density.effective_latents()
