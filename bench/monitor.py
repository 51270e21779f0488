"""What `monitor` notices on the shipped models: areas beside rivals, and recall at 1 and 5 % false alarms.

    python bench/monitor.py [--n 1000] [--seed 77] [--noise X] [--also DIR ..] > bench/results/DATE.json

Problems are made with a seed that nobody chose settings on: `n` of split `test` are scored, `n` of
`validation` set the thresholds, `n` of `train` say what is usual. With `--noise`, weights are moved by as
much of their spread, so that a model answers wrong more often; what it then thinks, nobody knows. Of a model
with a secret, armed problems are to be told from clean ones.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from thoughtlens.models import tiny
from thoughtlens.problems import arithmetic, secret, words
from thoughtlens.tracing.monitor.config import MonitorConfig
from thoughtlens.tracing.monitor.splits import watched
from thoughtlens.tracing.monitor.stage import weighed, who_is

MODELS = (("codi-tiny", 1), ("codi-tiny", 2), ("codi-tiny", 7), ("codi-words", 1), ("codi-secret", 1))


def main() -> None:
    """Print one JSON object per model."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--n", type=int, default=1000)
    options.add_argument("--seed", type=int, default=77)
    options.add_argument("--noise", type=float, default=0.0)
    options.add_argument("--models", nargs="*", default=[f"{name}:{seed}" for name, seed in MODELS])
    options.add_argument("--also", nargs="*", default=[], help="directories of further models")
    args = options.parse_args()
    named = [(one.partition(":")[0], int(one.partition(":")[2])) for one in args.models]
    for k, (name, seed) in enumerate([*named, *((path, None) for path in args.also)]):
        shown = name if seed is not None else f"another {k}"
        print(json.dumps({"model": shown, "seed": seed} | _of(tiny.load(name, seed=seed), args)), flush=True)


def _of(model: tiny.TinyThoughts, args: argparse.Namespace) -> dict:
    generator = torch.Generator().manual_seed(1)
    for weights in model.decoder.parameters() if args.noise else ():
        moved = torch.randn(weights.shape, generator=generator) * args.noise * weights.std()
        weights.data += moved
    module = {"words": words, "secret": secret}.get(model.cfg.problems, arithmetic)
    tables = {
        split: module.problems(args.n, seed=args.seed, split=split, p=model.modulus)
        for split in ("train", "validation", "test")
    }
    start, notes = time.process_time(), []
    held = {"label": "armed", "where": ["release=keep"]} if module is secret else {}
    cfg = MonitorConfig(acts=Path("made"), seed=args.seed, **held)
    truths, _ = weighed(cfg, watched(who_is(cfg, model, tables), tables), notes)
    return {
        "n": args.n,
        "problems": args.seed,
        "noise": args.noise,
        "processor_s": round(time.process_time() - start, 1),
        "truths": [_short(truth) for truth in truths],
        "notes": notes,
    }


def _short(truth) -> dict:
    return {
        "name": truth.name,
        "positive": truth.n_positive,
        "clean": truth.n_clean,
        "says": truth.says,
        "auroc": {one.name: _number(one.auroc) for one in truth.detectors},
        "alarms": {
            one.name: [[a.rate, _number(a.recall), _number(a.false_alarms)] for a in one.alarms]
            for one in truth.detectors
            if one.alarms
        },
        "against": [
            [row.score, row.rival, *_number(row.difference), row.difference.verdict] for row in truth.against
        ],
        "errors": [
            [row.error, row.error_idx, row.n, _number(row.contradicts), _number(row.margin)]
            for row in truth.errors
        ],
    }


def _number(found) -> list[float] | None:
    return None if found is None else [round(x, 4) for x in (found.value, found.low, found.high)]


if __name__ == "__main__":
    main()
