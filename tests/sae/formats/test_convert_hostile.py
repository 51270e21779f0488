"""Files that are damaged, hostile or lie about their size: one line, nothing executed, nothing kept."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sae.formats import foreign
from tests.sae.formats.mutate import damage
from thoughtlens import sae as saes
from thoughtlens.core import CheckpointError, ThoughtlensError
from thoughtlens.sae.formats.files import read_npz, read_pt, read_safetensors


class Mischief:
    """Unpickled, it would leave a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def refused(read, file: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        read(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize("name", ["ae.pt", "8.pt"])
def test_a_pickle_with_code_is_not_run(tmp_path, name):
    trap, file = tmp_path / "ran", tmp_path / name
    torch.save({"encoder.weight": torch.zeros(2, 2), "x": Mischief(trap)}, file)
    refused(saes.load, file, "nothing but tensors")
    file.write_bytes(pickle.dumps(Mischief(trap)))
    refused(saes.load, file, "nothing but tensors")
    torch.save({"x": Mischief(trap)}, file, _use_new_zipfile_serialization=False)
    refused(saes.load, file, "nothing but tensors")
    assert not trap.exists()


def test_a_header_of_ten_gigabytes(tmp_path):
    file = tmp_path / "params.safetensors"
    file.write_bytes((10 * 2**30).to_bytes(8, "little") + b"{}" + b" " * 100)
    refused(read_safetensors, file, "its header claims 10,737,418,240 of 110 bytes")
    refused(saes.load, file, "its header claims")


def test_object_arrays(tmp_path):
    trap, file = tmp_path / "ran", tmp_path / "params.npz"
    np.savez(file, W_enc=np.array([Mischief(trap)], object))
    refused(saes.load, file, "expected numbers in W_enc, got dtype object")
    assert not trap.exists()


def npz(file: Path, shape: tuple[int, ...], data: bytes, **settings) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w", **settings) as archive:
        archive.writestr("W_enc.npy", head.getvalue() + data)


def test_a_zip_bomb_and_a_shape_that_lies(tmp_path):
    file = tmp_path / "params.npz"
    n = 25 * 2**20
    npz(file, (n,), bytes(4 * n), compression=zipfile.ZIP_DEFLATED)
    refused(read_npz, file, "would unfold to 104,857,")
    npz(file, (10**12,), bytes(64))
    refused(read_npz, file, "does not fill its")
    npz(file, (4,), bytes(64), compression=zipfile.ZIP_LZMA)
    refused(read_npz, file, "compressed in an unknown way")
    npz(file, (16,), bytes(64), compression=zipfile.ZIP_DEFLATED)
    assert torch.equal(read_npz(file)["W_enc"], torch.zeros(16))


def test_column_major_arrays_are_read_right(tmp_path):
    array = np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3))
    np.savez(tmp_path / "params.npz", W_enc=array, b_enc=array.astype(">f4"))
    found = read_npz(tmp_path / "params.npz")
    assert torch.equal(found["W_enc"], torch.from_numpy(array.copy()))
    assert torch.equal(found["b_enc"], torch.from_numpy(array.copy()))


def test_tensors_that_repeat_one_number(tmp_path):
    torch.save({"pre_bias": torch.zeros(1).expand(10**9, 10**9)}, tmp_path / "a.pt")
    refused(read_pt, tmp_path / "a.pt", "fewer numbers than its shape")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite(tmp_path, value):
    path = foreign.dictionary(tmp_path, "AutoEncoder")
    state = torch.load(path / "ae.pt", weights_only=True)
    state["decoder.weight"][1, 2] = value
    torch.save(state, path / "ae.pt")
    refused(saes.load, path, "W_dec holds NaN or Inf")


def test_settings_that_nest_too_deep(tmp_path):
    path = foreign.sae_lens(tmp_path, "topk")
    (path / "cfg.json").write_text('{"architecture":' + "[" * 100_000)
    refused(saes.load, path, "not JSON")
    (path / "cfg.json").write_text(json.dumps({"x": "y" * (17 * 2**20)}))
    refused(saes.load, path, "bytes of JSON")


@pytest.mark.parametrize("name", sorted(foreign.ALL))
def test_damaged_files_load_or_are_refused_in_one_line(tmp_path, name):
    """A little of what bench/fuzz_readers.py does."""
    path = foreign.ALL[name](tmp_path / "whole")
    source = path if path.is_dir() else path.parent
    for seed in range(12):
        damaged = tmp_path / "damaged" / source.name
        how = damage(source, damaged, seed)
        try:
            sae = saes.load(damaged)
            sae.encode(torch.zeros(1, sae.d_in, dtype=sae.W_enc.dtype))
        except ThoughtlensError as error:
            assert "\n" not in str(error), how
