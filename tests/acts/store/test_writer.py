from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.acts import small
from thoughtlens.acts.store.reader import ActivationStore, verify
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import DataError, MismatchError, NotThereError, OccupiedError, StoreError


def test_shards_hold_exactly_shard_rows(tmp_path):
    meta = small.meta(dtype="bfloat16")
    store = small.write(tmp_path / "acts", meta, n=37, shard_rows=10, size=8)
    assert [s.rows for s in store.meta.shards] == [10, 10, 10, 7]
    x = small.acts(meta, 37)
    for i, shard in enumerate(store.meta.shards):
        tensors = load_file(tmp_path / "acts" / shard.file)
        assert list(tensors) == meta.hook_names
        for hook in meta.hook_names:
            assert torch.equal(tensors[hook], x[hook][10 * i : 10 * i + shard.rows].bfloat16())


def test_directory_when_done(tmp_path):
    small.write(tmp_path / "acts", small.meta(), n=12)
    names = set(small.files(tmp_path / "acts"))
    shards = {"shards/00000.safetensors", "shards/00001.safetensors"}
    assert names == {"meta.json", "problems.parquet", "rows.parquet"} | shards


def test_rows_table(tmp_path):
    small.write(tmp_path / "acts", small.meta("text"), n=37)
    table = pq.read_table(tmp_path / "acts" / "rows.parquet")
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types == {
        "row": "int64",
        "problem_id": "dictionary<values=string, indices=int32, ordered=0>",
        "token_id": "int32",
        "position": "int32",
        "outlier": "bool",
    }
    assert table["row"].to_pylist() == list(range(37))
    assert table["problem_id"].to_pylist() == [f"p{i // 7}" for i in range(37)]
    assert table["token_id"].to_pylist() == [i * 31 % 97 for i in range(37)]


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.integers(0, 13), min_size=1, max_size=30), st.sampled_from(["float16", "bfloat16", "float32"])
)
def test_bytes_do_not_depend_on_how_rows_come(tmp_path_factory, sizes, dtype):
    meta, n = small.meta("text", dtype), 41
    root = tmp_path_factory.mktemp("stores")
    small.write(root / "a", meta, n, size=n)
    writer, x, start = StoreWriter(root / "b", meta, 10), small.acts(meta, n), 0
    for size in [*sizes, n]:
        stop = min(start + size, n)
        small.append(writer, x, start, stop, cursor=False)
        start = stop
    writer.finish(small.problems(n))
    assert small.files(root / "a") == small.files(root / "b")


def test_layout_of_the_input_does_not_matter(tmp_path):
    meta = small.meta()
    small.write(tmp_path / "a", meta, n=9)
    x = {h: v.double().T.contiguous().T.requires_grad_() for h, v in small.acts(meta, 9).items()}
    writer = StoreWriter(tmp_path / "b", meta, 10)
    writer.append(x, small.columns("thoughts", 0, 9))
    writer.finish(small.problems(9))
    assert small.files(tmp_path / "a") == small.files(tmp_path / "b")


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("float16", 65505.0, None),  # rounds down to 65504, the largest
        (
            "float16",
            65520.0,
            r"within \+-65504 for dtype=float16, got 65520 .*store_dtype=bfloat16 or store_dtype=float32",
        ),
        ("float16", -7e4, r"got 70000"),
        ("bfloat16", 7e4, None),
        ("float32", 3e38, None),
        ("bfloat16", 3.4e38, r"store_dtype=float32"),
        ("float32", float("nan"), "got NaN"),
        ("bfloat16", float("-inf"), "got Inf"),
        ("float16", float("nan"), "got NaN"),
    ],
)
def test_values_that_do_not_fit_are_refused_where_they_are(tmp_path, dtype, value, words):
    meta = small.meta(dtype=dtype)
    x = small.acts(meta, 20)
    x["layers.2:out"][17, 3] = value
    writer = StoreWriter(tmp_path / "acts", meta, 10)
    small.append(writer, x, 0, 8)
    if words is None:
        small.append(writer, x, 8, 20)
        return
    with pytest.raises(DataError, match=words) as error:
        small.append(writer, x, 8, 20)
    assert "hook layers.2:out, row 17, problem 'p2'" in str(error.value)
    x["layers.2:out"][17, 3] = 0  # nothing of the refused batch was kept
    small.append(writer, x, 8, 20)
    writer.finish(small.problems(20))
    assert torch.equal(
        ActivationStore.open(tmp_path / "acts").read("layers.1:out", np.arange(20), dtype=None),
        x["layers.1:out"].to(meta.torch_dtype),
    )


def test_smallest_numbers_survive(tmp_path):
    meta = small.meta(dtype="float16", d_in={"a:out": 2})
    writer = StoreWriter(tmp_path / "acts", meta)
    writer.append({"a:out": torch.tensor([[2.0**-24, -0.0]])}, small.columns("thoughts", 0, 1))
    writer.finish(small.problems(1))
    x = ActivationStore.open(tmp_path / "acts").read("a:out", [0])
    assert x[0, 0] == 2.0**-24 and torch.signbit(x[0, 1])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, r: x.pop("layers.2:out"), MismatchError, "layers.2:out"),
        (lambda x, r: x.update({"layers.9:out": x["layers.1:out"]}), MismatchError, "layers.9:out"),
        (lambda x, r: x.update({"layers.2:out": torch.zeros(4, 6)}), MismatchError, r"\[4, 5\].*\[4, 6\]"),
        (lambda x, r: x.update({"layers.2:out": torch.zeros(3, 5)}), MismatchError, r"\[4, 5\].*\[3, 5\]"),
        (
            lambda x, r: x.update({"layers.2:out": torch.zeros(4, 5, dtype=torch.int64)}),
            MismatchError,
            "int64",
        ),
        (lambda x, r: r.pop("thought_idx"), DataError, "missing: thought_idx"),
        (
            lambda x, r: r.update(thought_idx=[0, 1, 2]),
            DataError,
            r"4 values .* thought_idx, got shape \[3\]",
        ),
        (lambda x, r: r.update(thought_idx=[0.5] * 4), DataError, "32-bit integers"),
        (lambda x, r: r.update(thought_idx=[0, 1, 2, -1]), DataError, r"within 0..32767, got -1..2"),
        (lambda x, r: r.update(row=[0, 1, 2, 3]), DataError, "`row`"),
        (
            lambda x, r: r.update(problem_id=[0, 1, 2, 3]),
            DataError,
            r"strings .* problem_id, got \[0, 1, 2\]",
        ),
        (lambda x, r: r.update(label=["a", None, "b", "c"]), DataError, r"strings .* label, got \['a', None"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, change, error, words):
    meta = small.meta()
    x, rows = small.acts(meta, 4), small.columns("thoughts", 0, 4)
    change(x, rows)
    with pytest.raises(error, match=words):
        StoreWriter(tmp_path / "acts", meta).append(x, rows)


def test_columns_must_stay_the_same(tmp_path):
    meta = small.meta()
    x = small.acts(meta, 20)
    writer = StoreWriter(tmp_path / "acts", meta, 5)
    small.append(writer, x, 0, 10)
    batch = {hook: v[10:] for hook, v in x.items()}
    with pytest.raises(DataError, match=r"row columns .* as before, got .*label.* at row 10"):
        writer.append(batch, small.columns("thoughts", 10, 20) | {"label": [1] * 10})
    writer = StoreWriter.resume(tmp_path / "acts")
    with pytest.raises(DataError, match="as before"):
        writer.append(batch, small.columns("thoughts", 10, 20) | {"label": [1] * 10})


def test_problems_must_cover_the_rows(tmp_path):
    meta = small.meta()
    writer = StoreWriter(tmp_path / "acts", meta, 10)
    with pytest.raises(DataError, match="at least one row"):
        writer.finish(small.problems(7))
    small.append(writer, small.acts(meta, 37), 0, 37)
    with pytest.raises(DataError, match="the first is 'p3'"):
        writer.finish(small.problems(21))
    with pytest.raises(DataError, match="missing: split"):
        writer.finish(small.problems(37).drop_columns(["split"]))
    twice = small.problems(37).take([0, 1, 2, 3, 4, 5, 2])
    with pytest.raises(DataError, match="once, got 'p2'"):
        writer.finish(twice)
    assert writer.finish(small.problems(370)).n_rows == 37  # more problems than rows are allowed


def test_a_second_writer_is_refused(tmp_path):
    meta = small.meta()
    small.append(StoreWriter(tmp_path / "acts", meta, 10), small.acts(meta, 37), 0, 30)
    with pytest.raises(OccupiedError, match="found one"):
        StoreWriter(tmp_path / "acts", meta, 10)
    small.write(tmp_path / "done", meta)
    with pytest.raises(OccupiedError, match="found one"):
        StoreWriter(tmp_path / "done", meta, 10)


def test_resume_needs_something_to_resume(tmp_path):
    with pytest.raises(NotThereError, match=r"no progress\.json"):
        StoreWriter.resume(tmp_path)
    small.append(StoreWriter(tmp_path, small.meta(), 10), small.acts(small.meta(), 20), 0, 20)
    shard = tmp_path / "shards" / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match="a finished shard was damaged"):
        StoreWriter.resume(tmp_path)
    (tmp_path / "progress.json").write_text("{}")
    with pytest.raises(StoreError, match="damaged or not ours"):
        StoreWriter.resume(tmp_path)


def test_begin_refuses_other_settings(tmp_path):
    meta = small.meta()
    small.append(StoreWriter(tmp_path, meta, 10), small.acts(meta, 12), 0, 12)
    with pytest.raises(MismatchError, match="begun with another dtype"):
        StoreWriter.begin(tmp_path, small.meta(dtype="float16"), 10)
    with pytest.raises(MismatchError, match="begun with another shard_rows"):
        StoreWriter.begin(tmp_path, meta, 11)
    assert StoreWriter.begin(tmp_path, meta, 10).cursor is None


def test_cursor_is_that_of_the_last_batch_wholly_in_finished_shards(tmp_path):
    meta = small.meta()
    writer, x = StoreWriter(tmp_path, meta, 10), small.acts(meta, 40)
    for stop, rows_done in [(4, 0), (8, 0), (14, 8), (17, 8), (20, 20), (23, 20)]:
        start = {4: 0, 8: 4, 14: 8, 17: 14, 20: 17, 23: 20}[stop]
        small.append(writer, x, start, stop)
        resumed = json.loads((tmp_path / "progress.json").read_text())
        expected = {"next_row": rows_done} if rows_done else None
        assert (writer.rows_done, writer.cursor) == (rows_done, expected)
        assert (resumed["rows_done"], resumed["cursor"]) == (rows_done, expected)


def test_without_cursors_rows_done_counts_finished_shards(tmp_path):
    meta = small.meta()
    writer, x = StoreWriter(tmp_path, meta, 10), small.acts(meta, 40)
    small.append(writer, x, 0, 27, cursor=False)
    assert writer.rows_done == 20 and writer.cursor is None
    writer = StoreWriter.resume(tmp_path)
    assert writer.rows_done == 20
    small.append(writer, x, 20, 40, cursor=False)
    writer.finish(small.problems(40))
    small.write(tmp_path / "whole", meta, 40)
    whole = small.files(tmp_path / "whole")
    assert {k: v for k, v in small.files(tmp_path).items() if not k.startswith("whole")} == whole


def test_a_finished_store_takes_nothing_more(tmp_path):
    meta = small.meta()
    small.write(tmp_path, meta, 37)
    before = small.files(tmp_path)
    writer = StoreWriter.begin(tmp_path, meta, 10)
    assert writer.finished and writer.rows_done == 37
    assert writer.finish(small.problems(37)).n_rows == 37
    with pytest.raises(StoreError, match="after the last, 37, of"):
        small.append(writer, small.acts(meta, 50), 37, 40)
    assert small.files(tmp_path) == before


def finish_from_cursor(root, meta, n, size=8):
    """What an extractor does each time it is started."""
    writer, x = StoreWriter.begin(root, meta, 10), small.acts(meta, n)
    first = writer.cursor["next_row"] if writer.cursor else 0
    if not writer.finished:
        for start, stop in small.parts(n, size, first):
            small.append(writer, x, start, stop)
    writer.finish(small.problems(n))


def test_too_early_a_finish_is_refused(tmp_path):
    meta = small.meta()
    writer = StoreWriter(tmp_path, meta, 10)
    small.append(writer, small.acts(meta, 25), 0, 25)
    writer = StoreWriter.resume(tmp_path)
    with pytest.raises(StoreError, match="at least the 20 rows of the interrupted run"):
        writer.finish(small.problems(25))


class Crash(BaseException):
    """Power off: nothing of ours may catch it."""


@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
def test_a_crash_at_any_step_changes_nothing(tmp_path, monkeypatch, call):
    meta, n = small.meta("text", "float16"), 37
    small.write(tmp_path / "whole", meta, n)
    whole, original = small.files(tmp_path / "whole"), getattr(os, call)
    for after in (False, True):
        for step in range(1000):
            root, left = tmp_path / f"{call}-{after}-{step}", step

            def crashing(*args, after=after, **kwargs):
                nonlocal left
                left -= 1
                if left == -1 and not after:
                    raise Crash
                result = original(*args, **kwargs)
                if left == -1:
                    raise Crash
                return result

            monkeypatch.setattr(os, call, crashing)
            try:
                finish_from_cursor(root, meta, n)
                break
            except Crash:
                pass
            finally:
                monkeypatch.setattr(os, call, original)
            finish_from_cursor(root, meta, n, size=8)
            assert small.files(root) == whole, f"crash {'after' if after else 'before'} {call} {step}"
        assert step > 0, f"{call} was never called"


def test_a_full_disk_loses_no_finished_shard(tmp_path, monkeypatch):
    meta, original = small.meta(), os.fsync
    calls = iter(range(100))

    def full(handle):
        if next(calls) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        finish_from_cursor(tmp_path / "acts", meta, 37)
    monkeypatch.setattr(os, "fsync", original)
    assert StoreWriter.resume(tmp_path / "acts").rows_done > 0
    finish_from_cursor(tmp_path / "acts", meta, 37)
    small.write(tmp_path / "whole", meta, 37)
    assert small.files(tmp_path / "acts") == small.files(tmp_path / "whole")


KILLED_N = 6000
WRITE = f"""
import sys
from pathlib import Path
from tests.acts import small
from thoughtlens.acts.store.writer import StoreWriter
meta = small.meta("text", "bfloat16", {{"a:out": 64, "b:in": 32}})
writer, x = StoreWriter.begin(Path(sys.argv[1]), meta, 100), small.acts(meta, {KILLED_N})
print("ready", flush=True)
if not writer.finished:
    first = writer.cursor["next_row"] if writer.cursor else 0
    for start, stop in small.parts({KILLED_N}, 17, first):
        small.append(writer, x, start, stop)
writer.finish(small.problems({KILLED_N}))
"""


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path):
    chance, root, kills = random.Random(0), tmp_path / "acts", 0
    while True:
        child = subprocess.Popen([sys.executable, "-c", WRITE, str(root)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        if kills < 4:
            time.sleep(chance.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
        code = child.wait(timeout=120)
        child.stdout.close()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills > 0
    meta = small.meta("text", "bfloat16", {"a:out": 64, "b:in": 32})
    small.write(tmp_path / "whole", meta, KILLED_N, shard_rows=100, size=17)
    assert small.files(root) == small.files(tmp_path / "whole")
    assert verify(root).n_rows == KILLED_N
