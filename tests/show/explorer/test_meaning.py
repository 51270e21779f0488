"""What a latent says, where that is true, and what each thought of a problem reads as."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.planted import HOOKS, D, planted_sae, text_store
from tests.show.explorer.pages import rows, tables
from tests.show.explorer.runs import thought_run
from tests.show.explorer.tables import clause, plant_lens, plant_recovery, say, write
from thoughtlens.core import NotThereError, write_json
from thoughtlens.latents import load_tokenizer, token_texts
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.panels import MOST_SHOWN, shown_of
from thoughtlens.show.explorer.stage import explorer
from thoughtlens.show.pages.chain import chains
from thoughtlens.show.pages.run import Run

MUL = "</script><b>mul</b>"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Latent 3 fires on "mul" at hook 1, thought 2, and nowhere else."""
    return thought_run(tmp_path_factory.mktemp("run"), n=40)


@pytest.fixture(scope="module")
def found(root, tmp_path_factory):
    say(root, D, {
        3: [clause(MUL)],
        4: [clause("add", thoughts=(0, 1, 2), hooks=HOOKS)],
        5: [clause("7", says="elsewhere", thoughts=(0, 1, 2), hooks=HOOKS)],
        6: [clause('"<img"', says="question", thoughts=(0, 1, 2), hooks=HOOKS)],
        9: [clause("add")],
    })  # fmt: skip
    out = tmp_path_factory.mktemp("out") / "explorer"
    explorer(ExplorerConfig(run=root, n_problems=40), out)
    return tables(out)


def examples(found, latent):
    return {k: rows(found, "thought_examples", v) for k, v in found["m0/0"][latent]["claims"].items()}


def test_what_supports_a_claim_and_what_contradicts_it(root, found):
    own = examples(found, 3)
    assert len(own["support"]) == 4 and own["false"] == own["missed"] == []
    values = [e["value"] for e in own["support"]]
    assert values == sorted(values, reverse=True) and min(values) > 0
    other, operation = examples(found, 4), labels(root)
    assert all(operation[e["problem"]] == "add" and e["value"] > 0 for e in other["support"])
    assert all(operation[e["problem"]] != "add" and e["value"] > 0 for e in other["false"])
    assert all(operation[e["problem"]] == "add" and e["value"] == 0 for e in other["missed"])
    assert all(len(kind) == len({e["problem"] for e in kind}) == 4 for kind in other.values())
    shown = other["false"][0]
    at = shown["strip"][shown["hooks"].index(shown["hook"])][shown["thought"]]
    assert at == pytest.approx(shown["value"], rel=1e-2)


def test_no_evidence_for_what_cannot_be_held_against_the_problems(found):
    # A column that the problems do not have, a dead latent, and a latent without clauses.
    assert examples(found, 5)["false"] == examples(found, 5)["support"] == []
    assert found["m0/0"][9]["claims"] is None and found["m0/0"][7]["claims"] is None


def test_words_of_the_question_are_looked_up(found):
    own = examples(found, 6)
    assert all(e["question"].startswith("<img") and e["value"] > 0 for e in own["support"])
    assert all(not e["question"].startswith("<img") and e["value"] > 0 for e in own["false"])
    assert all(e["question"].startswith("<img") and e["value"] == 0 for e in own["missed"])
    assert all(own.values())


@pytest.mark.slow
def test_claims_about_texts_are_held_against_their_tokens(tmp_path, tiny_lm_dir):
    rng = np.random.default_rng(0)
    documents, strengths = rng.integers(100, 110, (30, 12)), np.zeros((30, 12, D), np.float32)
    here, before = documents == 103, np.roll(documents, -1, 1) == 104
    before[:, -1] = False  # nothing follows the last token of a document
    strengths[..., 0], strengths[..., 1] = here, before
    strengths[0, :, 0] = strengths[:, 0, 2] = 1.0  # latent 0 fires on all of the first document too
    strengths[..., 3] = here
    text_store(tmp_path / "acts", tiny_lm_dir, documents, strengths)
    planted_sae(tmp_path / "sae", hooks=HOOKS[:1])
    interpret(InterpretConfig(acts=tmp_path / "acts", sae=tmp_path / "sae"), tmp_path / "interpret")
    names = {
        i: json.dumps(text) for i, text in token_texts(load_tokenizer(str(tiny_lm_dir)), [103, 104]).items()
    }
    about = {"thoughts": (), "hooks": HOOKS[:1]}
    say(tmp_path, D, {
        0: [clause(names[103], says="token", **about)],
        1: [clause(names[104], says="next token", **about)],
        2: [clause("1", says="position", **about)],
        3: [clause(names[104], says="token before", **about)],
        4: [clause("?", says="elsewhere", **about)],
    })  # fmt: skip
    explorer(ExplorerConfig(run=tmp_path), tmp_path / "explorer")
    told = tables(tmp_path / "explorer")
    own = [
        {k: rows(told, "text_examples", v) for k, v in page["claims"].items()} for page in told["m0/0"][:4]
    ]
    for latent, kinds in enumerate(own[:3]):
        assert len(kinds["support"]) == 4 and not kinds["missed"], latent
        assert {e["problem"] for e in kinds["false"]} <= ({"d0"} if latent == 0 else set())
    for e in own[0]["support"]:
        assert json.dumps(e["tokens"][e["peak"]]) == names[103] and e["value"] == e["acts"][e["peak"]] > 0
    assert all(json.dumps(e["tokens"][e["peak"] + 1]) == names[104] for e in own[1]["support"])
    assert all((e["position"], e["peak"]) == (1, 0) for e in own[2]["support"])
    assert all(json.dumps(e["tokens"][e["peak"] - 1]) == names[104] for e in own[3]["missed"])
    assert own[0]["false"] and own[3]["false"] and own[3]["missed"]
    strongest = rows(told, "strongest", told["problems/0"][0]["members"]["m0"])
    said = {(row["at"], latent): so for row in strongest for latent, _, so in row["latents"]}
    line = int(told["problems/0"][0]["problem_id"].removeprefix("d"))
    assert {at for at, latent in said if latent == 3} == set(np.flatnonzero(here[line]).tolist())
    for (at, latent), so in said.items():
        if latent == 0:
            assert so == (0 if documents[line, at] == 103 else -1)


def test_a_problem_says_which_claims_are_true_of_it(root, found):
    operation = labels(root)
    for key in ("problems/0", "problems/1"):
        for page in found[key]:
            for row in rows(found, "strongest", page["members"]["m0"]):
                for latent, _, which in row["latents"]:
                    if latent in (3, 4):
                        true = operation[page["problem_id"]] == (MUL if latent == 3 else "add")
                        assert which == (0 if true else -1)
                    elif latent not in (5, 6, 9):
                        assert which is None


def test_explanations_made_elsewhere_are_shown_where_they_are_given(root, found, tmp_path):
    elsewhere = shutil.copytree(root / "explain", tmp_path / "elsewhere")
    file = elsewhere / "explanations.parquet"
    table = pq.read_table(file)
    write(file, table.set_column(table.column_names.index("text"), "text", [["another"] * len(table)]))
    write_json(elsewhere / "result.json", {
               "stage": "explain", "kind": "thoughts", "members": [], "methods": [],
               "choice": ""})  # fmt: skip
    (elsewhere / "config.toml").write_text("")
    out = tmp_path / "explorer"
    explorer(ExplorerConfig(run=root, explain=elsewhere, n_problems=1), out)
    told = tables(out)
    assert {row["text"] for row in rows(told, "explanations", told["m0/0"][3]["explanations"])} == {"another"}
    with pytest.raises(NotThereError, match="finished explain"):
        explorer(ExplorerConfig(run=root, explain=root / "interpret"), tmp_path / "none")


def test_a_latent_is_found_by_what_it_speaks_of(found):
    summary = found["m0/summary"]
    assert summary["topic"][3:6] == ["operation", "operation", "elsewhere"] and summary["value"][3] == MUL
    assert summary["claims"][4] == [["operation is add", [0, 1, 2], list(HOOKS)]]
    assert summary["topic"][7] is None and summary["claims"][7] is None


def labels(root):
    table = pq.read_table(root / "acts" / "problems.parquet")
    return dict(zip(table["problem_id"].to_pylist(), table["operation"].to_pylist(), strict=True))


def test_a_chain_beside_the_true_one_by_hand(root, tmp_path):
    # The lens reads "3" and "5" of every problem; the true answer of problem i is i.
    plant_lens(root, D, ["3", "5"], ["p3", "p5", "p7"], list(HOOKS))
    both = {"hook_name": HOOKS[1], "thought_idx": 1, "subset": "all", "column": "answer", "n": 3}
    rate = {"lens": ["logit", "tuned"], "rate": [0.5, 0.5], "null_high": [0.1, 0.1]}
    rate |= {name: [value] * 2 for name, value in both.items()}
    write(root / "lens" / "summary.parquet", rate)
    told = chains(Run.open(root), ["p3", "p5", "p9"])
    assert told is not None and (told.lens, told.hook_name) == ("logit", HOOKS[1])
    assert set(told.steps) == {"p3", "p5"}, "p9 was not read, p7 not asked for"
    right, wrong = (told.steps[name][0] for name in ("p3", "p5"))
    assert (right.thought, right.column, right.value, right.right) == (1, "answer", "3", True)
    assert (wrong.value, wrong.right) == ("5", False) and [t for t, _ in wrong.tokens] == ["3", "5"]
    plant_lens(root, D, ["<end>"], ["p3"], list(HOOKS))
    write(root / "lens" / "summary.parquet", rate)
    assert chains(Run.open(root), ["p3"]).steps["p3"][0].right is None, "a word that is no answer at all"
    write(root / "lens" / "summary.parquet", rate | {"null_high": [0.6, 0.6]})
    assert chains(Run.open(root), ["p3"]) is None, "no column is read more often than by chance"


def test_the_overview_says_where_variables_live_and_who_speaks_for_them(tmp_path):
    root = thought_run(tmp_path / "run", n=20)
    plant_recovery(root, D, MUL)
    explorer(ExplorerConfig(run=root, n_problems=1), tmp_path / "out")
    found = tables(tmp_path / "out")
    whole, part = found["run"]["variables"]["variables"]
    assert (whole["name"], whole["condition"], whole["thought"]) == ("operation", "", 2)
    assert whole["found_by_two"]["value"] == 1 and whole["kmeans"]["value"] == 1
    assert (part["condition"], part["found_by_two"]["value"]) == ("n_steps=1", 0.5)
    (number,) = found["run"]["variables"]["numbers"]
    assert (number["name"], number["latent"], number["rank_correlation"]["value"]) == ("steps", 4, 0.5)
    (spoken,) = rows(found, "values", found["recovery/values"])
    assert (spoken["value"], spoken["latent"], spoken["f1"]) == (MUL, 3, 1)
    (place,) = rows(found, "places", found["recovery/places"])
    assert (place["probe"], place["best_f1_of_two"]) == (1, 1)


def test_of_the_associations_those_that_a_page_shows():
    n = 40
    table = pa.table({
        "latent": np.repeat([0, 1], n), "factor": (["label:a"] * 20 + ["thought"] * 19 + ["position"]) * 2,
        "estimate": np.tile(np.r_[np.arange(20.0), -np.arange(19.0), 99], 2),
    })  # fmt: skip
    kept = shown_of(table).to_pylist()
    assert len(kept) == 2 * 2 * MOST_SHOWN
    own = [row["estimate"] for row in kept if row["latent"] == 1 and row["factor"] == "thought"]
    assert own == [-18.0 + k for k in range(MOST_SHOWN)]
    assert shown_of(table.slice(0, 0)).num_rows == 0
