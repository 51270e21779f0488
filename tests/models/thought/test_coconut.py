from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.conftest import tiny_tokenizer
from tests.models.thought.fake import QUESTIONS, save_base
from thoughtlens.core import CheckpointError, ConfigError, DataError, MismatchError, NotThereError
from thoughtlens.models.thought import coconut
from thoughtlens.models.thought.thoughts import collect, load, run

N_STEPS = 4


@pytest.fixture(params=["gpt2", "llama"])
def files(request, tmp_path):
    """(checkpoint, base directory, oracle) with the published key layout."""
    torch.manual_seed(0)
    base = save_base(tmp_path / "base", request.param)
    config = AutoConfig.from_pretrained(base)
    config.vocab_size += 3
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in lm.parameters():
        nn.init.normal_(parameter, std=0.2)
    state = {f"base_causallm.{key}": value for key, value in lm.state_dict().items()}
    state["embedding.weight"] = lm.get_input_embeddings().weight.data
    torch.save(state, tmp_path / "coconut_33")
    return tmp_path / "coconut_33", base, lm


def open_(files, **options):
    return coconut.load(files[0], **{"base": files[1], "n_thoughts": N_STEPS} | options)


@torch.no_grad()
def oracle(lm, question):
    """Multi-pass over the whole sequence: thought p is the last state at the position before it."""
    tokenizer = tiny_tokenizer()
    n = len(tokenizer)
    x = lm.get_input_embeddings()(torch.tensor([[*tokenizer(question + "\n")["input_ids"], n]]))
    outs = []
    for step in range(N_STEPS + 1):
        outs.append(lm(inputs_embeds=x, output_hidden_states=True).hidden_states[-1][:, -1:])
        if step < N_STEPS:
            x = torch.cat([x, outs[-1]], 1)
    x = torch.cat([x, lm.get_input_embeddings()(torch.tensor([[n + 1]]))], 1)
    return torch.cat(outs, 1)[0], lm(inputs_embeds=x).logits[0, -1]


def test_thoughts_equal_recomputation(files):
    got = collect(open_(files), QUESTIONS, answers=True, max_new_tokens=2)
    for i, question in enumerate(QUESTIONS):
        outs, logits = oracle(files[2], question)
        torch.testing.assert_close(got.thought_out[i, :, 0], outs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.answers.logits[i, 0], logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.thought_in[:, 1:], got.thought_out[:, :-1])


def test_padding_changes_nothing(files):
    model = open_(files)
    together = run(model, QUESTIONS, max_new_tokens=5)
    assert together.ids == [run(model, [q], max_new_tokens=5).ids[0] for q in QUESTIONS]


def test_load_knows_it_by_name_and_by_its_keys(files):
    assert isinstance(load(files[0], base=files[1]), coconut.Coconut)
    unnamed = files[0].rename(files[0].with_name("checkpoint_33"))
    assert isinstance(load(unnamed, base=files[1]), coconut.Coconut)
    home = unnamed.parent / "run"
    home.mkdir()
    tensors = torch.load(unnamed, weights_only=True)
    save_file({key: value.clone() for key, value in tensors.items()}, home / "model.safetensors")
    assert isinstance(load(home, base=files[1]), coconut.Coconut)
    unnamed.write_bytes(b"PK cut")
    with pytest.raises(CheckpointError, match="damaged"):
        load(unnamed, base=files[1])


def test_answer_is_after_the_last_hash(files):
    value = open_(files)._value
    assert value("5 + 3 = 8\n### 1,008") == 1008 and value("### none 3 #") is None and value("12") == 12


@pytest.mark.parametrize("change", ["drop", "rename", "add", "twin", "foreign"])
def test_keys_are_used_to_the_last(files, change):
    state = torch.load(files[0], weights_only=True)
    key = sorted(state)[3]
    if change in ("drop", "rename"):
        value = state.pop(key)
        if change == "rename":
            state[key + "x"] = value
    elif change == "twin":
        key = "embedding.weight"
        state[key] = state[key] + 1
    else:
        key = {"add": "base_causallm.more.weight", "foreign": "prj.1.weight"}[change]
        state[key] = torch.ones(2)
    torch.save(state, files[0])
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        open_(files)


def test_wrong_base_and_shifted_tokens(files, tmp_path):
    gpt2 = any("wte" in key for key in torch.load(files[0], weights_only=True))
    with pytest.raises(MismatchError, match="base="):
        open_(files, base=save_base(tmp_path / "other", "llama" if gpt2 else "gpt2"))
    with pytest.raises(ConfigError, match="base="):
        open_(files, base=None)
    with pytest.raises(ConfigError, match="dtype"):
        open_(files, dtype="fp8")
    tokenizer = AutoTokenizer.from_pretrained(files[1])
    tokenizer.add_tokens(["<|start-latent|>", "<|end-latent|>", "<|latent|>"])
    tokenizer.save_pretrained(files[1])
    assert open_(files).start_ids == (len(tokenizer) - 3,)
    with pytest.raises(DataError, match="special tokens"):
        run(open_(files), ["say <|latent|>"])
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|latent|>"])
    tokenizer.save_pretrained(files[1])
    with pytest.raises(MismatchError, match=r"<\|latent\|>"):
        open_(files)
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(files[1])
    with pytest.raises(MismatchError, match="embedding rows"):
        open_(files)


def hub(monkeypatch, root):
    """What `snapshot_download` brings lies in `root` already; the patterns asked for are kept."""
    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, allow_patterns))
        return str(root)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


def test_a_release_named_checkpoint_n_is_fetched_by_its_id(files, monkeypatch, tmp_path):
    home = tmp_path / "snapshots" / "abc"
    home.mkdir(parents=True)
    files[0].rename(home / "checkpoint_33")
    asked = hub(monkeypatch, home)
    model = load("own/coconut", base=files[1])
    assert isinstance(model, coconut.Coconut) and model.revision == "abc"
    assert "checkpoint_*" in asked[0][1]
    (home / "checkpoint_25").write_bytes((home / "checkpoint_33").read_bytes())
    with pytest.raises(NotThereError, match=r"\(checkpoint_25, checkpoint_33\): give one"):
        load("own/coconut", base=files[1])
    assert load("own/coconut/checkpoint_25", base=files[1]).digest == model.digest
    assert asked[-1][0] == "own/coconut" and "checkpoint_25" in asked[-1][1]
    with pytest.raises(NotThereError, match="no file checkpoint_7"):
        load("own/coconut/checkpoint_7", base=files[1])


def test_settings_of_the_training_are_read_or_assumed(files, capsys):
    assert coconut.load(files[0], base=files[1]).assumed == ("n_thoughts",)
    assert "n_thoughts=6" in capsys.readouterr().err
    (files[0].parent / "args.json").write_text('{"c_thought": 2, "max_latent_stage": 4}')
    model = coconut.load(files[0], base=files[1])
    assert model.spec.n_thoughts == 8 and model.assumed == () and "assumed" not in capsys.readouterr().err
    own = coconut.load(files[0], base=files[1], prompt="{question} ->")
    assert own._tokenize("a b") != model._tokenize("a b") and own.config_hash != model.config_hash


def test_an_embedding_that_was_rounded_up_is_the_bases_own(files, capsys):
    want = collect(open_(files), QUESTIONS).x
    state = torch.load(files[0], weights_only=True)
    for key, value in state.items():
        if value.ndim == 2 and len(value) == len(tiny_tokenizer()) + 3:
            state[key] = torch.cat([value, value.new_zeros(-len(value) % 64, value.shape[1])])
    torch.save(state, files[0])
    torch.testing.assert_close(collect(open_(files), QUESTIONS).x, want)
    assert "rows of padding" in capsys.readouterr().err
