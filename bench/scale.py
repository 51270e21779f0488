"""What two processes gain over one here: training steps shared by data and by latents, an extraction.

    python bench/scale.py [--rounds 15] [--settings data-topk data-relu latents extract]

Every process has one thread, so that two of them take two cores; one process with two threads stands beside
them. The ranks talk over gloo on loopback. Training: one process on a whole batch, and two that share the
same batch, step in turn; rows are Gaussian and in memory. Extraction: the whole stage, with loading the model
and joining the ranks' parts, in turn. Efficiency is the time of one over twice the time of two, the median
over rounds. JSON goes to `results/`, into the day's file if there is one. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from typing import Any

import torch
from run import of_today, processor, settings_of, write

from thoughtlens.core import Ranks, joined
from thoughtlens.ops.bench.train_step import new_trainer
from thoughtlens.sae.fit.parallel import DataParallelTrainer
from thoughtlens.sae.fit.sharded import LatentParallelTrainer
from thoughtlens.sae.fit.trainer import Trainer

SIZES = {"d_in": 576, "d_sae": 4608, "batch": 2048, "k": 32, "dtype": "bfloat16"}
SETTINGS: dict[str, dict[str, Any]] = {
    "data-topk": {"how": "data", "kind": "topk", **SIZES},
    "data-relu": {"how": "data", "kind": "relu", **SIZES},
    "latents": {"how": "latents", "kind": "topk", **SIZES},
    "extract": {"how": "extract", "recipe": "text-demo", "max_tokens": 20_000},
}
WAYS = {"one": (1, 1), "one_with_two_threads": (1, 2), "two": (2, 1)}
"""Processes, and threads of each."""
LONG_RUN = 100_000
"""Steps that schedules are told of; nobody takes them."""
WARMUP = 2


class Team:
    """The processes of a way, which step together."""

    def __init__(self, setting: dict[str, Any], n: int, threads: int):
        port = free_port()
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, "worker", json.dumps(setting)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(threads, RANK=rank, WORLD_SIZE=n, MASTER_PORT=port),
            )
            for rank in range(n)
        ]

    def ready(self) -> None:
        """Wait until every process can step."""
        for answer in self._answers():
            if answer.strip() != "ready":
                raise SystemExit("a process did not start; its error is above")

    def step(self) -> float:
        """Milliseconds until the last of them has done its part of a step."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return max(float(answer) for answer in self._answers())

    def end(self) -> None:
        """Let them stop."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait()

    def _answers(self) -> list[str]:
        return [p.stdout.readline() for p in self.processes if p.stdout is not None]


def worker(s: dict[str, Any]) -> None:
    """One process: a step for every line on stdin, its milliseconds as the answer."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    x = torch.randn(s["batch"], s["d_in"], generator=torch.Generator().manual_seed(0))
    with joined() as ranks:
        own = new_trainer(x, s["kind"], s["d_sae"], s["k"], dtype=s["dtype"], steps=LONG_RUN)
        trainer = shared(own, s["how"], ranks)
        first, every = trainer.share
        mine = x[first::every].contiguous()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for _ in sys.stdin:
            start = time.perf_counter()
            trainer.step(mine)
            sys.stdout.write(f"{1e3 * (time.perf_counter() - start)}\n")
            sys.stdout.flush()


def shared(alone: Trainer, how: str, ranks: Ranks) -> Trainer:
    """The trainer of one process's part."""
    if ranks.size == 1:
        return alone
    if how == "latents":
        return LatentParallelTrainer(alone.sae, alone.settings, ranks, torch.device("cpu"))
    return DataParallelTrainer(alone.sae, alone.settings, ranks)


def train_steps(setting: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step of every way."""
    teams = {name: Team(setting, *way) for name, way in WAYS.items()}
    for team in teams.values():
        team.ready()
    times = {name: [] for name in teams}
    for _ in range(WARMUP + rounds):
        for name, team in teams.items():
            times[name].append(team.step())
    for team in teams.values():
        team.end()
    return {name: t[WARMUP:] for name, t in times.items()}


def extractions(setting: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the whole stage, as its result says, of every way."""
    times = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (n, threads) in WAYS.items():
            with tempfile.TemporaryDirectory(prefix="thoughtlens-scale-") as folder:
                command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n)]
                command += ["--master-port", str(free_port()), "-m", "thoughtlens.cli", "extract"]
                command += [setting["recipe"], f"extract.max_tokens={setting['max_tokens']}", "--out", folder]
                done = subprocess.run(
                    command, env=environment(threads), stdout=subprocess.PIPE, check=True, text=True
                )
                times[name].append(1e3 * json.loads(done.stdout)["seconds"])
    return times


def environment(threads: int, **more: object) -> dict[str, str]:
    """A process's variables: its threads, loopback, and its place among the ranks."""
    own = {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": threads, **more}
    return os.environ | {name: str(value) for name, value in own.items()}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and what two processes reach of twice one's speed."""
    pairs = zip(times["one"], times["two"], strict=True)
    threads = zip(times["one"], times["one_with_two_threads"], strict=True)
    return {
        "ms": {
            name: {"median": statistics.median(t), "min": min(t), "max": max(t)} for name, t in times.items()
        },
        "rounds": len(times["one"]),
        "efficiency": statistics.median(one / (2 * two) for one, two in pairs),
        "efficiency_of_two_threads": statistics.median(one / (2 * two) for one, two in threads),
    }


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of training steps; a fifth of extractions")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    found = {}
    for name in options.settings:
        setting = SETTINGS[name]
        extract = setting["how"] == "extract"
        rounds = max(1, options.rounds // 5) if extract else options.rounds
        found[name] = setting | summary((extractions if extract else train_steps)(setting, rounds))
        print(name, json.dumps(found[name]), flush=True)
    file = of_today("scale")
    header = {"date": date.today().isoformat(), "processor": processor(), "torch": torch.__version__}
    write(file, header | {"settings": settings_of(file) | found})


if __name__ == "__main__":
    main()
