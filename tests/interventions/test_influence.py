"""Who moves whom: against formulas on a linear model, and on codi-tiny, whose routes are known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tests.interventions.linear import N_STEPS, D, LinearToy
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ConfigError, DataError, read_result, validate_config
from thoughtlens.interventions.effects.subject import Problems
from thoughtlens.interventions.influence import stage
from thoughtlens.interventions.influence.config import InfluenceConfig
from thoughtlens.interventions.influence.measure import Donors, Untouched
from thoughtlens.interventions.influence.records import MoveRow
from thoughtlens.interventions.influence.stage import influence
from thoughtlens.models import in_words
from thoughtlens.models.thought import tiny
from thoughtlens.models.thought.check import check_thought_model
from thoughtlens.models.thought.thoughts import State, Tap, collect
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.show.pages.moves import moves, moves_of
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.moves import who_moves_whom

pytestmark = pytest.mark.slow  # fixtures of seconds

QUESTIONS = [f"{i % 10} {i * 7 % 10}" for i in range(40)]
TWINS = [f"{(i + 3) % 10} {i * 7 % 10}" for i in range(40)]


class Looking(LinearToy):
    """h_p = x_p A + (sum of the values before) M: later thoughts look at earlier ones, too."""

    def __init__(self, *, feeds: bool = True, looks: bool = True) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.M = looks * torch.randn(D, D, generator=g, dtype=torch.float64) / D
        self.P = feeds * self.P

    def _step(self, state: State, tap: Tap) -> State:
        past = sum((v[:, 0, 0] for _, v in state.cache["kv"]), torch.zeros(1, D, dtype=torch.float64))
        x = tap("thought_in", state.pending)
        h = tap("resid", x @ self.A + (past @ self.M)[:, None], 0)
        state.cache["kv"].append((h[:, None], (h @ self.V)[:, None]))
        return State(**vars(state) | {"pending": tap("thought_out", h) @ self.P})

    def by_formula(self, questions: list[str]) -> list[Tensor]:
        """h_p of each thought, [n, D]."""
        x, past, found = self.questions_as_vectors(questions) @ self.start, torch.zeros(1, D), []
        for _ in range(N_STEPS + 1):
            found.append(x @ self.A + past.double() @ self.M)
            past, x = past + found[-1] @ self.V, found[-1] @ self.P
        return found

    def moved(self, step: Tensor, i: int, site: str, path: str) -> list[Tensor]:
        """By how much h_0.. move when the part `site` of thought i moves as if h_i had by `step`."""
        fed = step if site in ("thought_out", "all") else torch.zeros_like(step)
        left = step @ self.V if site in ("kv", "all") else torch.zeros_like(step)
        found = [torch.zeros_like(step) for _ in range(i + 1)]
        for _ in range(i + 1, N_STEPS + 1):
            found.append(fed @ self.P @ self.A + left @ self.M)
            fed = found[-1] if path == "total" else torch.zeros_like(step)
            left = left + found[-1] @ self.V if path == "total" else left
        return found


def rows_of(model: LinearToy, **settings) -> list[MoveRow]:
    cfg = InfluenceConfig(acts="none", **settings)
    table = {"problem_id": [f"p{i}" for i in range(40)], "question": QUESTIONS, "answer": ["0"] * 40}
    own = Untouched(model, QUESTIONS, (0,), 16, 4)
    theirs = Untouched(model, TWINS, (0,), 16, 4)
    donors = Donors(theirs, np.arange(40))
    trial = stage._Trial("thoughts", "patch start", Problems(pa.table(table)), own, donors)
    return stage._judged(list(stage._rows(cfg, trial)))


def test_the_matrix_is_what_theory_says():
    model = Looking()
    own, donor = model.by_formula(QUESTIONS), model.by_formula(TWINS)
    rows = [row for row in rows_of(model) if row.to is not None]
    assert {(r.site, r.path, r.thought_idx, r.to) for r in rows} == {
        (site, path, i, j)
        for site in ("thought_out", "kv", "all") for path in ("total", "direct")
        for i in range(N_STEPS) for j in range(i + 1, N_STEPS + 1)
    }  # fmt: skip
    for row in rows:
        i, j = row.thought_idx, row.to
        step = model.moved(donor[i] - own[i], i, row.site, row.path)[j]
        apart, spread = donor[j] - own[j], (own[j] - own[j].mean(0)).square().sum(1).mean().sqrt()
        before, after = ((h @ model.V @ model.W).log_softmax(-1) for h in (own[j], own[j] + step))
        assert row.change == pytest.approx(float(step.norm(dim=1).mean() / spread), abs=1e-5)
        assert row.kl == pytest.approx(float((before.exp() * (before - after)).sum(1).mean()), abs=1e-5)
        assert row.carried == pytest.approx(float((step * apart).sum() / apart.square().sum()), abs=1e-5)
        assert row.apart == pytest.approx(float(apart.square().sum(1).mean().sqrt() / spread), abs=1e-5)


def test_what_the_answer_follows_is_what_theory_says():
    model = Looking()
    own, donor = model.by_formula(QUESTIONS), model.by_formula(TWINS)
    logits = [model.questions_as_vectors(q) @ model.U for q in (QUESTIONS, TWINS)]
    says, says_donor = (
        (x + sum(h @ model.V for h in hs) @ model.W) for x, hs in zip(logits, (own, donor), strict=True)
    )
    unlike = says.argmax(1) != says_donor.argmax(1)
    answers = [row for row in rows_of(model) if row.to is None]
    assert {row.thought_idx for row in answers if row.site == "kv"} == set(range(N_STEPS + 1))
    for row in answers:
        i = row.thought_idx
        steps = model.moved(donor[i] - own[i], i, row.site, row.path)
        if row.site != "thought_out":
            steps[i] = donor[i] - own[i]
        direct = steps[i : i + 1] if row.path == "direct" else steps
        after = says + sum(h @ model.V for h in direct) @ model.W
        share = (after.argmax(1) == says_donor.argmax(1))[unlike].double().mean()
        assert row.carried == pytest.approx(float(share), abs=1e-9) and row.n_carried == int(unlike.sum())


def test_nothing_is_handed_on_where_nothing_is_fed_back_or_looked_at():
    for model in (Looking(feeds=False, looks=False), Looking(feeds=False)):
        rows = [row for row in rows_of(model, sites=("thought_out",)) if row.to is not None]
        assert {(row.verdict, row.carried or 0.0, row.kl) for row in rows} <= {
            ("nothing", 0.0, 0.0), ("unclear", 0.0, 0.0), ("alike", 0.0, 0.0), ("as random", 0.0, 0.0)
        }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("influence") / "run"
    table = {"model": {"name": "codi-tiny"}, "problems": {"kind": "problems", "n": 200}}
    extract(validate_config(ExtractConfig, table | {"hook_names": ["layers.1:out"]}), root / "acts")
    cfg = InfluenceConfig(acts=root / "acts", edits=("patch start",), sites=("thought_out", "kv"), n=30)
    influence(cfg, root / "influence")
    return root


def test_codi_tiny_hands_on_as_was_found_by_hand_and_its_words_do_alike(run):
    found = read_result(run / "influence")["headline"]
    by = {name: (one["value"], one.get("way")) for name, one in found.items()}
    assert by["handed_on_thoughts"] == by["handed_on_words"] == (4, "2 > 3 > 4 > 5 > 6 > answer")
    assert found["handed_on_thoughts"]["sites"] == ["thought_out", "kv", "thought_out", "kv", "kv"]
    assert by["handed_on_pause"][0] == 0


def test_report_and_explorer_show_the_matrices_of_each_chain(run):
    section = who_moves_whom(Run.open(run))
    assert section is not None and "4 times" in section.blocks[0].text
    outcome = moves_of(Run.open(run))
    assert outcome is not None
    shown = {one.title: one for one in moves(outcome).matrices}
    kv = shown["thoughts: its keys and values, direct"]
    assert kv.moved == ["1", "2", "3", "4", "5", "6", "answer"]
    assert kv.values[kv.edited.index("3")][kv.moved.index("4")] > 0.9
    assert kv.values[kv.edited.index("3")][kv.moved.index("3")] is None


def test_a_chain_in_words_is_a_thought_model_that_answers_what_it_writes():
    model = tiny.load("codi-tiny")
    questions = [*arithmetic.problems(30, seed=3, split="test", p=23)["question"].to_pylist()]
    words = in_words(model)
    assert not check_thought_model(words, ["ann +3 *5 -2 ann 7 once", *questions[:2]])
    batch = collect(words, questions, sites=("thought_out",), answers=True)
    assert batch.answers is not None
    assert batch.answers.text == [text.split()[-1] for text in model.write(questions)]
    with pytest.raises(ConfigError, match=r"Expected 1\.\.\d+ tokens of this model's chain"):
        in_words(model, 99)


def test_what_cannot_be_measured_is_one_line(run, tmp_path):
    acts = run / "acts"
    for wrong, says in (
        ({"thoughts": (9,)}, r"thoughts: expected 0\.\.6"),
        ({"layers": (5,)}, r"layers: expected 0\.\.1"),
    ):
        with pytest.raises(ConfigError, match=says):
            influence(InfluenceConfig(acts=acts, n=12, **wrong), tmp_path / "out")
    with pytest.raises(DataError, match="nothing to move"):
        last = InfluenceConfig(acts=acts, n=12, sites=("thought_out",), thoughts=(6,), chains=("thoughts",))
        influence(last, tmp_path / "out")
    for edits in (("swap v1",), ("ablate zero",), ("patch op9",), ("patch op1", "patch op1")):
        with pytest.raises(ConfigError):
            validate_config(InfluenceConfig, {"acts": acts, "edits": list(edits)})
