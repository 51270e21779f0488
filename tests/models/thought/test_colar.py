"""CoLaR as a class of transformers: as its publishers' loops, or refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.thought.fake import QUESTIONS, make_codi
from tests.models.thought.native_layout import colars_loop, make_colar
from thoughtlens.core import ConfigError, ThoughtlensError
from thoughtlens.models import check_thought_model, load_model, opening
from thoughtlens.models.thought.native import NativeColar
from thoughtlens.models.thought.thoughts import collect, run

MANY = [*QUESTIONS, "Two and two?", "Bob sold 7 of 9 cows.", "Why?", "How old is 5?", "A bus with 12 seats."]
MOST = 6


@pytest.fixture
def made(tmp_path):
    return make_colar(tmp_path / "weights")


def test_thoughts_stops_and_answers_are_those_of_the_publishers_loop(made):
    model = load_model(made.folder, n_thoughts=MOST)
    assert type(model) is NativeColar and model.settings["family"] == "colar"
    together = collect(model, MANY, answers=True, max_new_tokens=6)
    counts = set()
    for i, question in enumerate(MANY):
        read, said = colars_loop(made, question, MOST, 6)
        n = len(read)
        counts.add(n)
        torch.testing.assert_close(together.thought_in[i, :n, 0], read, atol=1e-5, rtol=1e-5)
        assert bool(together.thought_in[i, n:].isnan().all()) or n == MOST + 1
        assert together.answers.ids[i] == said == run(model, [question], max_new_tokens=6).ids[0]
    assert {1, 3, MOST + 1} <= counts  # no thought behind thought 0, some, and all


def test_states_are_those_of_the_whole_sequence_read_at_once(made):
    got = collect(load_model(made.folder, n_thoughts=MOST), QUESTIONS)
    for i, question in enumerate(QUESTIONS):
        read, _ = colars_loop(made, question, MOST, 0)
        prompt = f"Question: {question} Let's think step by step:(Thinking speed: 2)###"
        ids = made.tokenizer(prompt, add_special_tokens=False)["input_ids"][:-1]
        x = torch.cat([made.lm.get_input_embeddings()(torch.tensor(ids)), read])[None]
        states = made.lm(inputs_embeds=x, output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(
            got.resid[i, : len(read), 0, 0], states[0, len(ids) :], atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
def test_it_keeps_what_every_analysis_relies_on(made):
    assert not check_thought_model(load_model(made.folder, n_thoughts=4), MANY)


def test_most_thoughts_and_what_is_read_can_be_set(made):
    assert load_model(made.folder).spec.n_thoughts == 64
    fast = load_model(made.folder, n_thoughts=2, prompt="{question} (Thinking speed: 5)###")
    assert fast.reads("Why?") == "Why? (Thinking speed: 5)###"
    with pytest.raises(ConfigError, match="does not end with it"):
        load_model(made.folder, prompt="{question}")
    with pytest.raises(ConfigError, match="which has no option eos_before"):
        load_model(made.folder, eos_before=True)


def test_the_doctor_knows_it(made):
    seen = opening(made.folder)
    assert seen.layout.startswith("CoLaR") and any("lt_head.fc.0.bias" in one for one in seen.careless)
    assert {row.use for row in seen.added} == {"begin and end of thought", "a token of the tokenizer"}


def test_what_is_no_class_of_transformers_is_refused(tmp_path):
    fake = make_codi(tmp_path, "gpt2")
    with pytest.raises(ConfigError, match="is no CoLaR that can be read"):
        load_model(fake.file, family="colar", base=fake.base)


def lose(key):
    return lambda made: made.save({k: v for k, v in made.tensors().items() if not k.startswith(key)})


def other_words(made):
    made.tokenizer.add_tokens(["2)###"])
    made.tokenizer.save_pretrained(made.folder)


MUTATIONS = {
    "head lost": (lose("lt_head."), r"lt_head\.fc\.0\.bias is missing"),
    "mean lost": (lose("lt_head.mean.weight"), r"lt_head\.mean\.weight is missing"),
    "norm of the head lost": (lose("lt_head.fc.3.bias"), r"lt_head\.fc\.3\.bias is missing"),
    "another width than said": (
        lambda made: made.config(latent_intermediate_size=20),
        r"lt_head\.fc\.0\.weight is \[24, 32\], its config.json needs \[20, 32\]",
    ),
    "no width": (lambda made: made.config(latent_intermediate_size=None), "latent_intermediate_size > 0"),
    "no deviation": (
        lambda made: made.config(latent_embedding_std=None),
        "expected latent_embedding_std > 0",
    ),
    "deviation 0": (lambda made: made.config(latent_embedding_std=0), "latent_embedding_std > 0, got 0"),
    "untied head lost": (lose("lm_head.weight"), r"1 tensors are missing: lm_head\.weight"),
    "another end": (
        lambda made: made.config(latent_end_id=7),
        "says latent_end_id = 7, and the tokenizer has ###",
    ),
    "end read otherwise": (other_words, "speaks of|does not read the ### at the end"),
    "rows lost": (
        lambda made: made.save(
            {
                k: v[:-1] if k in ("model.embed_tokens.weight", "lm_head.weight") else v
                for k, v in made.tensors().items()
            }
        ),
        "speaks of 288 embedding rows.* have 287",
    ),
    "a spread as well": (
        lambda made: made.save(
            made.tensors() | {f"lt_head.log_std.{k}": v for k, v in nn.Linear(24, 32).state_dict().items()}
        ),
        r"lt_head\.log_std\.bias has no place in the model",
    ),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_a_checkpoint_that_is_not_whole_gives_no_thoughts(made, what):
    mutate, line = MUTATIONS[what]
    mutate(made)
    with pytest.raises(ThoughtlensError, match=line) as caught:
        load_model(made.folder)
    assert "\n" not in str(caught.value)
