"""The train stage: what it finds, what it refuses, and that nothing interrupts it for good."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, DataError, HookError, NotThereError, OccupiedError, load_config
from thoughtlens.numerics.metrics.geometry import mmcs
from thoughtlens.sae.fit import run
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import plan, train

pytestmark = pytest.mark.slow

SMALL = saes.TopKConfig(d_sae=24, k=2)
FILES = ("cfg.json", "sae.safetensors", "metrics.parquet")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    x, _ = planted(1000, 8, 16, 2 / 16, seed=0, offset=0.5)
    return write_store(tmp_path_factory.mktemp("text") / "acts", {"layers.0:out": x})


@pytest.fixture(scope="module")
def thoughts(tmp_path_factory):
    quiet, _ = planted(600, 8, 16, 2 / 16, seed=0)
    acts = {"layers.0:out": quiet, "layers.1.mlp:out": 50 * quiet.flip(0) + 9}
    return write_store(tmp_path_factory.mktemp("thoughts") / "acts", acts, thoughts=3)


def config(acts: Path, **changes) -> TrainConfig:
    return TrainConfig(
        acts=acts, **{"sae": SMALL, "batch_size": 64, "epochs": 3.0, "evaluations": 4} | changes
    )


def test_planted_atoms_are_found_and_random_directions_are_not(tmp_path):
    # docs/log.md has the calibration: mmcs 0.999, every atom, for each seed tried; random 0.4
    x, atoms = planted(12_000, 32, 48, 2 / 48, seed=0, offset=1.0)
    acts = write_store(tmp_path / "acts", {"layers.0:out": x})
    sae_cfg = saes.TopKConfig(d_sae=96, k=3)
    result = train(config(acts, sae=sae_cfg, batch_size=256, epochs=12.0, lr=4e-3), tmp_path / "sae")
    W_dec = saes.load(tmp_path / "sae").W_dec.detach()
    untrained = saes.create(sae_cfg, 32, seed=0).W_dec.detach()
    assert mmcs(W_dec, atoms).recall >= 0.98
    assert ((atoms @ W_dec.T).amax(1) >= 0.95).float().mean() >= 0.95
    assert mmcs(untrained, atoms).recall < 0.6
    assert result["headline"]["fvu_validation"]["value"] < 0.2


def test_what_a_finished_run_holds(text, tmp_path):
    result = train(config(text), tmp_path / "sae")
    assert result["warnings"] == []
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == [
        "cfg.json", "config.toml", "metrics.parquet", "result.json", "sae.safetensors",
        "thoughtlens-files.json",
    ]  # fmt: skip
    member = result["members"][0]
    assert member["n_vectors"] == 800 and member["rows_seen"] == 38 * 64  # 2400 / 64 = 37.5
    assert member["n_validation"] == 100 and member["l0_validation"] <= 2
    assert result["headline"]["fvu_validation"] == {
        "value": member["fvu_validation"], "n": 100, "split": "validation"
    }  # fmt: skip
    curve = pq.read_table(tmp_path / "sae" / "metrics.parquet").to_pylist()
    assert [row["rows_seen"] // 64 for row in curve] == [10, 20, 30, 38]
    assert curve[-1]["fvu_validation"] < curve[0]["fvu_validation"]
    assert not any("second" in name or name.endswith("_s") for name in curve[0])
    sae = saes.load(tmp_path / "sae")
    assert sae.hook_names == ["layers.0:out"] and sae.cells is None
    assert sae.provenance["acts_digest"] == result["inputs"]["acts"]["digest"]
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(24), atol=1e-5)
    assert json.loads((tmp_path / "sae" / "result.json").read_text()) == result


def test_the_same_config_gives_the_same_bytes(text, tmp_path):
    for name in ("a", "b"):
        train(config(text), tmp_path / name)
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in FILES)
    again = load_config(TrainConfig, tmp_path / "a" / "config.toml")
    assert again == config(text)
    assert train(again, tmp_path / "a")["seconds"] == train(config(text), tmp_path / "a")["seconds"]


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ("pooled", ["pooled"]),
        ("per_layer", ["layers.0-out", "layers.1.mlp-out"]),
        ("per_thought", ["thought_0", "thought_1", "thought_2"]),
        ("per_cell", [f"{h}.thought_{t}" for h in ("layers.0-out", "layers.1.mlp-out") for t in range(3)]),
    ],
)
def test_members(thoughts, tmp_path, members, names):
    result = train(config(thoughts, members=members, epochs=1.0, batch_size=32), tmp_path / "sae")
    found = saes.load_members(tmp_path / "sae")
    assert sorted(found) == sorted(names)
    assert [m["member"] for m in result["members"]] == [name for name in names]
    vectors = {"pooled": 960, "per_layer": 480, "per_thought": 320, "per_cell": 160}[members]
    assert {m["n_vectors"] for m in result["members"]} == {vectors}
    cells = {name: sae.cells for name, sae in found.items()}
    if members == "pooled":
        assert cells["pooled"] == [(h, t) for h in ("layers.0:out", "layers.1.mlp:out") for t in range(3)]
    if members == "per_cell":
        assert set(map(str, cells.values())) == {"None"}  # one cell: folded
    curve = pq.read_table(tmp_path / "sae" / "metrics.parquet")
    assert set(curve["member"].to_pylist()) == {name for name in names}


def test_a_loud_layer_does_not_take_the_pooled_dictionary(thoughts, tmp_path):
    shares = {}
    for mode in ("auto", "global"):
        sae_cfg = saes.TopKConfig(d_sae=48, k=2, normalization=mode)
        train(config(thoughts, sae=sae_cfg, epochs=15.0, lr=6e-3), tmp_path / mode)
        sae = saes.load(tmp_path / mode)
        view = ActivationStore.open(thoughts).view(["layers.0:out"], split="validation")
        batch = view.sample(100, 0)
        x_hat = sae(batch.x, sae.cell_index(view.cells, batch.cell))
        centred = (batch.x - batch.x.mean(0)).square().sum()
        shares[mode] = float((batch.x - x_hat).detach().square().sum() / centred)
    assert shares["auto"] < 0.5 < shares["global"]


def test_only_the_training_split_is_trained_on(tmp_path):
    x, _ = planted(1000, 8, 16, 2 / 16, seed=0)
    other = x.clone()
    held_out = (torch.arange(1000) // 10) % 10 >= 8
    other[held_out] = torch.randn(int(held_out.sum()), 8, generator=torch.Generator().manual_seed(1))
    for name, rows in (("a", x), ("b", other)):
        train(config(write_store(tmp_path / f"{name}.acts", {"h:out": rows})), tmp_path / name)
    weights = [(tmp_path / name / "sae.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_flagged_outliers_are_left_out(tmp_path):
    x, _ = planted(1000, 8, 16, 2 / 16, seed=0)
    loud = (torch.arange(1000) % 10 == 0).numpy()
    x[torch.from_numpy(loud)] *= 1e4
    acts = write_store(tmp_path / "acts", {"h:out": x}, outlier=loud)
    dropped = train(config(acts, epochs=1.0), tmp_path / "dropped")
    kept = train(config(acts, epochs=1.0, drop_outliers=False), tmp_path / "kept")
    assert [r["members"][0]["n_vectors"] for r in (dropped, kept)] == [720, 800]


def test_too_few_rows_are_trained_with_a_warning(tmp_path, capsys):
    x, _ = planted(60, 8, 16, 2 / 16, seed=0)
    acts = write_store(tmp_path / "acts", {"h:out": x})
    result = train(config(acts, batch_size=8), tmp_path / "sae")
    assert "60 training vectors for d_in = 8 are fewer than 10 per dimension" in result["warnings"][0]
    assert "no rows in split 'validation'" in result["warnings"][1]
    assert capsys.readouterr().err.count("WARNING") == 2
    assert result["members"][0]["n_validation"] == 0 and "fvu_validation" not in result["headline"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"batch_size": 801},
            ConfigError,
            r"801 is above the 800 vectors.*train\.batch_size to 80",
        ),
        (
            {"sae": saes.TopKConfig(d_sae=24, k=25)},
            ConfigError,
            "expected 1 to d_sae = 24 latents per row, got 25",
        ),
        ({"members": "per_thought"}, ConfigError, "needs continuous thoughts, .* holds text"),
        ({"hook_names": ("layers.7:out",)}, HookError, r"got 'layers\.7:out'"),
        ({"thoughts": (1,)}, HookError, "it is a text store"),
        ({"split": "nope"}, DataError, "found none in .* for split='nope'"),
    ],
)
def test_what_cannot_be_trained_leaves_no_trace(text, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(config(text, **changes), tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sae.l1", -1, "greater than or equal to 0"),
        ("batch_size", 0, "greater than or equal to 2"),
        ("warmup", 1.5, "less than or equal to 1"),
        ("decay", 0.99, "warmup [+] decay must not exceed 1"),
        ("validation_split", "train", "are both 'train'"),
        ("sae.kk", 3, "unknown key 'sae.kk'"),
        ("sae.kind", "mystery", "sae"),
    ],
)
def test_impossible_values_are_refused_by_name(text, key, value, message):
    table = {"acts": str(text), "sae": {"kind": "relu"}}
    target = table["sae"] if "." in key else table
    target[key.rpartition(".")[2]] = value
    with pytest.raises(ConfigError, match=message) as error:
        load_config(TrainConfig, table)
    assert key.split(".")[0] in str(error.value)


def test_missing_store(tmp_path):
    with pytest.raises(NotThereError, match="Expected an activation store at"):
        train(config(tmp_path / "nowhere"), tmp_path / "sae")
    assert plan(config(tmp_path / "nowhere")).rows == 0


def test_another_config_does_not_overwrite(text, tmp_path):
    train(config(text), tmp_path / "sae")
    before = {f: (tmp_path / "sae" / f).read_bytes() for f in FILES}
    with pytest.raises(OccupiedError, match="seed"):
        train(config(text, seed=1), tmp_path / "sae")
    assert before == {f: (tmp_path / "sae" / f).read_bytes() for f in FILES}


def test_plan(thoughts):
    expected = plan(config(thoughts, members="per_layer", n_vectors=640))
    assert expected.rows == 2 * 640
    assert expected.memory_bytes > 0 and expected.seconds > 0
    assert expected.disk_bytes == 4 * (2 * 2 * 8 * 24 + 2 * 3 * 2 * 8 * 24)


def test_a_penalty_that_follows_the_width_is_said(thoughts, tmp_path):
    cfg = config(thoughts, sae=saes.ReLUConfig(d_sae=24), members="per_layer", epochs=1.0)
    l1 = 0.026 * 8**0.75
    assert plan(cfg).notes == (f"sae.l1 = {l1:.4g}, unset",)
    assert plan(cfg).line("train").endswith(f" s; sae.l1 = {l1:.4g}, unset")
    result = train(cfg, tmp_path / "sae")
    assert [m["l1"] for m in result["members"]] == [pytest.approx(l1)] * 2
    given = config(thoughts, sae=saes.ReLUConfig(d_sae=24, l1=0.5), members="per_layer")
    assert plan(given).notes == () == plan(config(thoughts)).notes


def checkpoints(out: Path) -> tuple[int, int]:
    """Members done, and rows of the newest checkpoint of the one under way."""
    root = out.with_name(out.name + ".tmp") / "checkpoints"
    rows = [int(p.name) for p in root.glob("*/*") if p.name.isdigit()]
    return len(list(root.glob("*/done.json"))), max(rows, default=0)


def test_killed_at_random_moments_it_ends_with_the_same_bytes(thoughts, tmp_path):
    cfg = config(thoughts, members="per_layer", epochs=16.0, checkpoint_every_s=0.02)
    train(cfg, tmp_path / "whole")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["thoughtlens.sae.train.stage"])
    rng, out = random.Random(0), tmp_path / "killed"
    for _ in range(3):
        process = context.Process(target=train, args=(cfg, out))
        before = checkpoints(out)
        process.start()
        while process.is_alive() and checkpoints(out) <= before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not out.exists() and checkpoints(out) > before, "it was not killed on its way"
    train(cfg, out)
    for member in ("layers.0-out", "layers.1.mlp-out"):
        for file in FILES[:2]:
            assert (out / member / file).read_bytes() == (tmp_path / "whole" / member / file).read_bytes()
    assert (out / FILES[2]).read_bytes() == (tmp_path / "whole" / FILES[2]).read_bytes()


def test_finished_members_are_not_trained_again(thoughts, tmp_path, monkeypatch):
    cfg = config(thoughts, members="per_layer", epochs=2.0, checkpoint_every_s=0.0)
    save = run.save_sae

    def stopped(sae, folder):
        if folder.name == "layers.1.mlp-out":
            raise KeyboardInterrupt
        save(sae, folder)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "save_sae", stopped)
        train(cfg, tmp_path / "sae")
    stamp = (tmp_path / "sae.tmp" / "layers.0-out" / "sae.safetensors").stat().st_mtime_ns
    train(cfg, tmp_path / "sae")
    assert (tmp_path / "sae" / "layers.0-out" / "sae.safetensors").stat().st_mtime_ns == stamp
    assert (tmp_path / "sae" / "layers.1.mlp-out" / "sae.safetensors").stat().st_mtime_ns > stamp


def peak_private_bytes(cfg: TrainConfig, out: Path) -> int:
    """Largest growth, while training, of the memory that is not a file's."""

    def resident() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return 1024 * int(line.split()[1])
        raise AssertionError("no RssAnon")

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what earlier work has freed counts as not growing
    start, peak, stop = resident(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            peak[0] = max(peak[0], resident() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        train(cfg, out)
    finally:
        stop.set()
        thread.join()
    return peak[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_rows(tmp_path):
    x = torch.randn(400_000, 64, generator=torch.Generator().manual_seed(0))
    peaks = {}
    for turn, n in enumerate((40_000, 40_000, 400_000)):  # once more: what is loaded once is loaded then
        acts = write_store(tmp_path / f"{turn}.acts", {"h:out": x[:n]})
        cfg = config(acts, n_vectors=4096, sample_rows=4096)
        peaks[n] = peak_private_bytes(cfg, tmp_path / f"{turn}.sae")
    assert peaks[400_000] - peaks[40_000] < 0.3 * x[:360_000].nbytes, peaks
