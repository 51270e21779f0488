"""The first page says where a variable is, how sure, and how we know; where nothing is found, that."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from tests.planted import planted_sae
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import Number, read_result, validate_config, write_json, write_rows
from thoughtlens.core.records.manifest import UNCHECKED
from thoughtlens.evals.recovery.records import At, PlaceRow, Recovered, RecoveryOutcome, Variable, VariableBy
from thoughtlens.interventions.intervene.config import EffectsConfig
from thoughtlens.interventions.intervene.stage import effects
from thoughtlens.latents.lens.records import ReadingRow
from thoughtlens.show.pages.findings import Findings
from thoughtlens.show.pages.names import named
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.stage import report

HOOK = "layers.1:out"
VERDICTS = {(True, False): "better", (False, True): "worse", (False, False): "equivalent"}
PLACES = {"start": 2, "op1": 1, "v1": 2, "op2": 3, "v2": 4}


@pytest.fixture(autouse=True)
def planted_tables(monkeypatch):
    monkeypatch.setenv(UNCHECKED, "1")


def recovered(share: float) -> Recovered:
    one = Number(value=share, low=share - 0.02, high=share + 0.02, n=50, split="test")
    return Recovered(found=one, found_by_two=one, best_f1=one)


def variable(thought: int, probe: float, found: float, kmeans: float, blind: float | None = None) -> Variable:
    sure = Number(value=probe, low=probe - 0.02, high=min(probe + 0.02, 1), n=50, split="test")
    return Variable(
        **vars(recovered(found)), place=At(hook_name=HOOK, thought_idx=thought), n_values=22, probe=sure,
        variance_share=sure, permuted=recovered(0.0), baselines={"kmeans": recovered(kmeans)},
        more_than_kmeans=Number(value=found - kmeans, verdict=VERDICTS[found > kmeans, found < kmeans]),
        likeliest=None if blind is None else Number(value=blind, n=50, split="test"),
    )  # fmt: skip


def plant(root, probe: float, found: float, kmeans: float, blind: float | None = None) -> None:
    """What recovery would write, with these numbers for every variable."""
    shutil.rmtree(root / "recovery", ignore_errors=True)
    (root / "recovery").mkdir()
    known = {name: variable(thought, probe, found, kmeans, blind) for name, thought in PLACES.items()}
    known["n_steps"] = variable(6, 0.5, 0.0, 0.0)
    variables = {
        name: VariableBy(**vars(one), by={} if name == "n_steps" else {"n_steps": {"3": one}})
        for name, one in known.items()
    }
    outcome = RecoveryOutcome(
        member="pooled", d_sae=8, l0=2.0, kind="topk", split="test", found_at=0.9, variables=variables,
        left_out=[],
    )  # fmt: skip
    write_json(root / "recovery" / "result.json", {"stage": "recovery", **outcome.to_json()})
    rows = [
        PlaceRow(
            hook_name=HOOK, thought_idx=t, variable=name, condition="n_steps=3",
            probe=probe if t == at else 0.05, variance_share=0.1, best_f1=found, best_f1_of_two=found,
            chosen=t == at, n=50,
        )
        for name, at in PLACES.items()
        for t in range(7)
    ]  # fmt: skip
    write_rows(root / "recovery" / "places.parquet", PlaceRow, rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("first") / "run"
    table = {"model": {"name": "codi-tiny"}, "problems": {"kind": "problems", "n": 200}}
    extract(validate_config(ExtractConfig, table | {"hook_names": [HOOK]}), root / "acts")
    edits = ("ablate resample", "swap v1", "patch op2")
    effects(
        EffectsConfig(acts=root / "acts", edits=edits, n=12, scope=("cell",)), root / "intervene" / "effects"
    )
    problems = pq.read_table(root / "acts" / "problems.parquet").to_pylist()
    (root / "lens").mkdir()
    rows = [
        ReadingRow(
            lens="logit", hook_name=HOOK, thought_idx=t, problem_id=p["problem_id"], rank=rank, token_id=0,
            token=f"<b>{t}</b>" if rank == 0 else "no", probability=0.97 if rank == 0 else 0.01,
        )
        for p in problems if p["split"] == "test" for t in range(7) for rank in (0, 1)
    ]  # fmt: skip
    write_rows(root / "lens" / "readings.parquet", ReadingRow, rows)
    return root


def told(root) -> Findings:
    return Findings(Run.open(root))


@pytest.mark.slow
def test_a_reader_learns_which_thought_holds_the_second_value_how_sure_and_how_we_know(run):
    plant(run, probe=0.98, found=0.95, kmeans=0.95)
    shutil.rmtree(run / "report", ignore_errors=True)
    report(ReportConfig(run=run), run / "report")
    page = (run / "report" / "report.md").read_text("utf-8")
    first = page[: page.index("## Data")]
    assert "; thought 4 holds the second value" in first or "and thought 4 holds the second value" in first
    assert "names the right value in at least" in first
    (line,) = [one for one in first.splitlines() if one.startswith("| the second value |")]
    assert "thought 4 of layers.1:out" in line and "98.0%" in line and "| 50 |" in line
    low = min(one.acts_there.low for one in told(run).held if one.acts_there and one.acts_there.value >= 0.5)
    assert f"at least {low:.0%} of these problems" in first and low < 1
    (line,) = [one for one in first.splitlines() if one.startswith("| the first value |")]
    assert "100% of" in line  # what the swap says: codi-tiny's thought 2 decides
    assert "figures/first\\_map.png" in first or "figures/first_map.png" in first
    html = (run / "report" / "report.html").read_text("utf-8")
    assert "<b>4</b>" not in html and "&lt;b&gt;4&lt;/b&gt;" in html
    assert html.index('id="first"') < html.index("<svg") < html.index("<details")


def test_the_worked_problem_is_a_held_out_one_of_most_steps_with_its_true_values(run):
    plant(run, probe=0.98, found=0.95, kmeans=0.95)
    worked = told(run).worked
    problems = pq.read_table(run / "acts" / "problems.parquet").to_pylist()
    (row,) = [p for p in problems if p["question"] == worked.question]
    assert row["split"] == "test" and row["n_steps"] == 3 and worked.right
    steps = {step.thought: step for step in worked.steps}
    assert steps[4].holds == [f"the second value = {row['v2']}"]
    assert steps[2].holds == [f"the starting value = {row['start']}", f"the first value = {row['v1']}"]
    assert (steps[4].reading, steps[4].probability) == ("<b>4</b>", pytest.approx(0.97))
    assert steps[2].replaced not in ("", "the same")


@pytest.mark.parametrize(("blind", "read"), [(0.9, True), (0.97, False)])
def test_what_always_one_value_would_give_is_not_said_to_be_read(run, blind, read):
    plant(run, probe=0.98, found=0.95, kmeans=0.95, blind=blind)  # the probe's interval begins at 0.96
    found = told(run)
    assert bool(found.readable) == read


def test_shares_that_follow_are_of_the_problems_that_the_page_tells_of(run):
    plant(run, probe=0.98, found=0.95, kmeans=0.95)
    found = told(run)
    problems = pq.read_table(run / "acts" / "problems.parquet").to_pylist()
    three = {p["problem_id"] for p in problems if p["n_steps"] == 3}
    answers = pq.read_table(run / "intervene" / "effects" / "answers.parquet").to_pylist()
    rows = read_result(run / "intervene" / "effects")["effects"]
    (at,) = [r["row"] for r in rows if r["edit"] == "swap_different_v1" and r["thought_idx"] == 2]
    own = [a["class"] == "predicted" for a in answers if a["row"] == at and a["problem_id"] in three]
    (v1,) = [one for one in found.held if one.name == "v1"]
    assert (v1.acts_there.value, v1.acts_there.n) == (sum(own) / len(own), len(own))


@pytest.mark.parametrize(
    ("found", "kmeans", "says", "not_said"),
    [
        (0.95, 0.95, "need no superposition", "shreds"),
        (0.1, 0.95, "holds shreds of them", "need no superposition"),
        (0.95, 0.5, "The dictionary tells more of the values of the first operation", "shreds"),
    ],
)
def test_the_rival_is_named_for_what_it_finds(run, found, kmeans, says, not_said):
    plant(run, probe=0.98, found=found, kmeans=kmeans)
    text = " ".join(told(run)._against_kmeans())
    assert says in text and not_said not in text


def test_where_nothing_is_found_the_page_says_so(run, tmp_path):
    plant(run, probe=0.05, found=0.0, kmeans=0.0)
    found = told(run)
    assert list(found._against_kmeans()) == [
        "A linear probe reads none of the variables that were looked for."
    ]
    assert all(not step.holds for step in found.worked.steps)
    bare = tmp_path / "bare"
    shutil.copytree(run / "acts", bare / "acts")
    planted_sae(bare / "sae", [HOOK])
    alone = told(bare)
    assert alone.held == [] and alone.comparison() is None and not list(alone.dictionary())
    limits = " ".join(alone.limits())
    assert "thoughtlens effects" in limits and "thoughtlens recovery" in limits and "explain" in limits


def test_keys_have_names():
    assert named("spliced_accuracy") == "right answers with the SAE's reconstruction in place"
    assert named("spliced_accuracy_pca_l0").endswith("in place: PCA, k = L0")
    assert named("accuracy_raw") == "label read from: raw activations" and named("op_1_found") == "op 1 found"


def test_what_was_taken_out_of_the_dictionary_is_said_beside_its_size(run, monkeypatch):
    plant(run, probe=0.98, found=0.95, kmeans=0.95)
    found = told(run)
    latents = [SimpleNamespace(member="pooled", n_fires=n) for n in (3, 4, 0)]
    monkeypatch.setattr(Run, "latents", lambda self: latents)
    assert next(found.dictionary()) == "The dictionary has 3 latents; 1 of them never fire on held-out data."
    member = {
        "member": "pooled", "kind": "topk", "hook_names": [HOOK], "d_in": 4, "d_sae": 3, "n_vectors": 9,
        "lr_peak": 0.1, "rows_seen": 9,
    }  # fmt: skip
    for pruned, says in ((5, " 5 more were taken out once it was trained"), (0, "data."), (None, "data.")):
        trained = {
            "members": [member | {"pruned": pruned, "pruned_firings": 0.125}],
            "seed": 0,
            "split": "train",
        }
        monkeypatch.setitem(found.run.results, "train", trained)
        line = next(found.dictionary())
        assert says in line and ("they had 12.5% of all firings." in line) == bool(pruned)
