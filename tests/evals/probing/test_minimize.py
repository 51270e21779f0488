"""Many small problems at once give what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from thoughtlens.evals.probing.minimize import minimize


def test_every_problem_reaches_its_own_minimum():
    rng = np.random.default_rng(0)
    scale, centre = rng.uniform(0.1, 50, (6, 4)), rng.normal(size=(6, 4))
    seen = []

    def evaluate(x, which):
        seen.append(len(which))
        gap = x - centre[:, which]
        return (scale[:, which] * gap**2).sum(0) / 2, scale[:, which] * gap

    found, late = minimize(evaluate, np.zeros((6, 4)), tolerance=1e-8, max_iter=200)
    np.testing.assert_allclose(found, centre, atol=1e-7)
    assert not late.any()
    assert min(seen) < 4  # those that are done are not evaluated again


def test_rosenbrock_as_scipy_finds_it():
    def evaluate(x, which):
        f = np.array([scipy.optimize.rosen(column) for column in x.T])
        return f, np.stack([scipy.optimize.rosen_der(column) for column in x.T], axis=1)

    start = np.array([[-1.2, 2.0, 0.0], [1.0, -1.0, 0.5]])
    found, late = minimize(evaluate, start, tolerance=1e-6, max_iter=500)
    np.testing.assert_allclose(found, 1.0, atol=1e-4)
    assert not late.any()


def test_stopping_early_is_said():
    def evaluate(x, which):
        return scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)

    _, late = minimize(evaluate, np.array([[-1.2], [1.0]]), tolerance=1e-9, max_iter=3)
    assert late.tolist() == [True]


@pytest.mark.parametrize("p", [1, 3])
def test_a_start_at_the_minimum_stays(p):
    found, late = minimize(lambda x, w: ((x**2).sum(0), 2 * x), np.zeros((2, p)), tolerance=1e-6, max_iter=5)
    assert (found == 0).all() and not late.any()
