"""Two processes over gloo on loopback do what one does; where one dies, the other stops with its reason."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.acts.extract.test_text import config as text_config
from tests.acts.extract.test_text import corpus
from tests.acts.extract.test_thoughts import tiny
from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ConfigError, Ranks, to_toml
from thoughtlens.sae.fit.parallel import DataParallelTrainer
from thoughtlens.sae.fit.sharded import LatentParallelTrainer
from thoughtlens.sae.fit.trainer import Settings
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

pytestmark = pytest.mark.slow

WAIT_S = 300  # what a busy machine may need to start two interpreters


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    x, _ = planted(600, 8, 16, 2 / 16, seed=0, offset=0.5)
    return write_store(
        tmp_path_factory.mktemp("acts") / "acts", {"layers.0:out": x, "layers.1:out": x.flip(1)}
    )


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def environment(**more: object) -> dict[str, str]:
    own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    return {**os.environ, **own, **{name: str(value) for name, value in more.items()}}


def start(*arguments: str, n: int = 2, worker: str = "rank_worker") -> list[subprocess.Popen]:
    """Ranks of a worker beside this file."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", f"tests.sae.fit.{worker}", *arguments],
            env=environment(RANK=rank, WORLD_SIZE=n, MASTER_PORT=port), stderr=subprocess.PIPE, text=True,
        )
        for rank in range(n)
    ]  # fmt: skip


def config(acts: Path, **changes) -> TrainConfig:
    given = {
        "sae": saes.TopKConfig(d_sae=24, k=2),
        "batch_size": 60,
        "epochs": 5.0,
        "evaluations": 3,
        "lr": 3e-3,
    }
    return TrainConfig(acts=acts, **given | changes)


def test_losses_gradients_and_weights_are_those_of_one_process(acts):
    for process in start("compare", str(acts), n=3):  # 50 rows and 34 latents: parts differ in size
        _, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("how", ["latents", "members"])
def test_torchrun_trains_what_one_process_trains_and_one_rank_speaks(acts, tmp_path, how):
    cfg = config(acts, parallel=how, members="per_layer" if how == "members" else "pooled")
    (tmp_path / "train.toml").write_text(to_toml(cfg))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command += [
        "-m",
        "thoughtlens.cli",
        "train",
        str(tmp_path / "train.toml"),
        "--out",
        str(tmp_path / "two"),
    ]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "two" / "result.json").read_text())
    train(cfg, tmp_path / "one")
    together = saes.load_members(tmp_path / "two")
    for name, alone in saes.load_members(tmp_path / "one").items():
        for a, b in zip(together[name].parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    curves = [pq.read_table(tmp_path / d / "metrics.parquet").to_pylist() for d in ("one", "two")]
    for mine, theirs in zip(*curves, strict=True):
        assert mine.pop("member") == theirs.pop("member") and mine == pytest.approx(theirs, rel=1e-3)


def test_where_a_rank_is_killed_the_other_stops_and_one_process_goes_on(acts, tmp_path):
    cfg = config(acts, epochs=10.0, checkpoint_every_s=0.05)
    (tmp_path / "train.toml").write_text(to_toml(cfg))
    first, second = start("train", str(tmp_path), "sae")
    end = time.monotonic() + WAIT_S
    while not list((tmp_path / "sae.tmp" / "checkpoints").glob("*/0*")) and time.monotonic() < end:
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    _, errors = first.communicate(timeout=WAIT_S)
    second.communicate(timeout=WAIT_S)
    assert first.returncode != 0 and time.monotonic() - begun < 60
    assert "LostRankError: Rank 0 of 2 stops, because another one did" in errors
    assert not (tmp_path / "sae").exists() and list((tmp_path / "sae.tmp" / "checkpoints").glob("*/0*"))
    train(cfg, tmp_path / "sae")
    train(cfg.model_copy(update={"checkpoint_every_s": 60.0}), tmp_path / "whole")
    resumed, whole = saes.load(tmp_path / "sae"), saes.load(tmp_path / "whole")
    assert resumed.provenance == whole.provenance
    x = planted(100, 8, 16, 2 / 16, seed=1, offset=0.5)[0]
    cell = torch.zeros(len(x), dtype=torch.long)  # of two hooks, each with its own normalisation
    errors = [(sae(x, cell) - x).square().sum().item() for sae in (resumed, whole)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_an_extraction_by_two_is_the_store_of_one(tmp_path, tiny_lm_dir):
    cfgs = {
        "thoughts": tiny(60, shard_rows=100),
        "text": text_config(tiny_lm_dir, corpus(tmp_path / "c.jsonl")),
    }
    for name, cfg in cfgs.items():
        (tmp_path / f"{name}.toml").write_text(to_toml(cfg))
    for process in start(str(tmp_path), *cfgs, worker="extract_worker"):
        _, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, errors
    for name, cfg in cfgs.items():
        result = extract(cfg, tmp_path / f"{name}.one")
        assert (
            result["digest"] == json.loads((tmp_path / f"{name}.two" / "result.json").read_text())["digest"]
        )
        for file in (tmp_path / f"{name}.one" / "shards").iterdir():
            assert file.read_bytes() == (tmp_path / f"{name}.two" / "shards" / file.name).read_bytes()
        assert {p.name for p in (tmp_path / f"{name}.one").iterdir()} == {
            p.name for p in (tmp_path / f"{name}.two").iterdir()
        }


SETTINGS = Settings(
    n_steps=2, batch_size=4, lr=1e-3, warmup=0.0, decay=0.0, grad_clip=1.0, dead_after_rows=9, eval_every=1,
    checkpoint_every_s=1.0, seed=0,
)  # fmt: skip


def test_kinds_that_cannot_be_shared_are_refused_in_one_line():
    batchtopk = saes.create(saes.BatchTopKConfig(d_sae=16, k=2), 8, seed=0)
    with pytest.raises(
        ConfigError, match="kind = batchtopk cannot be trained by 2 ranks at once: expected topk"
    ):
        DataParallelTrainer(batchtopk, SETTINGS, Ranks(0, 2))
    with pytest.raises(ConfigError, match="parallel = latents: expected kind = topk"):
        LatentParallelTrainer(batchtopk, SETTINGS, Ranks(0, 2), torch.device("cpu"))
    topk = saes.create(saes.TopKConfig(d_sae=2, k=1), 8, seed=0)
    with pytest.raises(ConfigError, match="2 latents cannot be spread over 3 ranks"):
        LatentParallelTrainer(topk, SETTINGS, Ranks(0, 3), torch.device("cpu"))
