"""Poolings by hand, and a signal in one cell that they find or lose."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from thoughtlens.core import DataError
from thoughtlens.evals.probing import menu, probes
from thoughtlens.evals.probing.matrices import compact, join
from thoughtlens.evals.probing.representations import CELL_POOLINGS, ENCODERS, TOKEN_POOLINGS
from thoughtlens.evals.probing.text import bag_of_words

CELLS = [("a", 0, ""), ("a", 1, ""), ("b", 0, ""), ("b", 1, "")]
PARTS = [np.array([[1.0, 0.0]]), np.array([[3.0, 2.0]]), np.array([[0.0, 4.0]]), np.array([[0.0, 8.0]])]
EXPECTED = {
    "concat": [1, 0, 3, 2, 0, 4, 0, 8],
    "mean_thoughts": [2, 1, 0, 6],
    "mean_all": [1, 3.5],
    "max_all": [3, 8],
    "binary": [0.5, 0.75],
    "last_thought": [3, 2, 0, 8],
}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", EXPECTED)
def test_cell_poolings_by_hand(name, sparse):
    parts = [sp.csr_array(part) for part in PARTS] if sparse else PARTS
    found = CELL_POOLINGS[name](parts, CELLS)
    assert (found.toarray() if sp.issparse(found) else found).tolist() == [EXPECTED[name]]


def test_means_never_mix_two_saes():
    cells = [("a", 0, "x"), ("a", 1, "y"), ("b", 0, "x"), ("b", 1, "y")]
    assert CELL_POOLINGS["mean_thoughts"](PARTS, cells).tolist() == [EXPECTED["concat"]]
    # SAE x: (1 + 0) / 2, (0 + 4) / 2; SAE y: (3 + 0) / 2, (2 + 8) / 2
    assert CELL_POOLINGS["mean_all"](PARTS, cells).tolist() == [[0.5, 2, 1.5, 5]]


def test_token_poolings_by_hand():
    acts = torch.tensor([[1.0, 5.0], [3.0, 0.0]])
    found = {name: pool(acts).tolist() for name, pool in TOKEN_POOLINGS.items()}
    assert found == {"mean": [2, 2.5], "last": [3, 0], "max": [3, 5], "binary": [1, 0.5]}


def test_join_and_compact_keep_the_numbers():
    dense, thin = np.ones((2, 3)), sp.csr_array(np.array([[0, 0, 0, 1.0], [0, 0, 0, 0]]))
    assert join([dense, thin]).tolist() == [[1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0, 0]]
    assert sp.issparse(join([thin, thin]))
    assert sp.issparse(compact(thin.toarray())) and not sp.issparse(compact(dense))


def test_a_signal_in_one_cell_is_found_by_concat_and_lost_by_the_mean():
    rng = np.random.default_rng(0)
    cells = [(hook, thought, "") for hook in "abc" for thought in range(6)]
    y = rng.integers(0, 3, 240)
    parts = [rng.normal(size=(240, 12)) for _ in cells]
    parts[10] += 2.2 * np.eye(3, 12)[y]
    folds = probes.make_folds(y, np.arange(240), n_splits=4, n_inner=2)
    accuracy = {
        name: (probes.probe(CELL_POOLINGS[name](parts, cells), y, folds, n_classes=3).pred == y).mean()
        for name in ("concat", "mean_all")
    }
    alone = (probes.probe(parts[10], y, folds, n_classes=3).pred == y).mean()
    assert alone > 0.85
    assert accuracy["concat"] > accuracy["mean_all"] + 0.1
    assert accuracy["mean_all"] < 0.65


def test_bag_of_words_keeps_numbers_and_needs_shared_words():
    X = bag_of_words(["add 12 to 7", "add 12.5 to 7", "take 12 from it"])
    assert X.shape[0] == 3 and np.allclose(sp.linalg.norm(X, axis=1), 1)
    assert (X[[0]] @ X[[1]].T)[0, 0] < 1  # 12 and 12.5 are different words
    with pytest.raises(DataError, match="share words"):
        bag_of_words(["one", "two"])


def test_everything_on_the_menu_is_there():
    assert {name for name, arm in menu.ARMS.items() if arm.kind == "vectors"} == set(ENCODERS)
    assert list(menu.CELL_POOLINGS) == list(CELL_POOLINGS)
    assert list(menu.TOKEN_POOLINGS) == list(TOKEN_POOLINGS)
