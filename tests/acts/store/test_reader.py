from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.acts import small
from thoughtlens.acts.store.reader import ActivationStore, verify
from thoughtlens.acts.store.rowset import RowSet
from thoughtlens.core import HookError, NotThereError, RangeError, StoreError
from thoughtlens.core.records.manifest import UNCHECKED

FIXTURE = Path(__file__).parents[2] / "fixtures" / "acts_schema_1"


@pytest.fixture
def root(tmp_path) -> Path:
    """A store of 37 rows in shards of 10, two hooks of width 5."""
    small.write(tmp_path / "acts", small.meta())
    return tmp_path / "acts"


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 60),
    st.integers(1, 25),
    st.sampled_from(["float16", "bfloat16", "float32"]),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_round_trip(tmp_path_factory, n, shard_rows, dtype, widths, seed):
    meta = small.meta("text", dtype, {f"layers.{i}:out": d for i, d in enumerate(widths)})
    root = tmp_path_factory.mktemp("acts") / "acts"
    store = small.write(root, meta, n, shard_rows=shard_rows, seed=seed)
    x = small.acts(meta, n, seed)
    rows = np.random.default_rng(seed).integers(0, n, size=2 * n)
    for hook in meta.hook_names:
        stored = store.read(hook, rows, dtype=None)
        assert stored.dtype == meta.torch_dtype
        assert torch.equal(stored, x[hook][rows].to(meta.torch_dtype))
        assert torch.equal(store.read(hook, rows), stored.float())
    assert verify(root).to_json() == {
        "root": str(root),
        "files": -(-n // shard_rows) + 2,
        "bytes": sum(len(b) for name, b in small.files(root).items() if name != "meta.json"),
        "by_digest": [],
        "unlisted": ["meta.json"],
        "removed": [],
        "again": [],
        "n_rows": n,
        "hook_names": meta.hook_names,
    }


def test_what_a_store_says(root):
    store = ActivationStore.open(root)
    hooks = ["layers.1:out", "layers.2:out"]
    assert (store.n_rows, store.hook_names, store.thoughts) == (37, hooks, list(range(7)))
    assert store.cells == [(hook, thought) for hook in hooks for thought in range(7)]
    assert store.rows["thought_idx"].to_pylist() == [i % 7 for i in range(37)]
    assert store.thought_idx.tolist() == [i % 7 for i in range(37)]
    assert store.problem_idx.tolist() == [i // 7 for i in range(37)]
    assert store.problems.column_names == ["problem_id", "group_id", "split", "question", "answer", "cot"]


def test_a_text_has_one_cell_a_hook(tmp_path):
    store = small.write(tmp_path / "acts", small.meta("text"))
    assert store.cells == [("layers.1:out", None), ("layers.2:out", None)]
    assert store.thought_idx is None and store.thoughts == []


def test_many_windows_shards_and_maps(tmp_path):
    """Small limits stand for a large store: pages dropped, maps closed, and the same vectors."""
    meta = small.meta("text", d_in={"a:out": 3, "b:out": 3, "c:out": 40})
    store, x = small.write(tmp_path / "acts", meta, 200, shard_rows=13), small.acts(meta, 200)
    maps = store.maps
    maps.window_bytes, maps.resident_windows, maps.piece_rows, maps.max_maps = 64, 3, 4, 2
    for hook in meta.hook_names:
        rows = np.random.default_rng(0).permutation(200)
        assert torch.equal(store.read(hook, rows), x[hook][rows])
        assert torch.equal(store.read(hook, np.arange(200)), x[hook])


def test_rows_and_hooks_that_are_not_there(root):
    store = ActivationStore.open(root)
    with pytest.raises(
        HookError, match=r"one of the hooks layers\.1:out, layers\.2:out, got 'layers\.3:out'"
    ):
        store.read("layers.3:out", [0])
    for row in (-1, 37):
        with pytest.raises(RangeError, match=r"\[0, 37\)"):
            store.read("layers.1:out", [row])
    assert store.read("layers.1:out", []).shape == (0, 5)


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=150), max_size=4))
def test_row_sets(masks):
    whole = np.concatenate([np.zeros(0, bool), *(np.array(m, bool) for m in masks)])
    chosen = RowSet(iter([np.array(m, bool) for m in masks]))
    assert chosen.n == whole.sum()
    positions = np.random.default_rng(0).permutation(chosen.n)
    assert np.array_equal(chosen.rows(positions), np.flatnonzero(whole)[positions])


def test_two_readers_at_once(root):
    store, other = ActivationStore.open(root), ActivationStore.open(root)
    expected = small.acts(store.meta, 37)
    wrong = []

    def read(reader: ActivationStore, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            hook, rows = reader.hook_names[int(rng.integers(2))], rng.integers(0, 37, 20)
            if not torch.equal(reader.read(hook, rows), expected[hook][rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(r, i)) for i, r in enumerate([store, store, other, other])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not wrong


def test_a_store_may_be_read_while_its_name_goes(root):
    store = ActivationStore.open(root)
    x = store.read("layers.1:out", np.arange(37))
    shutil.rmtree(root)
    assert torch.equal(store.read("layers.1:out", np.arange(37)), x)


def first_shard(root: Path) -> Path:
    return root / "shards" / "00000.safetensors"


def cut(root):
    first_shard(root).write_bytes(first_shard(root).read_bytes()[:-3])


def extend(root):
    first_shard(root).write_bytes(first_shard(root).read_bytes() + b"\0" * 8)


def swap_shard(root):
    """Same size, another tensor's name in the header."""
    data = first_shard(root).read_bytes()
    first_shard(root).write_bytes(data.replace(b"layers.1:out", b"layers.7:out", 1))


def edit_meta(**changes):
    def damage(root):
        meta = json.loads((root / "meta.json").read_text())
        (root / "meta.json").write_text(json.dumps(meta | changes))

    return damage


def edit_rows(change):
    def damage(root):
        pq.write_table(change(pq.read_table(root / "rows.parquet")), root / "rows.parquet")

    return damage


def cut_table(name):
    def damage(root):
        (root / name).write_bytes((root / name).read_bytes()[:-20])

    return damage


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (cut, StoreError, r"has \d+ bytes, expected \d+: it was cut off \(its sha256 differs too\)"),
        (extend, StoreError, r"has \d+ bytes, expected \d+: it was extended \(its sha256 differs too\)"),
        (swap_shard, StoreError, r"header that disagrees with meta\.json \(its sha256 differs too\)"),
        (lambda root: first_shard(root).unlink(), NotThereError, r"Expected the shard .*00000.* found none"),
        (lambda root: (root / "meta.json").unlink(), StoreError, r"directory with meta\.json"),
        (lambda root: (root / "rows.parquet").unlink(), NotThereError, r"Expected rows\.parquet"),
        (lambda root: (root / "problems.parquet").unlink(), NotThereError, r"Expected problems\.parquet"),
        (cut_table("rows.parquet"), StoreError, r"rows\.parquet is not a Parquet file, or was cut off"),
        (cut_table("problems.parquet"), StoreError, r"problems\.parquet is not a Parquet file"),
        (lambda root: (root / "meta.json").write_text("{"), StoreError, "is not JSON"),
        (lambda root: (root / "meta.json").write_text("[]"), StoreError, "JSON object"),
        (
            lambda root: (root / "meta.json").write_text('{"stage": "train"}'),
            StoreError,
            "schema 1 .* got None",
        ),
        (edit_meta(schema=2), StoreError, "Expected schema 1 .* got 2.* version that wrote it"),
        (edit_meta(dtype="int8"), StoreError, "damaged or not ours: dtype"),
        (edit_meta(dtype="float16"), StoreError, "expected .* sha256 agrees, so meta.json is wrong"),
        (edit_meta(hook_names=["layers.2:out", "layers.1:out"]), StoreError, "header that disagrees"),
        (edit_meta(hook_names=["layers.1:out"]), StoreError, "d_in must give a width"),
        (edit_meta(n_rows=36), StoreError, "n_rows = 36"),
        (edit_meta(extra=1), StoreError, "extra"),
        (edit_rows(lambda t: t.slice(0, 36)), StoreError, "expected 37 rows .* got 36"),
        (edit_rows(lambda t: t.drop_columns(["thought_idx"])), StoreError, "inconsistent: .*thought_idx"),
    ],
)
def test_damage_is_found_when_opened(root, damage, error, words):
    damage(root)
    with pytest.raises(error, match=words) as caught:
        ActivationStore.open(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        ("rows.parquet", "row", lambda n: pa.nulls(n, pa.int64())),
        ("rows.parquet", "row", lambda n: pa.array(np.arange(n) * 1.0)),
        ("rows.parquet", "problem_id", lambda n: pa.array(["p0"] * n)),
        ("rows.parquet", "problem_id", lambda n: pa.array([None] * n, pa.string()).dictionary_encode()),
        ("rows.parquet", "problem_id", lambda n: pa.array([b"\xff"] * n).dictionary_encode()),
        ("rows.parquet", "thought_idx", lambda n: pa.array(["0"] * n)),
        ("rows.parquet", "thought_idx", lambda n: pa.nulls(n, pa.int32())),
        ("rows.parquet", "thought_idx", lambda n: pa.array(-np.arange(n))),
        ("problems.parquet", "problem_id", lambda n: pa.array([[i] for i in range(n)])),
        ("problems.parquet", "group_id", lambda n: pa.array([b"\xff"] * n)),
        ("problems.parquet", "split", lambda n: pa.array(range(n))),
        ("problems.parquet", "question", lambda n: pa.array(range(n), pa.timestamp("s"))),
    ],
)
@pytest.mark.parametrize("twice", [False, True])
def test_columns_of_another_type_or_twice_are_refused(root, monkeypatch, name, column, values, twice):
    monkeypatch.setenv("THOUGHTLENS_UNCHECKED", "1")  # as of a store whose writer listed these very bytes
    table = pq.read_table(root / name)
    new = values(len(table))
    rest = table if twice else table.select([one for one in table.column_names if one != column])
    pq.write_table(rest.append_column(column, new), root / name)
    with pytest.raises(StoreError, match=rf"{name} is inconsistent.*{column}"):
        ActivationStore.open(root).view(split="train", thoughts=[0])


def test_a_problem_without_a_group_is_a_group_of_its_own(root, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_UNCHECKED", "1")
    file = root / "problems.parquet"
    table = pq.read_table(file)
    groups = [None, *table["group_id"].to_pylist()[1:]]
    at = table.column_names.index("group_id")
    pq.write_table(table.set_column(at, "group_id", pa.array(groups, pa.string())), file)
    found = ActivationStore.open(root).problems
    assert found["group_id"].to_pylist() == [found["problem_id"][0].as_py(), *groups[1:]]


def test_paths_in_the_meta_lead_nowhere_else(root, tmp_path, monkeypatch):
    shards = json.loads((root / "meta.json").read_text())["shards"]
    (tmp_path / "elsewhere").write_bytes(first_shard(root).read_bytes())
    shards[0]["file"] = "../elsewhere"
    edit_meta(shards=shards)(root)
    with pytest.raises(StoreError, match="a name that none can have"):
        ActivationStore.open(root)
    monkeypatch.setenv(UNCHECKED, "1")
    with pytest.raises(StoreError, match="not named shards/00000"):
        ActivationStore.open(root)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["shards/00002.safetensors", "rows.parquet", "problems.parquet"])
def test_verify_finds_one_bit(root, name):
    assert verify(root).files == 6
    flip(root / name, -5 if name.startswith("shards") else 40)
    with pytest.raises(StoreError, match=rf"1 of (2|6) files are not what was written there .*{name}"):
        verify(root)


def test_a_damaged_table_is_found_when_read(root):
    store = ActivationStore.open(root)
    flip(root / "rows.parquet", 40)
    with pytest.raises(StoreError, match=r"rows\.parquet is damaged"):
        store.view(split="train")
    with pytest.raises(StoreError, match=r"not what was written there .*rows\.parquet.* --unchecked$"):
        ActivationStore.open(root)


def test_a_damaged_shard_is_found_when_first_read(root, monkeypatch):
    flip(root / "shards" / "00002.safetensors", -5)
    store = ActivationStore.open(root)
    hook = store.hook_names[0]
    store.read(hook, [0, 19])
    with pytest.raises(StoreError, match=r"1 of 1 files are not .*00002\.safetensors"):
        store.read(hook, [0, 20])
    monkeypatch.setenv("THOUGHTLENS_UNCHECKED", "1")
    assert store.read(hook, [20]).shape == (1, 5)


def test_rows_must_count(root, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_UNCHECKED", "1")

    def swap_two(table):
        order = np.arange(len(table))
        order[[3, 4]] = [4, 3]
        return table.take(order)

    edit_rows(swap_two)(root)
    with pytest.raises(StoreError, match="`row` does not count"):
        ActivationStore.open(root).view()


def test_rows_must_belong_to_problems(root, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_UNCHECKED", "1")
    pq.write_table(small.problems(30), root / "problems.parquet")
    with pytest.raises(StoreError, match=r"problem 'p5' is not in problems\.parquet"):
        ActivationStore.open(root).view()


def test_places_without_a_store(tmp_path):
    with pytest.raises(NotThereError, match=r"first: .* --out \S+/nowhere .* give \S+/nowhere/acts$"):
        ActivationStore.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("hello")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(StoreError, match="it is something else"):
            ActivationStore.open(tmp_path / name)


def test_an_unfinished_store_says_so(tmp_path):
    meta = small.meta()
    writer = small.StoreWriter(tmp_path / "acts.tmp", meta, 10)
    small.append(writer, small.acts(meta, 25), 0, 25)
    for name in ("acts", "acts.tmp"):
        with pytest.raises(NotThereError, match="unfinished one: run the command that was writing it again"):
            ActivationStore.open(tmp_path / name)


def test_schema_1_is_still_read():
    """Written once by version 0.1.0: 2 hooks, 5 thoughts of 2 problems, shards of 3 rows, bfloat16."""
    store = ActivationStore.open(FIXTURE, verify=True)
    assert store.meta.schema_number == 1 and store.meta.modules["layers.0:out"] == "model.layers.0"
    x = store.read("layers.0:out", np.arange(5))
    assert x.tolist() == [[1.0, -2.0], [0.5, 0.0], [3.0, 4.0], [-1.5, 256.0], [0.0078125, -0.0]]
    assert store.read("layers.1:out", [4]).tolist() == [[5.0, 6.0, 7.0]]
    assert store.rows["problem_id"].to_pylist() == ["a", "a", "a", "b", "b"]
    view = store.view(["layers.0:out"], split="test")
    assert view.rows_of(np.arange(view.n)).tolist() == [3, 4]


def test_schema_1_is_still_written(tmp_path):
    """The bytes of a shard are a promise; those of Parquet are the library's."""
    old = ActivationStore.open(FIXTURE)
    blank = old.meta.model_copy(update={"n_rows": 0, "shards": [], "tables": {}})
    writer = small.StoreWriter(tmp_path / "acts", blank, shard_rows=3)
    acts = {hook: old.read(hook, np.arange(5)) for hook in old.hook_names}
    writer.append(acts, {n: old.rows[n].to_numpy() for n in ("problem_id", "thought_idx")})
    writer.finish(old.problems)
    for item in old.meta.shards:
        assert (tmp_path / "acts" / item.file).read_bytes() == (FIXTURE / item.file).read_bytes()


PEAK = """
import re, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from tests.acts import small
meta, n = small.meta("text", "float16", {"a:out": 256}), int(sys.argv[2])
writer, x = small.StoreWriter(Path(sys.argv[1]), meta, 8192), small.acts(meta, 1000)
for text in range(n // 1000):
    place = np.arange(1000)
    writer.append(x, {"problem_id": [str(text)] * 1000, "token_id": place % 97, "position": place})
ids = [str(text) for text in range(n // 1000)]
split = ["train", "test"] * (len(ids) // 2)
writer.finish(pa.table({"problem_id": ids, "group_id": ids, "split": split}))
view = small.ActivationStore.open(sys.argv[1]).view(split="train")
for batch in view.batches(1000, seed=0, epochs=2):
    assert len(batch.x) == len(view.rows_of(batch.idx))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="reads the peak from /proc; ru_maxrss is the parent's too"
)
@pytest.mark.slow
def test_memory_does_not_grow_with_rows(tmp_path):
    """10 MB of activations, then 102 MB, written and read whole: at most a tenth more."""
    peaks = []
    for n in (20_000, 200_000):
        command = [sys.executable, "-c", PEAK, str(tmp_path / str(n)), str(n)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < 1.1 * peaks[0], peaks
