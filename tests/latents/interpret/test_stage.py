"""The interpret stage on stores whose latents are known."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.planted import HOOKS, D, planted_sae, text_store, thought_store
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, DataError, MismatchError, Parts, to_toml
from thoughtlens.latents.codes.codes import open_codes
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.interpret import stage as run
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret, plan
from thoughtlens.latents.interpret.tables import TABLES
from thoughtlens.sae.formats.io import load

N, THOUGHTS = 120, 3


@pytest.fixture(scope="module")
def thoughts(tmp_path_factory):
    """Latent 3 fires at hook 1, thought 2 of "mul" problems; 5 everywhere; 9 never; the rest at random."""
    root = tmp_path_factory.mktemp("thoughts")
    rng = np.random.default_rng(0)
    strengths = np.where(rng.random((N, THOUGHTS, 2, D)) < 0.2, rng.random((N, THOUGHTS, 2, D)), 0)
    label = rng.integers(0, 3, N)
    strengths[..., 3] = strengths[..., 9] = 0
    strengths[label == 1, 2, 1, 3] = 2 + rng.random((label == 1).sum())
    strengths[..., 5] = 1
    labels = {"operation": [["add", "mul", "mixed"][i] for i in label], "value": list(range(N))}
    splits = ["train" if i % 2 else "test" for i in range(N)]
    store = thought_store(root / "acts", strengths, labels, splits=splits)
    sae = planted_sae(root / "sae")
    result = interpret(InterpretConfig(acts=store, sae=sae, seed=1), root / "interpret")
    return root, strengths.astype(np.float32), label, result


def table(root, name):
    return pq.read_table(root / "interpret" / f"{name}.parquet").to_pylist()


def test_statistics_equal_numpy(thoughts):
    root, strengths, _, result = thoughts
    rows = table(root, "latents")
    fires = strengths > 0
    for row in rows:
        own = strengths[..., row["latent"]]
        assert row["n_vectors"] == N * THOUGHTS * 2
        assert row["n_fires"] == fires[..., row["latent"]].sum()
        assert row["n_problems"] == fires[..., row["latent"]].any((1, 2)).sum()
        assert row["max_active"] == pytest.approx(own.max())
        assert row["mean_active"] == pytest.approx(own[own > 0].mean() if (own > 0).any() else 0)
    assert [r["latent"] for r in rows if r["everywhere"]] == [5]
    assert rows[5]["everywhere_reason"] == "dense"
    member = result["members"][0]
    assert member["l0"] == pytest.approx(fires.sum() / (N * THOUGHTS * 2))
    assert (member["n_alive"], member["n_everywhere"], member["split"]) == (D - 1, 1, "all")
    assert any("fire everywhere" in line for line in result["warnings"])


def test_planted_preferences_are_found_and_no_others(thoughts):
    root, _, _, result = thoughts
    held = [
        (r["latent"], r["factor"], r["level"])
        for r in table(root, "associations")
        if r["p_max"] < 0.02 and r["estimate"] > 0
    ]
    assert sorted(held) == [
        (3, "hook", HOOKS[1]),
        (3, "label:operation", "mul"),
        (3, "thought", "2"),
    ]
    factors = {p["factor"] for p in result["members"][0]["preferences"]}
    assert factors == {"thought", "hook", "label:operation", "label:value", "number:value"}


def test_examples_and_their_strips(thoughts):
    root, strengths, label, _ = thoughts
    rows = [r for r in table(root, "top_examples") if r["latent"] == 3]
    best = sorted((-strengths[i, 2, 1, 3], i) for i in range(N) if label[i] == 1)
    assert [r["problem_id"] for r in rows] == [f"p{i}" for _, i in best[: len(rows)]]
    assert len({r["problem_id"] for r in rows}) == len(rows) == 20
    first = rows[0]
    assert (first["hook_name"], first["thought_idx"]) == (HOOKS[1], 2)
    cells = list(zip(first["strip_hook"], first["strip_thought"], first["acts"], strict=True))
    assert [c[:2] for c in cells] == [(h, t) for h in HOOKS for t in range(THOUGHTS)]
    assert [c[2] > 0 for c in cells] == [False] * 5 + [True]
    assert first["question"] == f"question {best[0][1]}"


def test_one_split_only(thoughts, tmp_path):
    root, strengths, _, _ = thoughts
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", split="test")
    result = interpret(cfg, tmp_path / "out")
    assert result["split"] == "test" and result["members"][0]["n_problems"] == N // 2
    row = pq.read_table(tmp_path / "out" / "latents.parquet").to_pylist()[0]
    assert row["n_fires"] == (strengths[::2, ..., 0] > 0).sum()
    with pytest.raises(DataError, match="nowhere"):
        interpret(InterpretConfig(acts=root / "acts", sae=root / "sae", split="nowhere"), tmp_path / "no")


def test_batches_do_not_matter(thoughts, tmp_path):
    root, *_ = thoughts
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", seed=1, batch_size=7)
    interpret(cfg, tmp_path / "out")
    for name in TABLES:
        file = f"{name}.parquet"
        assert pq.read_table(tmp_path / "out" / file).equals(pq.read_table(root / "interpret" / file)), name
    for file in (root / "interpret" / "codes" / "0").iterdir():
        assert file.read_bytes() == (tmp_path / "out" / "codes" / "0" / file.name).read_bytes()


def test_a_killed_stage_goes_on_after_its_finished_members(thoughts, tmp_path):
    root, *_ = thoughts
    for i, hook in enumerate(HOOKS):
        planted_sae(tmp_path / "sae" / f"m{i}", hooks=[hook])
    cfg = InterpretConfig(acts=root / "acts", sae=tmp_path / "sae")
    whole = interpret(cfg, tmp_path / "whole")
    # what a kill between the two members leaves: the first one's parts, and nothing of the second
    (tmp_path / "out.tmp").mkdir()
    parts = Parts(tmp_path / "out.tmp")
    (tmp_path / "out.tmp" / "config.toml").write_text(to_toml(cfg))
    store = ActivationStore.open(root / "acts")
    member = Member(store, "m0", load(tmp_path / "sae" / "m0"), split=None, batch_size=cfg.batch_size)
    parts.finish(0, run._member(cfg, member, tmp_path / "out.tmp", parts, 0))
    assert interpret(cfg, tmp_path / "out")["digest"] == whole["digest"]
    assert {m["member"] for m in whole["members"]} == {"m0", "m1"}


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bytes(thoughts, tmp_path):
    root, *_ = thoughts
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", seed=1, codes_parquet=True)
    out = tmp_path / "out"
    code = (
        "from thoughtlens.latents.interpret.stage import *; "
        f"interpret(InterpretConfig(**{cfg.model_dump()}), {str(out)!r})"
    )
    with subprocess.Popen([sys.executable, "-c", f"from pathlib import *; {code}"]) as process:
        while not (tmp_path / "out.tmp" / "parts" / "0.latents.parquet").exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert not out.exists()
    assert interpret(cfg, out)["digest"] == interpret(cfg, tmp_path / "whole")["digest"]
    for file in sorted((tmp_path / "whole").rglob("*.*")):
        if file.name not in ("result.json", "thoughtlens-files.json"):
            assert file.read_bytes() == (out / file.relative_to(tmp_path / "whole")).read_bytes(), file


def test_counts_equal_numpy(thoughts):
    root, strengths, label, _ = thoughts
    fires = strengths > 0
    rows = {(r["latent"], r["by"], r["level"]): (r["n_fires"], r["n"]) for r in table(root, "counts")}
    operations = ["add", "mul", "mixed"]
    for j in range(D):
        expected = {("thought", str(t)): (fires[:, t, :, j], N * 2) for t in range(THOUGHTS)}
        expected |= {("hook", h): (fires[:, :, i, j], N * THOUGHTS) for i, h in enumerate(HOOKS)}
        expected |= {
            ("cell", f"{h} thought {t}"): (fires[:, t, i, j], N)
            for i, h in enumerate(HOOKS)
            for t in range(THOUGHTS)
        }
        expected |= {
            ("label:operation", o): (fires[label == i, ..., j], (label == i).sum() * THOUGHTS * 2)
            for i, o in enumerate(operations)
        }
        for (by, level), (mask, n) in expected.items():
            assert rows.get((j, by, level), (0, n)) == (mask.sum(), n), (j, by, level)


def test_histogram_deciles_and_their_examples(thoughts):
    root, strengths, _, result = thoughts
    edges, rows = np.array(result["histogram_edges"]), table(root, "latents")
    drawn = table(root, "decile_examples")
    for row in rows:
        own = strengths[..., row["latent"]].reshape(-1)
        own = own[own > 0]
        assert len(row["histogram"]) == len(edges) - 1
        np.testing.assert_array_equal(row["histogram"], np.histogram(own, edges)[0])
        quantiles = np.quantile(own, np.linspace(0, 1, 11)) if len(own) else np.zeros(11)
        np.testing.assert_allclose(row["deciles"], quantiles, rtol=1e-6)
        mine = [r for r in drawn if r["latent"] == row["latent"]]
        assert len(mine) == min(30, len(own))
        for example in mine:
            low, high = row["deciles"][example["decile"] - 1 : example["decile"] + 1]
            assert low * (1 - 1e-6) <= example["value"] <= high * (1 + 1e-6)
    columns = set(table(root, "top_examples")[0])
    assert set(drawn[0]) == columns | {"decile"}


def test_coactivation_is_of_the_same_vectors(thoughts):
    root, strengths, *_ = thoughts
    fires = (strengths > 0).reshape(-1, D).astype(int)
    both = fires.T @ fires
    rows = table(root, "coactivation")
    assert {r["latent"] for r in rows} == set(range(D)) - {9}
    for r in rows:
        j, o = r["latent"], r["other"]
        assert r["n_both"] == both[j, o] > 0 and j != o
        assert r["jaccard"] == pytest.approx(both[j, o] / (both[j, j] + both[o, o] - both[j, o]))


def test_words_of_the_reasoning_text(tmp_path):
    # latent 4 fires where the text says "times"; "so" is everywhere and "seven" too rare to be tested
    rng = np.random.default_rng(3)
    strengths = np.where(rng.random((90, THOUGHTS, 1, D)) < 0.2, 1.0, 0)
    times = rng.random(90) < 0.4
    strengths[times, :, 0, 4] = 1
    cots = [f"so {'2 Times 3.5' if t else '2 + 3.5'}{' seven' if i < 4 else ''}" for i, t in enumerate(times)]
    store = thought_store(tmp_path / "acts", strengths, {"cot": cots})
    sae = planted_sae(tmp_path / "sae", hooks=HOOKS[:1])
    result = interpret(InterpretConfig(acts=store, sae=sae), tmp_path / "out")
    rows = [
        r
        for r in pq.read_table(tmp_path / "out" / "associations.parquet").to_pylist()
        if r["factor"] == "cot"
    ]
    assert {r["level"] for r in rows} == {"times", "+"}
    assert {(r["latent"], r["level"], r["estimate"] > 0) for r in rows if r["q_value"] < 0.05} == {
        (4, "times", True), (4, "+", False)
    }  # fmt: skip
    (tested,) = [p for p in result["members"][0]["preferences"] if p["factor"] == "cot"]
    assert (tested["n_tested"], tested["n_q_below_0.05"]) == (2 * D, 2)


def test_codes_are_kept_or_not(thoughts, tmp_path):
    root, strengths, *_ = thoughts
    codes = open_codes(root / "interpret")["pooled"]
    np.testing.assert_array_equal(codes.csr().toarray(), strengths.reshape(-1, D))
    assert codes.hook_names == list(HOOKS)
    np.testing.assert_array_equal(
        codes.rows_of(np.arange(codes.n_vectors)), np.arange(N * THOUGHTS).repeat(2)
    )
    cfg = InterpretConfig(acts=root / "acts", sae=root / "sae", seed=1, codes=False)
    interpret(cfg, tmp_path / "out")
    assert not (tmp_path / "out" / "codes").exists()
    for name in TABLES:
        file = f"{name}.parquet"
        assert (tmp_path / "out" / file).read_bytes() == (root / "interpret" / file).read_bytes()


@pytest.fixture(scope="module")
def text(tmp_path_factory, tiny_lm_dir):
    """Latent 2 fires on token 100 only; latent 4 on first tokens; the rest at random."""
    root = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(1)
    documents = [rng.integers(4, 250, rng.integers(6, 30)) for _ in range(60)]
    strengths = []
    for i, ids in enumerate(documents):
        ids[ids == 100] = 101
        ids[3] = 100
        x = np.where(rng.random((len(ids), D)) < 0.2, 1 + rng.random((len(ids), D)), 0)
        x[:, 2] = np.where(ids == 100, 3 + i / 100, 0)
        x[0, 4], x[1:, 4] = 50, x[1:, 4] / 10
        strengths.append(x)
    store = text_store(root / "acts", tiny_lm_dir, documents, strengths)
    sae = planted_sae(root / "sae", hooks=HOOKS[:1])
    cfg = InterpretConfig(acts=store, sae=sae, context_before=2, context_after=1)
    return root, documents, strengths, interpret(cfg, root / "interpret")


def test_token_preference_and_windows(text):
    root, documents, strengths, _ = text
    lift = [r for r in table(root, "associations") if r["factor"] == "token" and r["latent"] == 2]
    assert [r["level"] for r in lift] == ["<a3>"]  # the byte that token 100 stands for
    n = sum(len(d) for d in documents)
    assert lift[0]["rate_in"] == 1 and lift[0]["estimate"] == pytest.approx(n / 60)
    best = next(r for r in table(root, "top_examples") if r["latent"] == 2)
    assert (best["problem_id"], best["peak"], best["position"]) == ("d59", 2, 4)
    assert best["token_ids"] == documents[59][1:5].tolist()
    np.testing.assert_allclose(best["acts"], strengths[59][1:5, 2])
    assert len(best["tokens"]) == 4
    counts = [r for r in table(root, "counts") if r["latent"] == 2]
    assert [(r["level"], r["n_fires"], r["n"]) for r in counts if r["by"] == "token"] == [("<a3>", 60, 60)]
    assert {r["by"] for r in counts} == {"token", "position"}
    drawn = [r for r in table(root, "decile_examples") if r["latent"] == 2]
    assert len(drawn) == 30 and all(r["token_ids"][r["peak"]] == 100 for r in drawn)


def test_latents_of_first_tokens_are_flagged(text):
    root, *_ = text
    flagged = {r["latent"]: r for r in table(root, "latents") if r["everywhere"]}
    assert set(flagged) == {4}
    assert flagged[4]["everywhere_reason"] == "first_position"
    assert flagged[4]["first_position_examples"] == 1


def test_result_is_plain_json_with_definitions(text, thoughts):
    for result in (text[-1], thoughts[-1]):
        json.dumps(result, allow_nan=False)
        assert {"density", "everywhere", "q_value", "p_max"} <= set(result["definitions"])


def test_plan_counts_rows(thoughts, tmp_path):
    root, *_ = thoughts
    assert plan(InterpretConfig(acts=root / "acts", sae=root / "sae")).rows == N * THOUGHTS * 2
    assert plan(InterpretConfig(acts=tmp_path / "no", sae=tmp_path / "no")).rows == 0


def test_refusals(thoughts, tmp_path):
    root, *_ = thoughts
    other = planted_sae(tmp_path / "sae", hooks=["layers.7:out"])
    with pytest.raises(MismatchError, match=r"trained on 'layers.7:out' but .* holds layers.0:out"):
        interpret(InterpretConfig(acts=root / "acts", sae=other), tmp_path / "a")
    with pytest.raises(ConfigError, match="expected some of operation, value, got 'colour'"):
        interpret(InterpretConfig(acts=root / "acts", sae=root / "sae", labels=("colour",)), tmp_path / "b")


def test_copies_in_groups_are_neither_findings_nor_examples(tmp_path):
    # 30 questions in four copies each; what fires is random, but the same in every copy
    rng = np.random.default_rng(5)
    strengths = np.repeat(rng.random((30, 2, 1, D)) * (rng.random((30, 2, 1, D)) < 0.4), 4, axis=0)
    label = rng.integers(0, 2, 30)
    labels = {"operation": [["add", "mul"][i] for i in np.repeat(label, 4)]}
    groups = [f"g{i // 4}" for i in range(120)]
    planted_sae(tmp_path / "sae", hooks=["layers.0:out"])
    found = {}
    for name, own in (("alone", None), ("grouped", groups)):
        store = thought_store(tmp_path / name, strengths, labels, groups=own)
        result = interpret(InterpretConfig(acts=store, sae=tmp_path / "sae"), tmp_path / f"{name}-interpret")
        found[name] = result["members"][0]
    tested = {name: {p["factor"]: p for p in one["preferences"]} for name, one in found.items()}
    assert (found["alone"]["n_groups"], found["grouped"]["n_groups"]) == (120, 30)
    assert tested["alone"]["label:operation"]["n_q_below_0.05"] > 0  # what copies make of nothing
    assert tested["grouped"]["label:operation"]["n_q_below_0.05"] == 0
    shown = pq.read_table(tmp_path / "grouped-interpret" / "top_examples.parquet").to_pylist()
    assert len(shown) > 15 * D
    for latent in range(D):
        texts = [int(row["problem_id"][1:]) // 4 for row in shown if row["latent"] == latent]
        assert len(set(texts)) == len(texts)


def test_labels_of_many_values_are_used_and_what_is_not_is_said(tmp_path):
    # latent 3 fires on one operation of twenty, latent 4 where the value lies in the middle
    rng = np.random.default_rng(6)
    n = 400
    strengths = np.where(rng.random((n, 1, 1, D)) < 0.2, rng.random((n, 1, 1, D)), 0)
    op, value = rng.integers(0, 20, n), rng.permutation(n)
    strengths[..., 3], strengths[..., 4] = 0, 0
    strengths[op == 7, ..., 3] = 1
    strengths[abs(value - 200) < 34, ..., 4] = 1
    labels = {"op": [f"+{i}" for i in op], "v1": value.tolist(), "url": [f"u{i}" for i in range(n)]}
    store = thought_store(tmp_path / "acts", strengths, labels)
    sae = planted_sae(tmp_path / "sae", hooks=["layers.0:out"])
    result = interpret(InterpretConfig(acts=store, sae=sae), tmp_path / "interpret")
    assert result["warnings"][0] == "label url: 400 values, none of them frequent enough; it is not used"
    rows = pq.read_table(tmp_path / "interpret" / "associations.parquet").to_pylist()
    best = {}
    for row in sorted(rows, key=lambda r: -abs(r["z"])):
        best.setdefault(row["latent"], row)
    assert (best[3]["factor"], best[3]["level"], best[3]["direction"]) == ("label:op", "+7", "more")
    assert best[4]["factor"] == "label:v1" and best[4]["p_max"] < 0.01
    assert {row["level"] for row in rows if row["factor"] == "number:v1"} == {"rank", "value"}
    for row in rows:
        assert row["direction"] == ("more" if row["estimate"] > 0 else "less")
