from __future__ import annotations

import pytest
import torch

from tests.models.thought.depth_toy import DepthToy
from tests.models.thought.fake import N_STEPS, QUESTIONS, save_lm
from tests.models.thought.plain import PAIRS, make
from thoughtlens.core import HookError
from thoughtlens.models import Watch, attention
from thoughtlens.models.thought import soft, tiny
from thoughtlens.models.thought.thoughts import collect, run
from thoughtlens.problems import words


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp("attention"))


def close(a, b, **rest):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, **rest)


def test_attention_is_that_of_plain_transformers(pair):
    model, plain = pair
    found = attention(model, QUESTIONS)
    assert found.queries == range(N_STEPS + 2) and found.keys.stop == N_STEPS + 2
    for i, question in enumerate(QUESTIONS):
        weights, _, n = plain.think(question)
        assert found.n_tokens[i] == n
        own = weights[:, :, n:]  # queries from the begin-of-thought position on
        width = len(found.keys)
        close(found.weights[i, ..., width - own.shape[-1] :], own.permute(2, 0, 1, 3))
        assert not found.weights[i, ..., : width - own.shape[-1]].any()
    close(found.weights.sum(-1), torch.ones(found.weights.shape[:-1]))


def test_padded_equals_alone_and_batches_do_not_matter(pair):
    model, _ = pair
    together, parts = attention(model, QUESTIONS), attention(model, QUESTIONS, batch_size=2)
    close(parts.weights, together.weights)
    for i, question in enumerate(QUESTIONS):
        alone = attention(model, [question])
        close(together.weights[i, ..., -len(alone.keys) :], alone.weights[0])
        assert len(model.read_ids(question)) == together.n_tokens[i] == alone.n_tokens[0]


def test_fused_attention_is_back_afterwards_and_thoughts_are_the_same(pair):
    model, _ = pair
    before = model.lm.config._attn_implementation
    plain = collect(model, QUESTIONS)
    watch = Watch()
    with model.attending(watch):
        assert model.lm.config._attn_implementation == "eager"
        close(collect(model, QUESTIONS).resid, plain.resid)
    assert model.lm.config._attn_implementation == before
    watch.weights.clear()
    run(model, QUESTIONS[:1], max_new_tokens=1)
    assert not watch.weights  # nothing is left behind
    assert torch.equal(collect(model, QUESTIONS).resid, plain.resid)


def test_attention_of_a_shipped_model_is_softmax_of_its_queries_and_keys():
    model = tiny.load("codi-tiny")
    questions = ["dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"] * 2
    found = attention(model, questions)
    assert found.weights.shape == (2, 9, 2, 3, 15 + 7 + 2) and found.keys == range(-15, 9)
    close(found.weights.sum(-1), torch.ones(2, 9, 2, 3))
    batch = collect(model, questions, sites=("thought_in", "resid", "kv"))
    for layer, block in enumerate(model.decoder.layers):
        for p in (0, 3, 6):
            pos = model.decoder.pos.weight[model.cfg.question_len + p]
            x = batch.thought_in[:, p, 0] + pos if layer == 0 else batch.resid[:, p, 0, layer - 1]
            query = block.project(x[:, None])[0][:, :, 0]
            scores = torch.einsum("bhd,bthd->bht", query, batch.keys[:, : p + 1, 0, layer]) / 32**0.5
            among = found.weights[:, p, layer, :, 15 : 15 + p + 1]
            close(among / among.sum(-1, keepdim=True), scores.softmax(-1))


def test_a_short_question_of_a_shipped_model_is_seen_as_alone():
    model = tiny.load("codi-words")
    longer, short = (one["question"] for one in words.problems(2, seed=4).to_pylist())
    short = " ".join(short.split()[-20:])
    together, alone = attention(model, [longer, short]), attention(model, [short])
    close(together.weights[1, ..., -len(alone.keys) :], alone.weights[0])
    assert not together.weights[1, ..., : -len(alone.keys)].any()


def test_thoughts_that_a_problem_did_not_have_look_at_nothing(tmp_path):
    model = soft.load(save_lm(tmp_path / "llama"), n_thoughts=3, end="a", end_probability=1e-9)
    found = attention(model, QUESTIONS[:2])
    assert found.weights[:, 1:4].isnan().all()  # all stop at once
    kept = found.weights[:, [0, 4]]
    close(kept.sum(-1), torch.ones(kept.shape[:-1]))
    assert not kept[..., found.keys.index(1) : found.keys.index(4)].any()  # and nothing stands there


def test_a_model_that_recurs_in_depth_says_that_its_attention_cannot_be_seen():
    with pytest.raises(HookError, match="DepthToy cannot be seen"):
        attention(DepthToy(), ["1 2"])
