"""What carries each variable in the shipped models, by `thoughtlens intervene edit=path` alone.

    python bench/answer_key.py [--n 300] [--also DIR ...] > bench/results/DATE-answer-key.json

It knows nothing of `thoughtlens circuit`, which `bench/circuit.py` grades with it. Twins of three-step
problems of split `test` differ in the start value or in one operand. An edge stands in the key if it alone,
with what the twin has there, changes the answer of `CHANGED` of the problems beyond what a change as long in
a random direction does, with the whole 95 % interval of the paired difference. It is not in the key if the
whole interval lies below. What lies on both sides is `unsure`, and counts neither as found nor as missed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from thoughtlens import models
from thoughtlens.core import read_rows, validate_config
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.records import EffectRow
from thoughtlens.interventions.intervene.stage import intervene
from thoughtlens.models import tiny

CHANGED = 0.05
"""Share of the answers that an edge must change; fixed before any model but seed 1 was tried."""
SEED = 505
MODELS = (("codi-tiny", 1), ("codi-tiny", 2), ("codi-tiny", 7), ("codi-words", 1))
WEIGHTS = Path(models.__file__).parent / tiny.SHIPPED
VARIABLES = ("start", "op1", "op2", "op3")


@dataclass(frozen=True)
class KeyRow:
    """An edge that carries a variable, named as in `thoughtlens circuit`."""

    variable: str
    source: str
    target: str
    route: str
    changed: float
    """Share of the answers that it changes, beyond a random change."""
    low: float
    high: float
    twin: float
    """Share of the answers that become the twin's."""
    unsure: bool


def main() -> None:
    """Print one JSON object per model."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--n", type=int, default=300)
    options.add_argument("--also", nargs="*", default=[], help="directories of further models")
    options.add_argument("--only", type=int, default=None, help="one seed of codi-tiny")
    args = options.parse_args()
    chosen = [m for m in MODELS if args.only is None or m == ("codi-tiny", args.only)]
    for name, seed in [*chosen, *((path, None) for path in args.also)]:
        print(json.dumps(_of(name, seed, args.n)), flush=True)


def _of(name: str, seed: int | None, n: int) -> dict:
    model = tiny.load(name, seed=seed)
    rows, tried, pairs = [], 0, {}
    for variable in VARIABLES:
        found = _effects(name, seed, variable, n)
        tried += len(found)
        pairs[variable] = found[0].n
        own = (_row(row, variable, model.spec.n_thoughts) for row in found)
        rows += [row for row in own if row is not None]
    return {
        "model": Path(name).parent.name if seed is None else name,
        "seed": seed,
        "digest": model.digest,
        "pairs": pairs,
        "tried": tried,
        "at_least": CHANGED,
        "key": [asdict(row) for row in rows],
    }


def _effects(name: str, seed: int | None, variable: str, n: int) -> list[EffectRow]:
    table = {
        "model": {"name": name if seed is None else str(WEIGHTS / name / f"seed{seed}" / tiny.THOUGHTS)},
        "problems": {"source": "generated"},
        "edit": {"kind": "path", "change": variable},
        "n": n,
        "seed": SEED,
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "path"
        intervene(validate_config(InterveneConfig, table), out)
        return [row for row in read_rows(out / "effects.parquet", EffectRow) if row.control is None]


def _row(row: EffectRow, variable: str, n_thoughts: int) -> KeyRow | None:
    """The edge, unless it is surely none."""
    low, high = -(row.beyond_random_high or 0.0), -(row.beyond_random_low or 0.0)
    if high < CHANGED:
        return None
    words = {"changed words": f"question: {variable}", "other words": "question: other words"}
    assert row.source is not None
    return KeyRow(
        variable=variable,
        source=words.get(row.source, row.source),
        target="answer" if row.thought_idx == n_thoughts + 1 else f"thought {row.thought_idx}",
        route="state" if row.layer is None else f"layers.{row.layer}:kv",
        changed=-(row.beyond_random or 0.0),
        low=low,
        high=high,
        twin=row.corrupted,
        unsure=low < CHANGED,
    )


if __name__ == "__main__":
    main()
