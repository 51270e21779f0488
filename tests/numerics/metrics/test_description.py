"""Description length by hand, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from thoughtlens.core import DataError
from thoughtlens.numerics.metrics.description import description_length

RESIDUAL = np.array([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.5], [-1.0, -0.5]])
WRITTEN = np.array([[2.0, 0.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]])


def test_the_bits_by_hand():
    # latent 0 fires on half of the rows: 1 bit; it writes 2 and 4, variance 1, 4 times the precision: 1 bit
    # for half of the rows; latent 1 never fires: 0. Second moments of the residual 1 and 1/4: 1 bit and 0
    found = description_length(RESIDUAL, sp.csr_array(WRITTEN), 0.25)
    assert found == pytest.approx((1.0, 0.5, 1.0))
    assert found.total == pytest.approx(2.5)


def test_units_directions_and_silent_latents_do_not_matter():
    found = description_length(RESIDUAL, sp.csr_array(WRITTEN), 0.25)
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    more = np.hstack([WRITTEN, np.zeros((4, 50))])
    assert description_length(10 * RESIDUAL @ turn, sp.csr_array(10 * more), 25.0) == pytest.approx(found)


def test_a_concept_is_cheaper_as_a_latent_than_as_a_residual():
    rng = np.random.default_rng(0)
    value = rng.integers(0, 16, 20_000)
    centres = rng.normal(size=(16, 32))
    noise = 0.1 * rng.normal(size=(20_000, 32))
    code = sp.csr_array((np.full(20_000, 5.0), (np.arange(20_000), value)), shape=(20_000, 16))
    with_latents = description_length(noise, code, 0.05)
    without = description_length(centres[value] + noise, sp.csr_array((20_000, 1)), 0.05)
    assert with_latents.which == pytest.approx(16 * (4 / 16 + 15 / 16 * np.log2(16 / 15)), rel=0.01)
    assert with_latents.total < without.total


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="as many residuals as codes, got 4"):
        description_length(RESIDUAL, sp.csr_array(WRITTEN[:3]), 0.25)
