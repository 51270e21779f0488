"""The vectors that explanations are made from, by hand."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from thoughtlens.latents.explain.corpus import Part
from thoughtlens.latents.explain.tokens import Tokens


def test_problems_a_latent_fires_in():
    # three vectors of the problems 0, 0, 1: latent 0 fires on the first two, latent 1 on the last two,
    # latent 2 on none, though a 0 is stored for it
    indptr, indices = np.array([0, 2, 4, 5]), np.array([0, 1, 1, 2, 0])
    acts = sp.csc_array((np.array([1.0, 2.0, 3.0, 4.0, 0.0], np.float32), indices, indptr), shape=(3, 3))
    place = np.arange(3)
    tokens = Tokens(np.array([7, 8, 7]), np.array([0, 0, 1]))
    unit, two = np.array([0, 0, 1]), np.arange(2)
    part = Part("test", acts, unit, two, two, place, np.zeros(3, int), tokens, place)
    assert part.firing_units().tolist() == [1, 2, 0]
    assert part.column(1).tolist() == [0, 3, 4]
    assert part.acts.nnz == 5  # and what is stored stays
