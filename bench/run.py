"""Run the benchmarks of this machine one after another and keep their JSON: `make bench`.

Nothing else should run meanwhile. Each result is also printed.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
RUNS = {
    "startup": [],
    "store": [],
    "extract": [],
    "memory": [],
    "train-step-topk": ["--kind", "topk"],
    "train-step-relu": ["--kind", "relu"],
    "decode": [],
    "interpret": [],
}


def of_today(name: str = "") -> Path:
    """The day's file of results of a script."""
    return RESULTS / f"{date.today()}{name and f'-{name}'}.json"


def settings_of(file: Path) -> dict:
    """What the day's file holds already, by setting."""
    return json.loads(file.read_text())["settings"] if file.exists() else {}


def write(file: Path, table: dict) -> None:
    """Write results, and say where."""
    file.write_text(json.dumps(table, indent=2) + "\n")
    print(f"written to {file}")


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    found = {"date": date.today().isoformat(), "machine": platform.platform(), "processor": processor()}
    for name, options in RUNS.items():
        command = name if not name.startswith("train-step") else "train-step"
        done = subprocess.run(
            [sys.executable, "-m", "thoughtlens.cli", "bench", command, *options],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        found[name] = json.loads(done.stdout)
        print(name, done.stdout, flush=True)
    write(of_today(), found)


def processor() -> str:
    """The processor's name, where the system says it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
