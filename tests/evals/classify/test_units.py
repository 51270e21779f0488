"""Units that are classified: which of them say the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thoughtlens.evals.classify.units import _contradicted
from thoughtlens.evals.probing.samples import Units


def test_units_without_text_are_neither_copies_nor_contradictions():
    """Imported activations may have no questions: an empty text says nothing of two units."""
    silent = Units(
        ids=list("abcd"), groups=np.arange(4), y=np.array([0, 1, 0, 1]), classes=["n", "y"], texts=[""] * 4
    )
    assert _contradicted(silent) == 0
    assert _contradicted(replace(silent, texts=["", "", "5 + 5", "5 + 5 "])) == 2
