"""Small things that stand for large ones while commands run: models by their hub ids, files, runs."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from tests.conftest import tiny_tokenizer
from tests.models.thought import own_model
from tests.models.thought.fake import make_codi
from tests.models.thought.native_layout import make_colar, make_native

SMALL = [
    "train.batch_size=64", "train.epochs=1", "train.evaluations=2", "validate.force=true",
    "validate.baseline_rows=400", "validate.ce_tokens=60", "validate.answer_problems=8",
    "interpret.n_permutations=20", "interpret.text_permutations=5", "classify.max_units=60",
    "classify.folds=2", "classify.inner_folds=2", "classify.c_grid=1.0", "classify.n_permutations=20",
    "classify.per_cell=false", "lens.fit_steps=2", "lens.n_problems=30", "lens.n_fit=60",
    "explain.n_latents=1",
    "explain.n_resamples=50", "explain.min_units=2", "explain.min_held_units=2", "explain.methods=token",
    "explorer.n_problems=5",
]  # fmt: skip
"""Settings that make any run small."""
PROBLEMS = [
    "problems.n=240", "train.members=pooled,per_layer", "sae.d_sae=208", "sae.k=4", "effects.n=4",
    "effects.edits=['ablate resample','patch op1']", "effects.max_new_tokens=2", *SMALL,
]  # fmt: skip
TEXT = [
    "model=tiny-llama", "model.dtype=float32", "extract.hook_names=layers.1:out", "extract.context_length=64",
    "extract.max_windows=1", "extract.max_tokens=4000", "problems.test=0.2", "sae.d_sae=208", "sae.k=4",
    "classify.data=labelled.jsonl", *SMALL,
]  # fmt: skip
LOOK = [
    "extract.max_tokens=6000",
    *(one for one in SMALL if not one.startswith(("train.", "classify."))),
]  # fmt: skip
"""What makes a look at an SAE small."""
SUITE = "datasets=113_movie_sent"
KEPT = ("model", "problems", "extract", "train")
"""Tables that a sweep takes too."""
GSM8K = [
    "problems.files=test.jsonl,train.jsonl", "extract.max_new_tokens=2", "train.members=pooled",
    "classify.members=pooled", "validate.baseline_rows=4000",
]  # fmt: skip
"""What problems of GSM8K need here, and a model of many layers."""
RECIPES = {
    "pilot": PROBLEMS,
    "text-demo": TEXT,
    "mine.toml": TEXT,
    "seed-codi": [*(one for one in PROBLEMS[2:] if not one.startswith("sae.k=")), *GSM8K],
    "seed-pythia": [one for one in TEXT if not one.startswith(("model", "classify"))],
}
"""What makes each recipe small."""
REPLAY = ["replay.n_per_class=20", "replay.epochs=1", "replay.folds=2", "replay.expansion=1"]


def recipe(words: list[str]) -> list[str]:
    """What makes a command on a recipe small."""
    extra = {one.partition("=")[0]: one for one in RECIPES[words[1]]}
    if words[0] in ("sweep", "grid"):
        extra = {
            key: one
            for key, one in extra.items()
            if key.startswith(("model", "problems", "extract", "train."))
        }
    if "--suite" in words:
        extra["suite.datasets"] = f"suite.{SUITE}"
    if "problems=gsm8k" in words:
        extra |= {one.partition("=")[0]: one for one in GSM8K}
    if any(word.startswith("classify.target=v") for word in words):
        extra |= {
            "classify.max_units": "classify.max_units=240",
            "classify.split": "classify.split=all",
            "classify.classes": "classify.classes=14,16,18",
        }
    if "seed_protocol=true" in words or words[1] == "seed-codi":
        extra |= {one: one for one in REPLAY}
    return list(extra.values())


def hub(root: Path) -> None:
    """A cache of the hub with random models of a few thousand weights in the layout of the named ones."""
    made = root / "made"
    tokenizer = tiny_tokenizer()
    size = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2}
    neox = GPTNeoXConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=6, num_attention_heads=2,
        max_position_embeddings=256, **size,
    )  # fmt: skip
    gemma = Gemma2Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=21, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=256, pad_token_id=0, **size,
    )  # fmt: skip
    gpt2 = GPT2Config(n_embd=32, n_layer=8, n_head=2, n_positions=256, **size)
    for name, model in (
        ("EleutherAI/pythia-70m", GPTNeoXForCausalLM(neox)),
        ("gpt2", GPT2LMHeadModel(gpt2)),
        ("google/gemma-2-2b", Gemma2ForCausalLM(gemma)),
    ):
        model.save_pretrained(made / name)
        tokenizer.save_pretrained(made / name)
        _cache(root, name, made / name)
    for repo, folder, write in (
        ("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.6.hook_resid_pre", _of_gpt2),
        ("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", gemma_scope),
    ):
        write(made / repo / folder)
        _cache(root, repo, made / repo, folders=True)
    for family, name, base in (
        ("llama", "zen-E/CODI-llama3.2-1b-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("gpt2", "zen-E/CODI-gpt2", "openai-community/gpt2"),
    ):
        fake = make_codi(made / f"codi-{family}", family, n_layers=15 if family == "llama" else 3)
        _cache(root, base, fake.base)
        _cache(root, name, fake.file.parent, only=fake.file.name)

    for kind in ("codi", "coconut", "colar"):
        folder = made / f"latent-tts-{kind}"
        made_here = make_colar(folder) if kind == "colar" else make_native(folder, kind)
        _cache(root, f"ModalityDance/latent-tts-{kind}", made_here.folder)


def _of_gpt2(folder: Path) -> None:
    sae_lens(folder, 32, model_name="gpt2-small", hook_name="blocks.6.hook_resid_pre")


def sae_lens(folder: Path, d_in: int, **said: object) -> Path:
    """A TopK SAE in SAELens's layout."""
    folder.mkdir(parents=True)
    W = torch.nn.functional.normalize(torch.randn(128, d_in, generator=torch.Generator().manual_seed(0)))
    t = {"W_enc": W.T.contiguous(), "W_dec": W, "b_enc": torch.zeros(128), "b_dec": torch.zeros(d_in)}
    save_file(t, folder / "sae_weights.safetensors")
    known = {"sae_lens_version": "6.54.12", "prepend_bos": True, "context_size": 64} | said
    table = {"architecture": "topk", "d_in": d_in, "d_sae": 128, "k": 4, "dtype": "float32"}
    (folder / "cfg.json").write_text(json.dumps(table | {"metadata": known}))
    return folder


def gemma_scope(folder: Path) -> None:
    """A JumpReLU SAE in Gemma Scope's layout."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    shapes = {"W_enc": (16, 64), "b_enc": 64, "W_dec": (64, 16), "b_dec": 16, "threshold": 64}
    np.savez(folder / "params.npz", **{k: np.abs(numbers.normal(size=n)) for k, n in shapes.items()})


def _cache(root: Path, name: str, made: Path, only: str = "*", *, folders: bool = False) -> None:
    folder = root / f"models--{name.replace('/', '--')}"
    commit = "0" * 40
    shutil.copytree(
        made,
        folder / "snapshots" / commit,
        ignore=None if folders else lambda at, names: [n for n in names if (Path(at) / n).is_dir()],
    )
    for file in (folder / "snapshots" / commit).iterdir():
        if file.is_file() and only != "*" and file.name != only:
            file.unlink()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


def files(root: Path, model: Path) -> None:
    """What pages take for granted: a model, an SAE, texts, labelled texts, vectors and GSM8K's two files."""
    shutil.copytree(model, root / "tiny-llama")
    own_model.write(root)
    gemma_scope(root / "layer_20" / "width_16k" / "average_l0_71")
    sae_lens(root / "my_sae", 32, model_name="tiny-llama", hook_name="blocks.1.hook_resid_post")
    numbers = np.random.default_rng(0)
    label = numbers.integers(3, size=600)
    x = numbers.normal(size=(600, 2, 6, 32)) + 4 * numbers.normal(size=(3, 32))[label][:, None, None]
    kinds = np.array(["addition", "multiplication", "mixed"])[label]
    np.savez(root / "vectors.npz", x=x.astype("float32"), operation=kinds)
    np.save(root / "vectors.npy", numbers.normal(size=(3, 96)))  # as wide as codi-tiny
    rng = random.Random(0)
    sea, land = ["whales", "crabs", "tides", "boats"], ["horses", "hills", "roads", "wheat"]
    rows = []
    for i in range(120):
        words = rng.choices(sea if i % 2 else land, k=12)
        rows.append(
            {"text": f"Text {i} tells of {' and '.join(words)}.", "label": "sea" if i % 2 else "land"}
        )
    for name in ("labelled.jsonl", "my_texts.jsonl"):
        (root / name).write_text("\n".join(map(json.dumps, rows)), "utf-8")
    for split, n in (("test", 90), ("train", 600)):
        lines = [json.dumps(_problem(rng, i)) for i in range(n)]
        (root / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")


def _problem(rng: random.Random, i: int) -> dict[str, str]:
    a, b = rng.randint(2, 30), rng.randint(2, 9)
    sums = {
        "+": f"They have {a} + {b} = <<{a}+{b}={a + b}>>{a + b} in total.\n#### {a + b}",
        "*": f"That is {a} * {b} = <<{a}*{b}={a * b}>>{a * b} times.\n#### {a * b}",
        "both": f"First {a} * {b} = <<{a}*{b}={a * b}>>{a * b} times, then {a * b} + 1 = "
        f"<<{a * b}+1={a * b + 1}>>{a * b + 1} in total.\n#### {a * b + 1}",
    }
    return {
        "question": f"Ann has {a} eggs, Bob {b} (case {i}). How many?",
        "answer": list(sums.values())[i % 3],
    }
