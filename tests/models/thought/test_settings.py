"""Settings of a checkpoint: given, stated beside it, or assumed and said; refusals that say what is there."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, TrainingArguments

from tests.models.thought.fake import ALPHA, N_STEPS, QUESTIONS, RANK, make_codi, think_without_cache
from thoughtlens.core import CheckpointError, ConfigError, MismatchError, NotThereError, load_config
from thoughtlens.models import ThoughtModelConfig
from thoughtlens.models.thought import codi
from thoughtlens.models.thought.known import Known, known
from thoughtlens.models.thought.stated import stated
from thoughtlens.models.thought.thoughts import collect
from thoughtlens.models.thought.thoughts import load as load_any
from thoughtlens.studies import pipeline

STEM = "codi.base_model.model.transformer."


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_codi(tmp_path_factory.mktemp("codi"), "gpt2")


@pytest.fixture
def fake(shared, tmp_path):
    """The same weights in a folder of the test's own."""
    shared_tensors = shared.tensors
    (tmp_path / "run").mkdir()
    twin = type(shared)(
        tmp_path / "run" / "pytorch_model.bin", shared.base, shared.wrapper, shared.n_vocab, shared.eos
    )
    twin.save(shared_tensors)
    return twin


def state(fake, file, **table):
    (fake.file.parent / file).write_text(json.dumps(table))


def load(fake, **options):
    return codi.load(fake.file, base=fake.base, **options)


def test_an_eos_on_one_side_only(fake):
    """As bcywinski/codi_llama1b-answer_only: an eos before the thoughts, none before the answer."""
    model = load(fake, lora_alpha=ALPHA, eos_before=True, eos_after=False)
    assert model.start_ids == (fake.eos, fake.n_vocab + 1) and model.end_ids == (fake.n_vocab + 2,)
    thoughts = collect(model, QUESTIONS[:1], answers=True, max_new_tokens=1)
    want = think_without_cache(fake, QUESTIONS[0], remove_eos=False)
    torch.testing.assert_close(thoughts.thought_out[0, :, 0], want["thought_out"], atol=1e-5, rtol=1e-5)
    without_eos = fake.wrapper.codi(inputs_embeds=want["inputs"][:, :-1]).logits[0, -1]
    torch.testing.assert_close(thoughts.answers.logits[0, 0], without_eos, atol=1e-5, rtol=1e-5)
    release = known("bcywinski/codi_llama1b-answer_only").settings
    assert (release["eos_before"], release["eos_after"]) == (True, False)


@pytest.mark.parametrize(("old", "sides"), [(True, (False, False)), (False, (True, True))])
def test_the_old_switch_is_still_read(fake, old, sides):
    model = load_any(fake.file, base=fake.base, remove_eos=old)
    assert (model.settings["eos_before"], model.settings["eos_after"]) == sides
    cfg = load_config(ThoughtModelConfig, {"remove_eos": old})
    assert (cfg.eos_before, cfg.eos_after) == sides
    assert load_config(ThoughtModelConfig, {}, [f"remove_eos={json.dumps(old)}"]) == cfg
    recipe = pipeline.load("pilot", [f"remove_eos={json.dumps(old)}"]).extract
    assert (recipe.eos_before, recipe.eos_after) == sides
    assert pipeline.load("pilot", [f"extract.remove_eos={json.dumps(old)}"]).extract == recipe


def test_every_setting_has_a_name_on_the_command_line():
    words = [
        "n_steps=5",
        "lora_alpha=16",
        "projection=false",
        "family=codi",
        "prompt={question} Answer:",
        "base=b",
    ]
    cfg = pipeline.load("pilot", words).extract
    assert cfg.thought_options() == {
        "n_thoughts": 5, "lora_alpha": 16.0, "projection": False, "family": "codi", "base": "b",
        "prompt": "{question} Answer:",
    }  # fmt: skip
    assert pipeline.load("pilot", [f"extract.{words[1]}"]).extract.lora_alpha == 16
    with pytest.raises(ConfigError, match="prompt"):
        pipeline.load("pilot", ["prompt=no place for it"])


STATED = [
    (
        "adapter_config.json",
        {"lora_alpha": 8, "r": 4, "base_model_name_or_path": "no/base"},
        {"lora_alpha": 8},
    ),
    ("config.json", {"codi": {"num_latent": 3, "remove_eos": False}}, {"n_thoughts": 3, "eos_after": True}),
    (
        "training_args.json",
        {"inf_latent_iterations": 2, "remove_eos": True},
        {"n_thoughts": 2, "eos_before": False},
    ),
    ("codi_args.json", {"model_args": {"lora_alpha": 16.5}}, {"lora_alpha": 16.5}),
]


@pytest.mark.parametrize(("file", "table", "wanted"), STATED)
def test_what_a_checkpoint_states_is_read(fake, capsys, file, table, wanted):
    state(fake, file, **table)
    model = load(fake)
    assert {name: model.settings[name] for name in wanted} == wanted
    assert not set(wanted) & set(model.assumed)
    said = capsys.readouterr().err
    assert all(f"{name}=" in said for name in model.assumed) and not any(
        f"{name}=" in said for name in wanted
    )
    assert load(fake, n_thoughts=1, lora_alpha=2.0).settings["lora_alpha"] == 2.0


def test_settings_in_yaml_are_read(tmp_path):
    (tmp_path / "gsm_coconut.yaml").write_text("# stage 2\nname: x\nc_thought: 2\nmax_latent_stage: 3\n")
    (tmp_path / "config.yaml").write_text("lora_alpha:\n  desc: null\n  value: 16\nuse_prj: {value: true}\n")
    own = stated(tmp_path)
    assert (own.get("n_thoughts"), own.get("lora_alpha"), own.get("projection")) == (6, 16, True)
    assert own.files["n_thoughts"] == "gsm_coconut.yaml"
    (tmp_path / "config.yaml").write_text("a: &a [1]\n" + "b: [*a, *a, !!python/name:os.system ]\n")
    assert stated(tmp_path).values.keys() == {"c_thought", "max_latent_stage", "n_thoughts"}
    (tmp_path / "args.yml").write_text("max_latent_stage: 4\n")
    with pytest.raises(CheckpointError, match=r"gsm_coconut\.yaml says max_latent_stage = 3.*args\.yml|args"):
        stated(tmp_path)


def test_a_language_model_is_told_so(tiny_lm_dir):
    for name in (str(tiny_lm_dir), "smollm2-135m"):
        with pytest.raises(ConfigError, match=r"is a language model, .*thoughtlens run text-demo model="):
            load_any(name)


def test_the_trainers_own_arguments_are_read_and_none_of_their_code(fake, tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
    arguments.num_latent, arguments.remove_eos, arguments.use_prj = (
        4,
        False,
        True,
    )  # as CODI's own class has them
    torch.save(arguments, fake.file.parent / "training_args.bin")
    own = stated(fake.file.parent)
    assert (own.get("n_thoughts"), own.get("eos_before"), own.get("projection")) == (4, True, True)

    class Code:
        def __reduce__(self):
            return (pickle.loads, (b"cos\nsystem\n(S'touch ran'\ntR.",))

    torch.save({"num_latent": 7, "x": Code()}, fake.file.parent / "training_args.bin")
    assert stated(fake.file.parent).get("n_thoughts") == 7 and not list(tmp_path.rglob("ran"))
    (fake.file.parent / "training_args.bin").write_bytes(b"no archive")
    assert stated(fake.file.parent).values == {}


def test_rank_stabilised_adapters_that_say_so(fake):
    want = collect(load(fake, lora_alpha=ALPHA * RANK**0.5), QUESTIONS[:1]).x
    state(fake, "adapter_config.json", lora_alpha=ALPHA, use_rslora=True)
    torch.testing.assert_close(collect(load(fake), QUESTIONS[:1]).x, want)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"config.json": {"num_latent": 3}, "codi_args.json": {"num_latent": 5}}, "5.*3"),
        ({"config.json": {"num_latent": "six"}}, "num_latent"),
        ({"config.json": {"remove_eos": 1}}, "remove_eos"),
        ({"adapter_config.json": {"lora_alpha": 8, "alpha_pattern": {"c_fc": 2}}}, "alpha_pattern"),
        ({"training_args.json": {"prj_no_ln": True}}, r"prj_no_ln = true, but prj\.ln is there"),
    ],
)
def test_statements_that_cannot_be_are_refused(fake, tables, says):
    for file, table in tables.items():
        state(fake, file, **table)
    with pytest.raises(CheckpointError, match=says):
        load(fake)


def test_what_is_known_of_a_release_is_not_assumed(fake, capsys, monkeypatch):
    settings = {"n_thoughts": 2, "lora_alpha": ALPHA, "eos_before": False, "eos_after": False}
    one = Known("own/co*", "codi", "nowhere", str(fake.base), settings)
    monkeypatch.setattr("thoughtlens.models.thought.known.entries", lambda: (one,))
    home = fake.file.parent.parent / "models--own--codi" / "snapshots" / "abc"
    home.mkdir(parents=True)
    fake.file.rename(home / "pytorch_model.bin")
    model = codi.load(home)
    assert model.spec.n_thoughts == 2 and model.assumed == () and "assumed" not in capsys.readouterr().err


def test_a_prompt_of_ones_own(fake):
    raw = load(fake, lora_alpha=ALPHA, prompt="{question}")
    squeezed, question = load(fake, lora_alpha=ALPHA), "What  is 7 + 8?"
    assert raw._tokenize(question) != squeezed._tokenize(question)
    assert raw._tokenize("What is 7?") == squeezed._tokenize("What is 7?")
    assert raw.config_hash != squeezed.config_hash
    around = load(fake, prompt="Q: {question} A:")
    assert around._tokenize("x") == raw._tokenize("Q: x A:")


BASES = [
    {"scale_attn_weights": False},
    {"activation_function": "relu"},
    {"layer_norm_epsilon": 0.1},
    {"scale_attn_by_inverse_layer_idx": True},
]


@pytest.mark.parametrize("change", BASES)
def test_the_hash_knows_the_whole_base(fake, tmp_path, change):
    config = GPT2Config.from_pretrained(fake.base)
    config.update(change)
    from transformers import AutoTokenizer

    config.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(fake.base).save_pretrained(tmp_path / "other")
    one, other = load(fake), codi.load(fake.file, base=tmp_path / "other")
    assert one.config_hash != other.config_hash and one.tokenizer_digest == other.tokenizer_digest
    config.update({"use_cache": False, "bos_token_id": 2})  # what changes no state
    config.update(GPT2Config.from_pretrained(fake.base).to_dict() | {"use_cache": False})
    config.save_pretrained(tmp_path / "other")
    assert codi.load(fake.file, base=tmp_path / "other").config_hash == one.config_hash


def without(fake, *parts):
    return {key: value for key, value in fake.tensors.items() if not any(part in key for part in parts)}


def test_lost_keys_are_refused_or_said(fake, capsys):
    fake.save(without(fake, "lora_"))
    with pytest.raises(CheckpointError, match=r"not one LoRA key .* they were lost"):
        load(fake)
    fake.save({k.replace(".base_layer", ""): v for k, v in without(fake, "lora_").items()})
    with pytest.raises(CheckpointError, match="they were lost"):
        load(fake)


def test_a_lost_norm_of_the_projection_is_said_or_refused(shared, fake, capsys):
    fake.save(without(fake, "prj.ln"))
    load(fake)
    assert "has no prj.ln" in capsys.readouterr().err
    state(fake, "training_args.json", prj_no_ln=False)
    with pytest.raises(CheckpointError, match=r"prj\.ln is not there"):
        load(fake)
    state(fake, "training_args.json", prj_no_ln=True)
    load(fake)
    assert "has no prj.ln" not in capsys.readouterr().err


def test_a_lost_projection_is_called_so(fake):
    fake.save(without(fake, "prj."))
    with pytest.raises(CheckpointError, match=r"no projection .* projection=false"):
        load(fake)
    state(fake, "config.json", use_prj=False)
    assert not load(fake).spec.has_projection


def test_a_full_fine_tuning_has_no_alpha_to_assume(fake, capsys):
    state_dict = {
        key.replace("codi.base_model.model.", "codi.").replace(".base_layer", ""): value
        for key, value in without(fake, "lora_").items()
    }
    fake.save(state_dict)
    model = load(fake)
    assert "lora_alpha" not in model.settings and "no LoRA among its keys" in capsys.readouterr().err


LAYOUTS = {
    "ddp": lambda t: {f"module.{k}": v for k, v in t.items()},
    "compiled ddp": lambda t: {f"module._orig_mod.{k}": v for k, v in t.items()},
    "wrapped": lambda t: {"state_dict": t, "epoch": 3},
    "wrapped ddp": lambda t: {"model": {f"module.{k}": v for k, v in t.items()}, "step": 1},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_training_programs_put_around_the_weights(fake, layout):
    want = collect(load(fake), QUESTIONS[:1]).x
    torch.save(LAYOUTS[layout](fake.tensors), fake.file)
    torch.testing.assert_close(collect(load(fake), QUESTIONS[:1]).x, want)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_with_an_index(fake, kind):
    want, tensors = collect(load(fake), QUESTIONS[:1]).x, fake.tensors
    del tensors["codi.base_model.model.lm_head.weight"]
    fake.file.unlink()
    names, home = sorted(tensors), fake.file.parent
    stem = "model" if kind == "safetensors" else "pytorch_model"
    files = [f"{stem}-0000{i + 1}-of-00002.{kind}" for i in range(2)]
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        shard = {name: tensors[name].clone() for name in part}
        save_file(shard, home / file) if kind == "safetensors" else torch.save(shard, home / file)
    weight_map = {name: files[i % 2] for i, name in enumerate(names)}
    index = home / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    torch.testing.assert_close(collect(codi.load(home, base=fake.base), QUESTIONS[:1]).x, want)
    assert type(load_any(home, base=fake.base)) is codi.Codi
    (home / files[1]).unlink()
    with pytest.raises(NotThereError, match="lists 2 shards"):
        codi.load(home, base=fake.base)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("pytorch_model.bin", POINTER, "git lfs pull"),
        ("model.safetensors", POINTER, "git lfs pull"),
        ("checkpoint_7", b"just notes\n", "begins like none"),
        ("pytorch_model.bin", "Größe".encode("latin-1"), "begins like none"),
    ],
)
def test_files_that_are_something_else(fake, name, content, says):
    fake.file.unlink()
    (fake.file.parent / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        codi.load(fake.file.parent, base=fake.base)


def test_an_adapter_alone_is_called_so(fake):
    tensors = {k: v for k, v in fake.tensors.items() if "lora_" in k}
    fake.save(tensors | {k: v for k, v in fake.tensors.items() if k.startswith("prj.")})
    with pytest.raises(CheckpointError, match="adapter alone"):
        load(fake)
    fake.save(tensors)
    with pytest.raises(CheckpointError, match="adapter alone"):
        load(fake)
    save_file(tensors, fake.file.parent / "adapter_model.safetensors")
    fake.file.unlink()
    with pytest.raises(CheckpointError, match="adapter alone"):
        codi.load(fake.file.parent, base=fake.base)


def test_a_padded_embedding_belongs_to_its_base(fake, capsys):
    """Rows rounded up to a multiple of 64 by the training program: the same thoughts, and said."""
    want, tensors = collect(load(fake), QUESTIONS).x, fake.tensors
    rows = -(-(fake.n_vocab + 3) // 64) * 64
    for name in ("codi.base_model.model.lm_head.weight", STEM + "wte.weight"):
        table = tensors[name]
        tensors[name] = torch.cat([table, table.new_zeros(rows - len(table), table.shape[1])])
    fake.save(tensors)
    torch.testing.assert_close(collect(load(fake), QUESTIONS).x, want)
    assert "rows of padding" in capsys.readouterr().err


def test_an_embedding_cut_to_the_tokenizer_of_a_padded_base(fake, tmp_path):
    """A base with room to spare; the training program resized to its tokenizer's words and three more."""
    from transformers import AutoTokenizer

    want, config = collect(load(fake), QUESTIONS).x, GPT2Config.from_pretrained(fake.base)
    config.vocab_size = fake.n_vocab + 40
    config.save_pretrained(tmp_path / "roomy")
    AutoTokenizer.from_pretrained(fake.base).save_pretrained(tmp_path / "roomy")
    torch.testing.assert_close(collect(codi.load(fake.file, base=tmp_path / "roomy"), QUESTIONS).x, want)
    config.vocab_size = fake.n_vocab - 9
    config.save_pretrained(tmp_path / "roomy")
    tensors = fake.tensors
    for name in ("codi.base_model.model.lm_head.weight", STEM + "wte.weight"):
        tensors[name] = tensors[name][:-2]
    fake.save(tensors)
    with pytest.raises(MismatchError, match="embedding rows"):
        codi.load(fake.file, base=tmp_path / "roomy")


def test_the_default_is_six_thoughts_and_said(fake, capsys):
    model = load(fake)
    assert model.spec.n_thoughts == N_STEPS
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "assumed" in text)
    assert "n_thoughts=6, lora_alpha=32.0, eos_before=false, eos_after=false" in line
