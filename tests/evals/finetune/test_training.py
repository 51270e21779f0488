"""The objective on tiny models, for every kind that can be trained further."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thoughtlens import sae as saes
from thoughtlens.evals.finetune.lessons import TextLessons, ThoughtLessons
from thoughtlens.evals.finetune.stage import UNTRAINED
from thoughtlens.evals.finetune.training import EndToEnd, train_both
from thoughtlens.evals.heldout.windows import Window
from thoughtlens.models import Place, load
from thoughtlens.models.thought import tiny
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.sae.kinds.registry import KINDS

HOOK = "layers.1:out"
CONFIGS = {
    "topk": saes.TopKConfig(d_sae=48, k=8),
    "relu": saes.ReLUConfig(d_sae=48),
    "p_anneal": saes.PAnnealConfig(d_sae=48),
    "gated": saes.GatedConfig(d_sae=48),
    "batchtopk": saes.BatchTopKConfig(d_sae=48, k=8),
    "jumprelu": saes.JumpReLUConfig(d_sae=48),
    "matryoshka": saes.MatryoshkaConfig(d_sae=48, k=8),
    "hierarchical_topk": saes.HierarchicalTopKConfig(d_sae=48, k=8),
}


@pytest.fixture(scope="module")
def lm(tiny_lm_dir):
    return load(str(tiny_lm_dir), dtype="float32")


@pytest.fixture(scope="module")
def lessons(lm):
    rng = np.random.default_rng(0)
    windows = [
        Window(i, rng.integers(4, 260, 24), np.r_[-1, np.arange(23)], np.arange(24) > 0) for i in range(6)
    ]
    return TextLessons(lm, HOOK, windows)


def dictionary(kind, x, hook=HOOK):
    sae = saes.create(CONFIGS[kind], x.shape[1], seed=0)
    sae.hook_names = [hook]
    with torch.no_grad():
        sae.initialize(x, cells=[(hook, None)], cell=torch.zeros(len(x), dtype=torch.long))
    return sae


@pytest.fixture(scope="module")
def states(lessons):
    return lessons(0, saes.create(saes.TopKConfig(d_sae=48, k=8, normalization="none"), 32, seed=0)).x


def test_all_kinds_are_tried_or_refused():
    joined = {"transcoder", "crosscoder"}
    assert set(CONFIGS) == set(KINDS) - set(UNTRAINED) - joined


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_divergence_falls_and_gradients_reach_the_sae_alone(kind, lm, lessons, states):
    sae = dictionary(kind, states)
    lost = lessons(0, sae).lost
    sae.requires_grad_(True)
    lost(sae).backward()
    assert sae.W_dec.grad is not None and sae.W_dec.grad.abs().sum() > 0
    assert sae.W_enc.grad is not None and sae.W_enc.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    weights = {name: p.clone() for name, p in lm.model.named_parameters()}
    found = train_both(sae, lessons, steps=25, mse=1.0, lr=3e-3, seed=0)
    assert found.kl[-1] < 0.8 * found.kl[0]
    assert all((p == weights[name]).all() for name, p in lm.model.named_parameters())
    assert torch.equal(sae.W_dec, dictionary(kind, states).W_dec)  # the one given stays as it is
    assert not torch.equal(found.finetuned.W_dec, found.rival.W_dec)
    assert [cost.rows for cost in found.costs] == [25 * 6 * 23] * 2
    assert [cost.tokens for cost in found.costs] == [25 * 6 * 24, 0]


def test_the_divergence_is_that_of_a_written_out_pass(lm, lessons, states):
    sae = dictionary("topk", states)
    with torch.no_grad():
        found = float(lessons(0, sae).lost(sae))
        total, n = 0.0, 0
        for window in lessons.batches[0]:
            ids = torch.from_numpy(window.tokens)[None]
            hidden = lm.model(ids, output_hidden_states=True).hidden_states[2]
            x_hat = hidden.clone()
            x_hat[0, 1:] = sae(hidden[0, 1:])
            block = lm.model.model.layers[1]
            handle = block.register_forward_hook(lambda m, a, out, x_hat=x_hat: x_hat)
            spliced = lm.model(ids).logits.log_softmax(-1)
            handle.remove()
            clean = lm.model(ids).logits.log_softmax(-1)
            kl = (clean.exp() * (clean - spliced)).sum(-1)[0, 1:-1]  # from a row, of a token with a row
            total, n = total + float(kl.sum()), n + len(kl)
    assert found == pytest.approx(total / n, rel=1e-4)


def test_both_losses_are_brought_to_one_size(lessons, states):
    sae = dictionary("topk", states)
    lesson = lessons(0, sae.requires_grad_(False))
    for mse, share in ((1.0, 0.5), (3.0, 0.75), (0.0, 0.0)):
        trainer = EndToEnd(sae, _settings(), mse)
        trainer.lost = lesson.lost
        batch = saes.Batch(lesson.x)
        own, found = sae.loss(batch).terms["reconstruction"], trainer.loss(batch).terms
        assert float(found["reconstruction"]) == pytest.approx(share * float(own))
        assert float(found["kl"]) == pytest.approx((1 - share) * float(own), rel=1e-4)


def _settings():
    return saes.settings(CONFIGS["topk"], 48, 100, epochs=1, batch_size=10, seed=0)


@pytest.mark.parametrize("kind", ["topk", "gated", "batchtopk", "jumprelu", "relu"])
def test_unfolding_undoes_folding(kind, states):
    sae = dictionary(kind, states * 7)
    known, before = sae.normalization, {n: p.clone() for n, p in sae.state_dict().items()}
    assert known is not None
    sae.fold()
    assert sae.normalization is None
    sae.unfold(known)
    for name, value in sae.state_dict().items():
        assert torch.allclose(value, before[name], rtol=1e-4, atol=1e-5), name


def test_on_thoughts_gradients_go_through_the_running_loop():
    """An SAE at the first thought and at a late one: what it writes at the first changes the late state."""
    model = tiny.load("codi-tiny", seed=1)
    questions = arithmetic.problems(16, seed=0, split="train")["question"].to_pylist()
    places = [Place("layers.0:out", 1), Place("layers.0:out", 4)]
    lessons = ThoughtLessons(model, places, [questions], 4)
    sae = saes.create(saes.TopKConfig(d_sae=192, k=8, normalization="none"), 96, seed=0)
    sae.hook_names = ["layers.0:out"]
    lesson = lessons(0, sae)
    assert lesson.x.shape == (2 * len(questions), 96) and lesson.n_read == len(questions)
    sae.requires_grad_(True)
    both = lesson.lost(sae)
    both.backward()
    assert sae.W_dec.grad is not None and sae.W_dec.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.decoder.parameters())
    found = train_both(sae, lessons, steps=30, mse=1.0, lr=3e-3, seed=0)
    assert found.kl[-1] < 0.7 * found.kl[0]
