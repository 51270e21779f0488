"""Mistakes that studies really make: each is refused in one line or flagged, its sound twin passes without.

Every case is one study, done wrong and done right; they differ in the one thing that its sentence names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.acts import small
from tests.conftest import save_tiny_lm
from tests.evals.reconstruction import planted as texts
from tests.planted import D, planted_sae
from tests.studies.mistakes import (
    OPERATIONS,
    Case,
    N,
    assert_told,
    changed,
    claims,
    claims_of_store,
    compared,
    directions,
    generated,
    interpreted,
    into,
    judged,
    probed,
    rows_of,
    stored,
    text,
    thought_about,
    thoughts_of,
    trained,
    words,
)
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.reader import verify as verify_store
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import load_config, validate_config
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.stage import lens
from thoughtlens.models.hf.load import load as load_model
from thoughtlens.numerics.stats.verdicts import compare, compare_values
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.studies import pipeline

pytestmark = pytest.mark.slow  # fixtures of seconds

CASES: list[Case] = []


planted = into(CASES)


# ---------------------------------------------------------------------- rows and tables of a store


@planted(
    "one problem overflowed to NaN and its row was kept",
    r"got NaN at hook layers\.2:out, row 30, problem 'p4'",
)
def nan(root, wrong):
    x = rows_of()
    x["layers.2:out"][30, 1] = float("nan") if wrong else 1.0
    stored(root, x)


@planted(
    "massive activations were stored as float16", r"within \+-65504 for dtype=float16, got 90000 .*bfloat16"
)
def overflow(root, wrong):
    x = rows_of()
    x["layers.1:out"][3, 0] = 9e4
    stored(root, x, dtype="float16" if wrong else "bfloat16")


@planted(
    "activations were rounded to whole numbers by a cast",
    r"layers\.1:out as floats \[70, 5\], got torch.int64",
)
def mixed_types(root, wrong):
    x = rows_of()
    stored(root, x | {"layers.1:out": x["layers.1:out"].long() if wrong else x["layers.1:out"].half()})


@planted(
    "the layers' rows were cut at different lengths",
    r"layers\.2:out as floats \[70, 5\], got torch.float32 \[69, 5\]",
)
def cut(root, wrong):
    x = rows_of()
    stored(root, x | {"layers.2:out": x["layers.2:out"][: 69 if wrong else 70]})


@planted(
    "a join dropped problems that have rows",
    r"every problem of the store's rows in the problems table, 1 are missing, the first is 'p9'",
)
def inner_join(root, wrong):
    writer = StoreWriter(root, small.meta())
    writer.append(rows_of(), small.columns("thoughts", 0, 70))
    writer.finish(small.problems(70).slice(0, 9 if wrong else 10))


@planted("a join doubled a problem", r"every problem_id once, got 'p0'")
def outer_join(root, wrong):
    ids = [f"p{i}" for i in range(10)]
    stored(root, rows_of(), problem_id=["p0", *ids[:-1]] if wrong else ids)


@planted(
    "a store was copied while it was being written",
    r"shards/00000\.safetensors has 2944 bytes, expected 2984",
)
def half_copied(root, wrong):
    stored(root / "acts", rows_of())
    shutil.copytree(root / "acts", root / "copy")
    shard = next((root / "copy" / "shards").iterdir())
    if wrong:
        shard.write_bytes(shard.read_bytes()[:-40])
    verify_store(root / "copy")


@planted("thoughts were counted from 1", r"got \[7\]: it has thoughts \[0, 1")
def counted_from_one(root, wrong):
    stored(root, rows_of())
    ActivationStore.open(root).view(thoughts=[1, 7] if wrong else [0, 6])


@planted("the split's name was misspelt", r"split='tset'.* splits train \(6\)")
def misspelt(root, wrong):
    stored(root, rows_of())
    ActivationStore.open(root).view(split="tset" if wrong else "test")


# ---------------------------------------------------------------------- an SAE and its rows
NOTHING = r"explains no more than (a constant|an SAE with random directions) would"


@planted(
    "rows were split at random instead of documents",
    r"\d+ groups of problems are both in 'test' and in the training split",
)
def split_by_row(root, wrong):
    groups = [f"d{i // 4 if wrong else i}" for i in range(N // 10)]
    acts = text(root, groups=groups)
    return judged(root, acts, texts.oracle(root / "sae", acts))


@planted(
    "the SAE was judged on the rows that it was trained on", r"split 'train' is what the SAE was trained on"
)
def judged_on_training(root, wrong):
    acts = text(root)
    return judged(root, acts, texts.oracle(root / "sae", acts), split="train" if wrong else "test")


@planted("the SAE of another layer", r"trained on 'layers\.1:out' but .* holds layers\.0:out")
def another_layer(root, wrong):
    acts = text(root)
    return judged(
        root, acts, texts.oracle(root / "sae", acts, hooks=texts.HOOKS[1:] if wrong else texts.HOOKS[:1])
    )


@planted("the SAE of another model of the same width", r"model with digest b+, .* holds a+")
def another_model(root, wrong):
    acts = text(root, meta={"model_digest": "a" * 64})
    sae = texts.oracle(root / "sae", acts, model_digest=("b" if wrong else "a") * 64)
    return judged(root, acts, sae)


@planted("latents were read with the SAE of another model of the same name", r"model with digest b+.* a+")
def another_revision(root, wrong):
    thoughts_of(root)
    planted_sae(root / "sae")
    claims(root / "sae", model_digest=("b" if wrong else "a") * 64)
    claims_of_store(root / "acts", model_digest="a" * 64)
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", n_permutations=20, labels=("operation",))
    return interpret(cfg, root / "out")


@planted("a probe on latents of the SAE of another model of the same name", r"model with digest b+.* a+")
def another_revision_probed(root, wrong):
    thoughts_of(root)
    planted_sae(root / "sae")
    claims(root / "sae", model_digest=("b" if wrong else "a") * 64)
    claims_of_store(root / "acts", model_digest="a" * 64)
    return probed(root)


@planted("an imported SAE of the layer before", NOTHING)
def layer_off_by_one(root, wrong):
    x = {
        hook: texts.codes(N, seed=i) @ other
        for i, (hook, other) in enumerate(zip(texts.HOOKS, (texts.atoms(), texts.atoms(5)), strict=True))
    }
    acts = texts.write(root / "acts", x)
    return judged(
        root, acts, texts.oracle(root / "sae", acts, hooks=texts.HOOKS[1:] if wrong else texts.HOOKS[:1])
    )


@planted("rows were normalised, and the SAE was trained on them as they were", NOTHING)
def normalised_twice(root, wrong):
    acts = text(root, scale=30.0 if wrong else 1.0)
    sae = texts.oracle(root / "sae", acts)
    if wrong:  # it multiplies its rows by 30 a second time
        loaded = saes.load(sae)
        with torch.no_grad():
            loaded.W_dec *= 30.0
        saes.save(loaded, sae)
    return judged(root, acts, sae)


@planted("the SAE was saved before it was trained", NOTHING)
def untrained(root, wrong):
    acts = text(root)
    texts.oracle(root / "sae", acts)
    if wrong:
        loaded = saes.load(root / "sae")
        new = saes.create(saes.TopKConfig(d_sae=32, k=3, normalization="none"), texts.D, seed=0)
        new.hook_names, new.provenance = loaded.hook_names, loaded.provenance
        saes.save(new, root / "sae")
    return judged(root, acts, root / "sae")


@planted(
    "a dictionary of which nothing fires was called sparse",
    r"explains no more than a constant .*no latent fires",
)
def dead(root, wrong):
    acts = text(root)
    loaded = saes.load(texts.oracle(root / "sae", acts))
    with torch.no_grad():
        loaded.b_enc.fill_(-99.0 if wrong else -0.5)
    saes.save(loaded, root / "sae")
    return judged(root, acts, root / "sae")


@planted("a dictionary that learned the mean alone, on rows that the mean dominates", NOTHING)
def mean_only(root, wrong):
    acts = text(root, offset=20.0)
    loaded = saes.load(texts.oracle(root / "sae", acts))
    with torch.no_grad():
        loaded.b_dec.copy_(ActivationStore.open(acts).view(split="train").read(np.arange(700)).mean(0))
        loaded.b_enc.fill_(-999.0 if wrong else -0.5)
    saes.save(loaded, root / "sae")
    return judged(root, acts, root / "sae")


@planted("so many latents fire that anything would be reconstructed", r"L0 is .* above d_in / 4")
def too_dense(root, wrong):
    acts = text(root)
    loaded = saes.load(texts.oracle(root / "sae", acts))
    with torch.no_grad():
        loaded.b_enc.fill_(5.0 if wrong else -0.5)
    saes.save(loaded, root / "sae")
    return judged(root, acts, root / "sae")


@planted(
    "the activations were extracted anew after the SAE was trained", r"trained on the store .* this one is"
)
def extracted_anew(root, wrong):
    acts = text(root)
    sae = texts.oracle(root / "sae", acts)
    if wrong:
        shutil.rmtree(acts)
        text(root, scale=1.01)
    return judged(root, acts, sae)


@planted("trained on a few vectors of a wide model", r"fewer than 10 per dimension")
def few_vectors(root, wrong):
    acts = text(root, n=200 if wrong else N)
    return trained(root, acts)


@planted("more latents for a row than the dictionary has", r"1 to d_sae = 64 latents per row, got 128")
def k_above_width(root, wrong):
    pipeline.load("pilot", ["sae.d_sae=64", f"sae.k={128 if wrong else 8}"])


@planted("validation problems were trained on", r"split and validation_split are both 'validation'")
def trained_on_validation(root, wrong):
    table = {"acts": root, "split": "validation" if wrong else "train"}
    validate_config(TrainConfig, table)


@planted("a learning rate at which training diverges", r"loss nan.* lower train\.lr")
def diverging(root, wrong):
    return trained(root, text(root), lr=1e30 if wrong else 1e-3)


@planted("two trainings into one folder", r"made with other settings: seed \(0 there, 1 here\)")
def one_folder(root, wrong):
    acts = text(root)
    trained(root, acts)
    return trained(root, acts, seed=1 if wrong else 0)


@planted("results kept from before the SAE was trained again", r"validate was made from another sae")
def stale(root, wrong):
    acts = text(root)
    sae = texts.oracle(root / "sae", acts)
    judged(root, acts, sae)
    if wrong:
        loaded = saes.load(sae)
        with torch.no_grad():
            loaded.W_dec *= 1.01
        saes.save(loaded, sae)
    judged(root, acts, sae)
    return []


@planted("an interrupted training was taken for a finished one", r"trained\.tmp/result\.json \(missing\)")
def interrupted(root, wrong):
    acts = text(root)
    trained(root, acts)
    if wrong:  # what a kill leaves
        (root / "trained").rename(root / "trained.tmp")
        (root / "trained.tmp" / "result.json").unlink()
    return judged(root, acts, root / ("trained.tmp" if wrong else "trained"))


@planted("settings were edited in the folder of a finished SAE", r"cfg\.json")
def edited(root, wrong):
    acts = text(root)
    trained(root, acts)
    file = root / "trained" / "cfg.json"
    table = json.loads(file.read_text())
    if wrong:
        table["config"]["k"] = 3
        file.write_text(json.dumps(table))
    return judged(root, acts, root / "trained")


# ---------------------------------------------------------------------- labels


@planted("one class was left with a single group", r"every class in at least 3 groups.* 'div' is in 1")
def lonely_class(root, wrong):
    labels = [*OPERATIONS[:-2], "div", "div"]
    groups = [f"g{i}" for i in range(88)] + (["g88", "g88"] if wrong else ["g88", "g89"])
    if not wrong:
        labels = OPERATIONS
    thoughts_of(root, labels={"operation": labels}, groups=groups)
    return probed(root)


@planted("labels of one class are spelt in two ways", r"'Add ' and 'add' differ in case or space alone")
def two_spellings(root, wrong):
    labels = ["Add " if wrong and i % 9 == 0 else name for i, name in enumerate(OPERATIONS)]
    thoughts_of(root, labels={"operation": labels})
    return probed(root)


@planted("missing labels were written as words", r"'nan' counts as a value")
def missing_as_words(root, wrong):
    labels = [("nan" if wrong else None) if i % 6 == 0 else name for i, name in enumerate(OPERATIONS)]
    thoughts_of(root, labels={"operation": labels})
    return probed(root)


@planted(
    "labels were shuffled by a join, so that one text has several",
    r"units have the text of another unit and a different label",
)
def shuffled(root, wrong):
    questions = [f"problem {words(i % 30)}" for i in range(90)]
    y = np.arange(90) % 3
    labels = np.array(["add", "mul", "sub"])[y]
    if wrong:
        labels = np.random.default_rng(3).permutation(labels)
    thoughts_of(root, labels={"operation": labels.tolist()}, questions=questions)
    return probed(root)


def in_both(mistake: str, says: str) -> Callable[[Callable], Callable]:
    """Said where the label is predicted, and where latents are compared with it."""

    def add(study: Callable[[Path, bool, Callable], object]) -> Callable:
        planted(mistake, says)(lambda root, wrong: study(root, wrong, probed))
        planted(f"{mistake} (interpret)", says)(lambda root, wrong: study(root, wrong, interpreted))
        return study

    return add


@in_both("a label that follows the length of the question", r"the length of the text alone tells \d+%")
def by_length(root, wrong, read):
    extra = 3 * (np.arange(90) % 3)
    extra = extra if wrong else np.random.default_rng(1).permutation(extra)
    asked = [" ".join([words(i), *["so"] * more]) for i, more in enumerate(extra.tolist())]
    thoughts_of(root, questions=asked)
    return read(root)


@in_both("labels stand in blocks of the file", r"the place in the file alone tells \d+%")
def by_line(root, wrong, read):
    labels = np.array(OPERATIONS)
    labels = np.sort(labels) if wrong else np.random.default_rng(1).permutation(labels)
    thoughts_of(root, labels={"operation": labels.tolist()})
    return read(root)


@in_both("missing numbers were written as -999", r"-999 \(15 of 90\) lies far from all other numbers")
def missing_as_number(root, wrong, read):
    value = np.random.default_rng(1).normal(5, 2, 90)
    value[::6] = -999 if wrong else np.nan
    thoughts_of(root, labels={"value": value})
    return read(root, target="value")


@planted("the label can be read off the words of the question", r"text (equivalent|better)")
def leaks(root, wrong):
    questions = [f"{name if wrong else 'do'} problem {words(i)}" for i, name in enumerate(OPERATIONS)]
    thoughts_of(root, questions=questions)
    found = probed(root, arms=("sae", "raw", "text"))
    return [f"{one['arm']} {one['verdict']}" for one in found["comparisons"]]


@planted("the answer itself was taken for a label", r"target: expected a label column of .* got 'answer'")
def answer_as_label(root, wrong):
    thoughts_of(root)
    return probed(root, target="answer" if wrong else "operation")


@planted(
    "the label is a column that numbers the problems", r"every class in at least 3 groups.* 'line 0' is in 1"
)
def numbered(root, wrong):
    thoughts_of(root, labels={"operation": OPERATIONS, "line": [f"line {i}" for i in range(90)]})
    return probed(root, target="line" if wrong else "operation")


@planted(
    "probabilities were compared as if they were right and wrong answers", r"1 for right and 0 for wrong"
)
def probabilities(root, wrong):
    p = np.linspace(0, 1, 60)
    compare(p if wrong else p > 0.5, p > 0.3)


@planted("a metric that was not defined on some rows", r"finite values to resample, got NaN")
def undefined(root, wrong):
    a = np.linspace(0, 1, 60)
    a[7] = np.nan if wrong else 0.5
    compare_values(a, np.full(60, 0.4))


# ---------------------------------------------------------------------- several SAEs


@planted("SAEs of one seed were counted as seeds that agree", r"have the same decoder, latent by latent")
def one_seed(root, wrong):
    for name, seed in (("sae", 0), ("other", 0 if wrong else 1)):
        saes.save(saes.create(saes.TopKConfig(d_sae=24, k=2), D, seed=seed), root / name)
    return compared(root, others=(root / "other",))


@planted("a stability study with one seed named twice", r"seeds must be different")
def seeds_twice(root, wrong):
    from thoughtlens.studies.sweep.config import SweepConfig

    load_config(SweepConfig, {"acts": str(root), "seeds": [0, 0] if wrong else [0, 1]})


@planted(
    "transfer was measured between stores whose problems are in another order",
    r"other problems under the same ids",
)
def permuted_problems(root, wrong):
    thoughts_of(root)
    asked = [f"problem {words(i)}" for i in range(90)]
    thoughts_of(root, name="other", questions=asked[::-1] if wrong else asked)
    planted_sae(root / "sae")
    planted_sae(root / "sae2")
    return compared(
        root, acts=root / "acts", others=(root / "sae2",), other_acts=(root / "other",), by=("activation",)
    )


# ---------------------------------------------------------------------- models
@planted("a checkpoint was loaded although weights are missing", r"expected every weight in .* 1 are missing")
def partial(root, wrong):
    save_tiny_lm(root)
    weights = load_file(root / "model.safetensors")
    if wrong:
        del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, root / "model.safetensors", metadata={"format": "pt"})
    load_model(str(root), dtype="float32", device="cpu")


@planted("an adapter was never merged into its base", r"weight in .* missing .*lora_A")
def not_merged(root, wrong):
    save_tiny_lm(root)
    weights = load_file(root / "model.safetensors")
    if wrong:
        name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
        save_file({name: torch.zeros(4, 32)}, root / "adapter_model.safetensors")
        (root / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    save_file(weights, root / "model.safetensors", metadata={"format": "pt"})
    load_model(str(root), dtype="float32", device="cpu")


@planted(
    "SAEs were compared on the store of another model of the same width",
    r"pooled: it was trained with the model with digest b+, .* holds a+",
)
def compared_elsewhere(root, wrong):
    thoughts_of(root)
    planted_sae(root / "sae")
    planted_sae(root / "other")
    claims(root / "other", model_digest=("b" if wrong else "a") * 64)
    claims_of_store(root / "acts", model_digest="a" * 64)
    return compared(root, acts=root / "acts", others=(root / "other",), by=("activation",))


@planted(
    "a tuned lens was scored on the problems that it was fitted on", r"split and fit_split are both 'train'"
)
def scored_where_fitted(root, wrong):
    problems = generated(60)
    splits = pa.array(["train"] * 40 + ["test"] * 20)
    thought_about(root, problems.set_column(problems.column_names.index("split"), "split", splits))
    table = {"acts": root / "acts", "lenses": ("tuned",), "n_permutations": 20, "fit_steps": 2}
    return lens(LensConfig(**table, split="train" if wrong else "test"), root / "lens")


# ---------------------------------------------------------------------- interventions


@planted("steering with a dose of 0", r"a dose of 0 changes nothing")
def no_dose(root, wrong):
    return changed(root, "steer", directions=directions(root, 96), doses=(0.0,) if wrong else (1.0,))


@planted("steering along a direction of length 0", r"all zeros, which point nowhere")
def no_direction(root, wrong):
    return changed(root, "steer", directions=directions(root, 96, 0.0 if wrong else 1.0), doses=(1.0,))


@planted(
    "steering along a direction of another width",
    r"direction has width 64, the states at thought_in@3 have 96",
)
def wide_direction(root, wrong):
    return changed(root, "steer", directions=directions(root, 64 if wrong else 96), doses=(1.0,))


@planted("an edit at a thought that the model does not have", r"thought 70 does not exist here")
def no_such_thought(root, wrong):
    return changed(root, "ablate", thoughts=(70,) if wrong else (6,))


@planted("an edit at a thought that carries nothing of the problem", r"No edit changed anything")
def nothing_there(root, wrong):
    return changed(root, "ablate", thoughts=(0,) if wrong else (3,))


@planted("a latent was removed that never fires", r"No edit changed anything")
def never_fires(root, wrong):
    sae = saes.create(saes.ReLUConfig(d_sae=192, normalization="none"), 96, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([torch.eye(96), -torch.eye(96)], 1))
        sae.W_dec.copy_(sae.W_enc.T)
        sae.b_enc.zero_()
        sae.b_enc[5] = -1e3 if wrong else 0.0
        sae.b_dec.zero_()
    sae.hook_names = ["layers.1:out"]
    saes.save(sae, root / "sae")
    return changed(root, "edit_latents", sae=root / "sae", latents=(5,), scale=0.0)


@planted(
    "the right answers are those of the next line",
    r"right for \d+ of 60 problems, no more often than answers of other problems",
)
def slipped_answers(root, wrong):
    table = generated(60)
    answers = table["answer"].to_pylist()
    if wrong:
        answers = [*answers[1:], answers[0]]
    table = table.set_column(table.column_names.index("answer"), "answer", pa.array(answers))
    return thought_about(root, table)


@planted("questions were worded as the model never saw them", r"no more often than answers of other problems")
def foreign_wording(root, wrong):
    table = generated(60)
    asked = [" ".join(reversed(q.split())) if wrong else q for q in table["question"].to_pylist()]
    return thought_about(
        root, table.set_column(table.column_names.index("question"), "question", pa.array(asked))
    )


@planted("the layer after the last one was asked for", r"expected layers\.0:out .* got 'layers\.2:out'")
def last_layer(root, wrong):
    return thought_about(root, generated(30), hook_names=["layers.2:out" if wrong else "layers.1:out"])


@planted("an answer was lost on the way", r"column answer has 1 empty cells")
def lost_answer(root, wrong):
    table = generated(30)
    answers = [None if wrong and i == 3 else answer for i, answer in enumerate(table["answer"].to_pylist())]
    return thought_about(
        root, table.set_column(table.column_names.index("answer"), "answer", pa.array(answers))
    )


@planted(
    "supervised latents were tied to a label that never varies",
    r"different values in 'operation', got 1: it is constant",
)
def constant_target(root, wrong):
    labels = ["add"] * 90 if wrong else OPERATIONS
    thoughts_of(root, labels={"operation": labels}, splits=["train"] * 60 + ["validation"] * 30)
    kind = saes.SupervisedConfig(d_sae=24, k=2, label_columns=("operation",))
    return trained(root, root / "acts", sae=kind, validation_split="validation")


@planted(
    "a swap between problems that do not differ", r"no two problems share a value of 'n_steps', or all do"
)
def nothing_to_swap(root, wrong):
    generated = {"source": "generated", "n_steps": (2,)}
    return changed(root, "swap", column="n_steps" if wrong else "v1", problems=generated)


@planted(
    "latents of an SAE of another checkpoint were spliced in",
    r"trained on a model with digest f+, codi-tiny has",
)
def foreign_splice(root, wrong):
    sae = saes.create(saes.ReLUConfig(d_sae=192, normalization="none"), 96, seed=0)
    sae.hook_names, sae.provenance = ["layers.1:out"], {"model_digest": "f" * 64} if wrong else {}
    saes.save(sae, root / "sae")
    return changed(root, "splice", sae=root / "sae")


@pytest.mark.parametrize("case", CASES, ids=[case.mistake for case in CASES])
def test_a_mistake_is_named_and_its_sound_twin_is_not(case: Case, tmp_path: Path) -> None:
    assert_told(case, tmp_path)
