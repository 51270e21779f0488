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


@pytest.mark.parametrize("ending", ["pt", "npz", "parquet", "arrow", "jsonl"])
def test_every_format_gives_the_same_store(tmp_path, ending):
    store = brought(tmp_path / "acts", written(tmp_path / f"a.{ending}"), first_thought=1)
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


def bad(name):
    table, rows = long_table(), torch.from_numpy(X.reshape(-1, D).copy())
    if name == "nan":
        rows[3, 2] = torch.nan
    if name == "overflow":
        rows[3, 2] = 1e6
    if name == "short":
        table["operation"] = table["operation"][:-3]
    if name == "splits":
        table["split"] = ["train", "test"] * (len(rows) // 2)
    if name == "twice":
        table["thought_idx"][1] = 0
    if name == "hole":
        table = {key: values[1:] for key, values in table.items()}
        rows = rows[1:]
    return {"x": rows, **table} | ({"y": rows[:, :3].clone()} if name == "widths" else {})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nan", "NaN"),
        ("overflow", "65504"),
        ("short", "operation"),
        ("splits", "two values in the column split"),
        ("twice", "once"),
        ("hole", "every hook of every thought"),
        ("widths", "one width"),
    ],
)
def test_bad_arrays_leave_nothing(tmp_path, name, says):
    torch.save(bad(name), tmp_path / "a.pt")
    with pytest.raises(DataError, match=says):
        brought(tmp_path / "acts", tmp_path / "a.pt", first_thought=1, store_dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


class Runs:
    def __reduce__(self):
        return (print, ("code ran",))


def test_files_that_would_run_code_are_not_opened(tmp_path, capsys):
    torch.save({"x": torch.from_numpy(X), "code": Runs()}, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.array([Runs(), None], object), allow_pickle=True)
    for name in ("a.pt", "b.npy"):
        with pytest.raises(DataError, match="run code"):
            brought(tmp_path / "acts", tmp_path / name, first_thought=1)
    assert "code ran" not in capsys.readouterr().out


def test_ragged_rows_are_refused(tmp_path):
    pq.write_table(pa.table({"x": [[1.0, 2.0], [3.0]], "problem_id": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="ragged"):
        brought(tmp_path / "acts", tmp_path / "a.parquet")


def test_the_first_thought_is_asked_for(tmp_path):
    with pytest.raises(DataError, match="--first-thought 1"):
        brought(tmp_path / "acts", written(tmp_path / "a.pt"))
