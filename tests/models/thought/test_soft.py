"""Soft tokens: thoughts, stops and answers are those of a loop that is told twice; problems stop alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.conftest import tiny_tokenizer
from tests.models.thought.fake import QUESTIONS, save_lm
from tests.models.thought.soft_loop import tell
from thoughtlens.core import CheckpointError, ConfigError, HookError
from thoughtlens.models.thought import soft
from thoughtlens.models.thought.check import RULES, check_thought_model
from thoughtlens.models.thought.places import Place
from thoughtlens.models.thought.thoughts import Hook, collect, load, run, write

SETTINGS = {"n_thoughts": 4, "temperature": 0.3, "top_k": 12, "top_p": 0.8, "min_p": 0.1, "max_topk": 5}
STOPS = {"gpt2": (3.0, 2), "llama": (3.55, 1), "qwen3": (3.45, 2)}
"""Entropy, and thoughts in a row below it, by which the questions stop at different thoughts."""


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen3"])
def files(request, tmp_path_factory):
    """Directory of a random causal language model that is sure of some things."""
    return save_lm(tmp_path_factory.mktemp("soft") / request.param)


@pytest.fixture(scope="module")
def model(files):
    return soft.load(files, end="#", **stops(files), **SETTINGS)


def stops(files):
    return dict(zip(("stop_entropy", "stop_after"), STOPS[files.name], strict=True))


def close(a, b):
    """Within 1e-5 of the largest number, which is all that float32 has."""
    torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=0)


def told(files, model, question):
    lm = AutoModelForCausalLM.from_pretrained(files, dtype=torch.float32)
    ids = tiny_tokenizer()(question + "\n")["input_ids"]
    return tell(lm, ids, model.end_ids, **stops(files), **SETTINGS)


def test_thoughts_states_and_answers_equal_recomputation(files, model):
    got = collect(model, QUESTIONS, answers=True, max_new_tokens=4)
    assert len(set(got.used.tolist())) > 1, got.used  # else nothing varies, and the test is empty
    for i, question in enumerate(QUESTIONS):
        wanted = told(files, model, question)
        n = len(wanted.thought_in)
        assert got.used[i] == n - 1
        close(got.thought_in[i, :n, 0], torch.stack(wanted.thought_in))
        close(got.thought_out[i, :n, 0], torch.stack(wanted.thought_out))
        close(got.resid[i, :n, 0, :-1], torch.stack(wanted.blocks))
        assert got.resid[i, n:].isnan().all() and got.thought_in[i, n:].isnan().all()
        assert got.answers.ids[i] == [*wanted.answer, 2][: [*wanted.answer, 2].index(2)]


def test_a_problem_thinks_in_a_batch_what_it_thinks_alone(model):
    together = collect(model, QUESTIONS, answers=True, max_new_tokens=6)
    for i, question in enumerate(QUESTIONS):
        alone = collect(model, [question], answers=True, max_new_tokens=6)
        n = int(alone.used[0]) + 1
        assert together.used[i] == n - 1
        close(together.resid[i, :n], alone.resid[0, :n])
        close(together.thought_out[i, :n], alone.thought_out[0, :n])
        close(together.answers.logits[i], alone.answers.logits[0])
        assert together.answers.ids[i] == alone.answers.ids[0]


def test_it_keeps_every_promise_of_a_thought_model(model):
    assert check_thought_model(model, QUESTIONS) == []


class Leaking(soft.Soft):
    """Problems that have stopped go on filling their cache."""

    def _step(self, state, tap):
        everyone = torch.ones_like(state.thinking)
        after = super()._step(replace(state, thinking=everyone), tap)
        return replace(after, thinking=after.thinking & state.thinking)


class Restless(soft.Soft):
    """Problems that have stopped think again."""

    def _fed(self, state, u):
        after = super()._fed(state, u)
        return replace(after, thinking=after.thinking | (state.next_thought == 3))


class Unsaid(soft.Soft):
    """It does not say that problems stop."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.spec = replace(self.spec, varies=False)


class Late(soft.Soft):
    """One problem has not even thought 0."""

    def encode(self, questions):
        state = super().encode(questions)
        return replace(state, thinking=torch.arange(len(questions)) > 0)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (Leaking, "later thoughts change its answer"),
        (Restless, "thinks again"),
        (Unsaid, "spec.varies is False"),
        (Late, "does not have thought 0"),
    ],
)
def test_a_family_that_stops_wrongly_is_told_so(files, broken, says, monkeypatch):
    monkeypatch.setattr(soft, "Soft", broken)
    broken_model = soft.load(files, end="#", **stops(files), **SETTINGS)
    found = list(RULES["stops"][0](broken_model, QUESTIONS))
    assert any(says in line for line in found), found


def test_the_end_token_stops_where_it_is_as_likely_as_asked(files):
    plain = soft.load(files, end="#", **SETTINGS)
    end = plain.end_ids[0]
    states = collect(plain, QUESTIONS).thought_out[:, :, 0]
    p_end = (plain._unembed(states) / 0.3).softmax(-1)[..., end]
    limit = float(p_end.flatten().sort().values[-4]) * 0.999
    used = collect(soft.load(files, end="#", end_probability=limit, **SETTINGS), QUESTIONS).used
    first = [next((p for p, value in enumerate(row) if value >= limit), 4) for row in p_end.tolist()]
    assert used.tolist() == first and min(first) < 4


def test_an_end_that_is_the_likeliest_next_token_stops(files):
    plain = soft.load(files, end="#", **SETTINGS)
    states = collect(plain, QUESTIONS[:1]).thought_out[0, :, 0]
    said = plain._unembed(states).argmax(-1).tolist()
    word = plain.tokenizer.convert_ids_to_tokens(said[2])
    stopped = soft.load(files, end="#", **SETTINGS)
    stopped.end_ids = (said[2],)
    assert collect(stopped, QUESTIONS[:1]).used.tolist() == [said.index(said[2])], word


def test_what_a_stopped_problem_would_have_thought_is_out_of_reach(model):
    clean = collect(model, QUESTIONS, answers=True, max_new_tokens=4)
    first = int(clean.used.argmin())
    late = int(clean.used[first]) + 1
    seen = []

    def edit(x):
        seen.append(x)
        return x.nan_to_num(7.0) * 3 + 1

    edited = collect(
        model, QUESTIONS, [Hook(Place("thought_in", late), edit)], answers=True, max_new_tokens=4
    )
    gone = seen[0][:, 0].isnan().all(-1)
    assert gone.sum() == (clean.used < late).sum() and not seen[0][~gone].isnan().any()
    close(edited.answers.logits[first], clean.answers.logits[first])
    assert edited.thought_in[first, late].isnan().all()
    others = [i for i in range(3) if clean.used[i] >= late]
    assert all((edited.answers.logits[i] - clean.answers.logits[i]).abs().max() > 1e-4 for i in others)
    with pytest.raises(HookError, match="not finite"):
        collect(model, QUESTIONS, [Hook(Place("thought_in", 0), lambda x: x / 0)])


def test_an_edit_can_change_when_a_problem_stops(model):
    surer = [Hook(Place("thought_out", p), lambda x: 50 * x) for p in (0, 1)]
    assert collect(model, QUESTIONS, surer).used.tolist() == [model.stopping.stop_after - 1] * 3


def test_leaving_early_cuts_those_that_still_think(model):
    exits = [run(model, QUESTIONS, n_thoughts=k, max_new_tokens=0).logits for k in model.spec.thoughts]
    for i, used in enumerate(collect(model, QUESTIONS).used.tolist()):
        close(exits[used][i], exits[-1][i])


def test_at_temperature_0_it_thinks_in_words(files):
    model = soft.load(files, end="#", temperature=0, n_thoughts=5)
    got = collect(model, QUESTIONS[:1])
    words = model._unembed(got.thought_out[0, :-1, 0]).argmax(-1)
    close(got.thought_in[0, 1:, 0], model._embed(words[None])[0])


def test_without_any_cut_a_thought_is_the_mean_of_all_embeddings(files):
    model = soft.load(files, end="#", temperature=1.0, top_k=0, top_p=1.0, max_topk=0, n_thoughts=2)
    got = collect(model, QUESTIONS[:1])
    q = model._unembed(got.thought_out[0, 0, 0]).softmax(-1)
    close(got.thought_in[0, 1, 0], q @ model.lm.get_input_embeddings().weight)


def test_the_cut_by_hand():
    q = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    # top 3 of 4, renormalised: 4/9, 3/9, 2/9; two of them reach 0.7; of these 3 >= 0.5 * 4
    weights, ids = soft.Mixing(top_k=3, top_p=0.7, min_p=0.5, max_topk=9).cut(q)
    assert ids.tolist() == [[1, 2, 3]]
    close(weights, torch.tensor([[4 / 7, 3 / 7, 0.0]]))
    weights, ids = soft.Mixing(top_k=0, top_p=1.0, max_topk=2).cut(q)
    assert ids.tolist() == [[1, 2]]
    close(weights, torch.tensor([[4 / 7, 3 / 7]]))


def test_the_same_by_its_family_and_settings_that_differ_are_known(files, model):
    options = [f"{key}={value}" for key, value in (SETTINGS | stops(files)).items() if key != "n_thoughts"]
    named = load(files, family="soft", n_thoughts=4, options=["end=#", *options])
    assert named.config_hash == model.config_hash and named.digest == model.digest
    assert soft.load(files, end="#", **SETTINGS | {"top_p": 0.9}).config_hash != model.config_hash
    assert model.settings["top_p"] == 0.8 and model.settings["stop_after"] == stops(files)["stop_after"]
    with pytest.raises(ConfigError, match="no option topp"):
        load(files, family="soft", options=["topp=1"])


def test_a_chat_template_is_the_prompt_where_there_is_one(files):
    model = soft.load(files, end="#", n_thoughts=1)
    assert model.reads("Why?") == "Why?\n"
    model.tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}>"
    assert model.reads("Why?") == "[Why?]>"
    assert soft.load(files, end="#", n_thoughts=1, prompt="Q: {question} A:").reads("Why?") == "Q: Why? A:"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"end": None}, "has no token </think>.*options="),
        ({"end": ""}, "end: expected at least one token"),
        ({"temperature": -1.0}, "temperature: expected a number from 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"top_k": -1}, "top_k: expected a whole number"),
        ({"end_probability": 0.0}, "end_probability"),
        ({"stop_after": 0}, "stop_entropy and stop_after"),
        ({"temperature": 0, "stop_entropy": 1.0}, "every entropy is 0"),
        ({"n_thoughts": -1}, "n_thoughts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_lm_dir, change, says):
    with pytest.raises(ConfigError, match=says) as error:
        soft.load(tiny_lm_dir, **{"end": "#"} | change)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_whole_give_no_thoughts(tmp_path, tiny_lm_dir):
    root = tmp_path / "cut"
    root.mkdir()
    for file in tiny_lm_dir.iterdir():
        (root / file.name).write_bytes(file.read_bytes())
    tensors = load_file(root / "model.safetensors")
    lost = sorted(tensors)[3]
    save_file({k: v for k, v in tensors.items() if k != lost}, root / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=re.escape(lost)):
        soft.load(root, end="#")


@torch.no_grad()
def written(lm, ids, n):
    """Greedy words behind some ids, read anew for each."""
    said = []
    while len(said) < n and (not said or said[-1] != 2):
        said.append(int(lm(torch.tensor([[*ids, *said]])).logits[0, -1].argmax()))
    return said[: said.index(2)] if 2 in said else said


def test_the_same_model_in_words_and_directly(files, model):
    lm = AutoModelForCausalLM.from_pretrained(files, dtype=torch.float32)
    assert model.modes == ("words", "direct")
    for mode, tail in (("words", []), ("direct", list(model.end_ids))):
        got = write(model, mode, QUESTIONS, max_new_tokens=5, batch_size=2)
        for question, text in zip(QUESTIONS, got.text, strict=True):
            ids = written(lm, [*tiny_tokenizer()(question + "\n")["input_ids"], *tail], 5)
            end = ids.index(model.end_ids[0]) + 1 if model.end_ids[0] in ids else 0
            assert text == model._to_text(ids[end:])
    with pytest.raises(ConfigError, match="does not answer in mode 'aloud'; it has thoughts, words, direct"):
        write(model, "aloud", QUESTIONS)
