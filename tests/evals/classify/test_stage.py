"""The classify stage: like for like, honest about what was seen, and clear about what cannot be done."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.planted import HOOKS, D, planted_sae, thought_store
from thoughtlens import sae as saes
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, DataError, MismatchError, NotThereError, Parts, validate_config
from thoughtlens.evals.classify import run as running
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.stage import classify, plan
from thoughtlens.evals.probing import probes
from thoughtlens.evals.probing.coders import Cover
from thoughtlens.evals.probing.samples import ThoughtSamples
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

pytestmark = pytest.mark.slow

N = 150
FAST = {"folds": 3, "inner_folds": 2, "c_grid": (0.01, 1.0), "per_cell": False}


def planted(root, *, n=N, seed=0, splits=None, groups=None, labels=None, strength=1.5):
    """The label is written by latents 3 and 4 at hook 1, thought 2; the questions say nothing."""
    rng = np.random.default_rng(seed)
    strengths = np.where(rng.random((n, 3, 2, D)) < 0.2, rng.random((n, 3, 2, D)), 0)
    y = rng.integers(0, 3, n)
    strengths[:, 2, 1, 3] = (y == 1) * strength
    strengths[:, 2, 1, 4] = (y == 2) * strength
    names = (
        {"operation": [["add", "mul", "mixed"][i] for i in y], "same": ["x"] * n}
        if labels is None
        else labels
    )
    words = rng.choice(["few", "many", "some"], n)
    questions = [f"problem {i} with {w} words" for i, w in enumerate(words)]
    thought_store(root / "acts", strengths, names, splits=splits, groups=groups, questions=questions)
    planted_sae(root / "sae")
    return y


def config(root, **options):
    return ClassifyConfig(acts=root / "acts", sae=root / "sae", **{"target": "operation", **FAST, **options})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("classify")
    planted(root, splits=["train"] * 30 + ["test"] * (N - 30))
    result = classify(config(root, per_cell=True, seed=1), root / "classify")
    return root, result


def row(result, arm, pooling):
    return next(r for r in result["table"] if (r["arm"], r["pooling"]) == (arm, pooling))


def test_the_same_numbers_in_two_arms_score_the_same(run):
    _, result = run
    # the planted SAE is the identity on non-negative vectors
    for pooling in ("concat", "mean_thoughts", "mean_all", "max_all", "last_thought", "selected"):
        sae, raw = row(result, "sae", pooling), row(result, "raw", pooling)
        assert sae["accuracy"] == pytest.approx(raw["accuracy"], abs=0.02)
    primary = next(c for c in result["comparisons"] if c["primary"])
    assert (primary["arm"], primary["pooling"], primary["verdict"]) == ("sae", "selected", "equivalent")


def test_controls_find_nothing(run):
    _, result = run
    chance = max(c["n"] for c in result["classes"]) / result["n"]
    assert row(result, "raw", "last_thought")["accuracy"] > 0.95
    for arm, pooling in (("begin_of_thought", "concat"), ("text", "none"), ("permuted", "last_thought")):
        found = row(result, arm, pooling)
        assert found["low"] < chance + 0.05, arm
    assert row(result, "majority", "none")["accuracy"] == pytest.approx(chance, abs=0.02)
    text = next(c for c in result["comparisons"] if c["arm"] == "text")
    assert text["verdict"] == "worse" and text["p_holm"] < 0.001


def test_the_planted_cell_is_the_one_that_knows(run):
    root, _ = run
    rows = pq.read_table(root / "classify" / "table.parquet").to_pylist()
    cells = {
        (r["arm"], r["hook_name"], r["thought_idx"]): r["accuracy"] for r in rows if r["pooling"] == "cell"
    }
    assert len(cells) == 2 * 6
    for arm in ("sae", "raw"):
        own = {key: value for key, value in cells.items() if key[0] == arm}
        assert max(own, key=own.get) == (arm, HOOKS[1], 2) and max(own.values()) > 0.95
        assert sorted(own.values())[-2] < 0.6


def test_record_says_what_was_done(run):
    root, result = run
    json.dumps(result, allow_nan=False)
    assert result["n"] == N - 30 and result["split"] == "test"
    assert {entry["split"] for entry in result["headline"].values()} == {"test"}
    assert result["protocol"]["c_grid"] == [0.01, 1.0] and len(result["protocol"]["folds_digest"]) == 16
    predictions = pq.read_table(root / "classify" / "predictions.parquet").to_pandas()
    own = predictions[(predictions.arm == "sae") & (predictions.pooling == "selected")]
    assert len(own) == result["n"] and own["id"].is_unique
    assert (own.label == own.predicted).mean() == pytest.approx(row(result, "sae", "selected")["accuracy"])
    matrix = np.array(result["confusion"]["sae"])
    assert matrix.sum() == result["n"] and np.trace(matrix) == (own.label == own.predicted).sum()
    for i, entry in enumerate(result["per_class"]["sae"]):
        assert entry["recall"] == pytest.approx(matrix[i, i] / matrix[i].sum())
    # every arm was tested on the same folds
    folds = predictions.groupby(["arm", "pooling"], observed=True)["fold"].apply(tuple)
    assert len(set(folds)) == 1


def test_units_are_those_the_sae_has_not_seen(run, tmp_path):
    root, result = run
    # the planted SAE does not say which store it was trained on
    assert result["transductive"]["standing"] == "unknown" and result["transductive"]["n_seen_by_sae"] == 0
    seen = classify(
        config(root, split="train", poolings=("mean_all",), primary_pooling="mean_all"), tmp_path / "a"
    )
    assert seen["transductive"]["standing"] == "transductive"
    assert seen["transductive"]["n_seen_by_sae"] == seen["n"] == 30
    assert any("transductive" in text for text in seen["warnings"])


def test_groups_stay_together(tmp_path):
    groups = [f"g{i // 3}" for i in range(N)]
    planted(tmp_path, groups=groups)
    options = {"poolings": ("last_thought",), "primary_pooling": "last_thought", "arms": ("sae", "raw")}
    result = classify(config(tmp_path, **options), tmp_path / "out")
    assert result["n_groups"] == N // 3
    assert row(result, "sae", "last_thought")["interval"] == "Wilson, shared training folds"
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pandas()
    assert (table.groupby("group")["fold"].nunique() == 1).all()


def test_thinning_keeps_whole_groups(tmp_path):
    planted(tmp_path, groups=[f"g{i // 5}" for i in range(N)])
    options = {
        "poolings": ("mean_all",),
        "primary_pooling": "mean_all",
        "arms": ("sae", "raw"),
        "max_units": 62,
    }
    result = classify(config(tmp_path, **options), tmp_path / "out")
    assert result["n"] == 60 and result["n_groups"] == 12


def test_a_killed_stage_ends_with_the_same_bytes(run, tmp_path):
    root, _ = run
    options = {"poolings": ("mean_all", "concat"), "arms": ("sae", "raw", "majority")}
    whole = classify(config(root, **options), tmp_path / "whole")
    # what a kill leaves: the parts that were finished
    broken = tmp_path / "out.tmp"
    broken.mkdir()
    (broken / "config.toml").write_text((tmp_path / "whole" / "config.toml").read_text())
    y = np.array(
        pq.read_table(tmp_path / "whole" / "predictions.parquet")
        .to_pandas()
        .query("arm == 'majority'")
        .label.cat.codes
    )
    folds = probes.make_folds(y, np.arange(len(y)), n_splits=3, n_inner=2, seed=0)
    running.save(probes.constant(y, folds, n_classes=3), Parts(broken), running.part("majority", "none"))
    assert classify(config(root, **options), tmp_path / "out")["digest"] == whole["digest"]
    assert not (tmp_path / "out" / "parts").exists()


def test_members_that_cover_the_cells_between_them(run, tmp_path):
    root, _ = run
    for thought in range(3):
        planted_sae(tmp_path / "sae" / f"thought_{thought}", thoughts=[thought])
    options = {"acts": root / "acts", "sae": tmp_path / "sae", "target": "operation", **FAST}
    only = {
        "arms": ("sae", "raw"),
        "poolings": ("mean_thoughts", "last_thought"),
        "primary_pooling": "last_thought",
    }
    result = classify(ClassifyConfig(**options, **only), tmp_path / "out")
    # three SAEs: a mean over thoughts would mix their latents, so each keeps its own columns
    assert row(result, "sae", "mean_thoughts")["n_features"] == 3 * 2 * D
    planted_sae(tmp_path / "sae" / "again", thoughts=[1])
    with pytest.raises(ConfigError, match=r"again and thought_1 both cover layers\.0:out, thought 1"):
        classify(ClassifyConfig(**options, **only), tmp_path / "no")
    two = classify(ClassifyConfig(**options, **only, members=("thought_0", "thought_2")), tmp_path / "two")
    assert row(two, "sae", "last_thought")["n_features"] == 2 * D
    with pytest.raises(ConfigError, match="got 'thought_9'"):
        classify(ClassifyConfig(**options, members=("thought_9",)), tmp_path / "no2")
    alone = options | {"sae": planted_sae(tmp_path / "one")}
    assert classify(ClassifyConfig(**alone, **only, members=("pooled",)), tmp_path / "pooled")["n"] > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"target": "colour"},
            ConfigError,
            r"target: expected a label column of .*\(operation, same\), got 'colour'",
        ),
        ({"target": None}, ConfigError, "got None"),
        ({"target": "same"}, DataError, "only 'x' in all"),
        ({"split": "dev"}, ConfigError, "split: expected one of test, train or all, got 'dev'"),
        ({"split": "train", "folds": 25}, DataError, "25 groups|in every|one per fold"),
        ({"target": None, "data": "sae-probes:87_glue_cola"}, ConfigError, "holds thoughts"),
        ({"group_column": "template"}, ConfigError, "'template' is not among"),
        ({"poolings": ("mean",)}, ConfigError, "poolings: expected some of concat"),
        ({"primary_pooling": "max"}, ConfigError, "primary_pooling: expected one of"),
    ],
)
def test_refusals(run, tmp_path, options, error, message):
    root, _ = run
    cfg = config(root, **{"arms": ("sae", "raw"), "poolings": ("mean_all",), **options})
    with pytest.raises(error, match=message):
        classify(cfg, tmp_path / "out")


def test_a_crosscoder_is_refused_in_one_line(run, tmp_path):
    root, _ = run
    sites = tuple(f"{HOOKS[0]} thought {t}" for t in range(3))
    sae = saes.create(saes.CrosscoderConfig(d_sae=8, k=2, over="thoughts", sites=sites), D, seed=0)
    sae.hook_names = [HOOKS[0]]
    saes.save(sae, tmp_path / "sae")
    cfg = ClassifyConfig(acts=root / "acts", sae=tmp_path / "sae", target="operation")
    with pytest.raises(
        MismatchError, match="Expected SAEs or transcoders, got the crosscoder 'pooled'"
    ) as error:
        classify(cfg, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("sae", "magic")}, "no arm 'magic'"),
        ({"arms": ("sae", "text")}, "arms must hold sae and raw"),
        ({"poolings": ("median",)}, "no pooling 'median'"),
        ({"target": "a", "data": "b.csv"}, "not both"),
        ({"c_grid": (0.0,)}, "positive"),
    ],
)
def test_bad_configs(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(ClassifyConfig, {"acts": tmp_path, "sae": tmp_path, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All arms and poolings on a signal in one of six cells, with an SAE that was trained here."""
    root = tmp_path_factory.mktemp("whole")
    planted(root, n=330, splits=["train"] * 60 + ["validation"] * 20 + ["test"] * 250, strength=3.0)
    table = {
        "acts": root / "acts", "sae": {"kind": "topk", "d_sae": 24, "k": 6}, "batch_size": 64, "epochs": 20,
        "evaluations": 2,
    }  # fmt: skip
    train(validate_config(TrainConfig, table), root / "trained")
    options = {"arms": "all", "per_cell": True, "n_permutations": 40, "ks": (1, 2, 4), "split": "test"}
    cfg = validate_config(
        ClassifyConfig,
        {"acts": root / "acts", "sae": root / "trained", "target": "operation", **FAST, **options},
    )
    return root, cfg, classify(cfg, root / "classify")


def test_every_arm_went_through_every_pooling_of_its_kind(whole):
    _, _, result = whole
    poolings = {"concat", "mean_thoughts", "mean_all", "max_all", "binary", "last_thought"}
    for arm in result["protocol"]["arms_of_vectors"]:
        own = {r["pooling"] for r in result["table"] if r["arm"] == arm}
        assert own - {"selected_cell"} == poolings | {"selected"} | (
            set() if arm.startswith("top_") else {"attention"}
        )
    assert set(result["protocol"]["arms_without_vectors"]) == {"text", "text_counts", "majority"}
    assert {"folds", "learner", "c_grid", "scaler"} <= set(result["protocol"]["same_for_every_arm"])
    assert result["arms_left_out"] == []


def test_one_cell_is_found_and_the_global_mean_is_said_to_lose_it(whole):
    _, _, result = whole
    assert row(result, "raw", "selected_cell")["accuracy"] >= 0.95
    assert row(result, "raw", "attention")["accuracy"] >= 0.95
    assert row(result, "raw", "concat")["accuracy"] >= 0.95
    found = result["cell_tests"]["raw"]
    assert found["best"] == {"hook_name": HOOKS[1], "thought_idx": 2}
    assert found["says"].startswith("1 of 6 cells know the label more than cells do on average")
    known = {(c["hook_name"], c["thought_idx"]): c["p_best"] for c in found["cells"]}
    assert known.pop((HOOKS[1], 2)) < 0.05 < min(known.values())
    lost = {p["pooling"]: p for p in found["poolings"]}
    assert lost["binary"]["says"] is None or "loses" in lost["binary"]["says"]
    for p in lost.values():
        assert (p["says"] is not None) == (p["high"] < -result["protocol"]["delta"])
    assert lost["mean_all"]["strongest_in_pooling"] < lost["mean_all"]["strongest_in_cell"]


def test_two_neurons_are_enough_and_are_named(whole):
    _, _, result = whole
    name = ("top_neurons", "concat")
    at = {c["k"]: c["accuracy"] for c in result["curves"] if (c["arm"], c["pooling"]) == name}
    assert at[1] < 0.85 and at[2] >= 0.95
    first = [c for c in result["chosen"] if (c["arm"], c["pooling"]) == name][:2]
    assert {(c["hook_names"][0], c["thoughts"][0], c["index"]) for c in first} == {
        (HOOKS[1], 2, 3),
        (HOOKS[1], 2, 4),
    }
    assert all(c["n_folds"] == 3 for c in first) and result["fewest"]["top_neurons concat"] == 2


def test_cross_fitted_saes_have_not_seen_their_fold(whole, tmp_path):
    _, cfg, _ = whole
    changed = {"cross_fit": True, "split": "train", "arms": ("sae", "raw"), "per_cell": False}
    result = classify(
        cfg.model_copy(update={**changed, "poolings": ("concat",), "primary_pooling": "concat"}),
        tmp_path / "out",
    )
    assert result["transductive"]["standing"] == "cross-fitted" and not result["warnings"]
    assert row(result, "sae", "concat")["n_features"] == 6 * 24
    bare = tmp_path / "bare"
    planted_sae(bare)
    with pytest.raises(ConfigError, match=r"cross_fit: expected the training's config\.toml"):
        classify(cfg.model_copy(update={**changed, "sae": bare}), tmp_path / "no")


def test_a_number_as_the_target(tmp_path):
    rng = np.random.default_rng(0)
    value = rng.normal(size=N) * 4 + 20
    y = planted(tmp_path, labels={"size": value, "operation": ["a", "b"] * (N // 2)})
    result = classify(config(tmp_path, target="size", arms=("sae", "raw", "majority")), tmp_path / "noise")
    assert (result["task"], result["metric"], result["classes"]) == ("regression", "r2", [])
    assert row(result, "raw", "concat")["r2"] < 0.1 and abs(row(result, "majority", "none")["r2"]) < 0.1
    told = np.asarray(y, float).tolist()
    planted(tmp_path / "told", labels={"size": told})
    found = classify(
        config(tmp_path / "told", target="size", task="regression", arms=("sae", "raw", "majority")),
        tmp_path / "found",
    )
    assert row(found, "raw", "last_thought")["r2"] > 0.9
    primary = next(c for c in found["comparisons"] if c["primary"])
    assert primary["test"] == "paired t, shared training folds" and primary["verdict"] == "equivalent"
    with pytest.raises(ConfigError, match="regression needs a target of numbers"):
        classify(config(tmp_path, target="operation", task="regression"), tmp_path / "no")


def test_only_some_classes(run, tmp_path):
    root, _ = run
    only = {"arms": ("sae", "raw"), "poolings": ("last_thought",), "primary_pooling": "last_thought"}
    result = classify(config(root, classes=("add", "mul"), **only), tmp_path / "out")
    assert [c["class"] for c in result["classes"]] == ["add", "mul"]
    with pytest.raises(ConfigError, match="classes: expected some of add, mixed, mul, got 'div'"):
        classify(config(root, classes=("div",), **only), tmp_path / "no")


def test_plan(run, tmp_path):
    root, _ = run
    assert plan(config(root)).rows == N
    assert plan(config(tmp_path)).rows == 0


@pytest.fixture(scope="module")
def text_run(tmp_path_factory, tiny_lm_dir):
    """Documents about cats and dogs through the tiny model, and an SAE on them."""
    root = tmp_path_factory.mktemp("classify_text")
    rng = np.random.default_rng(0)
    words = ["runs", "sleeps", "eats", "jumps", "sits", "waits"]
    texts = [
        f"the {'zebra' if i % 2 else 'fox'} {rng.choice(words)} and {rng.choice(words)} now"
        for i in range(140)
    ]
    rows = [{"text": t, "animal": "zebra" if "zebra" in t else "fox"} for t in dict.fromkeys(texts)]
    (root / "docs.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    table = {
        "model": {"name": str(tiny_lm_dir), "dtype": "float32"},
        "problems": {"source": str(root / "docs.jsonl"), "label_columns": ["animal"], "test": 0.4},
        "hook_names": ["layers.0:out"],
        "context_length": 64,
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    sae = {"kind": "topk", "d_sae": 64, "k": 8}
    options = {"acts": root / "acts", "sae": sae, "batch_size": 128, "epochs": 2, "evaluations": 1}
    train(validate_config(TrainConfig, options), root / "sae")
    return root, rows


def test_labels_of_stored_documents(text_run, tmp_path):
    root, _ = text_run
    cfg = ClassifyConfig(acts=root / "acts", sae=root / "sae", target="animal", **FAST)
    result = classify(cfg, tmp_path / "out")
    assert result["transductive"]["standing"] == "inductive"
    assert result["transductive"]["n_seen_by_sae"] == 0
    assert {r["pooling"] for r in result["table"]} == {"mean", "last", "max", "binary", "selected", "none"}
    assert row(result, "text", "none")["accuracy"] > 0.9  # one word gives it away
    assert row(result, "raw", "mean")["accuracy"] > 0.8
    assert result["arms_left_out"] == ["begin_of_thought"]


def test_labelled_texts_from_a_file_equal_the_stored_ones(text_run, tmp_path):
    """The same texts, run through the model again, must give the same features and the same scores."""
    root, rows = text_run
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    options = {
        "acts": root / "acts",
        "sae": root / "sae",
        **FAST,
        "arms": ("sae", "raw"),
        "poolings": ("mean", "max"),
    }
    stored = classify(ClassifyConfig(**options, target="animal", split="all"), tmp_path / "a")
    source = {"data": str(tmp_path / "all.jsonl"), "label_column": "animal"}
    again = classify(ClassifyConfig(**options, **source), tmp_path / "b")
    assert stored["n"] == again["n"] == len(rows)
    for arm in ("sae", "raw"):
        one, other = row(stored, arm, "mean"), row(again, arm, "mean")
        assert abs(one["accuracy"] - other["accuracy"]) < 0.15  # other folds, same features
        assert one["n_features"] == other["n_features"]
    assert again["transductive"]["standing"] == "transductive"
    train_split = pq.read_table(root / "acts" / "problems.parquet").to_pandas().query("split == 'train'")
    assert again["transductive"]["n_seen_by_sae"] == len(train_split)
    assert "data" in json.loads((tmp_path / "b" / "result.json").read_text())["inputs"]


def test_labelled_texts_with_problems(text_run, tmp_path):
    root, _ = text_run
    options = {"acts": root / "acts", "sae": root / "sae", **FAST}
    with pytest.raises(NotThereError, match="no such file"):
        classify(ClassifyConfig(**options, data=str(tmp_path / "no.csv")), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"label column of .* \(animal\) or data=FILE"):
        classify(ClassifyConfig(**options), tmp_path / "b")


def test_features_of_stored_and_new_texts_are_the_same_numbers(text_run):
    from thoughtlens.acts.store.reader import ActivationStore
    from thoughtlens.evals.probing.coders import Cover
    from thoughtlens.evals.probing.samples import TextSamples, stored_documents
    from thoughtlens.latents.codes.reading import TextReader
    from thoughtlens.sae.formats.io import load_members

    root, _ = text_run
    store = ActivationStore.open(root / "acts")
    cover = Cover(store, load_members(root / "sae"), pca_k=5, seed=0)
    lines = np.arange(12)
    texts = store.problems["question"].to_pylist()[:12]
    arms = ["sae", "raw", "pca", "sae_reconstruction"]
    old = TextSamples(cover, 12, stored_documents(store, ["layers.0:out"], lines), arms)
    reader = TextReader.like(ActivationStore.open(root / "acts"))
    new = TextSamples(cover, 12, ((r.index, r.acts) for r in reader.read(texts, ["layers.0:out"])), arms)
    for arm in arms:
        pairs = zip(old.features(arm, ["mean", "max"]), new.features(arm, ["mean", "max"]), strict=True)
        for (name, a), (_, b) in pairs:
            a, b = (m if isinstance(m, np.ndarray) else m.toarray() for m in (a, b))
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=f"{arm} {name}")


def test_thought_features_come_from_the_right_rows(tmp_path):
    from thoughtlens.acts.store.reader import ActivationStore
    from thoughtlens.evals.probing.coders import Cover
    from thoughtlens.evals.probing.samples import ThoughtSamples
    from thoughtlens.sae.formats.io import load_members

    strengths = np.random.default_rng(0).random((9, 3, 2, D))
    thought_store(tmp_path / "acts", strengths, {})
    planted_sae(tmp_path / "sae")
    store = ActivationStore.open(tmp_path / "acts")
    lines = np.array([4, 1, 7])
    samples = ThoughtSamples(Cover(store, load_members(tmp_path / "sae"), None, 0), lines)
    found = dict(samples.features("raw", ["concat", "cell:layers.1:out/2"]))
    np.testing.assert_allclose(found["cell:layers.1:out/2"], strengths[lines, 2, 1], rtol=1e-6)
    # concat is hook-major: hook 0 thoughts 0..2, hook 1 thoughts 0..2
    np.testing.assert_allclose(
        found["concat"], strengths[lines].transpose(0, 2, 1, 3).reshape(3, -1), rtol=1e-6
    )
    np.testing.assert_allclose(
        dict(samples.features("sae", ["concat"]))["concat"], found["concat"], rtol=1e-6
    )
    only = dict(samples.features("begin_of_thought", ["concat"]))["concat"]
    np.testing.assert_allclose(only, strengths[lines, 0].reshape(3, -1), rtol=1e-6)


ALONE = {"poolings": ("last_thought",), "primary_pooling": "last_thought", "arms": ("sae", "raw")}


def test_units_without_a_label_are_counted(tmp_path):
    labels = [None if i % 5 == 0 else "ab"[i % 2] for i in range(80)]
    planted(tmp_path, n=80, labels={"operation": labels})
    result = classify(config(tmp_path, **ALONE), tmp_path / "out")
    assert (result["n"], result["transductive"]["n_unlabelled"]) == (64, 16)
    assert any("16 units have no operation" in text for text in result["warnings"])


def test_sound_data_pass_without_a_flag_and_equal_arms_do_not(tmp_path):
    planted(tmp_path, groups=[f"g{i // 3}" for i in range(N)])
    result = classify(config(tmp_path, **{**ALONE, "arms": ("sae", "raw", "pca")}), tmp_path / "out")
    seen = result["transductive"]
    assert (seen["n_unlabelled"], seen["n_copies"], seen.get("out_of_step")) == (0, 0, None)
    # the planted SAE is the identity
    assert [text for text in result["warnings"] if "another store" not in text] == [
        "arms sae and raw predict the same of every unit: do they see the same vectors?"
    ]


def test_copies_under_other_ids_are_one_group(tmp_path):
    rng = np.random.default_rng(3)
    y, copies = rng.integers(0, 2, 60), np.arange(120) % 60
    strengths = np.where(rng.random((60, 3, 2, D)) < 0.2, rng.random((60, 3, 2, D)), 0)[copies]
    labels = {"operation": ["ab"[i] for i in y[copies]]}
    texts = [f"Question {i}" if k < 60 else f"question {i}." for k, i in enumerate(copies)]
    planted_sae(tmp_path / "sae")
    for name, questions in (("texts", texts), ("vectors", [f"other {i}" for i in range(120)])):
        thought_store(tmp_path / "acts", strengths, labels, questions=questions)
        result = classify(config(tmp_path, **ALONE), tmp_path / name)
        assert (result["n"], result["n_groups"], result["transductive"]["n_copies"]) == (120, 60, 60)
        assert any("60 units are copies" in text for text in result["warnings"])
        # random labels: torn copies would be guessed from each other
        assert row(result, "raw", "last_thought")["accuracy"] < 0.7
        shutil.rmtree(tmp_path / "acts")


def test_rows_stored_twice_are_refused(tmp_path):
    planted(tmp_path, n=60)
    store = ActivationStore.open(tmp_path / "acts")
    store.__dict__["problem_idx"] = np.concatenate([store.problem_idx[:-3], store.problem_idx[:3]])
    cover = Cover(store, saes.load_members(tmp_path / "sae"), None, 0)
    with pytest.raises(DataError, match=r"once at every thought, 'p0' has thought \d several times"):
        ThoughtSamples(cover, np.arange(60))


def test_groups_out_of_step_with_their_twins_are_said(tmp_path):
    rng = np.random.default_rng(4)
    names = [" ".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(60)]
    texts = [f"{names[i // 2]} pays {i % 2 + 3}" for i in range(120)]
    strengths = rng.random((120, 3, 2, D))
    labels = {"operation": ["ab"[i] for i in rng.integers(0, 2, 60).repeat(2)]}
    planted_sae(tmp_path / "sae")
    for name, lines in (("right", 0), ("slipped", 1)):
        groups = [f"g{(i + lines) // 2}" for i in range(120)]
        thought_store(tmp_path / name / "acts", strengths, labels, questions=texts, groups=groups)
        cfg = config(tmp_path, **ALONE).model_copy(update={"acts": tmp_path / name / "acts"})
        result = classify(cfg, tmp_path / name / "out")
        assert any("out of step" in text for text in result["warnings"]) == bool(lines)
