"""Models, tokenizers and files that are damaged, of another kind or hostile: one line that says which."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Gemma3TextConfig, T5Config

import thoughtlens
from tests.models.hf.gguf_file import write_gguf
from thoughtlens.core import CheckpointError, DataError, NotThereError, ThoughtlensError
from thoughtlens.models import capture, load
from thoughtlens.models.hf.load import config_digest
from thoughtlens.models.thought.open import load_model


@pytest.fixture
def copy(tiny_lm_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_lm_dir, tmp_path / "model"))


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def one_line(root: Path | str, says: str, kind: type[ThoughtlensError] = ThoughtlensError) -> None:
    with pytest.raises(kind, match=says) as caught:
        load(str(root), dtype="float32")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 + len(str(root))


def test_every_call_that_could_run_foreign_code_says_that_it_may_not():
    """`from_pretrained` asks its user, and runs the code on a yes, wherever it is not told."""
    missing = []
    for file in Path(thoughtlens.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr in ("from_pretrained", "from_config"):
                told = [k.value for k in call.keywords if k.arg == "trust_remote_code"]
                if not (told and isinstance(told[0], ast.Constant) and told[0].value is False):
                    missing.append(f"{file.name}:{call.lineno}")
    assert missing == []


def test_code_beside_a_gguf_is_not_run_and_nobody_is_asked(tiny_lm_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    file = write_gguf(tiny_lm_dir, tmp_path / "here" / "tiny.gguf")
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass M:\n    pass\n"
    (file.parent / "m.py").write_text(code)
    auto_map = {"AutoConfig": "m.M", "AutoModelForCausalLM": "m.M", "AutoTokenizer": ["m.M", "m.M"]}
    (file.parent / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (file.parent / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    try:
        load(str(file))
    except CheckpointError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "ran").exists() and "m" not in sys.modules


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden_size": "32"}, "hidden_size"),
        ({"num_attention_heads": 0}, "config.json"),
        ({"model_type": ["llama"]}, "config.json"),
        ({"rope_scaling": 7}, "config.json"),
        ({"hidden_act": "nope"}, "nope"),
        ({"vocab_size": 10**20}, "Overflow"),
        ({"quantization_config": "x"}, "config.json"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised, gptq"),
        ({"is_encoder_decoder": True}, "an encoder and a decoder"),
    ],
)
def test_configs_of_wrong_types(copy, values, says):
    edit(copy / "config.json", **values)
    one_line(copy, says, CheckpointError)


@pytest.mark.parametrize(
    "text", ["[1, 2", "[1]", "[" * 3000 + "]" * 3000, '{"hidden_size": ' + "9" * 5000 + "}"]
)
def test_configs_that_are_none(copy, text):
    (copy / "config.json").write_text(text)
    one_line(copy, r"config\.json", CheckpointError)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("tokenizer.json", {"model": 7}),
        ("tokenizer.json", {"added_tokens": "x"}),
        ("tokenizer_config.json", {"tokenizer_class": 7}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"eos_token": {"a": 1}}),
    ],
)
def test_tokenizers_of_wrong_types(copy, file, values):
    edit(copy / file, **values)
    one_line(copy, "expected a tokenizer in", NotThereError)


def test_files_that_are_something_else(copy, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"
    (copy / "tokenizer.json").write_bytes(pointer)
    one_line(copy, r"tokenizer\.json is a git-LFS pointer", CheckpointError)
    (copy / "model.safetensors").write_bytes(pointer)
    one_line(copy, r"model\.safetensors is a git-LFS pointer", CheckpointError)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").mkdir()
    one_line(copy, "no causal language model to load", CheckpointError)
    (tmp_path / "x.gguf").write_bytes(pointer)
    one_line(tmp_path / "x.gguf", "git lfs pull", CheckpointError)
    (tmp_path / "notes.txt").write_text("notes")
    one_line(tmp_path / "notes.txt", "that is neither", NotThereError)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "~nobody-here/x"])
def test_names_that_no_file_can_have(name):
    for opened in (load, load_model):
        with pytest.raises(NotThereError) as caught:
            opened(name)
        assert len(str(caught.value)) < 400


def test_an_adapter_alone_says_what_to_do(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    one_line(tmp_path, "adapter alone.*merge_and_unload", CheckpointError)


def test_weights_as_a_parallel_program_left_them(copy):
    tensors = load_file(copy / "model.safetensors")
    save_file({f"module.{k}": v for k, v in tensors.items()}, copy / "model.safetensors", {"format": "pt"})
    one_line(copy, "DistributedDataParallel", CheckpointError)


SIZES = {
    "vocab_size": 286, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "electra", "xlm-roberta", "camembert", "bert-generation"]
)
def test_models_that_see_later_tokens_are_refused(tmp_path, kind):
    known = CONFIG_MAPPING[kind]()
    config = CONFIG_MAPPING[kind](**{k: v for k, v in SIZES.items() if hasattr(known, k)})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    one_line(tmp_path, f"a {kind} sees later tokens from earlier ones; take a decoder", CheckpointError)


def test_other_models_that_are_not_causal(tmp_path):
    T5Config(**{"d_model": 16, "vocab_size": 286}).save_pretrained(tmp_path / "t5")
    one_line(tmp_path / "t5", "a t5 has an encoder and a decoder", CheckpointError)
    Gemma3TextConfig(use_bidirectional_attention=True, **SIZES).save_pretrained(tmp_path / "gemma")
    one_line(tmp_path / "gemma", "a gemma3_text sees later tokens", CheckpointError)


def test_a_bert_that_was_trained_as_a_decoder_is_one(tmp_path, tiny_lm_dir):
    config = CONFIG_MAPPING["bert"](is_decoder=True, **{k: v for k, v in SIZES.items() if "key" not in k})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for file in tiny_lm_dir.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    assert load(str(tmp_path), dtype="float32").model.config.is_decoder


def test_a_token_beyond_the_embedding_is_refused_before_the_model_runs(tiny_lm_dir):
    model = load(str(tiny_lm_dir), dtype="float32").model
    for ids in ([[1, 286]], [[-1, 2]]):
        with pytest.raises(DataError, match="286 rows of the embedding"):
            capture(model, torch.tensor(ids), None, ["layers.0:out"])
    assert capture(model, torch.tensor([[1, 285]]), None, ["layers.0:out"])["layers.0:out"].shape == (
        1,
        2,
        32,
    )


@pytest.mark.parametrize("change", [{"rope_theta": 5.0}, {"hidden_act": "relu"}, {"rms_norm_eps": 0.1}])
def test_the_config_digest_sees_what_no_weight_tells(copy, change):
    before = load(str(copy), dtype="float32")
    edit(copy / "config.json", use_cache=False, dtype="float32", transformers_version="4.0")
    assert load(str(copy), dtype="bfloat16").config_hash == before.config_hash
    table = json.loads((copy / "config.json").read_text())
    if "rope_theta" in change:
        change = {"rope_parameters": table["rope_parameters"] | change}
    edit(copy / "config.json", **change)
    after = load(str(copy), dtype="float32")
    assert after.digest == before.digest and after.config_hash != before.config_hash
    assert config_digest(after.model.config) == after.config_hash
