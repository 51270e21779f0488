"""Mistakes in what is brought along, in settings and in controls: each is named, its sound twin is not."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.conftest import save_tiny_lm
from tests.planted import planted_sae
from tests.studies.mistakes import (
    OPERATIONS,
    Case,
    assert_told,
    changed,
    directions,
    generated,
    into,
    judged,
    probed,
    text,
    thought_about,
    thoughts_of,
    trained,
    words,
)
from thoughtlens import sae as saes
from thoughtlens.acts.bring.stage import import_activations
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import load_config, validate_config
from thoughtlens.evals.validity.config import GatesConfig
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.studies.sweep import axes

pytestmark = pytest.mark.slow  # fixtures of seconds

CASES: list[Case] = []
planted = into(CASES)


# ---------------------------------------------------------------------- activations of one's own
def vectors(seed: int = 0) -> np.ndarray:
    """[problems, hooks, thoughts, d]."""
    return np.random.default_rng(seed).normal(size=(60, 2, 3, 8)).astype(np.float32)


def brought(root: Path, x: np.ndarray, **settings):
    settings.setdefault("axes", ("problem", "hook", "thought") if x.ndim == 4 else ())
    return import_activations({"x": x, **settings.pop("columns", {})}, root, first_thought=1, **settings)


@planted("two hooks wrote the same layer", r"hooks 0 and 1 hold the same vectors in 180 of 180 rows")
def one_hook_twice(root, wrong):
    x = vectors()
    x[:, 1] = x[:, 0] if wrong else x[:, 1]
    return brought(root, x)


@planted("one thought was written at every step", r"hook 0: 120 of 120 rows repeat the row before them")
def one_thought_always(root, wrong):
    x = vectors()
    x[:, :, 1:] = x[:, :, :1] if wrong else x[:, :, 1:]
    return brought(root, x)


@planted("padded places became rows", r"hook 1: 20 of 180 rows are zeros throughout: .*padding")
def padded(root, wrong):
    x = vectors()
    x[::3, :, 2] *= not wrong
    return brought(root, x)


@planted("rows were normalised before they were saved", r"hook 0: every row has length 1")
def normalised(root, wrong):
    x = vectors()
    return brought(root, x / np.linalg.norm(x, axis=-1, keepdims=True) if wrong else x)


@planted("small numbers were stored in 16 bits", r"180 of 180 rows change by more than 1%.*float32")
def too_small(root, wrong):
    return brought(root, vectors() * (1e-8 if wrong else 1), store_dtype="float16")


@planted("every second row was called an outlier", r"of 180 rows are flagged as outliers")
def half_are_outliers(root, wrong):
    return brought(root, vectors(), outlier_factor=1.01 if wrong else 10.0)


@planted("an array was saved transposed", r"Expected 8 values in the column problem_id")
def transposed(root, wrong):
    x = vectors()[:, 0, 0]
    ids = np.array([f"p{i}" for i in range(60)])
    return brought(root, x.T.copy() if wrong else x, columns={"problem_id": ids})


@planted("two files number their problems from 0", r"each row once, got problem 'p0'.* more often")
def overlapping_ids(root, wrong):
    x = vectors()[:, 0, 0]
    ids = np.array([f"p{i % 30 if wrong else i}" for i in range(60)])
    return brought(root, x, columns={"problem_id": ids, "thought_idx": np.ones(60, int)})


@planted("the column of groups is constant", r"split test has no rows")
def one_group(root, wrong):
    ids = np.array([f"p{i}" for i in range(60)])
    groups = np.array(["all"] * 60) if wrong else ids
    return brought(root, vectors()[:, 0, 0], columns={"problem_id": ids, "group_id": groups})


@planted("texts of the test set were trained on", r"30 groups have problems in several splits")
def texts_of_the_test(root, wrong):
    columns = {
        "problem_id": [f"p{i}" for i in range(60)],
        "question": [f"say {words(i % 30 if wrong else i)}" for i in range(60)],
        "split": ["train"] * 30 + ["test"] * 30,
    }
    x = vectors()[:, 0, 0]
    return brought(root, x, columns={name: np.array(values) for name, values in columns.items()})


# ---------------------------------------------------------------------- training
@planted("a learning rate at which nothing is learned", r"learned nothing or little, .* rate of 1e-09")
def learns_nothing(root, wrong):
    return trained(root, text(root), lr=1e-9 if wrong else 1e-2, epochs=30.0)


@planted("an epoch was taken for an hour: a fifth of one", r"128 training vectors .*fewer than 10 per dim")
def fraction_of_an_epoch(root, wrong):
    return trained(root, text(root), epochs=0.2 if wrong else 2.0)


@planted("most of a dictionary is dead", r"\d+ of 400 latents fire on none of 300 held-out vectors")
def mostly_dead(root, wrong):
    kind = saes.TopKConfig(d_sae=400 if wrong else 16, k=16, auxk=0.0)
    return trained(root, text(root), sae=kind, epochs=10.0, validation_split="test")


@planted("a grid names one value twice", r"sae\.k: expected different values between the commas, got 4, 8, 4")
def value_twice(root, wrong):
    axes.split_overrides(["sae.k=4,8,4" if wrong else "sae.k=4,8,16"])


# ---------------------------------------------------------------------- labels and permutations
def interpreted(root: Path, **changes):
    planted_sae(root / "sae")
    table = {"acts": root / "acts", "sae": root / "sae", "n_permutations": 20, "labels": ("operation",)}
    return interpret(InterpretConfig(**table | changes), root / "interpret")


@planted("too few permutations for any finding", r"n_permutations=5 give no p below 0\.17")
def few_permutations(root, wrong):
    thoughts_of(root)
    return interpreted(root, n_permutations=5 if wrong else 19)


@planted(
    "one label was tested under two names", r"labels operation, kind divide the problems in the same way"
)
def label_under_two_names(root, wrong):
    other = [f"is {name}" for name in OPERATIONS]
    other = other if wrong else np.random.default_rng(5).permutation(other).tolist()
    thoughts_of(root, labels={"operation": OPERATIONS, "kind": other})
    return interpreted(root, labels=("operation", "kind"))


@planted("every problem has the same group (interpret)", r"its 90 problems are in 1 groups, .*shuffled whole")
def one_group_interpreted(root, wrong):
    thoughts_of(root, groups=["g"] * 90 if wrong else None)
    return interpreted(root)


@planted("the label is the split", r"the place in the file alone tells 100%")
def label_is_split(root, wrong):
    splits = ["train"] * 45 + ["test"] * 45
    thoughts_of(root, labels={"operation": splits if wrong else OPERATIONS}, splits=splits)
    return interpreted(root)


@planted(
    "texts were cut to what they all begin with", r"got 1 of 90 units, where near copies .* count as one"
)
def cut_to_the_beginning(root, wrong):
    asked = [
        ("the same long beginning of every text " + words(i))[: 30 if wrong else None] for i in range(90)
    ]
    thoughts_of(root, questions=asked)
    return probed(root)


@planted("copies differ in how their accents are written", r"45 units are copies of another")
def accents(root, wrong):
    asked = [f"problème numéro {words(i // 2 if wrong else i)}" for i in range(90)]
    forms = ("NFC", "NFD")
    thoughts_of(root, questions=[unicodedata.normalize(forms[i % 2], q) for i, q in enumerate(asked)])
    return probed(root)


# ---------------------------------------------------------------------- problems and models
def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@planted("one question has several right answers", r"29 questions stand there .* different answers")
def contradicted(root, wrong):
    table = generated(60)
    asked = table["question"].to_pylist()
    asked = [asked[i // 2 * 2 if wrong else i] for i in range(60)]
    return thought_about(root, with_column(table, "question", asked))


@planted("no problem was kept for the test", r"no problem is in split test")
def all_for_training(root, wrong):
    splits = ["train"] * 60 if wrong else ["train"] * 30 + ["test"] * 30
    return thought_about(root, with_column(generated(60), "split", splits))


@planted("a control is the model itself", r"no_cot: codi-tiny is the model to judge")
def control_is_itself(root, wrong):
    load_config(GatesConfig, {"no_cot": "codi-tiny" if wrong else "other"})


@planted("the rows of the vocabulary are in another order", r"no better than a blind guess among all")
def another_vocabulary(root, wrong):
    save_tiny_lm(root / "model")
    model = LlamaForCausalLM.from_pretrained(root / "model")
    with torch.no_grad():  # it says again what it reads
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        words = model.get_input_embeddings().weight
        head = torch.nn.Linear(*words.T.shape, bias=False)
        head.weight.copy_((words / words.norm(dim=1, keepdim=True).clamp_min(1e-9)).roll(int(wrong), 0) * 9)
    model.lm_head, model.config.tie_word_embeddings = head, False
    model.save_pretrained(root / "model")
    said = ["".join("abcdefgh"[j] * (5 + i % 7) for j in range(i % 5, 8)) for i in range(40)]
    (root / "t.txt").write_text("\n\n".join(said))
    table = {
        "model": {"name": str(root / "model"), "dtype": "float32"},
        "problems": {"source": str(root / "t.txt"), "test": 0.5},
        "hook_names": ["layers.1:out"],
        "context_length": 64,
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    sae = saes.create(saes.TopKConfig(d_sae=64, k=8, normalization="none"), 32, seed=0)
    sae.hook_names, sae.provenance = ["layers.1:out"], {"split": "train", "thoughts": None}
    saes.save(sae, root / "sae")
    return judged(root, root / "acts", root / "sae", force=True, ce_tokens=200)


# ---------------------------------------------------------------------- interventions
@planted("a dose was named twice", r"doses: expected different ones, got \[1\.0, 1\.0\]")
def dose_twice(root, wrong):
    doses = (1.0, 1.0) if wrong else (1.0, 2.0)
    return changed(root, "steer", directions=directions(root, 96), doses=doses)


@planted("a latent was named twice", r"latents: expected different ones, got \[5, 5\]")
def latent_twice(root, wrong):
    sae = saes.create(saes.ReLUConfig(d_sae=192, normalization="none"), 96, seed=0)
    sae.hook_names = ["layers.1:out"]
    saes.save(sae, root / "sae")
    return changed(root, "edit_latents", sae=root / "sae", latents=(5, 5) if wrong else (5, 6), scale=0.0)


@planted("latents are multiplied by 1", r"scale=1 changes nothing")
def times_one(root, wrong):
    sae = saes.create(saes.ReLUConfig(d_sae=192, normalization="none"), 96, seed=0)
    sae.hook_names = ["layers.1:out"]
    saes.save(sae, root / "sae")
    return changed(root, "edit_latents", sae=root / "sae", latents=(5, 6), scale=1.0 if wrong else 0.0)


@planted("twins ask what their problems ask", r"60 of 60 twins ask what their problem asks")
def own_twins(root, wrong):
    root.mkdir()
    first, second = arithmetic.twins(60, seed=0, split="test", change="start", p=arithmetic.P)
    for name, table in (("problems", first), ("twins", first if wrong else second)):
        pq.write_table(table, root / f"{name}.parquet")
    source = {"kind": "problems", "source": str(root / "problems.parquet")}
    return changed(root, "patch", twins=str(root / "twins.parquet"), problems=source)


@pytest.mark.parametrize("case", CASES, ids=[case.mistake for case in CASES])
def test_a_mistake_is_named_and_its_sound_twin_is_not(case: Case, tmp_path: Path) -> None:
    assert_told(case, tmp_path)
