"""Damaged SAE files through every reader: each must load or be refused in one line.

    python bench/fuzz_readers.py --n 10000 [--seed 0]

One JSON object on stdout. A crash, a hang of more than 20 seconds, memory beyond 4 GB or another
exception than a ThoughtlensError ends it, and the seed that did it is printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tests.sae.formats import foreign
from tests.sae.formats.mutate import damage

from thoughtlens import sae as saes
from thoughtlens.core import ThoughtlensError
from thoughtlens.sae.formats.formats import FORMATS, members


def sources(root: Path) -> list[Path]:
    """One folder of every format and rule, this project's own among them."""
    found = []
    for name, make in foreign.ALL.items():
        path = make(root / name)
        found.append(path if path.is_dir() else path.parent)
    for cfg in (saes.TopKConfig(d_sae=20, k=3), saes.MatryoshkaConfig(d_sae=20, k=3, prefixes=(0.5, 1.0))):
        saes.save(saes.create(cfg, 6, seed=0), root / cfg.kind)
        found.append(root / cfg.kind)
    return found


def try_one(path: Path) -> str:
    """Read as the stages and as `convert` do; the outcome by name."""
    try:
        sae = saes.load(path)
        x = torch.zeros(2, sae.d_in, dtype=sae.W_enc.dtype)
        sae.encode(x)
        for fmt, place in members(path).values():
            FORMATS["thoughtlens"].write(fmt.read(place), path / "out")
    except ThoughtlensError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from error
        return type(error).__name__
    return "read"


def main() -> None:
    """Fuzz."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))
    outcomes: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as tmp:
        folders = sources(Path(tmp) / "whole")
        for i in range(args.n):
            seed = args.seed + i
            source = folders[seed % len(folders)]
            how = damage(source, Path(tmp) / source.name, seed)
            signal.alarm(20)
            try:
                outcomes[try_one(Path(tmp) / source.name)] += 1
            except BaseException:
                sys.stderr.write(f"seed {seed}: {source}: {how}\n")
                raise
            signal.alarm(0)
            if i % 1000 == 999:
                sys.stderr.write(f"{i + 1} files, {time.monotonic() - start:.0f} s, {dict(outcomes)}\n")
    sys.stdout.write(json.dumps({"n": args.n, "seed": args.seed, "outcomes": dict(outcomes)}) + "\n")


if __name__ == "__main__":
    main()
