"""The explain stage on stores whose latents are known."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import torch
from typer.testing import CliRunner

from tests.latents.explain.words import PLANTED, texts
from tests.planted import D, planted_sae, text_store, thought_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.cli import app
from thoughtlens.core import ConfigError, DataError, MismatchError, OccupiedError, Parts, schema
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.explain import rules
from thoughtlens.latents.explain.columns import Columns, Table
from thoughtlens.latents.explain.config import ExplainConfig, settings
from thoughtlens.latents.explain.corpus import Corpus
from thoughtlens.latents.explain.more import explain_more
from thoughtlens.latents.explain.records import ExplanationRow, GraphRow
from thoughtlens.latents.explain.scores import verdict_of
from thoughtlens.latents.explain.stage import explain, plan
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret

NOISE = tuple(range(len(PLANTED), D - 1))
SILENT = D - 1
OTHERS = ("token", "token_graph", "windows", "rules")
"""The methods that explain latent by latent."""
FEW = (2, 3, 8)
"""Latents for tests that explain a second time."""
FIRST_ID = 100
"""Token of word 0: in the tiny tokenizer, one that can be read."""


def planted_strengths(document: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found = np.zeros((len(document), D), np.float32)
    for i in range(len(document)):
        found[i, : len(PLANTED)] = [latent(document[: i + 1]) for latent in PLANTED]
    found[:, list(NOISE)] = (rng.random((len(document), len(NOISE))) < 0.06) * rng.random((1, len(NOISE)))
    return found


@pytest.fixture(scope="module")
def text_run(tmp_path_factory, tiny_lm_dir):
    """300 texts of 20 words in which the triggers are frequent; latent 15 never fires."""
    root, rng = tmp_path_factory.mktemp("explain"), np.random.default_rng(3)
    documents = texts(300, 20, 5)
    pieces = ([3, 7], [3, 5, 7], [3, 4, 8, 7], [9])
    for document in documents:
        at, piece = rng.integers(0, 15), pieces[rng.integers(len(pieces))]
        document[at : at + len(piece)] = piece
    strengths = [planted_strengths(document, rng) for document in documents]
    store = text_store(root / "acts", tiny_lm_dir, [d + FIRST_ID for d in documents], strengths)
    planted_sae(root / "sae", hooks=["layers.0:out"])
    cfg = ExplainConfig(acts=store, sae=root / "sae", methods=OTHERS, near=5, n_resamples=50, batch_latents=5)
    return root, cfg, explain(cfg, root / "explain")


def table(root, name="explain", latents=range(D)):
    rows = pq.read_table(root / name / "explanations.parquet").to_pylist()
    return [row for row in rows if row["latent"] in latents]


def test_planted_triggers_are_explained_on_held_out_text(text_run):
    root, _, _ = text_run
    rows = [row for row in table(root) if row["latent"] < len(PLANTED)]
    shown = {row["latent"]: row for row in rows if row["chosen"]}
    assert sorted(shown) == list(range(len(PLANTED)))
    for row in shown.values():
        assert row["n_fires"] >= 3 and row["n"] == 60 * 20 and row["n_units"] == 60
        assert (row["auprc"], row["precision"], row["recall"]) == (1.0, 1.0, 1.0)
        assert row["precision_at_half_recall"] == 1.0
        assert row["random_auprc"] < 0.5
    by_token = {row["latent"]: row["auprc"] for row in rows if row["method"] == "token"}
    assert by_token[0] == by_token[1] == 1.0
    assert max(by_token[i] for i in (2, 3, 5, 6)) < 0.9  # the token alone does not say what came before


def test_noise_scores_no_better_than_its_twin(text_run):
    root, _, _ = text_run
    rows = [row for row in table(root) if row["latent"] in NOISE and row["chosen"]]
    gain = np.array([row["auprc"] - row["random_auprc"] for row in rows])
    assert len(rows) == len(NOISE)
    assert abs(gain.mean()) < 0.02
    assert all(row["auprc_low"] < 0.06 * 1.5 for row in rows)


def test_what_the_stage_says(text_run):
    root, cfg, result = text_run
    json.dumps(result, allow_nan=False)
    member = result["members"][0]
    assert member["n_eligible"] == member["n_explained"] == SILENT
    assert {name: part["n_units"] for name, part in member["parts"].items()} == {
        "fit": 180, "validation": 60, "test": 60,
    }  # fmt: skip
    assert result["headline"]["auprc"]["n"] == SILENT
    assert any("no token graphs" in line for line in result["warnings"])  # the store says no model settings
    assert pq.read_table(root / "explain" / "graphs.parquet").num_rows == 0
    assert plan(cfg).rows > 0
    for row in table(root):
        assert row["auprc_low"] <= row["auprc"] + 1e-9 and row["auprc"] <= row["auprc_high"] + 1e-9
        assert row["member"] == "pooled" and row["split"] == "a last fifth of all"


def test_test_problems_never_reach_the_choice(text_run, tmp_path):
    """Other activations on the test problems change scores there, and no text and no choice."""
    root, cfg, _ = text_run
    first = table(root, latents=FEW)
    documents, strengths = _documents(cfg)
    rng = np.random.default_rng(9)
    for i in _corpus(cfg).test.line.tolist():  # the test texts' activations are dealt out anew
        strengths[i] = strengths[i][rng.permutation(len(strengths[i]))]
    model = json.loads((root / "acts" / "meta.json").read_text())["model"]
    store = text_store(tmp_path / "acts", model, documents, strengths)
    explain(cfg.model_copy(update={"acts": store, "latents": FEW}), tmp_path / "explain")
    second = table(tmp_path)
    keys = ("latent", "method", "text", "chosen", "validation_auprc")
    assert [[row[k] for k in keys] for row in first] == [[row[k] for k in keys] for row in second]
    assert [row["auprc"] for row in first] != [row["auprc"] for row in second]


def _corpus(cfg):
    member = Member(ActivationStore.open(cfg.acts), "pooled", saes.load(cfg.sae), split=None, batch_size=512)
    return Corpus(member, None, cfg)


def _documents(cfg):
    corpus = _corpus(cfg)
    store, rows = corpus.member.store, corpus.member.rows
    x = store.view(["layers.0:out"]).read(rows.position).numpy()
    ids = rows.columns.token_id
    pieces = [slice(a, b) for a, b in zip(rows.first[:-1], rows.first[1:], strict=True)]
    return [ids[p] for p in pieces], [x[p].copy() for p in pieces]


def test_interrupted_stage_continues_to_the_same_tables(text_run, tmp_path):
    root, cfg, _ = text_run
    (tmp_path / "explain.tmp").mkdir()
    half = Parts(tmp_path / "explain.tmp")
    marked = table(root, latents=FEW[:2])
    marked[0]["text"] = "kept from before"
    half.write_table("0.00000000", "graphs", schema(GraphRow).empty_table())
    half.write_table("0.00000000", "explanations", pa.Table.from_pylist(marked, schema(ExplanationRow)))
    half.finish("0.00000000", {})
    explain(cfg.model_copy(update={"latents": FEW, "batch_latents": 2}), tmp_path / "explain")
    found, uninterrupted = table(tmp_path), table(root, latents=FEW)
    assert found[0]["text"] == "kept from before"  # the finished batch was not done again
    found[0]["text"] = uninterrupted[0]["text"]
    assert found == uninterrupted


def test_codes_of_interpret_stand_for_encoding(text_run, tmp_path):
    root, cfg, _ = text_run
    interpret(InterpretConfig(acts=cfg.acts, sae=cfg.sae, codes=True), tmp_path / "interpret")
    cfg = cfg.model_copy(update={"interpret": tmp_path / "interpret", "latents": FEW})
    explain(cfg, tmp_path / "explain")
    assert table(tmp_path) == table(root, latents=FEW)


def test_thoughts_are_explained_by_words_labels_and_cells(tmp_path):
    """Latent 3 fires at thought 2 of the second hook in problems with the word `times`."""
    rng, n = np.random.default_rng(0), 200
    strengths = np.where(rng.random((n, 3, 2, D)) < 0.1, rng.random((n, 3, 2, D)), 0)
    label = rng.integers(0, 3, n)
    strengths[..., 3] = 0
    strengths[label == 1, 2, 1, 3] = 2 + rng.random((label == 1).sum())
    labels = {"operation": [["add", "mul", "mixed"][i] for i in label]}
    questions = [f"what is {i} {'times' if label[i] == 1 else 'plus'} 3 ?" for i in range(n)]
    store = thought_store(tmp_path / "acts", strengths, labels, questions=questions)
    planted_sae(tmp_path / "sae")
    cfg = ExplainConfig(acts=store, sae=tmp_path / "sae", latents=(3,), n_resamples=50)
    explain(cfg, tmp_path / "explain")
    rows = {row["method"]: row for row in table(tmp_path)}
    assert set(rows) == {"roles", "token", "windows", "rules"}
    for row in rows.values():
        assert (row["auprc"], row["precision"], row["recall"]) == (1.0, 1.0, 1.0)
    assert '"times"' in rows["token"]["text"] and "thought 2 of layers.1:out" in rows["token"]["text"]
    assert "thought is 2" in rows["rules"]["text"]
    assert 0.1 < rows["rules"]["random_auprc"] < 0.5  # the twin fires in the same problems, 1 of 6 vectors


def test_refusals(text_run, tmp_path):
    root, cfg, _ = text_run
    with pytest.raises(ConfigError, match=r"latents: expected some of 0\.\.15 of pooled, got 16"):
        explain(cfg.model_copy(update={"latents": (3, 16)}), tmp_path / "a")
    with pytest.raises(ConfigError, match="belong together"):
        explain(cfg.model_copy(update={"methods": ("token", "llm")}), tmp_path / "b")
    result = explain(cfg.model_copy(update={"latents": (0, SILENT), "methods": ("token",)}), tmp_path / "c")
    assert any(
        "not explained, as they do not fire in 10 fitting" in w and "15" in w for w in result["warnings"]
    )
    few = text_store(
        tmp_path / "few", json.loads((root / "acts" / "meta.json").read_text())["model"],
        [np.arange(5) + FIRST_ID] * 29, [np.ones((5, D))] * 29,
    )  # fmt: skip
    with pytest.raises(DataError, match="at least 30 independent problems"):
        explain(cfg.model_copy(update={"acts": few}), tmp_path / "d")


def test_settings_of_a_run(text_run, tmp_path):
    root, _, _ = text_run
    cfg, out = settings(root, ["n_latents=7"])
    assert (cfg.acts, cfg.sae, cfg.interpret, cfg.n_latents) == (root / "acts", root / "sae", None, 7)
    assert out == root / "explain"
    with pytest.raises(ConfigError, match="--acts, --sae and --out"):
        settings(None, acts=root / "acts")


def test_another_sae_is_explained_elsewhere_or_not_at_all(text_run, tmp_path):
    root, _, _ = text_run
    other = planted_sae(tmp_path / "my other", hooks=["layers.0:out"])
    with pytest.raises(ConfigError, match=r"--out .*explain-my other'$"):
        settings(root, sae=other)
    found, out = settings(root, sae=other, out=tmp_path / "explain")
    assert (found.sae, found.interpret, out) == (other, None, tmp_path / "explain")
    assert settings(root, sae=root / "sae")[1] == root / "explain"  # the run's own, named


def test_codes_of_another_sae_are_refused(text_run, tmp_path):
    _, cfg, _ = text_run
    store, sae = cfg.acts, planted_sae(tmp_path / "sae", hooks=["layers.0:out"])
    interpret(InterpretConfig(acts=store, sae=sae), tmp_path / "interpret")
    own = cfg.model_copy(update={"sae": sae, "interpret": tmp_path / "interpret", "latents": FEW})
    trained = saes.load(sae)  # trained again, at the same place
    with torch.no_grad():
        trained.W_enc *= 2
    saes.save(trained, sae)
    with pytest.raises(MismatchError, match=r"another sae than .* delete .* run interpret again"):
        explain(own, tmp_path / "explain")
    explain(own.model_copy(update={"interpret": None, "methods": ("token",)}), tmp_path / "explain")


def test_more_latents_take_the_place_of_fewer(text_run, tmp_path):
    _, cfg, _ = text_run
    out = tmp_path / "explain"
    few = cfg.model_copy(update={"n_latents": 3, "methods": ("token",)})
    more = few.model_copy(update={"n_latents": 6})
    explain(few, out)
    assert explain_more(more, out)["headline"]["n_explained"] == 6
    assert len({row["latent"] for row in table(tmp_path)}) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["explain"]
    # the recipe's own call finds what it asked for, and all of them is more still
    assert explain(few, out)["headline"]["n_explained"] == 6
    assert explain_more(few, out)["headline"]["n_explained"] == 6
    assert explain_more(more.model_copy(update={"n_latents": None}), out)["headline"]["n_explained"] == SILENT
    named = explain_more(few.model_copy(update={"latents": (0, 3)}), tmp_path / "named")
    assert named["headline"]["n_explained"] == 2  # nothing was there to be beside
    with pytest.raises(OccupiedError, match="window"):
        explain_more(more.model_copy(update={"window": 2}), out)
    # killed between the two renames
    out.rename(tmp_path / "explain.more")
    shutil.copytree(tmp_path / "explain.more", tmp_path / "explain.old")
    assert explain_more(more, out)["headline"]["n_explained"] == SILENT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["explain", "named"]


def test_latents_asked_for_join_those_drawn(text_run, tmp_path):
    _, cfg, _ = text_run
    out = tmp_path / "explain"
    few = cfg.model_copy(update={"n_latents": 3, "methods": ("token",)})
    explain(few, out)
    drawn = {row["latent"] for row in table(tmp_path)}
    rest = sorted(set(range(SILENT)) - drawn)
    result = explain_more(few.model_copy(update={"latents": (rest[0], SILENT)}), out)
    assert {row["latent"] for row in table(tmp_path)} == {*drawn, rest[0]}
    assert "2 that were asked for" in result["choice"] and "not explained" in result["warnings"][0]
    explain_more(few.model_copy(update={"latents": (rest[1],)}), out)
    assert {row["latent"] for row in table(tmp_path)} == {*drawn, *rest[:2]}
    assert explain(few, out)["headline"]["n_explained"] == 5  # what the recipe asks for is there


def test_verdicts_of_explanations(text_run):
    root, _, _ = text_run
    verdicts = {(row["latent"], row["method"]): row["verdict"] for row in table(root)}
    assert verdicts[0, "token"] == "strong"
    assert verdicts[2, "windows"] == "strong"
    assert verdicts[0, "windows"] == "strong, not shown to beat the token lookup"
    assert all(verdicts[i, "token"] == "no better than chance" for i in NOISE if (i, "token") in verdicts)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.8, 0.7, 0.1, 0.2), "strong"), ((0.6, 0.5, 0.1, 0.2), "fair"), ((0.4, 0.3, 0.1, 0.2), "weak"),
        ((0.052, 0.048, 0.01, 0.054), "weak, not shown to beat the token lookup"),
        ((0.8, 0.1, 0.1, 0.0), "no better than chance"), ((0.8, 0.7, 0.1, None), "strong"),
    ],
)  # fmt: skip
def test_a_verdict_by_hand(scores, said):
    assert verdict_of(*scores) == said


def test_the_printed_rule_is_the_scored_rule():
    # five leaves fire more often than overall, three are printed; all others are predicted alike
    rng = np.random.default_rng(0)
    n, k = 4000, 6
    binary = sp.csr_array((rng.random((n, k)) < 0.5).astype(np.float32))
    numbers = rng.normal(size=(n, 1)).astype(np.float32) * 1000
    x = binary.toarray()
    p = np.where(x[:, 0] > 0, np.where(x[:, 1] > 0, 0.9, 0.6), np.where(numbers[:, 0] > 123.456, 0.3, 0.02))
    tables = Table(binary, sp.csc_array(binary), numbers)
    found = rules.fit(tables, rng.random(n) < p, rng)
    names = Columns.__new__(Columns)  # what is printed needs the names alone
    names.names, names.number_names = [f"c{i}" for i in range(k)], ["v1"]
    text = found.render(names)
    assert text.count("fires on") == 3
    said, values = found.predict(tables), {f"c{i}": x[:, i] > 0 for i in range(k)}
    expected = np.full(n, found.rest)
    for rule, share in zip(text.split("; else")[0].split("; or "), found.shown.values(), strict=True):
        holds = np.ones(n, bool)
        for condition in rule.split(" (fires")[0].split(" and "):
            if match := re.fullmatch(r"v1 (<=|>) (.+)", condition):
                holds &= (numbers[:, 0] <= np.float32(match[2])) == (match[1] == "<=")
            else:
                holds &= ~values[condition[5:-1]] if condition.startswith("not") else values[condition]
        expected[holds] = share
    np.testing.assert_allclose(said, expected)


def test_values_of_many_levels_reach_windows_and_rules(tmp_path):
    """Latent 3 fires where the operation is one of forty; no column of few values says so."""
    rng, n = np.random.default_rng(0), 2000
    strengths = np.where(rng.random((n, 1, 1, D)) < 0.1, rng.random((n, 1, 1, D)), 0)
    op = rng.integers(0, 40, n)
    strengths[..., 3] = 0
    strengths[op == 7, ..., 3] = 1
    labels = {"op": [f"+{i}" for i in op], "note": [f"n{i}" for i in range(n)]}
    store = thought_store(tmp_path / "acts", strengths, labels)
    cfg = ExplainConfig(
        acts=store, sae=planted_sae(tmp_path / "sae", hooks=["layers.0:out"]), latents=(3,), n_resamples=50,
        methods=("windows", "rules"),
    )  # fmt: skip
    result = explain(cfg, tmp_path / "explain")
    for row in table(tmp_path):
        assert row["auprc"] == 1.0 and "op is +7" in row["text"]
    assert result["warnings"] == ["label note: 2,000 values, none of them frequent enough; it is not used"]


def test_command(text_run, tmp_path):
    _, cfg, _ = text_run
    inputs = ["--acts", str(cfg.acts), "--sae", str(cfg.sae), "--out", str(tmp_path / "explain")]
    options = ["latents=[0,3]", 'methods=["token","rules"]', "n_resamples=50"]
    done = CliRunner().invoke(app, ["explain", *options, *inputs])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["headline"]["n_explained"] == 2
    assert {row["method"] for row in table(tmp_path)} == {"token", "rules"}
    planned = CliRunner().invoke(app, ["explain", *options, *inputs, "--plan"])
    assert json.loads(planned.stdout)["plan"]["rows"] > 0


def test_the_time_of_token_graphs_follows_the_questions_and_the_model(tmp_path):
    """8 examples of 100 words each: 1 + 50 runs + 64 words + 5 x 16 others, at 60 s for 30 problems."""
    questions = [" ".join(f"w{i}" for i in range(100))] * 30
    thought_store(tmp_path / "acts", np.ones((30, 2, 1, D)), {}, questions=questions)
    planted_sae(tmp_path / "sae", hooks=["layers.0:out"])
    cfg = ExplainConfig(
        acts=tmp_path / "acts", sae=tmp_path / "sae", methods=("token_graph",), n_latents=4, n_resamples=50
    )
    assert plan(cfg).seconds == 10 + 4 * 1.0
    made = {"schema": 1, "stage": "extract", "seconds": 60.0}
    (tmp_path / "acts" / "result.json").write_text(json.dumps(made))
    assert plan(cfg).seconds == 10 + 4 * 8 * (1 + 50 + 64 + 5 * 16) * 60.0 / 30
