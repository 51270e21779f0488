"""CODI and Coconut as classes of transformers: as the publisher's loop, or refused by name."""

from __future__ import annotations

import json

import pytest
import torch

from tests.models.thought.fake import QUESTIONS, save_base
from tests.models.thought.native_layout import make_native, publishers_loop
from thoughtlens.core import ConfigError, ThoughtlensError
from thoughtlens.models import load_model
from thoughtlens.models.thought.native import NativeCoconut, NativeCodi, kind
from thoughtlens.models.thought.thoughts import collect, run

KINDS = {"codi": NativeCodi, "coconut": NativeCoconut}


@pytest.fixture(params=KINDS)
def made(request, tmp_path):
    return make_native(tmp_path / "weights", request.param)


@pytest.fixture
def codi(tmp_path):
    return make_native(tmp_path / "weights", "codi")


@pytest.mark.parametrize("in_config", [True, False])
@pytest.mark.parametrize("which", KINDS)
def test_thoughts_and_answers_are_those_of_the_publishers_loop(tmp_path, which, in_config):
    made = make_native(tmp_path, which, ids_in_config=in_config)
    model = load_model(tmp_path)
    assert type(model) is KINDS[which] and model.settings["family"] == which
    together = collect(model, QUESTIONS, answers=True, max_new_tokens=12)
    for i, question in enumerate(QUESTIONS):
        read, said = publishers_loop(made, question, 12)
        torch.testing.assert_close(together.thought_in[i, :, 0], read, atol=1e-5, rtol=1e-5)
        assert together.answers.ids[i] == said == run(model, [question], max_new_tokens=12).ids[0]


def test_states_are_those_of_the_whole_sequence_read_at_once(made):
    got = collect(load_model(made.folder), QUESTIONS)
    for i, question in enumerate(QUESTIONS):
        read, _ = publishers_loop(made, question, 0)
        ids = made.tokenizer(question + ("\n" if made.kind == "coconut" else ""))["input_ids"]
        x = torch.cat([made.lm.get_input_embeddings()(torch.tensor(ids)), read])[None]
        states = made.lm(inputs_embeds=x, output_hidden_states=True).hidden_states
        for layer in range(2):  # the last of them has passed the final norm
            torch.testing.assert_close(
                got.resid[i, :, 0, layer], states[layer + 1][0, len(ids) :], atol=1e-5, rtol=1e-5
            )
        torch.testing.assert_close(got.thought_out[i, :, 0], states[-1][0, len(ids) :], atol=1e-5, rtol=1e-5)


def test_a_mark_that_the_model_says_is_read_as_token_0(made):
    """The publisher's loop embeds `<|latent|>` as token 0; the row of the mark is never read."""
    tensors = made.tensors()
    tensors["transformer.wte.weight"][made.ids["latent_id"]] = 100.0
    before = run(load_model(made.folder), QUESTIONS, max_new_tokens=0)
    model = load_model(made.folder)
    said = model._embed(torch.tensor([[made.ids["latent_id"]]]))
    torch.testing.assert_close(said, model._embed(torch.tensor([[0]])))
    made.save(tensors)
    after = run(load_model(made.folder), QUESTIONS, max_new_tokens=0)
    kept = [i for i in range(before.logits.shape[-1]) if i != made.ids["latent_id"]]
    torch.testing.assert_close(before.logits[..., kept], after.logits[..., kept])


def test_number_of_thoughts_is_the_publishers_unless_stated_or_given(made, recwarn, capsys):
    assert load_model(made.folder).assumed == ("n_thoughts",)
    assert load_model(made.folder, n_thoughts=3).spec.n_thoughts == 3
    (made.folder / "training_args.json").write_text(json.dumps({"num_latent": 5}))
    stated = load_model(made.folder)
    assert stated.spec.n_thoughts == 5 and not stated.assumed


def test_options_of_other_layouts_are_refused(made):
    with pytest.raises(ConfigError, match=f"is a {made.kind} model, which has no option eos_before"):
        load_model(made.folder, eos_before=True)
    other = "coconut" if made.kind == "codi" else "codi"
    with pytest.raises(ConfigError, match=f"is a {made.kind} model by its config.json"):
        load_model(made.folder, family=other)


def test_a_tokenizer_may_be_elsewhere(made):
    want = run(load_model(made.folder), QUESTIONS, max_new_tokens=4).ids
    words = made.folder.parent / "words"
    words.mkdir()
    for file in made.folder.glob("*token*"):
        file.rename(words / file.name)
    assert run(load_model(made.folder, base=words), QUESTIONS, max_new_tokens=4).ids == want


def lose(key):
    return lambda made: made.save({k: v for k, v in made.tensors().items() if k != key})


def change(key, how):
    return lambda made: made.save({k: how(v) if k == key else v for k, v in made.tensors().items()})


def swapped(made):
    made.config(latent_start_id=made.ids["latent_end_id"], latent_end_id=made.ids["latent_start_id"])


def other_words(made):
    base = save_base(made.folder.parent / "plain", "gpt2")
    for file in base.glob("*token*"):
        (made.folder / file.name).write_bytes(file.read_bytes())
    made.config(latent_start_id=None)


WTE = "transformer.wte.weight"
MUTATIONS = {
    "a row missing": (change(WTE, lambda x: x[:-1]), r"config.json speaks of 289 embedding rows.* have 288"),
    "rows more": (change(WTE, lambda x: torch.cat([x, x[:1]])), "speaks of 289 embedding rows.* have 290"),
    "rows missing, in the config too": (
        lambda made: (change(WTE, lambda x: x[:-3])(made), made.config(vocab_size=286)),
        r"latent_start_id is \d+, and the embedding has rows 0..285",
    ),
    "ids swapped": (
        swapped,
        r"config.json says latent_start_id = \d+, and the tokenizer has <\|start-latent",
    ),
    "one id twice": (
        lambda made: (other_words(made), made.config(latent_start_id=made.ids["latent_end_id"])),
        "two thought tokens have one id",
    ),
    "an id nowhere": (other_words, r"neither config.json \(latent_start_id\) nor the tokenizer"),
    "no tokenizer": (
        lambda made: [file.unlink() for file in made.folder.glob("*token*")],
        "a tokenizer of the base model at .*no vocabulary is there",
    ),
    "a block lost": (lose("transformer.h.1.mlp.c_fc.weight"), "1 tensors are missing: transformer.h.1.mlp"),
    "no embedding": (lose(WTE), "no embedding"),
    "projection lost": (
        lambda made: made.save({k: v for k, v in made.tensors().items() if "projector" not in k}),
        r"projector\.1\.bias is missing",
    ),
    "a layer of the projection lost": (lose("projector.3.weight"), r"projector\.3\.weight is missing"),
    "projection's norm lost": (lose("projector.4.bias"), r"projector\.4\.bias is missing"),
    "projection transposed": (
        change("projector.1.weight", lambda x: x.T),
        r"projector\.1\.weight is \[32, 24\], its config.json needs \[24, 32\]",
    ),
    "projection narrower than said": (
        lambda made: made.config(projector_hidden_size=20),
        r"projector\.1\.weight is \[24, 32\], its config.json needs \[20, 32\]",
    ),
    "projection not wanted": (
        lambda made: made.config(projector=False),
        r"has projector\.1\.bias, and its config.json says projector = false",
    ),
    "a key more": (
        lambda made: made.save(made.tensors() | {"classifier.weight": torch.ones(1, 32)}),
        r"tensors that a GPT2LMHeadModel .* does not have: classifier.weight",
    ),
    "a value not a number": (
        change("transformer.ln_f.bias", lambda x: x * torch.nan),
        "transformer.ln_f.bias has values that are not finite",
    ),
    "cut off": (
        lambda made: (made.folder / "model.safetensors").write_bytes(
            (made.folder / "model.safetensors").read_bytes()[:5000]
        ),
        "is damaged or not a weight file",
    ),
    "fewer blocks than said": (
        lambda made: made.config(n_layer=4),
        "12 tensors are missing: transformer.h.3",
    ),
    "another width than said": (
        lambda made: made.config(n_embd=64),
        r"c_attn.bias is \[96\], but .* needs \[192\]; its config.json is another model's",
    ),
    "reward model": (
        lambda made: made.config(architectures=["CODIGPT2ForTokenClassification"]),
        "gives scores, and says no words after its thoughts",
    ),
    "number of thoughts not a number": (
        lambda made: (made.folder / "codi_config.json").write_text('{"num_latent": "six"}'),
        "num_latent is 'six', which is no value of n_thoughts",
    ),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_a_checkpoint_that_is_not_whole_gives_no_thoughts(codi, what):
    mutate, line = MUTATIONS[what]
    load_model(codi.folder)
    mutate(codi)
    with pytest.raises(ThoughtlensError, match=line) as caught:
        load_model(codi.folder)
    assert "\n" not in str(caught.value)


def test_kind_is_told_from_the_class_or_from_the_fields(made):
    assert kind(made.folder) == made.kind
    made.config(architectures=None)
    assert kind(made.folder) == made.kind
    for field in ("latent_start_id", "latent_end_id"):
        made.config(**{field: None})
    assert kind(made.folder) is None
    (made.folder / "config.json").write_text("[")
    assert kind(made.folder) is None
