"""Scores, shuffles, labels and translators where the right answer is known by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.models.thought.fake import QUESTIONS, make_codi
from thoughtlens import sae as saes
from thoughtlens.core import MismatchError
from thoughtlens.latents.codes.readout import Readout, of_thoughts
from thoughtlens.latents.lens import tuned
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.latents import latent_tables
from thoughtlens.latents.lens.rows import Target, word_numbers
from thoughtlens.latents.lens.score import family_p, score
from thoughtlens.latents.lens.tuned import Pairs
from thoughtlens.models.thought.thoughts import collect, load
from thoughtlens.numerics.stats.intervals import wilson
from thoughtlens.numerics.stats.significance import shuffled_blocks


def linear(W: torch.Tensor, texts: list[str] | None = None) -> Readout:
    """A model that is only its unembedding W [d, vocab]."""
    texts = texts or [str(i) for i in range(W.shape[1])]
    return Readout(lambda x, hook: x @ W, W.shape[0], W.shape[1], lambda ids: {i: texts[i] for i in ids})


def test_rates_by_hand():
    words = np.array([[[1, 2], [1, 2], [3, 0], [2, 1], [5, 1]]])  # one reading, five states, two words each
    target = Target("v1", np.array([[1], [2], [-1], [2], [1]]))
    keep, groups = np.ones(5, bool), np.arange(5)
    (found,) = score(words, target, groups, keep, n_permutations=50, seed=0)
    # without the row that has no right word: first words 1, 1, 2, 5 against 1, 2, 2, 1
    assert found.n == 4 and found.rate == 0.5 and found.rate_top == 1
    expected = wilson(2, 4)
    assert (found.low, found.high) == (expected.low, expected.high)
    # a random order of {1, 1, 2, 2} meets 1, 1, 2, 5 in (1/2 + 1/2 + 1/2 + 0) / 4 of the places
    assert found.null.mean() == pytest.approx(0.375, abs=0.08) and found.p > 0.05


def test_any_of_several_words_counts():
    words = np.array([[[4], [7], [9]]])
    target = Target("intermediate", np.array([[4, -1], [6, 7], [-1, 1]]))
    (found,) = score(words, target, np.arange(3), np.ones(3, bool), n_permutations=20, seed=0)
    assert found.rate == pytest.approx(2 / 3)


def test_true_readings_are_found_and_random_ones_are_not():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 20, 400)
    readings = np.stack(
        [np.where(rng.random(400) < 0.3, y, rng.integers(0, 20, 400)), rng.integers(0, 20, 400)]
    )
    found = score(
        readings[..., None],
        Target("v1", y[:, None]),
        np.arange(400),
        np.ones(400, bool),
        n_permutations=99,
        seed=0,
    )
    (true, noise), (p_true, p_noise) = found, family_p(found)
    assert true.p == p_true == 0.01 and 0.25 < true.rate < 0.45
    assert p_noise > 0.05 and noise.low < 0.05 < noise.high + 0.03
    assert true.null.mean() == pytest.approx(0.05, abs=0.01)


def test_a_lens_that_always_says_the_same_is_not_news():
    y = np.r_[np.zeros(90, int), np.ones(10, int)]
    (found,) = score(
        np.zeros((1, 100, 1), int),
        Target("v1", y[:, None]),
        np.arange(100),
        np.ones(100, bool),
        n_permutations=50,
        seed=0,
    )
    assert found.rate == found.null.mean() == 0.9 and found.p == 1 and family_p([found]) == [1]


def test_groups_make_the_interval_wide_and_are_shuffled_together():
    y = np.repeat(np.arange(8) % 4, 50)
    hits = np.repeat([1, 1, 1, 1, 0, 0, 0, 0], 50)
    words = np.where(hits, y, 9)[None, :, None]
    (found,) = score(
        words,
        Target("v", y[:, None]),
        np.repeat(np.arange(8), 50),
        np.ones(400, bool),
        n_permutations=200,
        seed=0,
    )
    (alone,) = score(
        words, Target("v", y[:, None]), np.arange(400), np.ones(400, bool), n_permutations=200, seed=0
    )
    assert found.n_groups == 8 and found.high - found.low > 0.4
    assert alone.high - alone.low < 0.11
    assert found.null.std() > 3 * alone.null.std()


def test_shuffled_blocks_keep_groups_whole():
    groups = np.array([0, 0, 0, 1, 2, 2])
    for seed in range(20):
        order = shuffled_blocks(groups, np.random.default_rng(seed))
        assert sorted(order.tolist()) == list(range(6))
        text = "".join(map(str, order.tolist()))
        assert "012" in text and "45" in text


def test_scores_need_two_groups():
    target = Target("v1", np.array([[1], [-1]]))
    assert (
        score(np.ones((1, 2, 1), int), target, np.arange(2), np.ones(2, bool), n_permutations=20, seed=0)
        == []
    )
    assert family_p([]) == []


def test_labels_become_words_the_model_has():
    readout = linear(torch.eye(4), ["7", " 7", "cat ", ""])
    assert readout.words == {"7": 0, "cat": 1, "<3>": 2} and readout.word_of.tolist() == [0, 0, 1, 2]
    column = pa.chunked_array([pa.array([7.0, 7.5, None, 12.0])])
    assert word_numbers(column, readout).tolist() == [0, -1, -1, -1]
    assert word_numbers(pa.chunked_array([pa.array(["cat", " 7 ", ""])]), readout).tolist() == [1, 0, -1]
    assert word_numbers(pa.chunked_array([pa.array([True])]), readout).tolist() == [-1]


def test_a_translator_finds_the_map_that_was_planted():
    generator = torch.Generator().manual_seed(0)
    W, A = torch.randn(6, 9, generator=generator), torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    final = torch.randn(600, 6, generator=generator)
    x, readout = (final - 1.5) @ A.T, linear(2 * W)  # final = x A + 1.5
    pairs, cfg = Pairs("layers.0:out", x, "thought_out", final), LensConfig(acts="acts", fit_steps=100)
    found = tuned.fit(readout, pairs[:400], cfg)
    after = tuned.divergence(readout, found, pairs[400:]).mean()
    before = tuned.divergence(readout, tuned.identity(6), pairs[400:]).mean()
    assert before > 1 and after < 0.01
    assert torch.allclose(found(x[:5]), final[:5], atol=0.2)


def test_translators_of_noise_are_no_worse_than_the_identity_and_finals_keep_it():
    generator = torch.Generator().manual_seed(1)
    W, x = torch.randn(6, 9, generator=generator), torch.randn(60, 6, generator=generator)
    readout, cfg = linear(W), LensConfig(acts="acts", fit_steps=60)
    pairs = Pairs("layers.0:out", x, "thought_out", x)
    found = tuned.fit(readout, pairs, cfg)
    assert tuned.divergence(readout, found, pairs).mean() < 1e-6
    same = tuned.fit(readout, Pairs("thought_out", x, "thought_out", x + 1), cfg)
    assert not same.weight.any() and not same.bias.any()


def test_divergence_by_hand():
    readout = linear(torch.eye(2))
    x = torch.tensor([[1.0, 3.0]]).log()  # 1/4, 3/4
    final = torch.zeros(1, 2)  # 1/2, 1/2
    kl = tuned.divergence(readout, tuned.identity(2), Pairs("a", x, "b", final))
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75) = 0.5 ln(4 / 3)
    assert kl.tolist() == pytest.approx([0.5 * np.log(4 / 3)])
    constant = tuned.from_constant(readout, Pairs("a", x, "b", x), Pairs("a", x, "b", final))
    assert constant.tolist() == pytest.approx(kl.tolist())


def test_decoder_rows_are_read_as_their_product_with_the_unembedding():
    W = torch.tensor([[1.0, 0, -2, 0.5], [0, 3, 0, 1]])
    sae = saes.create(saes.ReLUConfig(d_sae=3, normalization="none"), 2, seed=0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0], [0, 0], [0, 2.0]]))
    sae.hook_names = ["layers.0:out"]
    bias = torch.tensor([5.0, 0, 0, 0])  # the same for every latent: taken out
    readout = Readout(lambda x, hook: x @ W + bias, 2, 4, lambda ids: {i: "abcd"[i] for i in ids})
    most, spread = latent_tables(readout, "pooled", sae, 2)
    rows = most.to_pylist()
    found = {(r["latent"], r["sign"], r["rank"]): (r["token"], r["logit"]) for r in rows}
    assert found == {
        (0, 1, 0): ("a", 1.0), (0, 1, 1): ("d", 0.5), (0, -1, 0): ("c", -2.0), (0, -1, 1): ("b", 0.0),
        (2, 1, 0): ("b", 6.0), (2, 1, 1): ("d", 2.0), (2, -1, 0): ("a", 0.0), (2, -1, 1): ("c", 0.0),
    }  # fmt: skip
    assert spread.drop(["counts"]).to_pylist() == [
        {"member": "pooled", "latent": 0, "low": -2.0, "high": 1.0},
        {"member": "pooled", "latent": 2, "low": 0.0, "high": 6.0},
    ]
    for counts, logits in zip(spread["counts"].to_pylist(), ([1, 0, -2, 0.5], [0, 6, 0, 2]), strict=True):
        assert counts == np.histogram(logits, 40)[0].tolist()
    with pytest.raises(MismatchError, match="writes width 2"):
        latent_tables(linear(torch.eye(3)), "pooled", sae, 2)


def test_the_readout_of_the_last_state_is_what_the_model_says():
    model = load("codi-tiny")
    readout = of_thoughts(model)
    assert readout.texts[:2] == ["<pad>", "<bot>"] and readout.n_vocab == len(model.tokenizer.vocabulary)
    h = torch.randn(3, model.spec.d, generator=torch.Generator().manual_seed(0))
    normed = model.decoder.ln_f(h)
    assert torch.allclose(readout.logits(h, "layers.1:out"), readout.logits(normed, "thought_out"), atol=1e-5)
    with pytest.raises(MismatchError, match="residual stream"):
        readout.logits(h[:, :5], "layers.1.mlp:out")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_checkpoints_with_thought_tokens_of_their_own_are_read_too(family, tmp_path):
    fake = make_codi(tmp_path, family)
    model = load(fake.file, family="codi", base=fake.base)
    readout = of_thoughts(model)
    assert readout.n_vocab == fake.n_vocab + 3 == len(readout.texts)
    assert readout.texts[-3:] == [f"<{i}>" for i in range(fake.n_vocab, fake.n_vocab + 3)]
    batch = collect(model, QUESTIONS, sites=("resid", "thought_out"))
    x, last = batch.x[:, 2, -1], batch.thought_out[:, 2, 0]
    read = readout.logits(x, f"layers.{model.spec.n_layers - 1}:out")
    assert torch.allclose(read, readout.logits(last, "thought_out"), atol=1e-3)


def test_shuffled_words_are_rarely_found_anywhere():
    """5 % of shuffles at most, with as few as 20 permutations and with rare words."""
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        common = 1 / np.arange(1, 31) ** 1.3
        words = rng.choice(30, (5, 60, 2), p=common / common.sum())
        scored = []
        for name, n_options in (("v1", 1), ("op1", 1), ("intermediate", 3)):
            target = Target(name, rng.choice(30, (60, n_options), p=common / common.sum()))
            scored += score(words, target, np.arange(60), np.ones(60, bool), n_permutations=20, seed=seed)
        found += min(family_p(scored)) <= 0.05
    assert found <= 18  # 95 % bound of a true rate of 5 %


@pytest.mark.parametrize("right", [0, 1])
def test_an_interval_at_the_edge_has_a_width(right):
    groups = np.repeat(np.arange(12), 3)
    target = Target("v1", np.full((36, 1), 1 - right))
    (found,) = score(
        np.ones((1, 36, 1), int) * 1, target, groups, np.ones(36, bool), n_permutations=0, seed=0
    )
    assert found.rate == 1 - right and found.low < found.high and found.low <= found.rate <= found.high
