"""Windows, rows and batches, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from thoughtlens.core import ConfigError, DataError
from thoughtlens.models.hf.reader import pad
from thoughtlens.problems.text.tokens import Cutter, Window, bos_id, deal, pack, spool, token_ids


class Letters:
    """A tokenizer with one token per letter: a = 10, b = 11 ...; `#` is the special token 2."""

    bos_token_id: int | None = 1

    def __init__(self, prepends: bool = False) -> None:
        self.prepends = prepends

    def __call__(self, text, *, add_special_tokens: bool = True, verbose: bool = True):
        if isinstance(text, list):
            return {"input_ids": [self._ids(t, add_special_tokens) for t in text]}
        return {"input_ids": self._ids(text, add_special_tokens)}

    def _ids(self, text: str, special: bool) -> list[int]:
        head = [1] if self.prepends and special else []
        return head + [2 if c == "#" else ord(c) - ord("a") + 10 for c in text]


def document(name: str, text: str, **labels) -> dict:
    return {"problem_id": name, "group_id": name, "split": "train", "question": text, **labels}


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_a_document_longer_than_the_context_becomes_windows():
    cutter = Cutter(context_length=4, bos=1, dropped=frozenset({1, 2}))
    cut = cutter.windows("d", ids(10, 11, 12, 13, 14))
    # 3 tokens beside the begin-of-sequence token
    assert [w.tokens.tolist() for w in cut] == [[1, 10, 11, 12], [1, 13, 14]]
    assert [(w.problem_id, w.index) for w in cut] == [("d", 0), ("d", 1)]
    plain = Cutter(context_length=4, bos=None, dropped=frozenset()).windows("d", ids(10, 11, 12, 13, 14))
    assert [w.tokens.tolist() for w in plain] == [[10, 11, 12, 13], [14]]


def test_rows_of_a_document():
    text = ids(10, 2, 11, 12, 13)
    dropping = Cutter(context_length=3, bos=1, dropped=frozenset({1, 2}))
    assert dropping.rows_up_to(text).tolist() == [1, 1, 2, 3, 4]
    keeping = Cutter(context_length=3, bos=1, dropped=frozenset())
    # windows [1 10 2] [1 11 12] [1 13]: the begin-of-sequence token of each is a row too
    assert keeping.rows_up_to(text).tolist() == [2, 3, 5, 6, 8]
    assert sum(keeping.kept(w.tokens).sum() for w in keeping.windows("d", text)) == 8


def test_a_context_without_room_for_text():
    with pytest.raises(ConfigError, match="no room"):
        Cutter(context_length=1, bos=1, dropped=frozenset())


def test_only_the_first_windows_of_a_document(tmp_path):
    cutter = Cutter(context_length=3, bos=1, dropped=frozenset({1}), max_windows=2)
    found = make(tmp_path, [document("d", "abcdefgh")], cutter)
    assert found.n_rows == 4
    assert sum(len(batch) for _, batch in found.batches(cutter, 100, 0)) == 2


def test_who_prepends_the_begin_of_sequence():
    assert bos_id(Letters(prepends=True), "tokenizer") == 1
    assert bos_id(Letters(prepends=False), "tokenizer") is None
    assert bos_id(Letters(prepends=False), "always") == 1
    assert bos_id(Letters(prepends=True), "never") is None
    none = Letters()
    none.bos_token_id = None
    assert bos_id(none, "tokenizer") is None
    with pytest.raises(ConfigError, match="bos=always"):
        bos_id(none, "always")


def test_batches_keep_to_their_budget_and_lose_nothing():
    rng = np.random.default_rng(0)
    cut = [Window(f"d{i}", 0, np.full(n, i, np.int32)) for i, n in enumerate(rng.integers(1, 30, 200))]
    batches = pack(cut, 64, np.random.default_rng(1))
    assert sorted(w.problem_id for b in batches for w in b) == sorted(w.problem_id for w in cut)
    assert all(len(b) * max(len(w.tokens) for w in b) <= 64 for b in batches)
    assert all(min(len(w.tokens) for w in b) >= 0.8 * max(len(w.tokens) for w in b) for b in batches)
    padded = sum(pad([w.tokens for w in b])[0].size for b in batches)
    assert padded < 1.05 * sum(len(w.tokens) for w in cut), "windows of a batch are about equally long"
    again = pack(cut, 64, np.random.default_rng(1))
    assert [[w.problem_id for w in b] for b in again] == [[w.problem_id for w in b] for b in batches]
    lengths = [len(b[0].tokens) for b in batches]
    assert lengths != sorted(lengths, reverse=True), "batches come in random order"


def test_one_window_may_exceed_the_budget_alone():
    assert [len(b) for b in pack([Window("d", 0, ids(*range(9)))] * 2, 5, np.random.default_rng(0))] == [1, 1]


def test_the_largest_batch_goes_to_whoever_has_least():
    batches = [[Window("d", 0, ids(*range(n)))] * m for m, n in ((1, 4), (2, 5), (1, 3), (2, 3), (1, 2))]
    # 4, 10, 3, 6 and 2 tokens; the second has had 3 before: 10 | 3, then 10 | 9, 10 | 13, 13 | 13, 15 | 13
    done = [0, 3]
    assert deal(batches, done) == [1, 0, 0, 1, 0]
    assert done == [15, 13]


def test_padding_is_on_the_right():
    found, mask = pad([ids(5, 6, 7), ids(8)])
    assert found.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def make(tmp_path, rows, cutter, max_rows=None, buffer_tokens=1000, name="spool.arrow"):
    return spool(tmp_path / name, rows, Letters(), cutter, max_rows=max_rows, buffer_tokens=buffer_tokens)


PLAIN = Cutter(context_length=4, bos=None, dropped=frozenset({2}))


def test_the_spool_ends_at_exactly_the_rows_asked_for(tmp_path):
    rows = [document(f"d{i}", "abc#de") for i in range(10)]  # 5 rows each
    found = make(tmp_path, rows, PLAIN, max_rows=12)
    assert found.n_rows == 12
    assert found.documents["problem_id"].to_pylist() == ["d0", "d1", "d2"]
    windows = [w for _, b in found.batches(PLAIN, 8, seed=0) for w in b]
    assert sum(int(PLAIN.kept(w.tokens).sum()) for w in windows) == 12
    assert max(w.index for w in windows if w.problem_id == "d2") == 0, (
        "its third row lies in its first window"
    )


def test_a_budget_that_no_window_fits_ends_the_spool(tmp_path):
    keeping = Cutter(context_length=4, bos=1, dropped=frozenset())
    found = make(tmp_path, (document(f"d{i}", "abc") for i in range(10**9)), keeping, max_rows=5)
    assert found.n_rows == 4, "the next window would give two rows at least"


def test_the_spool_is_not_made_twice(tmp_path):
    first = make(tmp_path, [document("d0", "abc")], PLAIN)
    again = make(tmp_path, iter([document("other", "xyz")]), PLAIN)
    assert again.documents.equals(first.documents)


def test_buffers_bound_the_sorting_and_do_not_change_the_rows(tmp_path):
    rows = [document(f"d{i}", "abcdefgh"[: i % 8 + 1]) for i in range(300)]
    whole, cut = make(tmp_path, rows, PLAIN), make(tmp_path, rows, PLAIN, buffer_tokens=50, name="cut.arrow")
    assert whole.documents.equals(cut.documents)

    def content(found):
        batches = found.batches(PLAIN, 16, seed=3)
        return sorted((w.problem_id, w.index, *w.tokens) for _, b in batches for w in b)

    assert content(whole) == content(cut)
    assert len(content(whole)) > 300


def test_shares_are_all_batches_and_nearly_equal(tmp_path):
    rows = [document(f"d{i}", "abcdefgh"[: i % 8 + 1]) for i in range(300)]
    found = make(tmp_path, rows, PLAIN, buffer_tokens=400)
    whole = dict(found.batches(PLAIN, 16, seed=3))
    shares = [dict(found.batches(PLAIN, 16, seed=3, share=(i, 3))) for i in range(3)]
    assert list(whole) == list(range(len(whole))) == sorted(n for share in shares for n in share)
    for share in shares:
        assert list(share) == sorted(share)
        for number, batch in share.items():
            assert [w.tokens.tolist() for w in batch] == [w.tokens.tolist() for w in whole[number]]
    sizes = [sum(len(b) * max(len(w.tokens) for w in b) for b in share.values()) for share in shares]
    assert max(sizes) - min(sizes) <= 16, "no further apart than one batch"


def test_documents_without_rows_are_left_out(tmp_path):
    found = make(tmp_path, [document("a", "##"), document("b", ""), document("c", "x")], PLAIN)
    assert found.documents["problem_id"].to_pylist() == ["c"]
    with pytest.raises(DataError, match="not special"):
        make(tmp_path, [document("a", "##")], PLAIN, name="none.arrow")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spool.arrow"]


def test_labels_of_mixed_types_are_refused(tmp_path):
    rows = [document("a", "x", label="one"), document("b", "y", label=3)]
    with pytest.raises(DataError, match="label column mixes types"):
        make(tmp_path, rows, PLAIN, buffer_tokens=1)


def test_labels_that_begin_with_empty_cells_become_text(tmp_path):
    rows = [document(name, "x", label=label) for name, label in zip("abc", (None, 3, None), strict=True)]
    assert make(tmp_path, rows, PLAIN, buffer_tokens=1).documents["label"].to_pylist() == [None, "3", None]


def test_a_text_that_begins_with_the_begin_token_gets_no_second_one():
    class Begun(Letters):
        def _ids(self, text, special):
            return [1 if c == "^" else i for c, i in zip(text, super()._ids(text, special), strict=True)]

    plain, begun, alone = token_ids(Begun(), ["ab", "^ab", "^"], bos=1)
    assert plain.tolist() == begun.tolist() == [10, 11] and not len(alone)
    cutter = Cutter(context_length=9, bos=1, dropped=frozenset({1}))
    assert [w.tokens.tolist() for w in cutter.windows("d", begun)] == [[1, 10, 11]]
    assert token_ids(Begun(), ["^ab", "^^a"], bos=None)[0].tolist() == [1, 10, 11], "with bos=never it stays"
    assert token_ids(Begun(), ["^^a"], bos=1)[0].tolist() == [1, 10], "what is written twice is twice"


def test_only_wanted_tokens_give_rows():
    cutter = Cutter(context_length=3, bos=1, dropped=frozenset({2}))
    ids_, wanted = ids(10, 2, 11, 12), np.array([False, True, True, True])
    assert cutter.rows_up_to(ids_, wanted).tolist() == [0, 0, 1, 2]
    windows = cutter.windows("d", ids_, wanted)
    assert [cutter.kept(w.tokens, w.wanted).tolist() for w in windows] == [[False] * 3, [False, True, True]]
