"""Measured effects against formulas, on a model that is linear from end to end."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.interventions.linear import N_STEPS, D, LinearToy, logits_by_formula
from thoughtlens.core import load_config
from thoughtlens.interventions.edits import changes
from thoughtlens.interventions.edits.places import Change
from thoughtlens.interventions.edits.run import Edit, run_edits
from thoughtlens.interventions.effects.rows import rows_of
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.plans import plans
from thoughtlens.interventions.intervene.records import EffectRow
from thoughtlens.interventions.intervene.summary import objections
from thoughtlens.interventions.intervene.trials import states_at
from thoughtlens.models.thought.places import Place

QUESTIONS = [f"{i % 10} {i * 7 % 10}" for i in range(40)]


@pytest.fixture
def problems(tmp_path):
    """Forty problems whose answers are what the untouched model says, and twins with another first digit."""
    files = []
    for name, shift in (("problems", 0), ("twins", 3)):
        questions = [f"{(int(q[0]) + shift) % 10} {q[2]}" for q in QUESTIONS]
        plain, _ = run_edits(LinearToy(), questions, [])
        n = len(questions)
        table = {
            "problem_id": [f"{name}{i}" for i in range(n)], "group_id": [f"g{i}" for i in range(n)],
            "split": ["test"] * n, "question": questions, "answer": plain.text, "cot": [""] * n,
            "digit": [q[2] for q in questions],
        }  # fmt: skip
        files.append(tmp_path / f"{name}.parquet")
        pq.write_table(pa.table(table), files[-1])
    return files


def settings(problems, edit="ablate", **changed) -> InterveneConfig:
    places = {name: changed.pop(name) for name in ("site", "thoughts", "controls") if name in changed}
    table = {"problems": {"source": str(problems[0])}, "n": 40, "scope": ("cell",), "edit": {"kind": edit}}
    table["edit"] |= changed
    return load_config(InterveneConfig, table | places)


def measured(cfg: InterveneConfig, model: LinearToy) -> list[EffectRow]:
    rows = []
    for trial in plans(cfg, model):
        for edits in trial.chunks:
            plain, outcomes = run_edits(model, trial.problems.questions, edits)
            rows += rows_of(trial.problems, plain, edits, outcomes, cfg.seed)
    return rows


def expected(questions: list[str], shift: torch.Tensor, step: int) -> tuple[float, float]:
    """(mean log-probability of the untouched answer, mean KL) from the formula."""
    model = LinearToy()
    clean = logits_by_formula(model, questions, torch.zeros(1, dtype=torch.float64), step).log_softmax(-1)
    edited = logits_by_formula(model, questions, shift, step).log_softmax(-1)
    kl = (clean.exp() * (clean - edited)).sum(-1).mean()
    return float(edited.gather(1, clean.argmax(1, keepdim=True)).mean()), float(kl)


def test_ablation_is_what_theory_says(problems):
    model = LinearToy()
    cfg = settings(problems, edit="ablate", method="mean", controls=False)
    rows = measured(cfg, model)
    assert [row.thought_idx for row in rows] == [1, 2, 3]
    places = [Place("thought_in", p) for p in (1, 2, 3)]
    questions = pq.read_table(problems[0])["question"].to_pylist()
    states = states_at(cfg, model, questions, places)
    for row, place in zip(rows, places, strict=True):
        shift = states[place].mean(0) - states[place]
        log_p, kl = expected(questions, shift, place.thought)
        assert row.answer_logprob == pytest.approx(log_p, abs=1e-5)
        assert row.kl == pytest.approx(kl, abs=1e-5) and row.kl > 1e-3
        change = (shift.norm(dim=1) / states[place].norm(dim=1)).mean()
        assert row.changed_site == pytest.approx(float(change), rel=1e-6)


def test_steering_is_what_theory_says(problems, tmp_path):
    model = LinearToy()
    direction = np.arange(1.0, D + 1)
    np.save(tmp_path / "direction.npy", direction)
    cfg = settings(
        problems, edit="steer", directions=str(tmp_path / "direction.npy"), doses=(-1.0, 0.5, 2.0),
        thoughts=(2,), controls=False,
    )  # fmt: skip
    questions = pq.read_table(problems[0])["question"].to_pylist()
    states = states_at(cfg, model, questions, [Place("thought_in", 2)])[Place("thought_in", 2)]
    centred = states - states.mean(0)
    sd = (centred.square().sum() / len(states)).sqrt()
    unit = torch.from_numpy(direction / np.linalg.norm(direction))
    for row, dose in zip(measured(cfg, model), (-1.0, 0.5, 2.0), strict=True):
        log_p, kl = expected(questions, (dose * sd * unit).expand(40, -1), 2)
        assert row.dose == dose
        assert row.answer_logprob == pytest.approx(log_p, abs=1e-5)
        assert row.kl == pytest.approx(kl, abs=1e-5)


def test_a_state_alone_and_keys_and_values_alone_add_up(problems):
    """Linear: what swapped states and swapped values do to the logits adds up to swapping both."""
    model = LinearToy()
    state, kv = Place("thought_out", 1), Place("layers.0:kv", 1)
    donor = {
        place: states_at(settings(problems), model, QUESTIONS[::-1], [place])[place] for place in (state, kv)
    }
    sums = []
    for places in ((), (state,), (kv,), (state, kv)):
        edit = Edit.at("swap", places, lambda place: changes.given(donor[place]))
        _, (outcome,) = run_edits(model, QUESTIONS, [edit])
        sums.append(outcome.logprob)
    # log-probabilities are not linear, so only the order of effects is compared through untouched runs
    assert sums[0] == pytest.approx(run_edits(model, QUESTIONS, [])[0].logprob)
    assert not np.allclose(sums[1], sums[3]) and not np.allclose(sums[2], sums[3])


def test_putting_the_same_state_back_changes_no_bit():
    model = LinearToy()
    places = [Place("thought_in", p) for p in range(N_STEPS + 1)]
    edit = Edit.at("same", places, lambda place: Change(lambda x: x))
    plain, (outcome,) = run_edits(model, QUESTIONS, [edit])
    assert outcome.text == plain.text and (outcome.logprob == plain.logprob).all()
    assert (outcome.kl == 0).all() and not outcome.moved.any() and (outcome.changed_site == 0).all()


EDITS = {
    "mean": {"edit": "ablate"},
    "resample": {"edit": "ablate", "method": "resample", "site": "all"},
    "zero": {"edit": "ablate", "method": "zero", "site": "resid"},
    "swap": {"edit": "swap", "column": "digit", "site": "thought_out"},
    "patch": {"edit": "patch", "site": "kv"},
    "route": {"edit": "route"},
    "exit": {"edit": "exit"},
    "steer": {"edit": "steer", "doses": (-4.0, 4.0)},
}


@pytest.mark.parametrize("name", EDITS)
def test_a_model_that_ignores_its_thoughts_shows_no_effect(name, problems, tmp_path):
    ignoring = LinearToy(reads=False)
    for file in problems:  # its own answers, so that it is right where nothing is changed
        table = pq.read_table(file)
        said = run_edits(ignoring, table["question"].to_pylist(), [])[0].text
        pq.write_table(table.set_column(4, "answer", pa.array(said)), file)
    np.save(tmp_path / "d.npy", np.ones((1, D)))
    extra = {"directions": str(tmp_path / "d.npy")} if name == "steer" else {}
    extra |= {"twins": str(problems[1])} if name in ("patch", "route") else {}
    cfg = settings(problems, **EDITS[name], **extra)
    rows = measured(cfg, ignoring)
    for row in rows:
        assert row.difference == 0 and row.low < 0 < row.high and row.p == 1
        assert row.kl == 0 and row.moved == 0 and row.verdict in ("equivalent", "inconclusive")
    if name != "exit":
        assert "no logit of any answer moved" in " ".join(objections(cfg, rows))


def test_the_same_edits_have_effects_where_thoughts_are_read(problems, tmp_path):
    np.save(tmp_path / "d.npy", np.ones((1, D)))
    for name, table in EDITS.items():
        extra = {"directions": str(tmp_path / "d.npy")} if name == "steer" else {}
        extra |= {"twins": str(problems[1])} if name in ("patch", "route") else {}
        rows = measured(settings(problems, **table, **extra), LinearToy())
        assert max(row.kl for row in rows) > 1e-3, name
