"""Every layout opens by its hub id and thinks as an independent loop does; mutations are refused by name."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.thought.fake import QUESTIONS
from tests.models.thought.layouts import LAYOUTS, base_in, think
from thoughtlens.core import NotThereError, ThoughtlensError
from thoughtlens.models import load_model
from thoughtlens.models.thought.known import entries, known, known_accuracy
from thoughtlens.models.thought.open import thinks
from thoughtlens.models.thought.thoughts import collect, load
from thoughtlens.models.thought.weights import _wanted

ALPHAS = ("shards", "V+5 rows", "three modes", "three modes on a chat model", "own tokenizer")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub, empty; the network is off."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def options(layout):
    """LoRA's alpha of the stand-ins, which is not the published checkpoints'."""
    return {"lora_alpha": 8.0} if layout in ALPHAS else {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_thinks_as_an_independent_loop(hub, layout):
    torch.manual_seed(0)
    made = LAYOUTS[layout](hub)
    model = load(made.name, **options(layout))
    got = collect(model, QUESTIONS, answers=True, max_new_tokens=4)
    alone = collect(model, QUESTIONS[:1], answers=True, max_new_tokens=4)
    near = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(alone.x[0], got.x[0], **near)
    for i, question in enumerate(QUESTIONS):
        thoughts, states, answer = think(made, question)
        torch.testing.assert_close(got.thought_in[i, 1:, 0], thoughts, **near)
        torch.testing.assert_close(got.thought_out[i, :, 0], states[:, -1], **near)
        torch.testing.assert_close(got.x[i, :, :-1], states[:, 1:-1], **near)
        assert got.answers.ids[i] == answer
    assert model.spec.n_thoughts == made.n_thoughts


def edit(change):
    """A mutation of the tensors of the checkpoint's own file."""

    def mutate(made):
        tensors = load_file(made.file) if made.file.suffix == ".safetensors" else torch.load(made.file)
        changed = change(dict(tensors))
        save_file(changed, made.file) if made.file.suffix == ".safetensors" else torch.save(
            changed, made.file
        )

    return mutate


def without(*parts):
    return edit(lambda t: {k: v for k, v in t.items() if not any(part in k for part in parts)})


def to(part, change):
    return edit(lambda t: {k: change(v).contiguous() if part in k else v for k, v in t.items()})


def row_lost(n):
    return edit(lambda t: {k: v[:-1] if len(v) == n else v for k, v in t.items()})


def row_more(n):
    return edit(lambda t: {k: torch.cat([v, v[:1]]) if len(v) == n else v for k, v in t.items()})


def nothing(made):
    """What is wrong is what is given."""


def renamed(old, new):
    return edit(lambda t: {k.replace(old, new): v for k, v in t.items()})


def said(file, **table):
    """A mutation of a table beside the checkpoint."""

    def mutate(made):
        at = made.file.parent / file
        at.write_text(json.dumps({**(json.loads(at.read_text() or "{}") if at.is_file() else {}), **table}))

    return mutate


def inserted(**table):
    """A mutation of the settings that adaLR keeps within config.json."""

    def mutate(made):
        file = made.folder / "config.json"
        whole = json.loads(file.read_text())
        whole["_inserted_LatentThinkingModelSettings"] |= table
        file.write_text(json.dumps(whole))

    return mutate


def gone(*files):
    return lambda made: [file.unlink() for name in files for file in made.file.parent.glob(name)]


def cut(made, name=None):
    file = made.file.parent / name if name else made.file
    file.write_bytes(file.read_bytes()[:-200])


def index(change):
    """A mutation of the index of shards."""

    def mutate(made):
        table = json.loads(made.file.read_text())
        change(table["weight_map"])
        made.file.write_text(json.dumps(table))

    return mutate


def listed_twice(made):
    line = made.file.read_text()
    made.file.write_text(line.replace('{"weight_map": {', '{"weight_map": {"prj.1.bias": "nowhere", ', 1))


def lost_in_one_block(tensors):
    name = "h.0.mlp.c_fc"
    kept = {k: v for k, v in tensors.items() if f"{name}.lora_" not in k}
    return {k.replace(f"{name}.base_layer.", f"{name}."): v for k, v in kept.items()}


def nan(x):
    return torch.where(torch.arange(x.numel()).view(x.shape) == 3, torch.nan, x)


def twin(made):
    (made.file.parent / "checkpoint_34").write_bytes(made.file.read_bytes())


def on_llama(made):
    base_in(made.base.parents[2], "llama", weights=True)
    said("adapter_config.json", base_model_name_or_path="meta-llama/Llama-3.2-1B-Instruct")(made)


CODI, COCONUT, MODES, OWN, ADAPTER = "stated settings", "coconut", "three modes", "own tokenizer", "adapter"
MUTATIONS = [
    ("row lost", MODES, to("wte.weight", lambda x: x[:-1]), {}, r"wte|embedding rows|lm_head"),
    ("rows lost", MODES, row_lost(288), {}, "embedding rows"),
    ("row too many", MODES, row_more(288), {}, "embedding rows"),
    ("not of three modes", MODES, nothing, {"multimode": False}, "embedding rows"),
    ("row lost, CODI", CODI, row_lost(289), {}, "embedding rows"),
    ("row lost, own tokens", OWN, row_lost(288), {}, "no row|rows were lost"),
    ("row too many, own tokens", OWN, row_more(288), {}, "288 tokens.*289 embedding rows"),
    ("own tokens lost", OWN, gone("*token*"), {}, "embedding rows"),
    (
        "ids swapped",
        OWN,
        nothing,
        {"bot_id": 287, "eot_id": 286},
        "287 and 286 by what is given, but 286 and 287 by",
    ),
    (
        "ids swapped in a file",
        OWN,
        said("codi_config.json", bocot_id=287, eocot_id=286),
        {},
        "287 and 286 by codi_config.json",
    ),
    (
        "ids swapped in a table",
        OWN,
        said("added_tokens.json", **{"<|bocot|>": 287, "<|eocot|>": 286}),
        {},
        "by added_tokens.json",
    ),
    ("one id", MODES, nothing, {"bot_id": 286}, "bot_id alone"),
    ("one id twice", MODES, nothing, {"bot_id": 286, "eot_id": 286}, "both 286"),
    ("id of no row", MODES, nothing, {"bot_id": 286, "eot_id": 288}, "288, but the checkpoint has 288"),
    ("id of a word", MODES, nothing, {"bot_id": 100, "eot_id": 287}, "id 100, which is"),
    ("id of eos", MODES, nothing, {"bot_id": 286, "eot_id": 2}, "id 2, which is"),
    ("projection lost", CODI, without("prj."), {}, "no projection"),
    ("projection layer lost", CODI, without("prj.3.bias"), {}, r"prj\.3\.bias"),
    ("projection transposed", CODI, to("prj.3.weight", lambda x: x.T), {}, r"prj\.3\.weight is \[24, 32\]"),
    (
        "projection stated without norm",
        CODI,
        said("codi_config.json", prj_no_ln=True),
        {},
        r"prj\.ln is there",
    ),
    ("projection refused", CODI, nothing, {"projection": False}, "has a projection"),
    ("nan", CODI, to("ln_f.weight", nan), {}, r"ln_f\.weight has values that are not finite"),
    ("truncated", CODI, cut, {}, "is damaged"),
    ("empty", CODI, lambda made: made.file.write_bytes(b""), {}, "is damaged"),
    ("key renamed", CODI, renamed("h.1.ln_1.bias", "h.1.ln_9.bias"), {}, r"ln_9\.bias"),
    ("key lost", CODI, without("h.1.ln_2.bias"), {}, r"ln_2\.bias"),
    (
        "foreign key",
        CODI,
        edit(lambda t: t | {"extra.weight": torch.ones(2)}),
        {},
        r"extra\.weight is not part of CODI",
    ),
    ("adapters lost", CODI, without("lora_"), {}, "not one LoRA key"),
    ("B lost", CODI, without("h.0.mlp.c_fc.lora_B"), {}, r"c_fc\.lora_B\.default\.weight is missing"),
    ("one adapter lost", CODI, edit(lost_in_one_block), {}, r"h\.0\.mlp\.c_fc has no LoRA"),
    ("rank of A and B", CODI, to("h.0.mlp.c_fc.lora_A", lambda x: x[:-1]), {}, r"c_fc as A \[r, in\] and B"),
    ("A transposed", CODI, to("h.0.attn.c_attn.lora_A", lambda x: x.T), {}, "c_attn"),
    (
        "two settings",
        CODI,
        said("training_args.json", num_latent=4),
        {},
        "n_thoughts = 3, and training_args.json says num_latent = 4",
    ),
    ("eos of another kind", CODI, said("codi_config.json", remove_eos="no"), {}, "remove_eos is 'no'"),
    ("no number", CODI, said("codi_config.json", num_latent=2.5), {}, "num_latent is '2.5'"),
    (
        "stated base of another kind",
        CODI,
        said("codi_config.json", base_model="meta-llama/Llama-3.2-1B-Instruct"),
        {},
        "base=",
    ),
    ("shard lost", "shards", gone("*-00002-of*"), {}, "lists 2 shards, and model-00002-of-00002"),
    (
        "shard truncated",
        "shards",
        lambda made: cut(made, "model-00001-of-00002.safetensors"),
        {},
        "00001-of-00002.safetensors is damaged",
    ),
    (
        "key of the index not in its shard",
        "shards",
        index(lambda m: m.update({"prj.9.bias": "model-00001-of-00002.safetensors"})),
        {},
        r"prj\.9\.bias is not in it",
    ),
    (
        "key of a shard not in the index",
        "shards",
        index(lambda m: m.pop("prj.1.bias")),
        {},
        r"prj\.1\.bias is in it unlisted",
    ),
    ("key listed twice", "shards", listed_twice, {}, r"lists prj\.1\.bias twice"),
    ("index damaged", "shards", lambda made: made.file.write_text("{"), {}, "index.json is damaged"),
    (
        "whole and shards",
        "shards",
        lambda made: save_file({"a": torch.ones(1)}, made.folder / "model.safetensors"),
        {},
        "several checkpoints",
    ),
    (
        "adapter without config",
        ADAPTER,
        gone("adapter_config.json"),
        {},
        "adapter alone.*no adapter_config.json",
    ),
    (
        "adapter on another base",
        ADAPTER,
        nothing,
        {"base": "openai-community/gpt2-medium"},
        "another model .gpt2-medium.",
    ),
    (
        "adapter for another base",
        ADAPTER,
        on_llama,
        {},
        "has LoRA of transformer.*meta-llama.* has no such module",
    ),
    (
        "adapter of another rank",
        ADAPTER,
        said("adapter_config.json", r=8),
        {},
        "has rank 4, but adapter_config.json says r = 8",
    ),
    ("a target fewer", ADAPTER, without("c_fc.lora_"), {}, r"mlp\.c_fc has no LoRA"),
    (
        "a target too many",
        ADAPTER,
        said("adapter_config.json", target_modules=["c_attn", "c_proj"]),
        {},
        "c_fc has LoRA, but is not among target_modules",
    ),
    ("alpha pattern", ADAPTER, said("adapter_config.json", alpha_pattern={"c_fc": 2}), {}, "alpha_pattern"),
    ("dora", ADAPTER, said("adapter_config.json", use_dora=True), {}, "use_dora"),
    ("another kind of adapter", ADAPTER, said("adapter_config.json", peft_type="LOHA"), {}, "kind LOHA"),
    ("pissa", ADAPTER, said("adapter_config.json", init_lora_weights="pissa_niter_4"), {}, "pissa"),
    (
        "module to save lost",
        ADAPTER,
        said("adapter_config.json", modules_to_save=["score"]),
        {},
        "score is among modules_to_save",
    ),
    ("projection file lost", ADAPTER, gone("prj*"), {}, "no projection"),
    ("adapter's embedding lost", ADAPTER, without("wte", "lm_head"), {}, "rows"),
    (
        "base weights lost",
        ADAPTER,
        lambda made: (made.base / "model.safetensors").unlink(),
        {},
        "gpt2 is no causal",
    ),
    ("filter lost", "adaptive", without("filter.norm.bias"), {}, r"recurrent_filter\.norm\.bias is missing"),
    (
        "filter of another kind",
        "adaptive",
        inserted(recurrent_filter_mode="linear_ln"),
        {},
        "recurrent_filter",
    ),
    ("soft filter", "adaptive", inserted(recurrent_filter_mode="SRE"), {}, "mode = SRE is not read"),
    ("a thought added to the end", "adaptive", inserted(add_latent_to_end=True), {}, "add_latent_to_end"),
    ("ids of config and tokenizer", "adaptive", inserted(start_token_id=287), {}, "by config.json"),
    (
        "Coconut's copy differs",
        COCONUT,
        to("embedding.weight", lambda x: x + 1),
        {},
        "embedding.weight differs",
    ),
    ("Coconut's key lost", COCONUT, without("ln_f.bias"), {}, r"ln_f\.bias"),
    ("Coconut's rows", COCONUT, row_lost(289), {}, "embedding rows"),
    ("only words", COCONUT, renamed("base_causallm.", ""), {}, "language model, as Coconut"),
    (
        "pause lost",
        "pause control",
        without("pause_embedding"),
        {},
        "feedback_mode = pause_multipass, but pause_embedding is not",
    ),
    (
        "pause in a Coconut",
        "sub-folder",
        edit(lambda t: t | {"pause_embedding": torch.ones(32)}),
        {},
        "feedback_mode = continuous",
    ),
    (
        "pause of another width",
        "pause control",
        to("pause_embedding", lambda x: x[:-1]),
        {},
        r"pause_embedding is \[31\]",
    ),
]


@pytest.mark.parametrize(
    ("layout", "mutate", "given", "says"), [one[1:] for one in MUTATIONS], ids=[one[0] for one in MUTATIONS]
)
def test_a_mutation_is_refused_by_a_line_that_names_the_cause(hub, layout, mutate, given, says):
    torch.manual_seed(0)
    made = LAYOUTS[layout](hub)
    mutate(made)
    with pytest.raises(ThoughtlensError, match=says) as refused:
        load(made.name, **options(layout) | given)
    assert "\n" not in str(refused.value)


def test_several_checkpoints_are_listed_and_none_is_taken(hub):
    made = LAYOUTS[COCONUT](hub)
    twin(made)
    repository = "connordilgren/gpt2-prosqa-coconut"
    with pytest.raises(
        NotThereError, match=rf"^{repository} has several .*give one of them, {repository}/checkpoint_34"
    ):
        load(repository)
    assert load(f"{repository}/checkpoint_34").settings["base"] == "openai-community/gpt2"
    LAYOUTS["sub-folder"](hub), LAYOUTS["pause control"](hub)
    with pytest.raises(
        NotThereError, match=r"several checkpoints \(coconut/checkpoint_best, pause-multipass/checkp"
    ):
        load("bmarti44/coconut-curriculum-checkpoints", family="coconut")
    for odd in ("no-such", "../../etc", "coconut/checkpoint_7"):
        with pytest.raises(NotThereError, match=r"has no file|expected a file"):
            load(f"bmarti44/coconut-curriculum-checkpoints/{odd}", family="coconut")
    only = load("bmarti44/coconut-curriculum-checkpoints/pause-multipass")
    assert not only.spec.feeds_back and only.spec.control


def test_an_adapter_in_a_folder_of_any_name_is_known_by_its_projection(hub, tmp_path):
    made = LAYOUTS[ADAPTER](hub)
    shutil.copytree(made.file.parent, tmp_path / "mine")
    for name in (tmp_path / "mine", tmp_path / "mine" / made.file.name):
        assert load_model(name, base=made.base).settings["n_thoughts"] == 6
    gone("prj*")(made)
    assert not thinks(made.file.parent.rename(tmp_path / "plain"))


def test_stop_heads_and_training_modules_are_said_and_not_used(hub, capsys):
    made = LAYOUTS[CODI](hub)
    want = collect(load(made.name), QUESTIONS[:1]).x
    edit(lambda t: t | {"stop_head.weight": torch.ones(1, 32), "decoder.x": torch.ones(2)})(made)
    model = load(made.name)
    torch.testing.assert_close(collect(model, QUESTIONS[:1]).x, want)
    assert model.dropped == ("decoder.x", "stop_head.weight")
    said = capsys.readouterr().err
    assert (
        "has a stop head (stop_head.* (1 tensors))" in said
        and "training-only modules not used: decoder" in said
    )


def test_what_is_given_against_a_file_is_said(hub, capsys):
    made = LAYOUTS[CODI](hub)
    assert load(made.name, n_thoughts=2).spec.n_thoughts == 2
    assert "n_thoughts=2 as given, though codi_config.json says 3" in capsys.readouterr().err


def test_every_published_figure_has_a_source_and_every_entry_a_family():
    for one in entries():
        assert one.family in ("codi", "coconut", "colar") and one.source
        assert all(0 < figure.accuracy < 1 and figure.source for figure in one.published)
    assert known_accuracy("internlm/SIM_COT-LLaMA3-CODI-8B", "gsm8k:test") == 0.641
    assert known_accuracy("internlm/SIM_COT-LLaMA3-CODI-8B", "svamp:test") is None
    assert known("connordilgren/gpt2-gsm8k-multimode-codi").settings["multimode"]
    assert not known("connordilgren/gpt2-gsm8k-codi").settings["multimode"]
    assert known("zen-E/CODI-gpt2/pytorch_model.bin") == known("zen-E/CODI-gpt2") != known("zen-E")
    assert known("bmarti44/coconut-curriculum-checkpoints/pause-multipass/checkpoint_best").published
    assert known("smollm2-135m") is None


REPOSITORY = [
    "README.md", "codi/config.json", "codi/pytorch_model.bin", "codi/optimizer.pt", "args.yaml",
    "big/model.safetensors.index.json", "big/model-00001-of-00002.safetensors",
    "big/model-00002-of-00002.safetensors", "big/tokenizer.json", "big/other.safetensors",
    "lora/checkpoint-9/adapter_model.safetensors", "lora/checkpoint-9/adapter_config.json",
    "lora/checkpoint-9/prj.pt", "lora/checkpoint-9/scheduler.pt",
    "lora/checkpoint-8/adapter_model.safetensors",
]  # fmt: skip


@pytest.mark.parametrize(
    ("inner", "fetched"),
    [
        ("codi", ["codi/config.json", "codi/pytorch_model.bin", "args.yaml"]),
        ("codi/pytorch_model.bin", ["codi/config.json", "codi/pytorch_model.bin", "args.yaml"]),
        ("big", ["args.yaml", *REPOSITORY[5:9]]),
        ("lora/checkpoint-9", ["args.yaml", *REPOSITORY[10:13]]),
    ],
)
def test_only_the_checkpoint_that_is_meant_is_fetched(monkeypatch, inner, fetched):
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: REPOSITORY)
    assert _wanted("own/name", inner, None) == [name for name in REPOSITORY if name in fetched]
    with pytest.raises(
        NotThereError, match=r"^own/name/lora has several checkpoints \(checkpoint-8/adapter_m"
    ):
        _wanted("own/name", "lora", None)
    with pytest.raises(NotThereError, match="own/name has several checkpoints"):
        _wanted("own/name", "", None)
