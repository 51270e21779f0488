"""Columns of windows and rules: what they state, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.planted import D, planted_sae, text_store, thought_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.explain.columns import Columns
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.corpus import Corpus
from thoughtlens.latents.explain.tokens import Neighbours, Tokens


def corpus_of(tmp_path, **options):
    cfg = ExplainConfig(acts=tmp_path / "acts", sae=tmp_path / "sae", **options)
    member = Member(ActivationStore.open(cfg.acts), "pooled", saes.load(cfg.sae), split=None, batch_size=64)
    return Corpus(member, None, cfg)


@pytest.fixture
def text(tmp_path, tiny_lm_dir):
    """40 times the document 5 1 2 x 3 in token ids 10..14."""
    documents = [np.array([10, 11, 12, 13, 14])] * 40
    text_store(tmp_path / "acts", tiny_lm_dir, documents, [np.ones((5, D))] * 40)
    planted_sae(tmp_path / "sae", hooks=["layers.0:out"])
    return corpus_of(tmp_path, window=1, near=2)


def test_text_columns(text):
    columns = Columns(text, {10: "5", 11: "1", 12: " 2", 13: "x", 14: "3"})
    table = columns.table(text.fit)
    rows = table.binary[:5].toarray()
    stated = [{columns.names[i] for i in np.flatnonzero(row)} for row in rows]
    assert stated[0] == {'the token is "5"', "the position is 1"}
    assert stated[2] == {
        'the token is " 2"', '1 before is "1"', 'the 2 tokens before have "5"',
        'the 2 tokens before have "1"', "the position is 2 to 3",
    }  # fmt: skip
    digits = table.numbers[:5, columns.number_names.index("the number of digits up to here")]
    assert digits.tolist() == [1, 2, 3, 0, 1]
    assert table.numbers[5, columns.number_names.index("the number of digits up to here")] == 1  # a new text


def test_thought_columns(tmp_path):
    n = 50
    labels = {"operation": ["add", "mul"] * (n // 2), "start": [None if i == 0 else i for i in range(n)]}
    questions = [f"take {i} and -7 apples" for i in range(n)]
    thought_store(tmp_path / "acts", np.ones((n, 2, 2, D)), labels, questions=questions)
    planted_sae(tmp_path / "sae")
    corpus = corpus_of(tmp_path)
    columns = Columns(corpus, dict(enumerate(corpus.vocabulary)))
    table, part = columns.table(corpus.fit), corpus.fit
    v = 4 * 3 + 2  # the fourth problem of the part; place 1 (thought 1), first hook
    line = int(part.line[3])
    stated = {columns.names[i] for i in np.flatnonzero(table.binary[[v]].toarray()[0])}
    assert {"the hook is layers.0:out", "the thought is 1", 'the question has "apples"'} <= stated
    assert f"operation is {labels['operation'][line]}" in stated
    numbers = dict(zip(columns.number_names, table.numbers[v].tolist(), strict=True))
    assert numbers == {
        "the largest number of the question": max(line, 7),
        "the count of numbers in the question": 2,
        "start": labels["start"][line] or 25,  # missing: the median of 1..49
    }


def test_groups_stay_together(tmp_path):
    groups = [f"g{i // 3}" for i in range(120)]
    thought_store(tmp_path / "acts", np.ones((120, 1, 1, D)), {}, groups=groups)
    planted_sae(tmp_path / "sae", hooks=["layers.0:out"])
    corpus = corpus_of(tmp_path)
    parts = [set(part.cluster.tolist()) for part in (corpus.fit, corpus.validation, corpus.test)]
    assert [len(part) for part in parts] == [24, 8, 8]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_own_splits_and_limits(tmp_path):
    splits = ["train"] * 60 + ["validation"] * 20 + ["test"] * 20
    thought_store(tmp_path / "acts", np.ones((100, 2, 1, D)), {}, splits=splits)
    planted_sae(tmp_path / "sae", hooks=["layers.0:out"])
    corpus = corpus_of(tmp_path, fit_vectors=31, test_vectors=1)
    assert (corpus.fit.split, corpus.fit.n_units, corpus.fit.n) == ("train", 15, 30)
    assert (corpus.validation.split, corpus.validation.n_units) == ("validation", 20)
    assert (corpus.test.split, corpus.test.n_units) == ("test", 1)
    assert set(corpus.fit.line) <= set(range(60)) and set(corpus.test.line) <= set(range(80, 100))


def test_neighbours_stand_between_the_same_tokens():
    """`cat` and `dog` stand between `the` and `sat`; `Cat` is the same word in another case."""
    names = {0: " the", 1: " cat", 2: " sat", 3: " dog", 4: "Cat", 5: " far"}
    ids = [0, 1, 2, 0, 3, 2, 0, 1, 2, 5, 4, 5, 2, 5]
    neighbours = Neighbours(Tokens(np.array(ids), np.zeros(len(ids), np.int64)), names)
    assert neighbours.of(1, 2) == [4, 3]
    assert neighbours.of(99, 2) == [] and neighbours.of(1, 0) == []
