"""Circuits graded against the answer key, which was made without them (`bench/answer_key.py`).

    thoughtlens extract pilot problems.n=3000 model=MODEL --out RUN
    thoughtlens circuit RUN n=200
    python bench/circuit.py bench/results/DATE-answer-key.json RUN/circuit .. > DATE-circuit.json

Of the edges in the key: recall, those that a graph shows; of the edges shown: precision, those in the key.
Edges of which the key is unsure count in neither. With `--permuted` the graph is asked for of the same model
once more with the words of its readout permuted, so that its thoughts say nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from thoughtlens.core import DataError, load_config, read_recipe
from thoughtlens.models import TinyThoughts
from thoughtlens.tracing.circuit import stage
from thoughtlens.tracing.circuit.config import CircuitConfig
from thoughtlens.tracing.circuit.records import CircuitOutcome

NAMES = ("variable", "source", "target", "route")


def main() -> None:
    """Print one JSON object per circuit."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("key", type=Path)
    options.add_argument("circuits", type=Path, nargs="+")
    options.add_argument("--permuted", action="store_true")
    args = options.parse_args()
    keys = {key["digest"]: key for key in map(json.loads, args.key.read_text("utf-8").splitlines())}
    for folder in args.circuits:
        found = CircuitOutcome.from_json(json.loads((folder / "result.json").read_text("utf-8")))
        graded = _graded(found, keys[found.model_digest])
        print(json.dumps(graded | ({"permuted": _permuted(folder)} if args.permuted else {})), flush=True)


def _graded(found: CircuitOutcome, key: dict) -> dict:
    named = {tuple(row[name] for name in NAMES): row["unsure"] for row in key["key"]}
    right, variables = {name for name, unsure in named.items() if not unsure}, {name[0] for name in named}
    rows = {tuple(getattr(row, name) for name in NAMES): row for row in found.edges}
    shown = {name for name in rows if name[0] in variables and not named.get(name)}
    both = right & shown
    return {
        "model": key["model"],
        "seed": key["seed"],
        "n": found.n,
        "in_key": len(right),
        "unsure": len(named) - len(right),
        "shown": len(shown),
        "recall": len(both) / len(right),
        "precision": len(both) / len(shown) if shown else None,
        "missed": sorted(right - shown),
        "beyond": {" | ".join(name): round(rows[name].flow, 3) for name in sorted(shown - right)},
        "guards": [" | ".join(name) for name in sorted(shown) if rows[name].does == "guards"],
        "cuts": {cut.name: [cut.n_edges, cut.accuracy.value, cut.accuracy.n] for cut in found.cuts},
        "arms": {arm.name: [arm.n_tried, arm.n_shown, arm.n_state] for arm in found.arms},
        "flow": found.arms[0].flow,
        "rank_correlation": found.rank_correlation,
        "slope": found.slope,
        "shown_again": {" | ".join(name): rows[name].stability for name in sorted(rows)},
    }


def _permuted(folder: Path) -> int | str:
    """Edges shown of a model whose readout is permuted, or why there is no graph."""
    open_model = stage.thought_model

    def permuted(store):
        model = open_model(store)
        assert isinstance(model, TinyThoughts)
        n, drawn = len(model.cfg.vocabulary), torch.Generator().manual_seed(0)
        order, plain = torch.randperm(n, generator=drawn), model.readout
        model.readout = lambda h, site: plain(h, site)[..., order]
        return model

    stage.thought_model = permuted
    try:
        with tempfile.TemporaryDirectory() as other:
            cfg = load_config(CircuitConfig, read_recipe(folder))
            return CircuitOutcome.from_json(stage.circuit(cfg, Path(other) / "circuit")).arms[0].n_shown
    except DataError as error:
        return str(error)
    finally:
        stage.thought_model = open_model


if __name__ == "__main__":
    main()
