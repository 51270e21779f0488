"""Activations on disk against the plain model, one window at a time; interruption; bad input."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract, plan
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import (
    ConfigError,
    DataError,
    HookError,
    MismatchError,
    NotThereError,
    OccupiedError,
    ThoughtlensError,
    digest_tree,
    to_toml,
)

WORDS = [
    "the", "cat", "sat", "on", "a", "mat", "and", "saw", "seven", "small", "birds", "fly", "over", "one",
    "old", "house", "by", "sea",
]  # fmt: skip


def corpus(path: Path, n: int = 60, seed: int = 0) -> Path:
    rng = random.Random(seed)
    texts = (" ".join(rng.choices(WORDS, k=rng.randint(1, 40))) for _ in range(n))
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def config(model_dir: Path, corpus_file: Path, **options) -> ExtractConfig:
    table = {
        "model": {"name": str(model_dir), "dtype": "float32"},
        "problems": {"source": str(corpus_file)},
        "hook_names": ["layers.1:out", "layers.2.mlp:in"],
        "context_length": 24,
        "batch_tokens": 96,
        "store_dtype": "float32",
        "shard_rows": 500,
        "max_tokens": 0,
    }
    return ExtractConfig.model_validate({**table, **options})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return corpus(tmp_path / "text.jsonl")


def rows_of(store: ActivationStore) -> list[dict]:
    return store.rows.to_pylist()


def test_every_row_is_what_the_model_computes_on_its_window_alone(tiny_lm_dir, source, tmp_path):
    result = extract(config(tiny_lm_dir, source), tmp_path / "acts")
    store = ActivationStore.open(tmp_path / "acts", verify=True)
    acts = {h: store.view([h]).read(np.arange(store.n_rows)) for h in store.meta.hook_names}
    at = {(r["problem_id"], r["window"], r["position"]): r for r in rows_of(store)}
    assert len(at) == store.n_rows == result["n_rows"]

    model = AutoModelForCausalLM.from_pretrained(tiny_lm_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm_dir)
    seen = 0
    for problem in store.problems.to_pylist():
        ids = tokenizer(problem["question"], add_special_tokens=False).input_ids
        for window in range(0, len(ids), 23):
            tokens = [tokenizer.bos_token_id, *ids[window : window + 23]]
            with torch.no_grad():
                state = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[2][0]
            for position in range(1, len(tokens)):
                row = at[problem["problem_id"], window // 23, position]
                assert row["token_id"] == tokens[position]
                torch.testing.assert_close(
                    acts["layers.1:out"][row["row"]], state[position], rtol=1e-5, atol=1e-5
                )
                seen += 1
    assert seen == store.n_rows, "nothing else is in the store"
    assert result["rows_by_split"] == {
        split: store.view(["layers.1:out"], split=split).n for split in ("train", "validation", "test")
    }
    assert result["n_problems"] == store.problems.num_rows == 60
    assert store.meta.modules == {
        "layers.1:out": "model.layers.1",
        "layers.2.mlp:in": "model.layers.2.mlp",
    }


def test_special_tokens_are_rows_only_when_asked_for(tiny_lm_dir, tmp_path):
    (tmp_path / "a.txt").write_text("one</s> two\n\nthree")
    source = tmp_path / "a.txt"
    special = {0, 1, 2, 3}
    for drop in (True, False):
        extract(config(tiny_lm_dir, source, drop_special=drop), tmp_path / f"acts-{drop}")
    dropped = rows_of(ActivationStore.open(tmp_path / "acts-True"))
    kept = rows_of(ActivationStore.open(tmp_path / "acts-False"))
    assert not special & {r["token_id"] for r in dropped}
    # a begin-of-sequence token for each of the two documents, and the end-of-sequence token in the first
    assert sorted(r["token_id"] for r in kept if r["token_id"] in special) == [1, 1, 2]
    assert len(kept) == len(dropped) + 3
    assert min(r["position"] for r in dropped) == 1, "positions count the tokens left out"


def test_without_a_begin_of_sequence_token_positions_start_at_the_text(tiny_lm_dir, source, tmp_path):
    extract(config(tiny_lm_dir, source, bos="never"), tmp_path / "acts")
    rows = rows_of(ActivationStore.open(tmp_path / "acts"))
    assert min(r["position"] for r in rows) == 0
    assert max(r["position"] for r in rows) == 23


def test_rows_of_massive_norm_are_flagged_and_can_be_dropped(tiny_lm_dir, source, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_lm_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm_dir)
    token = tokenizer("y", add_special_tokens=False).input_ids[0]
    with torch.no_grad():
        model.model.embed_tokens.weight[token] *= 1000
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    result = extract(config(tmp_path / "model", source), tmp_path / "acts")
    store = ActivationStore.open(tmp_path / "acts")
    flagged = {r["row"] for r in rows_of(store) if r["outlier"]}
    assert flagged == {r["row"] for r in rows_of(store) if r["token_id"] == token}
    assert 0 < len(flagged) == result["n_outliers"] < store.n_rows
    assert result["n_outliers_at_position_0"] == 0
    assert store.view(["layers.1:out"], drop_outliers=True).n == store.n_rows - len(flagged)
    norms = store.view(["layers.1:out"]).read(np.arange(store.n_rows)).norm(dim=1)
    # fewer than 4,096 rows: the calibration sample is all of them, and torch's median is the lower one
    assert result["n_norm_rows"] == store.n_rows
    assert result["median_norm"]["layers.1:out"] == pytest.approx(norms.median().item(), rel=1e-5)


def test_max_tokens_is_the_number_of_rows(tiny_lm_dir, source, tmp_path):
    result = extract(config(tiny_lm_dir, source, max_tokens=137), tmp_path / "acts")
    store = ActivationStore.open(tmp_path / "acts")
    assert result["n_rows"] == store.n_rows == 137
    assert set(store.problems["problem_id"].to_pylist()) == {r["problem_id"] for r in rows_of(store)}


@pytest.mark.parametrize("options", [{"batch_tokens": 24}, {"batch_tokens": 2000}, {"seed": 5}])
def test_batching_and_order_do_not_change_what_is_stored(tiny_lm_dir, source, tmp_path, options):
    found = []
    problems = {"source": str(source), "seed": 0}
    for i, extra in enumerate([{}, options]):
        extract(config(tiny_lm_dir, source, **{"problems": problems, **extra}), tmp_path / f"acts{i}")
        store = ActivationStore.open(tmp_path / f"acts{i}")
        acts = store.view(["layers.1:out"]).read(np.arange(store.n_rows))
        rows = rows_of(store)
        order = sorted(
            range(len(rows)),
            key=lambda j: (rows[j]["problem_id"], rows[j]["window"], rows[j]["position"]),
        )
        found.append((acts, order))
    (a, by_a), (b, by_b) = found
    torch.testing.assert_close(a[by_a], b[by_b], rtol=1e-5, atol=1e-5)
    assert by_a != by_b


def test_the_same_call_gives_the_same_bytes_and_the_second_does_nothing(tiny_lm_dir, source, tmp_path):
    cfg = config(tiny_lm_dir, source)
    first = extract(cfg, tmp_path / "a")
    assert extract(cfg, tmp_path / "b")["digest"] == first["digest"]
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    before = (tmp_path / "a" / "meta.json").stat().st_mtime_ns
    assert extract(cfg, tmp_path / "a") == first
    assert (tmp_path / "a" / "meta.json").stat().st_mtime_ns == before
    corpus(source, seed=1)
    with pytest.raises(OccupiedError, match="another problems"):
        extract(cfg, tmp_path / "a")
    with pytest.raises(OccupiedError, match="seed"):
        extract(cfg.model_copy(update={"seed": 7}), tmp_path / "a")


def bytes_of(root: Path) -> dict[str, bytes]:
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name not in ("result.json", "thoughtlens-files.json")
    }


KILLED = """
import sys
from pathlib import Path
from thoughtlens.core import load_config
from thoughtlens.acts.extract.stage import ExtractConfig, extract
extract(load_config(ExtractConfig, sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_and_the_same_bytes_in_the_end(tiny_lm_dir, tmp_path):
    source = corpus(tmp_path / "text.jsonl", n=150)
    cfg = config(tiny_lm_dir, source, shard_rows=250)
    (tmp_path / "cfg.toml").write_text(to_toml(cfg))
    extract(cfg, tmp_path / "whole")
    n_shards = len(list((tmp_path / "whole" / "shards").iterdir()))
    out, tmp = tmp_path / "killed", tmp_path / "killed.tmp"
    rng = random.Random(0)
    for goal in (rng.randint(1, n_shards // 2), rng.randint(n_shards // 2 + 1, n_shards - 1)):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "cfg.toml"), str(out)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        )
        while len(list(tmp.glob("shards/*.safetensors"))) < goal and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was still at work"
        assert not out.exists()
    safe = [shard["file"] for shard in json.loads((tmp / "progress.json").read_text())["meta"]["shards"]]
    finished = {file: (tmp / file).stat().st_mtime_ns for file in safe}
    assert len(finished) > n_shards // 2
    extract(cfg, out)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    assert digest_tree(out) == digest_tree(tmp_path / "whole")
    for name, written in finished.items():
        assert (out / name).stat().st_mtime_ns == written, "finished shards are not done again"


def broken_model(source: Path, target: Path, value: float) -> Path:
    """A copy whose block 1 gives `value` wherever the token is the letter y."""
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(target)
    weights = load_file(target / "model.safetensors")
    token = AutoTokenizer.from_pretrained(source)("y", add_special_tokens=False).input_ids[0]
    weights["model.embed_tokens.weight"][token, 0] = value
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


def test_activations_that_are_not_finite_are_refused(tiny_lm_dir, source, tmp_path):
    model = broken_model(tiny_lm_dir, tmp_path / "nan", float("nan"))
    with pytest.raises(DataError, match=r"(?i)nan.*|.*not finite"):
        extract(config(model, source), tmp_path / "acts")
    assert not (tmp_path / "acts").exists()


def test_activations_too_large_for_the_store_are_refused(tiny_lm_dir, source, tmp_path):
    model = broken_model(tiny_lm_dir, tmp_path / "large", 1e6)
    with pytest.raises(DataError, match="float16"):
        extract(config(model, source, store_dtype="float16"), tmp_path / "acts")
    extract(config(model, source, store_dtype="bfloat16"), tmp_path / "other")


def test_going_on_with_another_model_is_refused(tiny_lm_dir, source, tmp_path):
    model = broken_model(tiny_lm_dir, tmp_path / "model", float("nan"))
    cfg = config(model, source, shard_rows=10)
    with pytest.raises(DataError):
        extract(cfg, tmp_path / "acts")
    broken_model(tiny_lm_dir, model, 0.5)
    with pytest.raises(MismatchError, match="model_digest"):
        extract(cfg, tmp_path / "acts")


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"hook_names": ["layers.4:out"]}, HookError, r"layers\.0 to layers\.3"),
        ({"context_length": 129}, ConfigError, "more than the 128 tokens"),
        ({"context_length": 1}, ConfigError, "no room"),
        ({"model": {"name": "./no-such-model"}}, NotThereError, "no-such-model"),
        ({"problems": {"source": "no-such-file.txt"}}, NotThereError, "no-such-file.txt"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    tiny_lm_dir, source, tmp_path, options, kind, says
):
    with pytest.raises(kind, match=says) as error:
        extract(config(tiny_lm_dir, source, **options), tmp_path / "acts")
    assert isinstance(error.value, ThoughtlensError)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "acts").exists()
    assert not list(tmp_path.glob("acts.tmp/shards/*"))


@pytest.mark.parametrize(
    "options",
    [{"hook_names": []}, {"hook_names": ["layers.1:out"] * 2}, {"max_tokens": -1}, {"outlier_factor": 1.0}],
)
def test_impossible_settings(tiny_lm_dir, source, options):
    with pytest.raises(ValueError):
        config(tiny_lm_dir, source, **options)


def test_a_split_without_rows_is_said(tiny_lm_dir, tmp_path, capsys):
    source = corpus(tmp_path / "text.jsonl", n=1)
    result = extract(config(tiny_lm_dir, source), tmp_path / "acts")
    empty = [split for split, n in result["rows_by_split"].items() if n == 0]
    assert len(empty) == 2
    assert [w.split()[1] for w in result["warnings"]] == empty
    assert "has no rows" in capsys.readouterr().err


def test_the_plan(tiny_lm_dir, source):
    cfg = config(tiny_lm_dir, source)
    expected = plan(cfg)
    # two hooks of width 32 in float32, and eight bytes that say what a row is
    assert expected.disk_bytes == expected.rows * (2 * 32 * 4 + 8)
    assert expected.rows == source.stat().st_size // 4
    assert plan(cfg.model_copy(update={"max_tokens": 10})).rows == 10
    assert expected.memory_bytes > 0
    assert expected.seconds > 0


def test_the_default_hook_fits_small_models(tmp_path, tiny_lm_dir):
    """Block 15, and of a model of four blocks the middle one."""
    cfg = config(tiny_lm_dir, corpus(tmp_path / "c.jsonl", 8), hook_names=None)
    assert extract(cfg, tmp_path / "acts")["hook_names"] == ["layers.2:out"]
    assert plan(cfg).rows > 0
