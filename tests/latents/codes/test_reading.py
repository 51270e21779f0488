"""New texts go through the model exactly as the store's texts did."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import save_tiny_lm
from tests.planted import thought_store
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import DataError, MismatchError, StoreError, validate_config
from thoughtlens.latents.codes.reading import TextReader

HOOK = "layers.1:out"


@pytest.fixture(scope="module")
def acts(tmp_path_factory, tiny_lm_dir):
    root = tmp_path_factory.mktemp("reading")
    texts = ["the cat sat on the mat", "a dog", "it rained for a long time and nobody minded it very much"]
    (root / "t.txt").write_text("\n\n".join(texts))
    table = {
        "model": {"name": str(tiny_lm_dir), "dtype": "float32"},
        "problems": {"source": str(root / "t.txt"), "validation": 0.0, "test": 0.0},
        "hook_names": [HOOK],
        "context_length": 32,
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    return root / "acts"


def test_reading_gives_the_stored_activations(acts):
    store = ActivationStore.open(acts)
    texts = store.problems["question"].to_pylist()
    found = {r.index: r for r in TextReader.like(ActivationStore.open(acts)).read(texts, [HOOK])}
    assert sorted(found) == list(range(len(texts)))
    for line in range(len(texts)):
        rows = np.flatnonzero(store.problem_idx == line)
        table = store.rows.take(rows)
        order = np.lexsort((table["position"].to_numpy(), table["window"].to_numpy()))
        assert table["token_id"].to_numpy()[order].tolist() == found[line].token_ids.tolist()
        assert table["position"].to_numpy()[order].tolist() == found[line].position.tolist()
        torch.testing.assert_close(
            store.read(HOOK, rows[order]), found[line].acts[HOOK], atol=1e-5, rtol=1e-4
        )


def test_many_texts_equal_one_at_a_time(acts):
    reader = TextReader.like(ActivationStore.open(acts))
    reader.batch_tokens = 40
    texts = ["one", "two three four five six seven eight nine ten eleven", "x" * 90, "four words are here"]
    together = {r.index: r.acts[HOOK] for r in reader.read(texts, [HOOK])}
    for i, text in enumerate(texts):
        (alone,) = reader.read([text], [HOOK])
        torch.testing.assert_close(together[i], alone.acts[HOOK], atol=1e-5, rtol=1e-4)


def test_what_cannot_be_read(acts, tmp_path):
    reader = TextReader.like(ActivationStore.open(acts))
    with pytest.raises(DataError, match="at least one text"):
        next(reader.read([], [HOOK]))
    with pytest.raises(DataError, match="text 2 of 2"):
        next(reader.read(["fine", ""], [HOOK]))
    store = thought_store(tmp_path / "thoughts", np.ones((2, 2, 1, 16)), {})
    with pytest.raises(StoreError, match="texts"):
        TextReader.like(ActivationStore.open(store))


def test_another_model_under_the_same_name(tmp_path):
    lm = save_tiny_lm(tmp_path / "lm")
    (tmp_path / "t.txt").write_text("some words\n\nmore words")
    table = {
        "model": {"name": str(lm), "dtype": "float32"},
        "problems": {"source": str(tmp_path / "t.txt"), "validation": 0.0, "test": 0.0},
        "hook_names": [HOOK],
        "context_length": 32,
    }
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    save_tiny_lm(tmp_path / "lm", seed=1)
    with pytest.raises(MismatchError, match="other weights"):
        TextReader.like(ActivationStore.open(tmp_path / "acts"))
