"""Codes on disk: both orders, a killed writer, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from thoughtlens.core import DataError, NotThereError, StoreError
from thoughtlens.latents.codes import code_writer
from thoughtlens.latents.codes.code_writer import CodeWriter
from thoughtlens.latents.codes.codes import Codes, open_codes
from thoughtlens.latents.codes.fires import Fires
from thoughtlens.latents.codes.statistics import coactive, latent_stats

HOOKS = ["layers.0:out", "layers.1:out"]


def random_codes(n: int, d: int, seed: int = 0) -> np.ndarray:
    """[n, d] with empty rows, a latent that never fires, and values beyond float16."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, d)) < 0.2, rng.random((n, d)), 0).astype(np.float32)
    dense[:, 2] = 0
    dense[n // 2 : n // 2 + 3] = 0
    dense[1, 1] = 1e6
    return dense


def writer(root, n_vectors: int, d: int) -> CodeWriter:
    places = np.arange(n_vectors // 2)
    return CodeWriter(
        root / "codes" / "0", root / "scratch", member="pooled", hook_names=HOOKS, d_sae=d,
        row=places[::-1] * 10, problem=places // 4,
    )  # fmt: skip


def append(to: CodeWriter, dense: np.ndarray) -> None:
    vector, latent = np.nonzero(dense)
    to.append(np.bincount(vector, minlength=len(dense)), latent, dense[vector, latent])


@pytest.mark.parametrize("chunk", [7, 1 << 22])
def test_both_orders_are_the_dense_codes(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(code_writer, "CHUNK_FIRES", chunk)  # a buffer size: many parts, or one
    dense = random_codes(120, 9)
    to = writer(tmp_path, 120, 9)
    for low in range(0, 120, 50):
        append(to, dense[low : low + 50])
    codes = to.finish()
    np.testing.assert_array_equal(codes.csr().toarray(), dense)
    np.testing.assert_array_equal(codes.csc().toarray(), dense)
    for j in range(9):
        vector, value = codes.latent(j)
        np.testing.assert_array_equal(vector, np.flatnonzero(dense[:, j]))
        np.testing.assert_array_equal(value, dense[vector, j])
    latent, value = codes.row(1)
    np.testing.assert_array_equal(latent, np.flatnonzero(dense[1]))
    assert value[latent == 1] == np.float32(1e6)
    np.testing.assert_allclose(codes.density, (dense != 0).mean(0))
    assert not (tmp_path / "scratch").exists()
    assert set(load_file(codes.root / "csc.safetensors")) == {"indptr", "indices", "values"}


def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(code_writer, "SAFE_BYTES", 400)
    dense = random_codes(120, 9)
    whole = writer(tmp_path / "a", 120, 9)
    append(whole, dense)
    whole.finish()
    first = writer(tmp_path / "b", 120, 9)
    for low in range(0, 80, 10):
        append(first, dense[low : low + 10])
    for file in first.files.values():
        file.flush()  # what came after the last safe point reached the disk in part
    (tmp_path / "b" / "scratch" / "values.raw").open("ab").write(b"half")
    again = writer(tmp_path / "b", 120, 9)
    assert 0 < again.vectors_done <= 80 and again.vectors_done % 10 == 0
    append(again, dense[again.vectors_done :])
    again.finish()
    for file in (tmp_path / "a" / "codes" / "0").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "codes" / "0" / file.name).read_bytes(), file.name


def test_which_vector_is_which(tmp_path):
    to = writer(tmp_path, 120, 9)
    append(to, random_codes(120, 9))
    codes = to.finish()
    # 60 places of two hooks each, rows 590, 580, ..., 0; four places a problem
    vectors = np.array([0, 1, 2, 119])
    assert codes.rows_of(vectors).tolist() == [590, 590, 580, 0]
    assert codes.hooks_of(vectors).tolist() == [0, 1, 0, 1]
    assert codes.problems_of(vectors).tolist() == [0, 0, 0, 14]
    assert codes.vectors_of(np.array([580, 7, 0, 9999]), HOOKS[1]).tolist() == [3, -1, 119, -1]
    with pytest.raises(DataError, match="Expected a hook of"):
        codes.vectors_of(np.array([0]), "layers.9:out")
    assert list(open_codes(tmp_path)) == ["pooled"]


def test_the_parquet_form_holds_the_same(tmp_path):
    dense = random_codes(120, 9)
    to = writer(tmp_path, 120, 9)
    append(to, dense)
    codes = to.finish()
    codes.write_parquet(tmp_path / "codes.parquet")
    table = pq.read_table(tmp_path / "codes.parquet").to_pydict()
    assert table["latent"] == sorted(table["latent"]) and len(table["latent"]) == (dense != 0).sum()
    back = np.zeros_like(dense)
    place = 59 - np.array(table["row"]) // 10
    back[2 * place + [HOOKS.index(h) for h in table["hook_name"]], table["latent"]] = table["value"]
    np.testing.assert_array_equal(back, dense)


def test_codes_of_nothing(tmp_path):
    to = writer(tmp_path, 20, 3)
    append(to, np.zeros((20, 3), np.float32))
    codes = to.finish()
    assert codes.n_fires == 0 and codes.csr().nnz == 0 and len(codes.latent(2)[0]) == 0
    codes.write_parquet(tmp_path / "codes.parquet")
    assert pq.read_table(tmp_path / "codes.parquet").num_rows == 0


def test_what_is_not_there_or_damaged_is_said(tmp_path):
    with pytest.raises(NotThereError, match="thoughtlens interpret"):
        open_codes(tmp_path)
    to = writer(tmp_path, 120, 9)
    append(to, random_codes(120, 9))
    root = to.finish().root
    with pytest.raises(DataError, match="latent from 0 to 8"):
        Codes.open(root).latent(9)
    meta = json.loads((root / "meta.json").read_text())
    (root / "meta.json").write_text(json.dumps(meta | {"n_fires": 3}))
    with pytest.raises(StoreError, match="different runs"):
        Codes.open(root).csr()
    wrongs = {"schema 1": {"schema": 9}, "places": {"n_vectors": 122}, "d_sae": {"d_sae": "x"}}
    for said, wrong in wrongs.items():
        (root / "meta.json").write_text(json.dumps(meta | wrong))
        with pytest.raises(StoreError, match=said):
            Codes.open(root)
    (root / "meta.json").write_text(json.dumps(meta))
    data = (root / "csc.safetensors").read_bytes()
    for damaged in (data[:-4], b"", b"{}" * 20, data + b"0000"):
        (root / "csc.safetensors").write_bytes(damaged)
        with pytest.raises(StoreError, match="cut off"):
            Codes.open(root).latent(0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    to = writer(tmp_path_factory.mktemp("small"), 120, 9)
    append(to, random_codes(120, 9))
    return to.finish().root


DAMAGE = {
    "a latent that the SAE does not have": ("csr", "indices", 5, 9),
    "a latent below 0": ("csr", "indices", 0, -1),
    "a vector beyond the last": ("csc", "indices", -1, 1 << 30),
    "a vector named twice": ("csc", "indices", 1, 0),
    "a line that ends before it begins": ("csr", "indptr", 7, -3),
    "a line that ends far outside": ("csc", "indptr", 4, 1 << 40),
    "a first line that begins late": ("csc", "indptr", 0, 1),
    "an activation that is no number": ("csr", "values", 3, np.nan),
    "problems that do not ascend": ("places", "problem", 3, 1 << 20),
    "a row below 0": ("places", "row", 0, -7),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_no_index_points_outside(tmp_path, small, what):
    root = shutil.copytree(small, tmp_path / "0")
    file, name, at, value = DAMAGE[what]
    table = load_file(root / f"{file}.safetensors")
    table[name][at] = value
    save_file(table, root / f"{file}.safetensors")
    with pytest.raises(StoreError, match=rf"{file}.safetensors .*thoughtlens interpret"):
        all_of(root)


@pytest.mark.parametrize("file", ["csr", "csc", "places"])
def test_other_types_and_shapes_are_refused(tmp_path, small, file):
    root = shutil.copytree(small, tmp_path / "0")
    table = load_file(root / f"{file}.safetensors")
    first = next(iter(table))
    for wrong in (
        table | {first: table[first].astype(np.float64)},
        table | {first: table[first][None]},
        table | {"more": table[first]},
        {name: part for name, part in table.items() if name != first},
    ):
        save_file(wrong, root / f"{file}.safetensors")
        with pytest.raises(StoreError, match="other tensors"):
            all_of(root)


def test_a_flipped_bit_is_one_clear_error_or_a_number_nearby(tmp_path, small):
    root, rng = shutil.copytree(small, tmp_path / "0"), np.random.default_rng(0)
    for _ in range(300):
        file = root / ("csr", "csc", "places")[rng.integers(3)]
        file = file.with_suffix(".safetensors")
        data = bytearray(sound := file.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        file.write_bytes(data)
        try:
            all_of(root)
        except StoreError as error:
            assert "\n" not in str(error) and "thoughtlens interpret" in str(error)
        file.write_bytes(sound)


def all_of(root) -> None:
    """What consumers do with codes, in compiled code."""
    codes = Codes.open(root)
    assert codes.csr()[np.arange(0, 120, 3)].sum() > 0
    assert codes.csc()[:, [1, 2]].nnz > 0
    latent_stats(Fires.of(codes), {})
    coactive(Fires.of(codes), codes.by_vector, 3)
