from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.acts import small
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import DataError, HookError, MismatchError, RangeError

HOOKS = ["layers.1:out", "layers.2:out"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ActivationStore:
    """35 thoughts of 5 problems: p0, p1, p2 train, p3 validation, p4 test."""
    return small.write(tmp_path_factory.mktemp("thoughts") / "acts", small.meta(), 35)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> ActivationStore:
    return small.write(tmp_path_factory.mktemp("text") / "acts", small.meta("text", "bfloat16"), 35)


@pytest.fixture(scope="module")
def pooled(store) -> torch.Tensor:
    x = small.acts(store.meta, 35)
    return torch.cat([x[hook] for hook in HOOKS])


def everything(batches) -> np.ndarray:
    return np.concatenate([batch.idx for batch in batches])


def test_vectors_are_hook_major(store, pooled):
    whole = store.view()
    assert (whole.n, whole.n_rows, whole.d_in, whole.hook_names) == (70, 35, 5, HOOKS)
    idx = np.random.default_rng(0).permutation(70)
    assert torch.equal(whole.read(idx), pooled[idx])
    assert np.array_equal(whole.rows_of(idx), idx % 35)
    # cell = hook * 7 thoughts + thought
    assert np.array_equal(whole.cell_of(idx), idx // 35 * 7 + idx % 35 % 7)


def test_order_of_hooks_is_the_callers(store, pooled):
    turned = store.view(HOOKS[::-1])
    assert torch.equal(turned.read(np.arange(70)), pooled.roll(35, 0))
    assert [store.cells[c] for c in turned.cell_of(np.array([0, 35]))] == [(HOOKS[1], 0), (HOOKS[0], 0)]


@pytest.mark.parametrize(
    ("split", "thoughts", "rows"),
    [
        (None, None, list(range(35))),
        ("train", None, list(range(21))),
        ("validation", None, list(range(21, 28))),
        ("test", [2, 5], [30, 33]),
        (None, [0], [0, 7, 14, 21, 28]),
        ("train", [6, 1], [1, 6, 8, 13, 15, 20]),
    ],
)
def test_choice_of_rows(store, pooled, split, thoughts, rows):
    chosen = store.view("layers.2:out", split=split, thoughts=thoughts)
    every = np.arange(chosen.n)
    assert chosen.rows_of(every).tolist() == rows
    assert torch.equal(chosen.read(every), pooled[35 + np.array(rows)])
    assert [store.cells[c] for c in chosen.cell_of(every)] == [("layers.2:out", r % 7) for r in rows]


def test_outliers_can_be_dropped(text):
    view = text.view(split="train", drop_outliers=True)
    assert view.rows_of(np.arange(view.n_rows)).tolist() == [r for r in range(21) if r % 5]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"split": "dev"}, DataError, r"split='dev'.*train \(3\), validation \(1\), test \(1\)"),
        ({"thoughts": []}, DataError, r"thoughts=\[\]"),
        ({"thoughts": [3, 7, 9]}, HookError, r"got \[7, 9\]: it has thoughts \[0, 1, 2, 3, 4, 5, 6\]"),
        ({"hook_names": ["layers.1:in"]}, HookError, r"one of the hooks layers\.1:out, layers\.2:out"),
        ({"hook_names": ["layers.1:out"] * 2}, DataError, "each hook once"),
        ({"hook_names": []}, HookError, "at least one hook"),
        ({"drop_outliers": True}, DataError, "column `outlier`"),
    ],
)
def test_views_that_cannot_be(store, arguments, error, words):
    with pytest.raises(error, match=words):
        store.view(**arguments)


def test_a_text_has_no_thoughts(text):
    with pytest.raises(HookError, match="no thoughts, it is a text store"):
        text.view(thoughts=[1])


def test_widths_must_agree(tmp_path):
    store = small.write(tmp_path / "acts", small.meta(d_in={"a:out": 4, "b:out": 4, "c:out": 6}))
    with pytest.raises(MismatchError, match=r"one width to pool, got .*'c:out': 6"):
        store.view()
    assert store.view(["a:out", "b:out"]).d_in == 4
    assert store.view("c:out").d_in == 6


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(0, 2**40), st.integers(1, 4))
def test_every_vector_once_an_epoch(store, pooled, batch_size, seed, epochs):
    whole = store.view()
    batches = list(whole.batches(batch_size, seed=seed, epochs=epochs))
    sizes = [len(b.idx) for b in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and sum(sizes) == 70 * epochs
    stream = everything(batches).reshape(epochs, 70)
    assert np.array_equal(np.sort(stream, axis=1), np.tile(np.arange(70), (epochs, 1)))
    assert len({tuple(order) for order in stream}) == epochs
    for batch in batches:
        assert torch.equal(batch.x, pooled[batch.idx])
        assert np.array_equal(batch.cell, whole.cell_of(batch.idx))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 20), st.integers(1, 200))
def test_a_resumed_reader_gets_what_it_would_have_got(store, batch_size, done, ahead):
    whole = store.view(split="train")
    whole.read_ahead_vectors = ahead
    rest = list(itertools.islice(whole.batches(batch_size, seed=3, epochs=None), done, done + 5))
    resumed = whole.batches(batch_size, seed=3, start=done * batch_size, epochs=None)
    for a, b in zip(rest, resumed, strict=False):
        assert torch.equal(a.x, b.x) and np.array_equal(a.idx, b.idx) and np.array_equal(a.cell, b.cell)


def test_batches_stay_as_they_are(store, pooled):
    """A batch kept by the caller is not overwritten by the next."""
    kept = list(store.view().batches(8, seed=0, epochs=3, dtype=None))
    for batch in kept:
        assert torch.equal(batch.x, pooled[batch.idx])


def test_start_at_and_past_the_end(store):
    whole = store.view()
    assert everything(whole.batches(16, seed=0, start=69)).shape == (1,)
    assert list(whole.batches(16, seed=0, start=70)) == []
    assert list(whole.batches(16, seed=0, start=1000)) == []
    assert list(whole.batches(16, seed=0, epochs=0)) == []


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"start": -1}, {"epochs": -1}])
def test_batches_that_cannot_be(store, arguments):
    with pytest.raises(DataError, match="Expected"):
        next(store.view().batches(**({"batch_size": 4, "seed": 0} | arguments)))


def test_order_is_shuffled_within_and_between_batches(tmp_path):
    n = 4000
    store = small.write(tmp_path / "acts", small.meta("text", d_in={"a:out": 1}), n, shard_rows=500, size=n)
    batches = list(store.view().batches(500, seed=0))
    limit = 4 / np.sqrt(n)
    assert abs(np.corrcoef(everything(batches), np.arange(n))[0, 1]) < limit
    within = [np.corrcoef(b.idx, np.arange(500))[0, 1] for b in batches]
    assert max(map(abs, within)) < 4 / np.sqrt(500)


def test_dtype_of_what_is_read(text):
    whole = text.view()
    idx = np.arange(3)
    exact = whole.read(idx, dtype=None)
    assert exact.dtype == torch.bfloat16
    assert torch.equal(whole.read(idx), exact.float())
    assert torch.equal(whole.read(idx, dtype=torch.float64), exact.double())
    assert next(whole.batches(4, seed=0)).x.dtype == torch.float32
    assert next(whole.batches(4, seed=0, dtype=None)).x.dtype == torch.bfloat16
    assert next(whole.sequential(4, dtype=torch.float64)).x.dtype == torch.float64


def test_sequential_reads_everything_in_order(store, pooled):
    batches = list(store.view().sequential(16))
    assert [len(b.idx) for b in batches] == [16, 16, 16, 16, 6]
    assert np.array_equal(everything(batches), np.arange(70))
    assert torch.equal(torch.cat([b.x for b in batches]), pooled)


def test_samples_are_without_replacement(store, pooled):
    some = store.view().sample(20, seed=1)
    assert len(set(some.idx.tolist())) == 20 and torch.equal(some.x, pooled[some.idx])
    assert np.array_equal(np.sort(store.view().sample(1000, seed=1).idx), np.arange(70))
    assert not np.array_equal(some.idx, store.view().sample(20, seed=2).idx)


def test_several_hooks_of_the_same_rows(store, pooled):
    test = store.view(split="test")  # rows 28..34
    x = test.read_aligned(np.array([6, 0, 3]))
    assert x.shape == (3, 2, 5)
    for i, row in enumerate([34, 28, 31]):
        assert torch.equal(x[i], torch.stack([pooled[row], pooled[35 + row]]))
    with pytest.raises(RangeError, match=r"\[0, 7\)"):
        test.read_aligned(np.array([7]))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.array([0, 70]), r"\[0, 70\).* got 0 to 70"),
        (np.array([-1]), "got -1 to -1"),
        (np.arange(70) < 3, r"got bool of shape \(70,\); of a mask take np.flatnonzero"),
        (np.array([0.5]), "whole numbers .* got float64"),
        (np.array([[1]]), r"got int64 of shape \(1, 1\)"),
    ],
)
def test_what_are_no_numbers_of_vectors(store, wrong, said):
    view = store.view()
    for read in (view.read, view.rows_of, view.cell_of):
        with pytest.raises(RangeError, match=said):
            read(wrong)
    with pytest.raises(DataError, match="a whole number, got 0"):
        view.sample(0, seed=0)


def test_one_thought_needs_no_list(store):
    one, listed = store.view(thoughts=2), store.view(thoughts=[2])
    assert torch.equal(one.read(np.arange(one.n)), listed.read(np.arange(listed.n)))


def test_whole_problems(store, pooled):
    some = store.view(split="train", thoughts=[1, 2, 6])
    assert some.problem_lines.tolist() == [0, 1, 2]
    x = some.read_problems(np.array([2, 0]))
    assert x.shape == (2, 2, 3, 5)
    for i, problem in enumerate([2, 0]):
        for hook in range(2):
            rows = 35 * hook + 7 * problem + np.array([1, 2, 6])
            assert torch.equal(x[i, hook], pooled[rows])


def test_whole_problems_need_the_same_thoughts(text, tmp_path):
    with pytest.raises(DataError, match="rows per problem; pool"):
        text.view().read_problems(np.array([0]))
    meta, n = small.meta(), 14
    writer = small.StoreWriter(tmp_path / "acts", meta)
    rows = small.columns("thoughts", 0, n) | {"thought_idx": [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 6, 5]}
    writer.append(small.acts(meta, n), rows)
    writer.finish(small.problems(n))
    with pytest.raises(DataError, match="same thoughts in the same order"):
        ActivationStore.open(tmp_path / "acts").view().read_problems(np.array([0]))
