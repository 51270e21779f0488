"""Our training step beside those of SAELens, sparsify and dictionary_learning, interleaved on the same rows.

    make peers
    python bench/peers.py [--env .venv-peers] [--acts STORE] [--steps 15] [--settings topk-576 relu-576 ...]

`make peers` installs the three at pinned versions into a virtual environment of their own. Starts one process
per library and dtype and lets them step in turn. A setting with `members` is that many SAEs, each on rows of
its own: ours as the train stage runs them, one after another, and that with the reference kernels; the peers'
one after another, where a round takes `share` of them and its time is scaled up to all.
JSON goes to `results/`, into the day's file if there is one, a table to stdout. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import of_today, processor, settings_of, write

from thoughtlens.acts.store.reader import ActivationStore

LIBRARIES = ["sae-lens", "eai-sparsify", "dictionary-learning"]
STACK = {"d_in": 192, "d_sae": 1536, "batch": 1024, "k": 32, "members": 42, "share": 6}
SETTINGS = {
    "topk-576": {"kind": "topk", "d_in": 576, "d_sae": 4608, "batch": 2048, "k": 32},
    "relu-576": {"kind": "relu", "d_in": 576, "d_sae": 4608, "batch": 2048, "k": 32},
    "relu-576-trained": {"kind": "relu", "d_in": 576, "d_sae": 4608, "batch": 2048, "k": 32, "warm": 200},
    "topk-2048": {"kind": "topk", "d_in": 2048, "d_sae": 8192, "batch": 256, "k": 32},
    "relu-2048": {"kind": "relu", "d_in": 2048, "d_sae": 8192, "batch": 256, "k": 32},
    "relu-2048-trained": {
        "kind": "relu",
        "d_in": 2048,
        "d_sae": 8192,
        "batch": 256,
        "k": 32,
        "warm": 200,
        "l1": 2.0,
    },
    "stack-42": {"kind": "topk", **STACK},
    "stack-42-relu": {"kind": "relu", **STACK},
}
ON_GPU = {
    "topk-65536": {
        "kind": "topk", "d_in": 2048, "d_sae": 65_536, "batch": 8192, "k": 64, "device": "cuda", "batches": 2,
        "peers": ["sparsify", "sparsify:bfloat16", "sae_lens", "sae_lens:bfloat16"],
    },
}  # fmt: skip
"""Settings for a GPU: `gpu.py` runs them."""
PEERS = {
    "topk": ["sparsify", "sparsify:bfloat16", "sae_lens", "sae_lens:bfloat16", "dictionary_learning"],
    "relu": ["sae_lens", "sae_lens:bfloat16", "dictionary_learning"],
}
OURS = {
    "one": ["thoughtlens:bfloat16", "thoughtlens"],
    "many": [
        "thoughtlens_stack:bfloat16", "thoughtlens_stack", "thoughtlens_loop:bfloat16", "thoughtlens_loop",
        "thoughtlens_reference:bfloat16",
    ],
}  # fmt: skip
"""What the peers are compared with; the first counts."""
LONG_RUN = 100_000
"""Steps that schedules are told of; nobody takes them."""
N_BATCHES = {"one": 8, "many": 2}
WARMUP = 3


@dataclass
class Contestant:
    """One library's worker and the milliseconds of its steps."""

    name: str
    process: subprocess.Popen
    times: list[float] = field(default_factory=list)

    def step(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.times.append(float(self.process.stdout.readline()))


def environment(env: Path) -> Path:
    """The Python of the environment that `make peers` makes."""
    python = env / "bin" / "python"
    if not (env / ".ready").is_file():
        raise SystemExit(f"{env} is not there or not finished: make peers PEERS={env}")
    return python


def versions(python: Path) -> list[str]:
    """What is compared with, as installed."""
    names = ", ".join(repr(name) for name in LIBRARIES)
    code = f"from importlib.metadata import version\nfor n in ({names}): print(n, version(n), sep='==')"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def rows(acts: Path | None, d_in: int, n: int) -> np.ndarray:
    """Rows of a store of that width; else sparse sums of random directions, with noise."""
    if acts is not None:
        view = ActivationStore.open(acts).view(split=None, drop_outliers=True)
        if view.d_in == d_in:
            return view.sample(n, seed=0).x.numpy()[np.arange(n) % min(n, view.n)]
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2 * d_in, d_in), np.float32) / d_in**0.5
    amounts = np.where(rng.random((n, 2 * d_in)) < 0.02, rng.exponential(1.0, (n, 2 * d_in)), 0)
    return 5 * amounts.astype(np.float32) @ directions + 0.1 * rng.standard_normal((n, d_in), np.float32)


def start(name: str, setting: dict[str, Any], python: Path, folder: Path) -> Contestant:
    """A library's worker, ready to step."""
    library, _, dtype = name.partition(":")
    table = setting | {
        "library": library,
        "dtype": dtype or "float32",
        "steps": setting["warm"] + 100 if "warm" in setting and library == "thoughtlens" else LONG_RUN,
        "threads": torch.get_num_threads(),
        "rows": str(folder / "rows.npy"),
    }
    file = folder / f"{name.replace(':', '-')}.json"
    file.write_text(json.dumps(table))
    worker = Path(__file__).with_name("peer_worker.py")
    errors = file.with_suffix(".log").open("w")
    process = subprocess.Popen(
        [sys.executable if library.startswith("thoughtlens") else python, worker, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"},
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise RuntimeError(f"{name} did not start:\n{file.with_suffix('.log').read_text()[-2000:]}")
    return Contestant(name, process)


def compare(setting: dict[str, Any], python: Path, acts: Path | None, steps: int) -> dict[str, Any]:
    """Median, least and largest milliseconds of every contestant, and median ratios to ours in each round."""
    many = "many" if "members" in setting else "one"
    others = setting.get("peers", PEERS[setting["kind"]])
    n_rows = setting.get("batches", N_BATCHES[many]) * setting.get("members", 1) * setting["batch"]
    with tempfile.TemporaryDirectory(prefix="thoughtlens-peers-") as tmp:
        folder = Path(tmp)
        np.save(folder / "rows.npy", rows(acts, setting["d_in"], n_rows))
        names = [*OURS[many], *others]
        contestants = [start(name, setting, python, folder) for name in names]
        for _ in range(WARMUP + steps):
            for contestant in contestants:
                contestant.step()
        for contestant in contestants:
            contestant.process.communicate()
    times = {c.name: c.times[WARMUP:] for c in contestants}
    fastest = min(others, key=lambda name: statistics.median(times[name]))
    ours = OURS[many][0]
    ratios = {
        name: statistics.median(theirs / mine for theirs, mine in zip(t, times[ours], strict=True))
        for name, t in times.items()
    }
    return setting | {
        "ms": {
            name: {"median": statistics.median(t), "min": min(t), "max": max(t)} for name, t in times.items()
        },
        "ours": ours,
        "ratios": ratios,
        "fastest_peer": fastest,
        "ratio": ratios[fastest],
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown, milliseconds a step."""
    lines = ["| setting | thoughtlens | beside | ratio |", "|---|---|---|---|"]
    for name, one in found.items():
        mine = one["ms"][one["ours"]]["median"]
        others = [other for other in one["ms"] if "members" in one and other != one["ours"]]
        for other in others or [one["fastest_peer"]]:
            ms, ratio = one["ms"][other]["median"], one["ratios"][other]
            lines.append(f"| {name} | {mine:.0f} | {other} {ms:.0f} | {ratio:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", type=Path, default=Path(".venv-peers"), help="made by `make peers`")
    parser.add_argument("--acts", type=Path, help="activation store whose rows are taken where they fit")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS | ON_GPU, default=list(SETTINGS))
    options = parser.parse_args()
    python = environment(options.env)
    found = {}
    for name in options.settings:
        found[name] = compare((SETTINGS | ON_GPU)[name], python, options.acts, options.steps)
        print(name, json.dumps(found[name]["ms"]), flush=True)
    print(table(found))
    file = of_today("peers")
    header = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "peers": versions(python),
        "torch": torch.__version__,
    }
    write(file, {**header, "threads": torch.get_num_threads(), "settings": settings_of(file) | found})


if __name__ == "__main__":
    main()
