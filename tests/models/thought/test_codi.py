from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from tests.models.thought.fake import (
    ALPHA,
    N_STEPS,
    QUESTIONS,
    RANK,
    make_codi,
    save_base,
    think_without_cache,
)
from thoughtlens.core import (
    CheckpointError,
    ConfigError,
    DataError,
    MismatchError,
    NotThereError,
    ThoughtlensError,
)
from thoughtlens.models.thought import codi
from thoughtlens.models.thought.thoughts import collect, run
from thoughtlens.models.thought.thoughts import load as load_any

FAMILIES = ("gpt2", "llama")
NO_EOS = {"eos_before": False, "eos_after": False}


@pytest.fixture(scope="module", params=FAMILIES)
def fake(request, tmp_path_factory):
    return make_codi(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def fresh(tmp_path):
    return make_codi(tmp_path, "gpt2")


def load(fake, **options):
    return codi.load(fake.file, **{"base": fake.base, "lora_alpha": ALPHA, **NO_EOS} | options)


def test_layout_is_that_of_the_published_checkpoints(fake):
    keys = set(fake.tensors)
    stem = "codi.base_model.model."
    family = (
        "transformer.h.0.attn.c_attn"
        if f"{stem}transformer.wte.weight" in keys
        else "model.layers.0.mlp.up_proj"
    )
    for part in ("base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"):
        assert f"{stem}{family}.{part}" in keys
    assert {f"{stem}lm_head.weight", "prj.1.weight", "prj.3.bias", "prj.ln.weight"} <= keys
    assert {value.dtype for value in fake.tensors.values()} == {torch.bfloat16, torch.float32}


@pytest.mark.parametrize("remove_eos", [True, False])
def test_thoughts_equal_peft_recomputed_without_cache(fake, remove_eos):
    model = load(fake, eos_before=not remove_eos, eos_after=not remove_eos)
    got = collect(model, QUESTIONS, answers=True, max_new_tokens=1)
    for i, question in enumerate(QUESTIONS):
        want = think_without_cache(fake, question, remove_eos=remove_eos)
        torch.testing.assert_close(got.thought_in[i, :, 0], want["thought_in"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.thought_out[i, :, 0], want["thought_out"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.x[i, :, :-1], want["inner"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.answers.logits[i, 0], want["logits"], atol=1e-5, rtol=1e-5)


def test_eos_changes_the_thoughts(fake):
    with_eos, without = (collect(load(fake, eos_before=e), QUESTIONS).x for e in (True, False))
    assert (with_eos - without).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_untied_heads_and_projections_without_norm(tmp_path, family, tied, norm):
    fake = make_codi(tmp_path, family, tied=tied, norm=norm)
    got = collect(load(fake), QUESTIONS[:1], answers=True, max_new_tokens=1)
    want = think_without_cache(fake, QUESTIONS[0], remove_eos=True)
    torch.testing.assert_close(got.thought_out[0, :, 0], want["thought_out"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.answers.logits[0, 0], want["logits"], atol=1e-5, rtol=1e-5)


def test_generation_is_greedy_to_eos(fake):
    answer = run(load(fake), QUESTIONS, max_new_tokens=12)
    lm = fake.wrapper.codi
    for i, question in enumerate(QUESTIONS):
        x, want = think_without_cache(fake, question, remove_eos=True)["inputs"], []
        for _ in range(12):
            logits = lm(inputs_embeds=x).logits[0, -1]
            logits[fake.n_vocab + 2] = -torch.inf  # end of thought is never said
            token = int(logits.argmax())
            if token == fake.eos:
                break
            want.append(token)
            x = torch.cat([x, lm.get_input_embeddings()(torch.tensor([[token]]))], 1)
        assert answer.ids[i] == want


def test_forced_cue_gives_logits_at_every_token(fake):
    model, cue = load(fake), torch.tensor([5, 9, 7])
    answer = run(model, QUESTIONS, max_new_tokens=0, teacher_ids=cue, batch_size=2)
    assert answer.logits.shape[:2] == (3, 4) and answer.ids == [[], [], []]
    x = think_without_cache(fake, QUESTIONS[1], remove_eos=True)["inputs"]
    x = torch.cat([x, fake.wrapper.codi.get_input_embeddings()(cue[None])], 1)
    want = fake.wrapper.codi(inputs_embeds=x).logits[0, -4:]
    torch.testing.assert_close(answer.logits[1], want, atol=1e-5, rtol=1e-5)


def test_safetensors_directory_without_the_tied_head(fresh, tmp_path):
    home = tmp_path / "again"
    home.mkdir()
    tensors = fresh.tensors
    del tensors["codi.base_model.model.lm_head.weight"]  # the Trainer leaves shared tensors out
    save_file(tensors, home / "model.safetensors")
    again = codi.load(home, base=fresh.base, lora_alpha=ALPHA, eos_before=False, eos_after=False)
    torch.testing.assert_close(collect(again, QUESTIONS).x, collect(load(fresh), QUESTIONS).x)


def test_a_head_that_differs_is_used_as_stored(fresh, capsys):
    tensors = fresh.tensors
    tensors["codi.base_model.model.lm_head.weight"] = -tensors["codi.base_model.model.lm_head.weight"]
    want = -run(load(fresh), QUESTIONS, max_new_tokens=0).logits
    fresh.save(tensors)
    torch.testing.assert_close(run(load(fresh), QUESTIONS, max_new_tokens=0).logits, want)
    assert "lm_head.weight" in capsys.readouterr().err


def test_training_only_modules_are_reported(fresh, capsys):
    fresh.save(fresh.tensors | {"decoder.h.0.w": torch.ones(2), "pj_in.weight": torch.ones(2, 2)})
    model = load(fresh)
    assert model.dropped == ("decoder.h.0.w", "pj_in.weight")
    said = capsys.readouterr().err
    assert "decoder.* (1 tensors)" in said and "pj_in.* (1 tensors)" in said


STEM = "codi.base_model.model.transformer."


@pytest.mark.parametrize(
    "key",
    [
        STEM + "h.1.ln_2.bias",
        STEM + "h.0.attn.c_attn.base_layer.weight",
        STEM + "h.0.attn.c_attn.base_layer.bias",
        STEM + "h.2.mlp.c_fc.lora_A.default.weight",
        STEM + "h.2.mlp.c_fc.lora_B.default.weight",
        STEM + "wpe.weight",
        "prj.3.bias",
        "prj.ln.weight",
    ],
)
def test_a_missing_or_renamed_key_is_named(fresh, key):
    tensors = fresh.tensors
    value = tensors.pop(key)
    fresh.save(tensors)
    name = key.replace("base_layer.bias", "bias")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(fresh)
    fresh.save(tensors | {key + "x": value})
    with pytest.raises(CheckpointError):
        load(fresh)


@pytest.mark.parametrize(
    ("part", "shape"), [("A", (5, 32)), ("A", (4,)), ("A", (4, 31)), ("B", (96, 3)), ("B", (95, 4))]
)
def test_lora_that_does_not_fit_is_named(fresh, part, shape):
    key = f"{STEM}h.0.attn.c_attn.lora_{part}.default.weight"
    fresh.save(fresh.tensors | {key: torch.ones(shape)})
    with pytest.raises(CheckpointError, match=r"transformer\.h\.0\.attn\.c_attn"):
        load(fresh)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_thoughts": -1}, "n_thoughts"),
        ({"lora_alpha": torch.nan}, "lora_alpha"),
        ({"revision": "main"}, "local"),
    ],
)
def test_settings_that_cannot_be(fresh, options, says):
    with pytest.raises(ConfigError, match=says):
        load(fresh, **options)


def test_rank_stabilised_adapters_are_a_larger_alpha(fresh):
    """rsLoRA scales by alpha / sqrt(r), which is alpha * sqrt(r) / r."""
    want = collect(load(fresh, lora_alpha=ALPHA * RANK**0.5), QUESTIONS[:1]).thought_out[0, :, 0]
    for module in fresh.wrapper.modules():
        if isinstance(module, LoraLayer):
            assert module.scaling == {"default": ALPHA / RANK}
            module.scaling["default"] = ALPHA / RANK**0.5
    got = think_without_cache(fresh, QUESTIONS[0], remove_eos=True)["thought_out"]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "key", [STEM + "h.0.extra", STEM + "h.9.ln_1.weight", "prj.5.weight", "head.weight", "loose"]
)
def test_a_key_too_many_is_named(fresh, key):
    fresh.save(fresh.tensors | {key: torch.ones(3)})
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        load(fresh)


def test_without_any_projection_one_must_say_so(fresh):
    tensors = {key: value for key, value in fresh.tensors.items() if not key.startswith("prj.")}
    fresh.save(tensors)
    with pytest.raises(CheckpointError, match=r"prj\.1\.weight"):
        load(fresh)
    model = load(fresh, projection=False)
    batch = collect(model, QUESTIONS)
    assert not model.spec.has_projection
    torch.testing.assert_close(batch.thought_in[:, 1:], batch.thought_out[:, :-1])


@pytest.mark.parametrize("rows", [1, 2])
def test_embedding_rows_of_the_thought_tokens_must_be_there(fresh, rows):
    tensors = fresh.tensors
    for name in ("codi.base_model.model.lm_head.weight", STEM + "wte.weight"):
        tensors[name] = tensors[name][:-rows]
    fresh.save(tensors)
    with pytest.raises(MismatchError, match="embedding rows"):
        load(fresh)


def test_another_base_model_is_refused(fake, tmp_path):
    gpt2 = "transformer" in next(iter(fake.tensors))
    other = save_base(tmp_path / "other", "llama" if gpt2 else "gpt2")
    with pytest.raises(MismatchError, match="base="):
        load(fake, base=other)
    wide = save_base(tmp_path / "wide", "gpt2" if gpt2 else "llama", d=64)
    with pytest.raises(MismatchError, match="base="):
        load(fake, base=wide)
    deep = save_base(tmp_path / "deep", "gpt2" if gpt2 else "llama", n_layers=4)
    with pytest.raises(CheckpointError, match="not its base model"):
        load(fake, base=deep)
    shallow = save_base(tmp_path / "shallow", "gpt2" if gpt2 else "llama", n_layers=2)
    with pytest.raises(CheckpointError, match=r"another model|no such module"):
        load(fake, base=shallow)


def retokenize(fake, add):
    """Save the base's tokenizer again with tokens added to it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(fake.base)
    add(tokenizer)
    tokenizer.save_pretrained(fake.base)


def test_a_tokenizer_that_shifts_the_thought_tokens_is_refused(fresh):
    retokenize(
        fresh, lambda t: t.add_special_tokens({"additional_special_tokens": ["<|bocot|>", "<|eocot|>"]})
    )
    with pytest.raises(MismatchError, match=r"bocot.*thought tokens"):
        load(fresh)


def test_a_tokenizer_that_names_the_thought_tokens(fresh):
    def add(tokenizer):
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|bocot|>", "<|eocot|>"]})

    want = collect(load(fresh), QUESTIONS).x
    retokenize(fresh, add)
    torch.testing.assert_close(collect(load(fresh), QUESTIONS).x, want)
    with pytest.raises(DataError, match="special tokens"):
        collect(load(fresh), ["What is [PAD] ?"])


def test_pad_token_inside_the_vocabulary_shifts_only_its_own_checkpoint(fresh):
    """A fork resizes to its tokenizer: with a pad already there, begin of thought is V, not V+1."""
    tensors = fresh.tensors
    keep = [*range(fresh.n_vocab), fresh.n_vocab + 1, fresh.n_vocab + 2]
    for name in ("codi.base_model.model.lm_head.weight", STEM + "wte.weight"):
        tensors[name] = tensors[name][keep]
    want = collect(load(fresh), QUESTIONS).x
    fresh.save(tensors)
    retokenize(
        fresh, lambda t: t.add_special_tokens({"additional_special_tokens": ["<|bocot|>", "<|eocot|>"]})
    )
    torch.testing.assert_close(collect(load(fresh), QUESTIONS).x, want)


def test_question_normalisation(fake):
    model = load(fake)
    a, b = (collect(model, [q]).x for q in ("  What  is 7 + 8? ", "What is 7 + 8?"))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("question", "says"), [("", "empty"), ("   ", "empty"), ("x" * 200, "positions")])
def test_questions_that_cannot_be_asked(fake, question, says):
    with pytest.raises(DataError, match=says):
        load(fake).encode(["fine", question])


def test_a_pickle_with_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"codi.x": Code()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="refused"):
        codi.load(tmp_path, base=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_one_clear_line(tmp_path, content):
    for name in ("a.bin", "b.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            codi.load(tmp_path / name, base=tmp_path)
        assert "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_refused(fresh):
    tensors = fresh.tensors
    tensors["prj.1.bias"][0] = torch.nan
    fresh.save(tensors)
    with pytest.raises(CheckpointError, match=r"prj\.1\.bias"):
        load(fresh)


def test_missing_things_are_not_there(tmp_path, fresh):
    with pytest.raises(NotThereError, match=r"pytorch_model\.bin"):
        codi.load(tmp_path / "base", base=fresh.base)
    with pytest.raises(NotThereError, match="base"):
        load(fresh, base=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="base="):
        codi.load(fresh.file)
    with pytest.raises(ConfigError, match="dtype"):
        load(fresh, dtype="int8")
    with pytest.raises(ThoughtlensError):
        load_any("no such model at all")


def test_identity_follows_what_the_thoughts_depend_on(fake):
    hashes = {
        load(fake, **o).config_hash
        for o in ({}, {"eos_before": True}, {"eos_after": True}, {"n_thoughts": 3}, {"dtype": "bfloat16"})
    }
    assert len(hashes) == 5
    assert load(fake).config_hash == load(fake).config_hash
    assert load(fake, n_thoughts=3).spec.thoughts == range(4)
    assert load(fake).spec.n_thoughts == N_STEPS


def test_bfloat16_follows_float32(fake):
    a, b = (
        collect(load(fake, dtype=dtype), QUESTIONS).thought_out.float() for dtype in ("float32", "bfloat16")
    )
    assert torch.nn.functional.cosine_similarity(a, b, dim=-1).min() > 0.9
