"""What an SAE says of its training is kept through every format, and compared where it is used."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from tests.sae.formats import foreign
from tests.sae.stores import write_store
from thoughtlens import sae as saes
from thoughtlens.acts import ActivationStore
from thoughtlens.core import MismatchError
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert
from thoughtlens.sae.formats.formats import FORMATS
from thoughtlens.sae.formats.open import load_sae
from thoughtlens.sae.formats.says import KEY, Says, differences, of_store, said

SAID = {
    "model_name": "gpt2-small",
    "hook_name": "blocks.3.hook_resid_post",
    "prepend_bos": False,
    "context_size": 64,
    "exclude_special_tokens": True,
    "dataset_path": "monology/pile-uncopyrighted",
    "sae_lens_version": "6.0.0",
}


def store(root, config, *, model="gpt2", hook="layers.3:out", first=1):
    """A store of text that says how it was extracted; its rows begin at position `first`."""
    write_store(root, {hook: foreign.draw(40, foreign.D_IN)})
    meta = json.loads((root / "meta.json").read_text())
    (root / "meta.json").write_text(json.dumps(meta | {"model": model}))
    (root / "config.toml").write_text(config)
    return ActivationStore.open(root)


def imported(root, **metadata):
    path = foreign.sae_lens(root, "standard", metadata=SAID | metadata)
    return saes.load_members(path)


SAME = 'bos = "never"\ncontext_length = 64\ndrop_special = true\n'


def test_a_store_of_the_same_settings_is_silent(tmp_path):
    assert differences(imported(tmp_path / "sae"), store(tmp_path / "acts", SAME)) == []


@pytest.mark.parametrize(
    ("metadata", "config", "model", "words"),
    [
        (
            {},
            SAME,
            "EleutherAI/pythia-70m",
            "trained on gpt2-small, and this store is of EleutherAI/pythia-70m",
        ),
        ({"model_name": "gemma-2-2b"}, SAME, "google/gemma-2-2b-it", "trained on gemma-2-2b"),
        ({"prepend_bos": True}, SAME, "gpt2", "with a begin-of-sequence token .* without one"),
        ({}, SAME.replace("never", "always"), "gpt2", "without a begin-of-sequence token .* with one"),
        ({}, SAME.replace("64", "128"), "gpt2", "windows of 64 tokens, and this store has up to 128"),
        ({}, SAME.replace("true", "false"), "gpt2", "without the positions of special tokens"),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            SAME,
            "gpt2",
            "mean taken off .*center_writing_weights",
        ),
    ],
)
def test_what_differs_is_said_once(tmp_path, metadata, config, model, words):
    (line,) = differences(
        imported(tmp_path / "sae", **metadata), store(tmp_path / "acts", config, model=model)
    )
    assert line.startswith("pooled: ") and re.search(words, line)


@pytest.mark.parametrize(
    ("metadata", "config", "model"),
    [
        ({"model_name": "gpt2"}, SAME, "openai-community/gpt2"),
        ({"model_name": "meta-llama/Llama-2-7b-hf"}, SAME, "Llama-2-7b"),
        ({"model_from_pretrained_kwargs": {"center_writing_weights": False}}, SAME, "gpt2"),
        ({"model_from_pretrained_kwargs": {"fold_ln": True}}, SAME, "gpt2"),
        ({"context_size": 1024}, SAME, "gpt2"),
        ({"exclude_special_tokens": False}, SAME, "gpt2"),
        ({"prepend_bos": None, "context_size": None}, SAME.replace("never", "always"), "gpt2"),
    ],
)
def test_sound_twins_are_silent(tmp_path, metadata, config, model):
    assert (
        differences(imported(tmp_path / "sae", **metadata), store(tmp_path / "acts", config, model=model))
        == []
    )


def test_whether_the_tokenizer_put_a_begin_token_is_read_from_the_rows(tmp_path):
    acts = store(tmp_path / "acts", 'bos = "tokenizer"\ncontext_length = 64\n')  # rows from position 0 on
    assert of_store(acts).prepend_bos is False
    assert differences(imported(tmp_path / "sae", prepend_bos=True), acts)


def test_it_is_kept_through_conversions(tmp_path):
    path = foreign.sae_lens(tmp_path / "a", "standard", metadata=SAID)
    convert(ConvertConfig(source=path, to="thoughtlens"), tmp_path / "b")
    convert(ConvertConfig(source=tmp_path / "b", to="sae_lens"), tmp_path / "c")
    expected = Says(
        model="gpt2-small",
        prepend_bos=False,
        context_size=64,
        exclude_special_tokens=True,
        dataset="monology/pile-uncopyrighted",
    )
    for folder in ("a", "b"):
        assert said(saes.load(tmp_path / folder).provenance) == expected
    metadata = json.loads((tmp_path / "c" / "cfg.json").read_text())["metadata"]
    assert {key: metadata[key] for key in SAID.keys() - {"sae_lens_version"}} == {
        key: value for key, value in SAID.items() if key != "sae_lens_version"
    }


def test_a_hook_that_stands_on_an_assumption_is_said_and_can_be_set(tmp_path, capsys):
    metadata = SAID | {"model_name": "my-own-model", "hook_name": "blocks.3.hook_mlp_out"}
    path = foreign.sae_lens(tmp_path / "a", "standard", metadata=metadata)
    assert saes.load_members(path)["pooled"].hook_names == ["layers.3.mlp:out"]
    assert "the architecture of my-own-model is not known" in capsys.readouterr().err
    right = "layers.3.post_feedforward_layernorm:out"
    convert(ConvertConfig(source=path, to="thoughtlens", hook_name=right), tmp_path / "b")
    assert saes.load(tmp_path / "b").hook_names == [right]
    known = foreign.sae_lens(tmp_path / "c", "standard", metadata=metadata | {"model_name": "gpt2"})
    with pytest.raises(MismatchError, match=r"says its hook is 'layers\.3\.mlp:out'"):
        convert(ConvertConfig(source=known, to="thoughtlens", hook_name=right), tmp_path / "d")


def test_a_transcoder_takes_both_names(tmp_path):
    path = foreign.sparsify(tmp_path, transcode=True)
    widths = {"model.layers.2.mlp:in": 6, "model.layers.2.mlp:out": 6}
    sae = saes.load_members(path, joined=True, hooks=widths)["pooled"]
    assert [*sae.hook_names, sae.cfg.hook_in, sae.cfg.hook_out] == [*widths][:1] * 2 + [*widths][1:]


@pytest.mark.parametrize("broken", ["[1, 2]", "{", '{"transcode": "yes", "ctx_len": "many", "sae": 3}'])
def test_settings_beside_a_folder_that_are_not_its_own_say_nothing(tmp_path, broken):
    path = foreign.sparsify(tmp_path)
    (tmp_path / "config.json").write_text(broken)
    assert KEY not in saes.load(path).provenance


@pytest.mark.parametrize(
    "metadata", [{"context_size": "many"}, {"context_size": -1}, {"hook_head_index": "x"}, {"prepend_bos": 3}]
)
def test_a_statement_of_another_type_is_not_known(tmp_path, metadata):
    sae = imported(tmp_path, **metadata)["pooled"]
    assert sae.hook_names == ["layers.3:out"] and said(sae.provenance).model == "gpt2-small"


def test_a_damaged_statement_says_nothing():
    for found in (None, 3, {"context_size": "many"}, {"head": "x"}):
        assert said({KEY: found}) == Says()


def test_an_sae_takes_the_name_that_a_store_has_for_its_module(tmp_path):
    path = foreign.sae_lens(tmp_path, "standard", metadata=SAID | {"hook_name": "transformer.h.3.attn"})
    assert saes.load_members(path)["pooled"].hook_names == ["layers.3.attn:out"]
    widths = {"model.layers.3.self_attn:out": 6, "layers.3:out": 6}
    assert saes.load_members(path, hooks=widths)["pooled"].hook_names == ["model.layers.3.self_attn:out"]
    assert saes.load_members(path, hooks={"layers.2.attn:out": 6})["pooled"].hook_names == [
        "layers.3.attn:out"
    ]


def written(tmp_path, hook, model, cfg=None, **says):
    """What SAELens would find of one of our SAEs."""
    sae = saes.create(cfg or saes.TopKConfig(d_sae=20, k=3), 6, seed=0)
    sae.hook_names, sae.provenance = [hook], {"model": model, KEY: says}
    saes.save(sae, tmp_path / "ours")
    result = convert(ConvertConfig(source=tmp_path / "ours", to="sae_lens"), tmp_path / "theirs")
    return json.loads((tmp_path / "theirs" / "cfg.json").read_text()), result["warnings"]


def test_what_sae_lens_needs_to_make_activations_is_written(tmp_path):
    cfg, notes = written(
        tmp_path, "layers.3:out", "gpt2", prepend_bos=True, context_size=256, dataset="wikitext"
    )
    metadata = cfg["metadata"]
    assert (metadata["context_size"], metadata["prepend_bos"], metadata["dataset_path"]) == (
        256,
        True,
        "wikitext",
    )
    assert (metadata["hook_name"], metadata["model_class_name"]) == (
        "blocks.3.hook_resid_post",
        "HookedTransformer",
    )
    assert cfg["rescale_acts_by_decoder_norm"] is True and not notes  # rows of length 1: nothing changes


def test_what_is_not_known_is_written_as_sae_lens_assumes_it_and_said(tmp_path):
    cfg, notes = written(tmp_path, "layers.3.mlp:out", "my-own-model")
    assert (cfg["metadata"]["context_size"], cfg["metadata"]["prepend_bos"]) == (128, True)
    assert len(notes) == 3 and "layers.3.mlp:out became blocks.3.hook_mlp_out" in notes[0]
    assert [note.split()[0] for note in notes[1:]] == ["prepend_bos", "context_size"]


def test_a_place_without_a_name_there_is_named_as_in_the_model_itself(tmp_path):
    cfg, _ = written(tmp_path, "layers.3.mlp:out", "google/gemma-2-2b", prepend_bos=True, context_size=8)
    assert (cfg["metadata"]["hook_name"], cfg["metadata"]["model_class_name"]) == (
        "model.layers.3.mlp",
        "AutoModelForCausalLM",
    )
    assert saes.load(tmp_path / "theirs").hook_names == ["layers.3.mlp:out"]


def test_values_of_heads_keep_their_shape(tmp_path):
    cfg, _ = written(
        tmp_path, "layers.3.self_attn.o_proj:in", "google/gemma-2-2b", prepend_bos=True, context_size=8
    )
    assert (cfg["metadata"]["hook_name"], cfg["reshape_activations"]) == ("blocks.3.attn.hook_z", "hook_z")


def test_a_single_head_has_no_hook_here_and_keeps_its_number(tmp_path):
    metadata = SAID | {"hook_name": "blocks.3.attn.hook_q", "hook_head_index": 2}
    path = foreign.sae_lens(tmp_path / "a", "standard", metadata=metadata)
    assert saes.load(path).hook_names == ["blocks.3.attn.hook_q[2]"]
    convert(ConvertConfig(source=path, to="sae_lens"), tmp_path / "b")
    back = json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]
    assert (back["hook_name"], back["hook_head_index"]) == ("blocks.3.attn.hook_q", 2)


def test_long_decoder_rows_are_not_said_to_be_of_length_1(tmp_path):
    path = foreign.sae_lens(tmp_path / "a", "topk")
    convert(ConvertConfig(source=path, to="sae_lens"), tmp_path / "b")
    assert json.loads((tmp_path / "b" / "cfg.json").read_text())["rescale_acts_by_decoder_norm"] is False


def test_lengths_are_folded_in_float32(tmp_path):
    path = foreign.sae_lens(tmp_path, "topk", rescale_acts_by_decoder_norm=True, dtype="bfloat16")
    sae = saes.load(path)
    assert sae.W_enc.dtype == torch.float32
    stored = foreign.four()
    W_dec = stored["W_dec"].bfloat16().double()
    x = foreign.draw(200, foreign.D_IN, seed=9).double()
    b_dec, W_enc, b_enc = (stored[name].bfloat16().double() for name in ("b_dec", "W_enc", "b_enc"))
    pre = ((x - b_dec) @ W_enc + b_enc) * W_dec.norm(dim=1)
    fires = torch.zeros_like(pre).scatter(1, pre.topk(foreign.K).indices, 1.0) * (pre > 0)
    assert ((sae.double().encode(x) != 0) == (fires != 0)).all()


@pytest.mark.parametrize(
    "target", ["thoughtlens", "sae_lens", "dictionary_learning", "gemma_scope_2", "sparsify"]
)
def test_thoughts_and_hook_come_back_from_every_format_with_a_place_for_them(tmp_path, target):
    own = {
        "thoughts": [0, 2],
        "thought_convention": "codi",
        "acts_digest": "a1",
        "model": "EleutherAI/pythia-70m",
    }
    source = FORMATS["dictionary_learning"].read(
        foreign.dictionary(tmp_path, "AutoEncoderTopK" if target == "sparsify" else "BatchTopKSAE")
    )
    sae = replace(source, provenance=own, hook="layers.3.mlp:in")
    written = FORMATS[target].write(sae, tmp_path / target)
    back = load_sae(tmp_path / target)
    assert back.hook_names == ["layers.3.mlp:in"] and not any("no place" in one for one in written.notes)
    assert {key: back.provenance[key] for key in own} == own
    assert back.provenance["model"] == sae.model


@pytest.mark.parametrize("target", ["gemma_scope", "openai", "circuit_tracer"])
def test_a_format_without_a_place_for_them_says_what_it_leaves_out(tmp_path, target):
    kinds = {"openai": foreign.dictionary(tmp_path / "relu", "AutoEncoder")}
    kinds |= {"gemma_scope": kinds["openai"]}
    path = kinds.get(target) or foreign.sae_lens(tmp_path, "transcoder")
    source = FORMATS["sae_lens" if target == "circuit_tracer" else "dictionary_learning"].read(path)
    written = FORMATS[target].write(replace(source, provenance={"thoughts": [0, 2]}), tmp_path / target)
    (line,) = [note for note in written.notes if "no place" in note]
    assert line.endswith("thoughts") and ("hook, model" in line) == (target != "circuit_tracer")
