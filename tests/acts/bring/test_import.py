"""Activations that somebody has already become a store, or one line says why not."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from thoughtlens.acts import ActivationStore, ImportConfig, import_activations
from thoughtlens.acts.bring.arrays import InFile, is_vectors
from thoughtlens.acts.bring.files import opened
from thoughtlens.acts.bring.stage import bring
from thoughtlens.core import DataError

N, HOOKS, THOUGHTS, D = 12, ("early", "late"), 3, 5
X = np.random.default_rng(0).normal(size=(N, len(HOOKS), THOUGHTS, D)).astype(np.float32)
LABELS = ["addition", "mixed"] * (N // 2)


def long_table() -> dict[str, list]:
    """One line for each row of X as [rows, d], in its order."""
    at = [(p, h, t) for p in range(N) for h in range(len(HOOKS)) for t in range(THOUGHTS)]
    return {
        "problem_id": [f"p{p}" for p, _, _ in at],
        "hook_name": [HOOKS[h] for _, h, _ in at],
        "thought_idx": [t for _, _, t in at],
        "operation": [LABELS[p] for p, _, _ in at],
    }


def study(file, **changes):
    """The first study's file."""
    table = long_table()
    meta = {
        "problems": [int(p[1:]) for p in table["problem_id"]],
        "layers": [{"early": 4, "late": 14}[h] for h in table["hook_name"]],
        "tokens": table["thought_idx"],
        "operation_types": table["operation"],
    }
    info = {"layer_names": list(HOOKS), "layer_indices": {"early": 4, "late": 14}}
    torch.save(
        {"activations": torch.from_numpy(X.reshape(-1, D)), "metadata": meta | changes, "info": info}, file
    )
    return file


def written(file):
    """The rows of X with their columns, in the format of the file's name."""
    table, rows = long_table(), X.reshape(-1, D)
    match file.suffix:
        case ".pt":
            torch.save({"x": torch.from_numpy(rows), **table}, file)
        case ".npz":
            np.savez_compressed(file, x=rows, **{name: np.array(v) for name, v in table.items()})
        case ".parquet":
            pq.write_table(pa.table({"x": list(rows), **table}), file)
        case ".arrow":
            made = pa.table({"x": list(rows), **table})
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
                writer.write_table(made)
        case ".json":
            file.write_text(json.dumps({**table, "x": rows.tolist()}))
        case ".npy":
            np.save(file, rows)
            pq.write_table(pa.table(table), file.with_suffix(".parquet"))
        case ".h5":
            import h5py  # pyright: ignore[reportMissingImports]

            with h5py.File(file, "w") as made:
                made["x"] = rows
                for name, values in table.items():
                    made[name] = values
        case ".jsonl":
            lines = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
            text = [json.dumps({**line, "x": row.tolist()}) for line, row in zip(lines, rows, strict=True)]
            file.write_text("\n".join(text))
    return file


def brought(out, *files, **settings):
    bring(ImportConfig(files=files, **settings), out)
    return ActivationStore.open(out, verify=True)


def require_x(store, first=0):
    """The store has the vectors of X, problem by problem."""
    for h, hook in enumerate(store.hook_names):
        rows = store.read(hook, np.arange(store.n_rows))
        np.testing.assert_array_equal(rows.numpy(), X[:, h].reshape(-1, D))
    assert store.thoughts == [first + t for t in range(THOUGHTS)]
    assert store.problems["operation"].to_pylist() == LABELS


@pytest.mark.parametrize("ending", ["pt", "npz", "parquet", "arrow", "jsonl", "json", "npy", "h5"])
def test_every_format_gives_the_same_store(tmp_path, ending):
    if ending == "h5":
        pytest.importorskip("h5py")
    written(tmp_path / f"a.{ending}")
    store = brought(tmp_path / "acts", *sorted(tmp_path.iterdir()), first_thought=1)
    assert store.hook_names == list(HOOKS) and store.meta.unresolved == list(HOOKS) and not store.meta.model
    require_x(store)


def test_the_first_studys_file_is_recognised(tmp_path):
    store = brought(tmp_path / "acts", study(tmp_path / "a.pt"), hook=("early=layers.3:out",))
    assert store.hook_names == ["layers.3:out", "late"] and store.meta.unresolved == ["late"]
    require_x(store)


def test_an_array_with_axes_and_a_table_beside_it(tmp_path):
    save_file({"x": torch.from_numpy(X)}, tmp_path / "x.safetensors")
    pq.write_table(pa.table({"operation": LABELS}), tmp_path / "labels.parquet")
    store = brought(
        tmp_path / "acts", tmp_path / "x.safetensors", tmp_path / "labels.parquet", first_thought=0
    )
    require_x(store, first=1)


def test_rows_in_any_order_and_arrays_in_memory(tmp_path):
    order = np.random.default_rng(1).permutation(X.size // D)
    table = {name: [values[i] for i in order] for name, values in long_table().items()}
    import_activations({"x": X.reshape(-1, D)[order], **table}, tmp_path / "acts", first_thought=1)
    store = ActivationStore.open(tmp_path / "acts")
    ids, hooks = store.problems["problem_id"].to_pylist(), store.hook_names
    row = int(np.flatnonzero((store.problem_idx == ids.index("p7")) & (store.thought_idx == 2))[0])
    for h, hook in enumerate(HOOKS):
        assert hook in hooks
        np.testing.assert_array_equal(store.read(hook, [row])[0].numpy(), X[7, h, 2])


def test_a_problem_is_in_one_split(tmp_path):
    store = brought(tmp_path / "acts", study(tmp_path / "a.pt"), validation=0.3, test=0.3)
    assert len(set(store.problems["split"].to_pylist())) > 1


def test_thoughts_that_begin_with_0_are_counted_from_1(tmp_path):
    store = brought(tmp_path / "acts", study(tmp_path / "a.pt"), first_thought=0)
    require_x(store, first=1)
    assert "splits" not in store.problems.column_names


def test_several_arrays_of_one_shape_are_hooks(tmp_path):
    np.savez(tmp_path / "a.npz", early=X[:, 0], late=X[:, 1], operation=np.array(LABELS))
    brought(tmp_path / "acts", tmp_path / "a.npz", axes=("problem", "thought"), first_thought=1)
    require_x(ActivationStore.open(tmp_path / "acts"))


def test_files_are_parts_in_their_order(tmp_path):
    for i in range(3):
        part = slice(4 * i, 4 * i + 4)
        np.savez(tmp_path / f"{i}.npz", x=X[part], operation=np.array(LABELS[part]))
    save_file({"hook_names": torch.zeros(1)}, tmp_path / "unused.safetensors")
    files = [tmp_path / f"{i}.npz" for i in range(3)]
    store = brought(tmp_path / "acts", *files, first_thought=1)
    for h, hook in enumerate(store.hook_names):
        np.testing.assert_array_equal(store.read(hook, range(N * THOUGHTS)).numpy(), X[:, h].reshape(-1, D))


def test_tokens_of_texts(tmp_path):
    columns = {"document": ["a"] * 2 + ["b"] * 3, "position": [0, 1, 0, 1, 2], "token_id": [5, 6, 5, 7, 5]}
    columns |= {"token": ["the", " cat", "the", " dog", "the"], "topic": ["x"] * 2 + ["y"] * 3}
    import_activations({"x": X.reshape(-1, D)[:5], **columns}, tmp_path / "acts")
    store = ActivationStore.open(tmp_path / "acts")
    assert store.meta.kind == "text" and store.problems["topic"].to_pylist() == ["x", "y"]
    rows = pq.read_table(tmp_path / "acts" / "rows.parquet")
    assert rows["token"].to_pylist() == columns["token"] and rows["token_id"].to_pylist() == [5, 6, 5, 7, 5]


def test_a_table_beside_the_arrays_is_joined_by_what_both_say(tmp_path):
    table = long_table()
    del table["operation"]
    np.savez(tmp_path / "x.npz", x=X.reshape(-1, D), **{name: np.array(v) for name, v in table.items()})
    order = np.random.default_rng(0).permutation(N + 2)
    beside = {"id": [f"p{i}" for i in order], "operation": [(LABELS * 2)[i] for i in order]}
    pq.write_table(pa.table(beside), tmp_path / "labels.parquet")
    require_x(brought(tmp_path / "a", tmp_path / "x.npz", tmp_path / "labels.parquet", first_thought=1))
    lines = [{"problem": p, "thought": t, "value": 10 * int(p[1:]) + t}
             for p in dict.fromkeys(table["problem_id"]) for t in (2, 0, 1)]  # fmt: skip
    (tmp_path / "values.jsonl").write_text("\n".join(map(json.dumps, lines)))
    brought(tmp_path / "b", tmp_path / "x.npz", tmp_path / "values.jsonl", first_thought=1)
    rows = pq.read_table(tmp_path / "b" / "rows.parquet").to_pydict()
    wanted = [10 * int(p[1:]) + t for p, t in zip(rows["problem_id"], rows["thought_idx"], strict=True)]
    assert rows["value"] == wanted


LAYOUTS = {
    "by columns": lambda x: np.asfortranarray(x),
    "big-endian": lambda x: x.astype(">f4"),
    "float64": lambda x: x.astype(np.float64),
    "every second": lambda x: np.repeat(x, 2, 0)[::2],
    "a view": lambda x: torch.from_numpy(np.concatenate([x, x]))[len(x) :],
    "turned": lambda x: torch.from_numpy(x.T.copy()).T,
    "a parameter": lambda x: torch.nn.Parameter(torch.from_numpy(x)),
    "sparse": lambda x: torch.from_numpy(x).to_sparse(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_however_an_array_lies_its_rows_are_the_same(tmp_path, layout):
    x = LAYOUTS[layout](X.reshape(-1, D))
    file = tmp_path / ("a.npy" if isinstance(x, np.ndarray) else "a.pt")
    np.save(file, x) if isinstance(x, np.ndarray) else torch.save(x, file)
    pq.write_table(pa.table(long_table()), tmp_path / "columns.parquet")
    require_x(brought(tmp_path / "acts", file, tmp_path / "columns.parquet", first_thought=1))


@pytest.mark.parametrize("ending", ["npy", "npz", "pt", "safetensors", "parquet", "jsonl"])
def test_no_array_of_a_file_is_loaded_or_mapped(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    if ending == "safetensors":
        save_file({"x": torch.from_numpy(X.reshape(-1, D)).bfloat16(), "y": torch.zeros(3)}, file)
    else:
        written(file)
    (tmp_path / "scratch").mkdir()
    arrays = [value for value in opened(file, tmp_path / "scratch").values() if is_vectors(value)]
    assert [type(x) for x in arrays] == [InFile] and arrays[0].shape == (X.size // D, D)


def test_the_first_thought_is_asked_for(tmp_path):
    with pytest.raises(DataError, match="--first-thought 1"):
        brought(tmp_path / "acts", written(tmp_path / "a.pt"))


def test_a_data_set_with_a_folder_for_each_split(tmp_path):
    """As `datasets.DatasetDict.save_to_disk` writes it."""
    for split, rows in (("train", 8), ("Dev", 2), ("test", 2)):
        folder = tmp_path / "set" / split
        folder.mkdir(parents=True)
        table = pa.table(
            {"id": [f"{split}{i}" for i in range(rows)], "x": [[float(i), 1.0] for i in range(rows)]}
        )
        with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as out:
            out.write_table(table)
        files = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (folder / "state.json").write_text(json.dumps(files), "utf-8")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "Dev", "test"]}', "utf-8")
    found = bring(ImportConfig(files=(tmp_path / "set",)), tmp_path / "acts")
    assert found["rows_by_split"] == {"train": 8, "validation": 2, "test": 2} and not found["splits_made"]
