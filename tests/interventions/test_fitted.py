"""Directions of training problems: steering to a label's value, and how few of them a thought needs."""

from __future__ import annotations

from dataclasses import MISSING, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.interventions.linear import D, LinearToy, logits_by_formula
from thoughtlens.core import ConfigError, DataError, load_config, read_result
from thoughtlens.interventions.edits.run import run_edits
from thoughtlens.interventions.effects.rows import rows_of
from thoughtlens.interventions.effects.subject import Problems
from thoughtlens.interventions.intervene import ranks
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.plans import plans
from thoughtlens.interventions.intervene.records import EffectRow
from thoughtlens.interventions.intervene.stage import intervene
from thoughtlens.models.thought.places import Place
from thoughtlens.models.thought.thoughts import collect

QUESTIONS = [f"{i % 10} {i * 7 % 10}" for i in range(80)]
TRAIN, TEST = QUESTIONS[:40], QUESTIONS[40:]
AT = Place("thought_in", 2)


@pytest.fixture
def problems(tmp_path):
    plain, _ = run_edits(LinearToy(), QUESTIONS, [])
    table = {
        "problem_id": [f"p{i}" for i in range(80)], "split": ["train"] * 40 + ["test"] * 40,
        "question": QUESTIONS, "answer": plain.text, "same": ["x"] * 80, "cot": [""] * 80,
        "odd": ["yes" if int(q[2]) % 2 else "no" for q in QUESTIONS],
        "group_id": [f"g{i}" for i in range(80)],
    }  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "problems.parquet")
    return tmp_path / "problems.parquet"


def settings(problems, **edit) -> InterveneConfig:
    table = {"problems": {"source": str(problems)}, "n": 40, "scope": ("cell",), "controls": False}
    return load_config(InterveneConfig, table | {"thoughts": (2,), "edit": edit})


def measured(cfg: InterveneConfig) -> list[EffectRow]:
    rows = []
    for trial in plans(cfg, LinearToy()):
        for edits in trial.chunks:
            plain, outcomes = run_edits(LinearToy(), trial.problems.questions, edits)
            rows += rows_of(trial.problems, plain, edits, outcomes, cfg.seed)
    return rows


def states(questions) -> torch.Tensor:
    return collect(LinearToy(), questions, sites=("thought_in",))[AT]


def kl_of(questions, shift) -> float:
    nothing = torch.zeros(1, dtype=torch.float64)
    clean, edited = (
        logits_by_formula(LinearToy(), questions, s, 2).log_softmax(-1) for s in (nothing, shift)
    )
    return float((clean.exp() * (clean - edited)).sum(-1).mean())


def test_kept_and_removed_components_are_what_theory_says(problems):
    rows = measured(settings(problems, kind="rank", bases=("pca",), ks=(1, 2, 9)))
    x, mean = states(TEST), states(TRAIN).mean(0)
    axes = torch.from_numpy(np.linalg.svd((states(TRAIN) - mean).numpy())[2])
    assert [(r.edit, r.rank) for r in rows] == [
        ("rank_mean", None),
        *((e, k) for k in (1, 2, D) for e in ("rank_keep", "rank_remove")),
    ]
    for row in rows:
        part = (x - mean) @ axes[: row.rank or 0].T @ axes[: row.rank or 0]
        shift = -part if row.edit == "rank_remove" else mean + part - x
        assert row.kl == pytest.approx(kl_of(TEST, shift), abs=1e-5)


def test_steering_to_a_value_is_by_the_difference_of_means_of_training_problems(problems):
    cfg = settings(problems, kind="steer", column="odd", classes=("yes",), doses=(1.5,))
    by = {row.direction: row for row in measured(cfg)}
    assert set(by) == {"diffmean_yes", "probe_yes"}
    odd, own = np.array([int(q[2]) % 2 == 1 for q in TRAIN]), [q for q in TEST if int(q[2]) % 2 == 0]
    x = states(TRAIN)
    difference = x[odd].mean(0) - x[~odd].mean(0)
    centred = states(own) - states(own).mean(0)
    step = 1.5 * (centred.square().sum() / len(own)).sqrt() * difference / difference.norm()
    assert by["diffmean_yes"].n == len(own)
    assert by["diffmean_yes"].kl == pytest.approx(kl_of(own, step.expand(len(own), -1)), abs=1e-5)


def test_the_effective_rank_is_the_smallest_that_does():
    """30 problems right untouched, none with the mean; one direction keeps 15, two 30; without them 27, 0."""
    n, right = 30, {(-1): 30, 0: 0, 1: 15, 2: 27, 3: 30, 4: 0}
    names = {0: ("rank_mean", None), 1: ("rank_keep", 1), 2: ("rank_remove", 1), 3: ("rank_keep", 2),
             4: ("rank_remove", 2)}  # fmt: skip
    answers = pa.table({
        "row": [row for row in right for _ in range(n)],
        "class": [kind for k in right.values() for kind in ["clean"] * k + ["other"] * (n - k)],
    })  # fmt: skip
    words = {"test": "", "verdict": "inconclusive", "n": n, "n_groups": n}
    needed = (one.name for one in fields(EffectRow) if one.default is MISSING)
    blank = dict.fromkeys(needed, 0.0) | words
    rows = [
        EffectRow(**blank | {"row": i, "edit": edit, "rank": rank, "arm": rank and "pca", "scope": "cell",
                             "site": "thought_in", "layer": None, "thought_idx": 2})
        for i, (edit, rank) in names.items()
    ]  # fmt: skip
    table = pa.table({"problem_id": [str(i) for i in range(n)], "question": ["q"] * n, "answer": ["1"] * n})
    (found,) = ranks.rank_rows(rows, answers, Problems(table), seed=0)
    assert (found.kept, found.removed, found.ks) == ([0.5, 1.0], [0.1, 1.0], [1, 2])
    assert (found.keep_rank, found.remove_rank, found.cost_of_mean) == (2, 2, 1.0)
    nothing = answers.set_column(1, "class", pa.array(["clean"] * len(answers)))
    (found,) = ranks.rank_rows(rows, nothing, Problems(table), seed=0)
    assert (found.keep_rank, found.remove_rank, found.kept) == (None, None, [None, None])


def test_what_cannot_be_fitted_is_one_line(problems):
    for edit, says in (
        ({"kind": "rank", "bases": ("latents",)}, "latents needs sae=DIRECTORY"),
        ({"kind": "rank", "bases": ("probe",)}, "probe needs column=LABEL"),
        ({"kind": "rank", "column": "colour"}, "no 'colour'"),
        ({"kind": "steer"}, "steer needs a direction: column=LABEL"),
        ({"kind": "steer", "column": "same"}, "'same' has one value only"),
        ({"kind": "steer", "column": "odd", "classes": ("maybe",)}, "have odd=maybe; there are no, yes"),
    ):
        with pytest.raises((ConfigError, DataError), match=says):
            plans(settings(problems, **edit), LinearToy())
    with pytest.raises(ConfigError, match="expected numbers of directions from 1 on"):
        settings(problems, kind="rank", ks=(0, 1))


@pytest.mark.slow
def test_codi_tiny_needs_few_components_of_the_thought_that_holds_the_first_value(tmp_path):
    table = {"thoughts": (3,), "n": 60, "scope": ("cell",)}
    cfg = load_config(InterveneConfig, table | {"edit": {"kind": "rank", "ks": (2, 16)}})
    intervene(cfg, tmp_path / "rank")
    by = {row["arm"]: row for row in read_result(tmp_path / "rank")["ranks"]}
    assert by["pca"]["keep_rank"] == 16 and by["random"]["keep_rank"] is None
    assert pq.read_table(tmp_path / "rank" / "ranks.parquet").num_rows == 2
    steer = {"kind": "steer", "column": "v1", "classes": ("7",), "doses": (2.0,)}
    intervene(load_config(InterveneConfig, table | {"edit": steer}), tmp_path / "steer")
    rows = read_result(tmp_path / "steer")["effects"]
    own = {(r["direction"], r["control"]): r["predicted"] for r in rows if r["thought_idx"] == 3}
    assert own["diffmean_7", None] > 0.6 > 0.2 > own["diffmean_7", "random"]
