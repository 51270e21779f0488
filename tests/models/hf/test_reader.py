"""Token sequences of any lengths give what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thoughtlens.models.hf.capture import capture
from thoughtlens.models.hf.load import load
from thoughtlens.models.hf.reader import by_length, pad, read

HOOK = "layers.1:out"


def test_like_lengths_share_a_pass_that_fits():
    assert list(by_length([3, 9, 3, 2, 30], batch_tokens=9)) == [[4], [1], [0, 2, 3]]
    assert list(by_length([], 9)) == []


def test_padding_keeps_the_kind_of_number():
    table, mask = pad([np.array([True]), np.array([True, True])], False)
    assert table.tolist() == [[True, False], [True, True]] and mask.tolist() == table.tolist()
    assert pad([np.array([5], np.int32)])[0].dtype == np.int64


@pytest.mark.parametrize("at", ["all", "last"])
def test_together_and_alone_are_the_same(tiny_lm_dir, at):
    lm = load(str(tiny_lm_dir), dtype="float32")
    rng = np.random.default_rng(0)
    sequences = [rng.integers(3, 50, size=n) for n in (4, 11, 7, 1, 11)]
    seen = []
    for found in read(lm, sequences, [HOOK], batch_tokens=24, at=at):
        assert found.ids.size <= 24
        for row, which in enumerate(found.which):
            n = len(sequences[which])
            (alone,) = capture(lm.model, torch.from_numpy(sequences[which])[None], None, [HOOK])[HOOK]
            got = found.acts[HOOK][row]
            wanted = (got[:n], alone) if at == "all" else (got, alone[-1])
            torch.testing.assert_close(*wanted, atol=1e-5, rtol=1e-4)
            seen.append(which)
    assert sorted(seen) == [0, 1, 2, 3, 4]
