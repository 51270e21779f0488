"""Trackers get what the local log holds, while it grows or afterwards, and never stop a training."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.cli import app
from thoughtlens.core import LIST, ConfigError, NotThereError, StoreError, to_toml, write_json
from thoughtlens.ops import tracking
from thoughtlens.ops.tracking.trackers import TRACKERS
from thoughtlens.sae.fit.track import followed
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    x, _ = planted(1000, 8, 16, 2 / 16, seed=0, offset=0.5)
    return write_store(tmp_path_factory.mktemp("text") / "acts", {"layers.0:out": x, "layers.1:out": 2 * x})


def config(acts: Path, **changes) -> TrainConfig:
    base = {"sae": saes.TopKConfig(d_sae=24, k=2), "batch_size": 64, "epochs": 2.0, "evaluations": 4}
    return TrainConfig(acts=acts, **{**base, **changes})


class Recorder:
    """A follower that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[dict, list[dict]]] = []

    def __call__(self, facts, curve):
        self.told.append((facts, [dict(row) for row in curve]))


def curves(sae: Path) -> dict[str, list[dict]]:
    table: dict[str, list[dict]] = {}
    for row in pq.read_table(sae / "metrics.parquet").to_pylist():
        table.setdefault(row.pop("member"), []).append({k: v for k, v in row.items() if v is not None})
    return table


@pytest.mark.parametrize("group_size", [1, 2])
def test_followers_hear_every_row_as_it_comes(acts, tmp_path, group_size):
    recorder = Recorder()
    with followed(recorder):
        train(config(acts, members="per_layer", group_size=group_size), tmp_path / "sae")
    train(config(acts), tmp_path / "unheard")
    for member, curve in curves(tmp_path / "sae").items():
        told = [rows for facts, rows in recorder.told if facts["member"] == member]
        assert told == [curve[: i + 1] for i in range(len(curve))] and len(curve) >= 4
    facts = recorder.told[0][0]
    assert (facts["d_in"], facts["d_sae"], facts["n_vectors"], facts["n_problems"]) == (8, 24, 800, 80)
    assert facts["sae"]["k"] == 2 and len(recorder.told) == sum(map(len, curves(tmp_path / "sae").values()))


def test_one_that_continues_starts_with_the_rows_before(acts, tmp_path):
    class StopError(Exception):
        pass

    def stop(facts, curve):
        if len(curve) == 2:
            raise StopError

    recorder = Recorder()
    cfg = config(acts, checkpoint_every_s=0.0)
    with pytest.raises(StopError), followed(stop):
        train(cfg, tmp_path / "sae")
    with followed(recorder):
        train(cfg, tmp_path / "sae")
    whole = curves(tmp_path / "sae")["pooled"]
    assert recorder.told[-1][1] == whole and len(recorder.told) < len(whole)


def events(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{run: {number: [(step, value)]}} of TensorBoard's files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for run in sorted(p for p in (folder / "tensorboard").iterdir()):
        reader = accumulator.EventAccumulator(str(run), size_guidance={"scalars": 0})
        reader.Reload()
        tags = reader.Tags()["scalars"]
        found[run.name] = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in tags}
    return found


def test_tensorboard_holds_the_log_live_and_afterwards(acts, tmp_path):
    run = tmp_path / "mine"
    cfg = config(acts, members="per_layer")
    with tracking.live(["tensorboard"], group="mine", folder=tmp_path / "live") as feed:
        feed.summarise({"train": train(cfg, run / "sae")})
    result = tracking.track(run, ["tensorboard"], folder=tmp_path / "after")
    assert result == {
        "tracked": ["tensorboard"],
        "project": "thoughtlens",
        "n_saes": 2,
        "n_rows": sum(map(len, curves(run / "sae").values())),
    }
    live, after = events(tmp_path / "live"), events(tmp_path / "after")
    assert sorted(live) == ["mine-headline", "mine-layers.0-out", "mine-layers.1-out"]
    curve = curves(run / "sae")["layers.1-out"]
    own = live["mine-layers.1-out"]
    assert own == after["mine-layers.1-out"]
    assert own.keys() == curve[0].keys()
    for name, points in own.items():
        assert [step for step, _ in points] == [row["rows_seen"] for row in curve]
        assert [value for _, value in points] == pytest.approx([row[name] for row in curve], rel=1e-6)
    fvu = (sum(c[-1]["fvu_validation"] for c in curves(run / "sae").values())) / 2
    assert live["mine-headline"]["train/fvu_validation"][0][1] == pytest.approx(fvu, rel=1e-6)


def test_the_first_studys_names(acts, tmp_path):
    relu = saes.ReLUConfig(d_sae=24, l1=0.001)
    with tracking.live(["tensorboard"], names="sae-pilot", folder=tmp_path) as feed:
        train(config(acts, sae=relu, hook_names=("layers.0:out",)), tmp_path / "sae")
    assert feed.project == "sae-pilot" and feed.n_runs == 1
    found = events(tmp_path)["sae_24feat_l10.001"]
    assert found.keys() == {"epoch", "loss/total", "loss/reconstruction", "loss/sparsity", "sparsity/l0"}
    curve = curves(tmp_path / "sae")["pooled"]
    # 800 training vectors; 2 epochs of 800 / 64 = 25 steps
    assert found["epoch"][-1] == (1600, 2.0)
    parts = [a[1] + b[1] for a, b in zip(found["loss/reconstruction"], found["loss/sparsity"], strict=True)]
    assert parts == pytest.approx([row["loss"] for row in curve], rel=1e-5)
    assert [v for _, v in found["sparsity/l0"]] == pytest.approx([row["l0_train"] for row in curve], rel=1e-6)


def test_the_first_studys_settings(acts, tmp_path):
    recorder = Recorder()
    with followed(recorder):
        train(config(acts, sae=saes.ReLUConfig(d_sae=24, l1=0.001)), tmp_path / "sae")
    facts = recorder.told[0][0]
    names = tracking.NAMES["sae-pilot"]
    assert names.settings(facts) == {
        "n_features": 24, "input_dim": 8, "l1_coefficient": 0.001, "batch_size": 64, "n_epochs": 2.0,
        "learning_rate": facts["lr_peak"], "n_problems": 80, "n_vectors": 1600,
    }  # fmt: skip
    topk = facts | {"sae": {"kind": "topk", "k": 4}, "member": "thought_1"}
    assert names.run("", topk) == "sae_24feat_k4_thought_1"


def test_wandb_offline_holds_the_log(acts, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracking.live(["wandb"], group="mine", project="p", folder=tmp_path) as feed:
        train(config(acts, hook_names=("layers.0:out",)), tmp_path / "sae")
        feed.summarise({"train": {"headline": {"fvu_validation": {"value": 0.25}}}})
    assert feed.working == ["wandb"]
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 1
    text, end = b"", time.monotonic() + 120
    while b"mine pooled" not in text and time.monotonic() < end:  # its own process writes, when it gets to it
        time.sleep(0.1)
        text = files[0].read_bytes()
    assert b"fvu_validation" in text and b"train/fvu_validation" in text and b"mine pooled" in text


def test_trackio_holds_the_log(acts, tmp_path):
    pytest.importorskip("trackio")
    program = """
import sys
from thoughtlens.core import load_config
from thoughtlens.ops.tracking.feed import live
from thoughtlens.sae.train.stage import TrainConfig, train
with live(["trackio"], group="mine", folder=sys.argv[1]):
    train(load_config(TrainConfig, sys.argv[2]), sys.argv[3])
"""  # trackio reads where its files go when it is imported: in a process of its own
    (tmp_path / "train.toml").write_text(to_toml(config(acts, members="per_layer")))
    arguments = [tmp_path / "files", tmp_path / "train.toml", tmp_path / "sae"]
    env = {k: v for k, v in os.environ.items() if k != "TRACKIO_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0 and done.stdout == "", done.stderr
    database = sqlite3.connect(tmp_path / "files" / "trackio" / "thoughtlens.db")
    rows = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    database.close()
    for member, curve in curves(tmp_path / "sae").items():
        own = [(step, json.loads(metrics)) for name, step, metrics in rows if name == f"mine {member}"]
        assert [step for step, _ in own] == [row["rows_seen"] for row in curve]
        assert [m["fvu_train"] for _, m in own] == pytest.approx([row["fvu_train"] for row in curve])


def test_the_commands(acts, tmp_path):
    (tmp_path / "train.toml").write_text(to_toml(config(acts)))
    sae = str(tmp_path / "sae")
    arguments = ["train", str(tmp_path / "train.toml"), "--out", sae, "--track", "tensorboard"]
    done = CliRunner().invoke(app, [*arguments, "--track-project", "p"])
    assert done.exit_code == 0 and json.loads(done.stdout)["stage"] == "train", done.output
    live = events(tmp_path / "sae.tracking")
    assert list(live) == ["sae-pooled"]
    again = CliRunner().invoke(app, ["track", sae, "--to", "tensorboard", "--out", str(tmp_path / "later")])
    assert json.loads(again.stdout)["n_saes"] == 1
    later = events(tmp_path / "later")["sae-pooled"]
    assert {name: later[name] for name in live["sae-pooled"]} == live["sae-pooled"]
    assert "sae/fvu_validation" in later


class Broken:
    """A tracker whose service is gone after the first row."""

    package = "json"
    calls = 0

    def __init__(self, place):
        pass

    def log(self, step, values):
        Broken.calls += 1
        if Broken.calls > 1:
            raise OSError("no\nservice")

    def finish(self, step, headline):
        raise AssertionError("a tracker that failed is left alone")


def test_a_tracker_that_fails_is_said_once_and_stops_nothing(acts, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TRACKERS, "broken", Broken)
    with tracking.live(["broken", "tensorboard"], folder=tmp_path) as feed:
        result = train(config(acts), tmp_path / "sae")
    assert result["members"][0]["member"] == "pooled" and feed.working == ["tensorboard"]
    assert Broken.calls == 2
    warnings = [line for line in capsys.readouterr().err.splitlines() if "broken" in line]
    assert len(warnings) == 1 and "OSError: no service" in warnings[0] and "thoughtlens track " in warnings[0]
    assert len(events(tmp_path)) == 1


def test_bad_input_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="wandb, tensorboard, trackio, got 'mlflow'"):
        tracking.Feed(["mlflow"])
    with pytest.raises(ConfigError, match="own, sae-pilot, got 'x'"):
        tracking.Feed([], names="x")
    monkeypatch.setitem(sys.modules, "trackio", None)
    with (
        pytest.raises(NotThereError, match=r"pip install 'thoughtlens\[trackio\]'"),
        tracking.live(["trackio"]),
    ):
        raise AssertionError("not reached")
    with pytest.raises(NotThereError, match="finished stage"):
        tracking.track(tmp_path, ["tensorboard"])


def test_tracking_what_is_no_training(acts, tmp_path):
    train(config(acts), tmp_path / "sae")
    (tmp_path / "sae" / LIST).unlink()  # as of a version without lists
    result = {"members": [], "stage": "train"}
    write_json(tmp_path / "sae" / "result.json", result)
    with pytest.raises(StoreError, match="has pooled, which"):
        tracking.track(tmp_path, ["tensorboard"], folder=tmp_path)
    (tmp_path / "sae" / "metrics.parquet").unlink()
    with pytest.raises(NotThereError, match="training curve"):
        tracking.track(tmp_path, ["tensorboard"], folder=tmp_path)
