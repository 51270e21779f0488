"""What cannot be imported is refused in one line that names it, and nothing is left behind."""

from __future__ import annotations

import gzip
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from thoughtlens.acts import ImportConfig, import_activations
from thoughtlens.acts.bring.stage import bring
from thoughtlens.core import DataError, NotThereError

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
IDS = [f"p{i // 2}" for i in range(12)]
TABLE = {"problem_id": IDS, "thought_idx": [0, 1] * 6}
FLOAT8 = torch.float8_e5m2
AXES = X.reshape(3, 2, 2, 4)


class Runs:
    def __reduce__(self):
        return (print, ("code ran",))


def changed(value, row=3):
    x = X.copy()
    x[row, 1] = value
    return x


def table(x=X, **columns):
    """A file of torch with these columns; None takes one away."""
    made = {**TABLE, **columns}
    return {"x": torch.from_numpy(np.ascontiguousarray(x))} | {n: v for n, v in made.items() if v is not None}


ARRAYS = {
    "NaN in row 3 of x in .*a.pt .problem 'p1'": table(changed(np.nan)),
    "infinite numbers in row 5": table(changed(-np.inf, 5)),
    "no number format of a store is wider": table(X.astype(np.float64) * 1e300),
    "12 values in the column lab, .* got 5": table(lab=[1] * 5),
    "12 values in the column lab, .* got 50": table(lab=[1] * 50),
    "two values in the column split, 'p0' has train and test": table(split=["train", "test"] * 6),
    "Expected the splits train, validation, test, got holdout": table(split=["holdout"] * 12),
    "two values in the column question": table(question=[str(i) for i in range(12)]),
    "hooks of one import have one width": {**table(), "y": torch.zeros(12, 2)},
    "Expected each row once": table(thought_idx=[0] * 12),
    "every hook of every thought, no row": table(hook=["a"] * 11 + ["b"]),
    "problem has NaN": table(problem_id=[float("nan")] * 12),
    "problem has gaps": table(problem_id=[None] * 12),  # all of a column
    "problem has gaps, or numbers that are not whole": table(problem_id=[0.5] * 12),
    "from 0 on in the column of thought": table(thought_idx=[-1, 0] * 6),
    "thought has values that are no numbers": table(thought_idx=["a", "b"] * 6),
    "0..32767": table(thought_idx=[0, 10**6] * 6),
    "whole numbers": table(thought_idx=[0.5, 1] * 6),
    "Both problem_id and document may say": table(document=list(range(12))),
    "Both thought_idx and thought may say": table(thought=[1, 2] * 6),
    "among step": table(thought_idx=None, step=[0, 1] * 6),
    "called __metadata__": table(problem_id=list(range(12)), hook=["__metadata__"] * 12),
    "has no rows": {"x": torch.zeros(0, 4), "problem_id": []},
    "rows of no numbers": {"x": torch.zeros(12, 0), **TABLE},
    "x is torch.int8": {"x": torch.zeros(12, 4, dtype=torch.int8), **TABLE},
    "x is torch.complex64": {"x": torch.zeros(12, 4, dtype=torch.complex64)},
    "found none in a.pt: x": {"x": torch.zeros(12)},
    "say what its axes": {"x": torch.zeros(3, 2, 4)},
    "2 names of hooks": {"x": torch.from_numpy(AXES), "hook_names": ["a"]},
    "all different": {"x": torch.from_numpy(AXES), "hook_names": ["a", "a"]},
    "x is a list of arrays": {"x": list(torch.zeros(12, 4)), **TABLE},
    "x is a list of lists of arrays": {"x": [list(torch.zeros(2, 4)) for _ in range(12)], **TABLE},
    r"a list of tables \(h, id\): make one table": [{"h": torch.zeros(4), "id": i} for i in range(12)],
    "an array for each problem": {f"problem_{i}": torch.zeros(2, 4) for i in range(12)},
    "torch.from_numpy": {"x": X},
    "Python objects": {"x": torch.from_numpy(X), "code": Runs()},
}  # fmt: skip


def refused(root, says, *files, error=DataError, **settings):
    """An import fails with this line, and leaves nothing."""
    before = sorted(root.rglob("*"))
    with pytest.raises(error, match=says) as caught:
        bring(ImportConfig(files=files, first_thought=1, **settings), root / "run" / "acts")
    assert "\n" not in str(caught.value)
    assert [path for path in sorted(root.rglob("*")) if path not in before and path.is_file()] == []


@pytest.mark.parametrize("says", ARRAYS)
def test_arrays(tmp_path, says, capsys):
    torch.save(ARRAYS[says], tmp_path / "a.pt")
    refused(tmp_path, says, tmp_path / "a.pt")
    assert "code ran" not in capsys.readouterr().out


def test_a_file_that_is_given_twice(tmp_path):
    np.save(tmp_path / "a.npy", X)
    refused(tmp_path, "given twice", tmp_path / "a.npy", tmp_path / "." / "a.npy")


def cut(path, write, n=20):
    write(path)
    path.write_bytes(path.read_bytes()[:-n])


def tarred(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("../../x.npy"))


def flipped(path):
    np.savez(path, x=X)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def parquet(**columns):
    return lambda path: pq.write_table(pa.table(columns), path)


FILES = {
    "gunzip": ("a.npy.gz", lambda p: p.write_bytes(gzip.compress(b"x"))),
    "tar -xf .*a.tar$": ("a.tar", lambda p: tarfile.open(p, "w").close()),
    "legacy .tar format.$": ("e.pt", lambda p: tarred(p)),
    "so it was not opened": ("f.pt", lambda p: p.write_bytes(pickle.dumps(Runs(), 4))),
    "a pickle runs code": ("a.pkl", lambda p: p.write_bytes(pickle.dumps(X))),
    "could run code": ("a.pt", lambda p: p.write_bytes(pickle.dumps({"x": X}, 2))),
    "no .pt file": ("b.pt", lambda p: p.write_text("hello")),
    "is damaged, or no .pt file": ("c.pt", lambda p: cut(p, lambda q: torch.save(table(), q), 300)),
    "is damaged, or no .npy file": ("a.npy", lambda p: cut(p, lambda q: np.save(q, X))),
    "CRC": ("a.npz", flipped),
    "are too few": ("a.safetensors", lambda p: cut(p, lambda q: save_file({"x": torch.from_numpy(X)}, q))),
    "which is not read": ("b.safetensors", lambda p: save_file({"x": torch.zeros(3).to(FLOAT8)}, p)),
    "no .parquet file": ("a.parquet", lambda p: cut(p, parquet(x=list(X), **TABLE))),
    "ragged: from 1 to 2": ("b.parquet", parquet(x=[[1.0, 2.0], [3.0]], problem_id=["a", "b"])),
    "rows without a vector": ("c.parquet", parquet(x=[[1.0, 2.0], None], problem_id=["a", "b"])),
    "a table of its own": ("d.parquet", parquet(x=list(X), m=[{"a": 1}] * 12)),
    "found none in e.parquet": ("e.parquet", parquet(**TABLE)),
    "ragged: .2. numbers": ("a.jsonl", lambda p: p.write_text('{"x": [1.0, 2.0]}\n{"x": [1.0]}')),
    "no .jsonl file": ("b.jsonl", lambda p: p.write_text('{"x": [1.0, 2.0]}\n{"x": [1.0,')),
    "record 1 has no a": ("c.jsonl", lambda p: p.write_text('{"x": [1.0], "a": 1}\n{"x": [1.0]}')),
    "utf-8": ("d.jsonl", lambda p: p.write_bytes(b'{"x": [1.0], "a": "\xff"}')),
    "ragged or has gaps": ("a.json", lambda p: p.write_text('{"x": [[1.0, 2.0], [1.0]]}')),
    "NaN in row 1": ("b.json", lambda p: p.write_text('{"x": [[1.0, 2.0], [NaN, 1.0]]}')),
    "array of Python objects": ("b.npy", lambda p: np.save(p, np.array([Runs(), None], object), True)),
    "complex64": ("c.npy", lambda p: np.save(p, X.astype(np.complex64))),
    "expected one of": ("a.txt", lambda p: p.write_text("1 2 3")),
    "name the files themselves, as in": ("folder", lambda p: (p.mkdir(), np.save(p / "a.npy", X))),
}  # fmt: skip


@pytest.mark.parametrize("says", FILES)
def test_files(tmp_path, says, capsys):
    name, write = FILES[says]
    write(tmp_path / name)
    refused(tmp_path, says, tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


def test_a_link_to_nothing_is_not_there(tmp_path):
    (tmp_path / "a.pt").symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "found nothing there", tmp_path / "a.pt", error=NotThereError)


def test_a_link_to_a_file_is_followed(tmp_path):
    torch.save(table(), tmp_path / "real.pt")
    (tmp_path / "a.pt").symlink_to(tmp_path / "real.pt")
    assert bring(ImportConfig(files=(tmp_path / "a.pt",), first_thought=1), tmp_path / "acts")["n_rows"] == 12


def test_hdf5_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    refused(tmp_path, r"pip install 'thoughtlens\[hdf5\]'", tmp_path / "a.h5")


def test_overflow_of_the_number_format(tmp_path):
    torch.save(table(X * 1e6), tmp_path / "a.pt")
    refused(tmp_path, "65504.*store_dtype=bfloat16", tmp_path / "a.pt", store_dtype="float16")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"columns": {"problem": "idx"}}, "no column idx, only problem_id"),
        ({"columns": {"labels": ("q",)}}, "no column q"),
        ({"columns": {"vectors": ("q",)}}, "no array q, only x"),
        ({"hook": ("early=layers.3:out",)}, "no hook early, only x"),
        ({"axes": ("problem", "thought")}, "say what its axes"),
    ],
)
def test_names_that_are_not_there(tmp_path, settings, says):
    torch.save(table(), tmp_path / "a.pt")
    refused(tmp_path, says, tmp_path / "a.pt", **settings)


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        ({"problem_id": ["p0"], "lab": ["a"]}, "no line for p1"),
        ({"problem_id": ["p0", "p0"], "lab": ["a", "b"]}, "the same problem as line 0"),
        ({"lab": ["a", "b"]}, "12 values in the column lab"),
        ({"problem_id": sorted(set(IDS)), "own": [1] * 6}, "column own is in another file too"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, beside, says):
    torch.save(table(own=[1] * 12), tmp_path / "a.pt")
    pq.write_table(pa.table(beside), tmp_path / "b.parquet")
    refused(tmp_path, says, tmp_path / "a.pt", tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("x", "says"), [(X[:, :2], "one width"), (X.astype(np.float16), "one number format")]
)
def test_parts_that_do_not_fit(tmp_path, x, says):
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", x)
    refused(tmp_path, says, tmp_path / "a.npy", tmp_path / "b.npy")


def test_objects_in_memory(tmp_path):
    ragged = np.array([X[0], X[1, :2]], object)
    with pytest.raises(DataError, match="x is ragged"):
        import_activations({"x": ragged, "problem_id": [1, 2]}, tmp_path / "acts")
    assert not list(tmp_path.iterdir())
