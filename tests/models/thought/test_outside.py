"""Tokens of the question, and of the answer's cue, as places: as plain transformers computes them."""

from __future__ import annotations

import pytest
import torch

from tests.models.thought.depth_toy import DepthToy
from tests.models.thought.fake import QUESTIONS, save_lm
from tests.models.thought.native_layout import make_colar
from tests.models.thought.plain import PAIRS, make
from thoughtlens.core import HookError
from thoughtlens.models import Hook, Place, attention, load_model
from thoughtlens.models.thought import soft, tiny
from thoughtlens.models.thought.thoughts import collect, run
from thoughtlens.problems import words

SITES = ("thought_in", "resid", "thought_out", "attn", "mlp", "heads")


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


class Plain:
    """What every module of a decoder of transformers gives, of a whole sequence that is read at once."""

    def __init__(self, lm):
        self.lm, self.seen = lm, {}
        gpt2 = next((m for m in lm.modules() if type(m).__name__ == "GPT2Model"), None)
        decoder = gpt2 or next(m for m in lm.modules() if type(m).__name__ in ("LlamaModel", "Qwen3Model"))
        for i, block in enumerate(decoder.h if gpt2 else decoder.layers):
            attn = block.attn if gpt2 else block.self_attn
            attn.register_forward_hook(self._keep("attn", i))
            block.mlp.register_forward_hook(self._keep("mlp", i))
            mixing = attn.c_proj if gpt2 else attn.o_proj
            mixing.register_forward_pre_hook(lambda m, args, i=i: self.seen.update({("heads", i): args[0]}))
            block.register_forward_hook(self._keep("resid", i))

    def _keep(self, site, layer):
        def hook(module, args, output):
            self.seen[site, layer] = output[0] if isinstance(output, tuple) else output

        return hook

    @torch.no_grad()
    def read(self, x):
        """The states of inputs [positions, d], by site and layer; attention [layers, heads, all, all]."""
        self.lm.set_attn_implementation("eager")
        out = self.lm(inputs_embeds=x[None], output_hidden_states=True, output_attentions=True)
        self.seen["thought_out", None] = out.hidden_states[-1]
        return {key: value[0] for key, value in self.seen.items()}, torch.stack(out.attentions)[:, 0]


def positions_of(model, questions):
    longest = max(len(model.read_ids(question)) for question in questions)
    return [*range(-longest, 0), *model.spec.cue]


def compare(model, plain, question, batch, i):
    """All positions of one question of a batch, thoughts included, with one reading of the whole sequence."""
    ids, table = model.read_ids(question), model.lm.get_input_embeddings().weight
    used = model.spec.n_thoughts if batch.used is None else int(batch.used[i])
    own = [*range(-len(ids), used + 1), *model.spec.cue]
    at = [batch.at(p) for p in own]
    fed = batch.thought_in[i, [batch.at(p) for p in range(used + 1)], 0]
    x = torch.cat([table[torch.tensor(ids)], fed, table[torch.tensor(model.end_ids)]])
    close(batch.thought_in[i, at, 0], x)
    states, weights = plain.read(x)
    for (site, layer), state in states.items():
        got = batch.thought_out[i, at, 0] if layer is None else getattr(batch, site)[i, at, 0, layer]
        close(got.flatten(1), state)
    absent = [k for k, p in enumerate(batch.numbers) if p not in own]
    assert batch.resid[i, absent].isnan().all() and not batch.there[i, absent].any()
    assert batch.there[i, at].all()
    return weights, len(ids), used


@pytest.fixture(scope="module", params=[*PAIRS, "soft-gpt2", "soft-llama", "colar"])
def pair(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("outside")
    if request.param == "colar":
        made = make_colar(root / "weights")
        return load_model(made.folder, n_thoughts=4), Plain(made.lm)
    family, base = request.param.split("-")
    if family == "soft":
        folder = save_lm(root / base)
        model = soft.load(folder, n_thoughts=4, end="ab", end_probability=0.005)
        return model, Plain(locate_lm(folder))
    model, plain = make(request.param, root)
    lm = getattr(plain.lm, "base_model", plain.lm)
    return model, Plain(lm.model if hasattr(plain.lm, "peft_config") else plain.lm)


def locate_lm(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_every_state_of_every_position_is_that_of_plain_transformers(pair):
    model, plain = pair
    batch = collect(
        model, QUESTIONS, sites=SITES, answers=True, max_new_tokens=3,
        positions=positions_of(model, QUESTIONS),
    )  # fmt: skip
    assert batch.numbers[-1] == model.spec.n_thoughts + len(model.end_ids)
    looks = attention(model, QUESTIONS)
    assert (*looks.keys, *looks.keys)[-1] == batch.numbers[-1]
    for i, question in enumerate(QUESTIONS):
        weights, n, used = compare(model, plain, question, batch, i)
        own = [looks.queries.index(p) for p in (*range(used + 1), *model.spec.cue)]
        keys = [looks.keys.index(p) for p in (*range(-n, used + 1), *model.spec.cue)]
        close(looks.weights[i, own][..., keys], weights[:, :, n:].permute(2, 0, 1, 3))
    alone = collect(model, QUESTIONS, answers=True, max_new_tokens=3)
    assert torch.equal(
        alone.resid.nan_to_num(), batch.resid[:, [batch.at(p) for p in model.spec.thoughts]].nan_to_num()
    )
    assert alone.answers.ids == batch.answers.ids


def test_an_edit_there_is_what_comes_of_another_input(pair):
    model, _ = pair
    question = QUESTIONS[1]
    other = torch.full((1, 1, model.spec.d), 0.3)
    put = [Hook(Place("thought_in", p), lambda x: other.to(x).expand_as(x)) for p in (-2, model.spec.cue[0])]
    got = collect(model, [question], put, positions=[-2, -1, *model.spec.cue], answers=True, max_new_tokens=0)
    assert torch.equal(got[Place("thought_in", -2)], other[:, 0])
    table = model.lm.get_input_embeddings().weight
    used = model.spec.n_thoughts if got.used is None else int(got.used[0])
    x = table[torch.tensor([*model.read_ids(question)])].clone()
    x[-2] = other
    end = table[torch.tensor(model.end_ids)].clone()
    end[0] = other
    x = torch.cat([x, got.thought_in[0, [got.at(p) for p in range(used + 1)], 0], end])
    with torch.no_grad():
        close(got.answers.logits[0, 0], model.lm(inputs_embeds=x[None]).logits[0, -1])


def test_keys_and_values_of_a_token_are_seen_from_the_first_thought_on():
    model = tiny.load("codi-tiny")
    asked = ["dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"] * 2
    asked[1] = asked[1].replace("11 thrice", "12 thrice")
    place = Place.at("kv", 0, -2), Place.at("kv", 1, -2), Place.at("kv", 0, -1), Place.at("kv", 1, -1)
    batch = collect(model, asked, places=place)
    hooks = []
    for one in place:
        at = batch.at(one.thought)
        own = tuple(x[1, at, 0, one.layer][None, :, None] for x in (batch.keys, batch.values))
        hooks.append(Hook(one, lambda kv, own=own: own))
    got = run(model, asked[:1], hooks)
    assert got.text == run(model, asked[1:]).text != run(model, asked[:1]).text


def test_a_shorter_question_of_a_shipped_model_has_fewer_tokens():
    model = tiny.load("codi-words")
    longer, short = (one["question"] for one in words.problems(2, seed=4).to_pylist())
    short = " ".join(short.split()[-20:])
    together = collect(model, [longer, short], positions=[-21, -20, -1, *model.spec.cue])
    assert together.there.tolist() == [
        [True] * len(together.numbers),
        [False, *[True] * (len(together.numbers) - 1)],
    ]
    alone = collect(model, [short], positions=[-20, -1, *model.spec.cue])
    torch.testing.assert_close(together.resid[1, 1:], alone.resid[0], atol=1e-4, rtol=1e-5)
    h = together[Place("layers.1:out", model.spec.cue[-1])]
    logits = run(model, [longer, short], max_new_tokens=0).logits[:, 0]
    close(model.readout(h, "resid"), logits)  # the answer is read off the cue's last token


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("thought_in@-90", r"the longest of these questions has 15 tokens before thought 0: -15..-1"),
        ("thought_in@9", r"thoughts 0..6 .*7..8 the answer's cue"),
        ("thought_out@7", "or of the cue before its last"),
        ("layers.1:out@-1", "nothing reads the output of the last block"),
        ("layers.0:kv@8", "writes its keys and values while it reads them"),
    ],
)
def test_what_is_not_there_or_is_read_by_nothing_is_one_line(place, says):
    model = tiny.load("codi-tiny")
    with pytest.raises(HookError, match=says):
        run(
            model,
            ["dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"],
            [Hook(Place.parse(place), lambda x: x)],
        )


def test_a_model_whose_text_is_not_shown_says_so():
    with pytest.raises(HookError, match="the states of a DepthToy outside its thoughts are not shown"):
        collect(DepthToy(), ["1 2"], positions=[-1])
    with pytest.raises(HookError, match=r"position 9 does not exist here: .* the answer's cue is 7"):
        collect(
            tiny.load("codi-tiny"),
            ["dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"],
            positions=[9],
        )
