"""Heads of safetensors files: written as the library reads them, and read from damaged files."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from thoughtlens.core import NotThereError, StoreError, head, read_head


def test_the_library_reads_what_stands_behind_a_head(tmp_path):
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8, 9], np.int64)
    first, entries = head({"a": ("F32", (2, 3)), "b": ("I64", (3,))}, {"format": "pt"})
    file = tmp_path / "x.safetensors"
    file.write_bytes(first + a.tobytes() + b.tobytes())
    found = load_file(file)
    assert np.array_equal(found["a"], a) and np.array_equal(found["b"], b)
    assert len(first) % 8 == 0 and read_head(file) == entries
    assert file.read_bytes()[entries["b"].start : entries["b"].end] == b.tobytes()
    assert head({"a": ("F32", (2, 3))})[0] == head({"a": ("F32", (2, 3))})[0]


@pytest.mark.parametrize("keep", [0, 5, 30, -1])
def test_a_file_that_was_cut_off(tmp_path, keep):
    file = tmp_path / "x.safetensors"
    save_file({"a": np.ones(9, np.float32)}, file)
    assert read_head(file)["a"].shape == (9,)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(StoreError, match="truncated or not a safetensors file"):
        read_head(file)


def test_heads_that_lie(tmp_path):
    file = tmp_path / "x.safetensors"
    with pytest.raises(NotThereError):
        read_head(file)
    for text in (b"[]", b"{", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}}'):
        file.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(StoreError, match="truncated or not"):
            read_head(file)
