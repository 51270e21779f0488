"""Does a rule that sees no labels choose the dictionary that holds what the thoughts hold? (docs/findings.md)

    thoughtlens extract pilot model=MODEL problems.n=16000 --out DIR/acts
    python bench/choose.py train DIR --widths 96,192,768
    python bench/choose.py measure DIR
    python bench/choose.py rules DIR [--widths 192,768]

On one hook; every kind, k and width with seeds 0 and 1, trained as stacks. `rules` prints each setting, and
for every rule what it chooses and by how much the best setting recovers more. Steps can be stopped and go on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import validate_config
from thoughtlens.evals.recovery.scores import Fired, choose, score
from thoughtlens.numerics import description_length, found_again
from thoughtlens.sae import load, plan_jobs, train_jobs
from thoughtlens.sae.train.config import TrainConfig

HOOK = "layers.1:out"
KINDS, KS, SEEDS = ("batchtopk", "topk", "matryoshka"), (1, 2, 4, 8, 16, 32), (0, 1)
PLACES = {"op1": 1, "v1": 2, "op2": 3, "v2": 4, "op3": 5}
"""Where a linear probe reads each; v2 in three-step problems, where it is on the way."""
PRECISIONS = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
Row = dict[str, Any]


def train(root: Path, widths: list[int]) -> None:
    """Every setting with every seed, 150,000 vectors each."""
    store = ActivationStore.open(root / "acts")
    for d_sae in widths:
        for kind in KINDS:
            jobs = [_job(store, f"{kind}_{d_sae}_{k}_{seed}") for seed in SEEDS for k in KS]
            todo = [job for job in jobs if not (root / "sae" / job.name / "sae.safetensors").exists()]
            if todo:
                (root / "sae").mkdir(exist_ok=True)
                train_jobs(todo, root / "sae", torch.device("cpu"), "auto")


def _job(store: ActivationStore, name: str):
    kind, d_sae, k, seed = name.split("_")
    table = {
        "acts": str(store.root), "sae": {"kind": kind, "d_sae": int(d_sae), "k": int(k)}, "seed": int(seed),
        "hook_names": [HOOK], "n_vectors": 150_000, "batch_size": 1024, "evaluations": 1,
    }  # fmt: skip
    return replace(plan_jobs(validate_config(TrainConfig, table), store)[0], name=name, label=name)


def measure(root: Path) -> None:
    """`numbers/NAME.json` of every trained SAE."""
    store, numbers = ActivationStore.open(root / "acts"), root / "numbers"
    numbers.mkdir(exist_ok=True)
    rows = {split: _rows(store, split) for split in ("validation", "test")}
    for folder in sorted((root / "sae").glob("*_*_*_?")):
        if (folder / "sae.safetensors").exists() and not (numbers / f"{folder.name}.json").exists():
            found = _numbers(store, folder, rows)
            (numbers / f"{folder.name}.json").write_text(json.dumps(found))


def _rows(store: ActivationStore, split: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Vectors, thought and problem of each."""
    view = store.view([HOOK], split=split)
    every = np.arange(view.n)
    thought = np.array([store.cells[c][1] for c in view.cell_of(every)])
    return view.read(every), thought, store.problem_idx[view.rows_of(every)]


@torch.no_grad()
def _numbers(store: ActivationStore, folder: Path, rows: dict) -> Row:
    sae = load(folder)
    kind, d_sae, k, seed = folder.name.split("_")
    found: Row = {"kind": kind, "d_sae": int(d_sae), "k": int(k), "seed": int(seed)}
    codes = {split: _codes(sae, x, thought) for split, (x, thought, _) in rows.items()}
    x, thought, _ = rows["validation"]
    x_hat = sae.decode(torch.from_numpy(codes["validation"].toarray()), _cell(sae, thought)).double()
    x, residual = x.double(), x.double() - x_hat
    mean = torch.stack([x[thought == t].mean(0) for t in range(thought.max() + 1)])
    spread = torch.stack(
        [(x[thought == t] - mean[t]).square().mean().sqrt() for t in range(thought.max() + 1)]
    )
    found["fvu"] = float(residual.square().sum() / (x - mean[thought]).square().sum())
    fires = np.asarray((codes["validation"] != 0).sum(0)).ravel()
    found |= {"l0": fires.sum() / len(x), "dead": float((fires == 0).mean())}
    written = codes["validation"] @ sp.diags_array(sae.W_dec.norm(dim=1).double().numpy())
    for precision in PRECISIONS:
        bits = description_length(
            (residual / spread[thought][:, None]).numpy(), sp.csr_array(written), precision
        )
        found[f"bits {precision}"] = bits.total
    np.savez(folder / "directions.npz", W_dec=sae.W_dec.numpy(), fires=fires)
    return found | _recovered(store, codes, rows)


def _cell(sae, thought: np.ndarray):
    return sae.cell_index([(HOOK, t) for t in range(thought.max() + 1)], thought)


def _codes(sae, x: torch.Tensor, thought: np.ndarray) -> sp.csr_array:
    cell = _cell(sae, thought)
    parts = [sae.encode(x[i : i + 4096], cell[i : i + 4096]).numpy() for i in range(0, len(x), 4096)]
    return sp.csr_array(sp.vstack([sp.csr_array(part) for part in parts]))


def _recovered(store: ActivationStore, codes: dict[str, sp.csr_array], rows: dict) -> Row:
    """Share of the values found by two latents, chosen on validation and judged on test problems."""
    found = {}
    for name, at in PLACES.items():
        own, n_values = _values(store, name)
        seen = {}
        for split, (_, thought, problem) in rows.items():
            here = np.flatnonzero((thought == at) & (own[problem] != -2))
            seen[split] = Fired(sp.csr_array(codes[split][here] != 0).astype(np.float32), own[problem[here]])
        told = choose(seen["validation"], n_values)
        groups = np.arange(len(seen["test"].y))
        scored = score(seen["test"], told, groups, found_at=0.9, n_resamples=10, seed=0)
        found[name] = scored.found_by_two.estimate
    return found


def _values(store: ActivationStore, name: str) -> tuple[np.ndarray, int]:
    """Each problem's value; -1: fewer than 5 problems in a split have it; -2: it is not asked about."""
    table = store.problems.select([name, "n_steps", "split"]).to_pylist()
    asked = [name != "v2" or row["n_steps"] == 3 for row in table]
    count: dict[Any, dict[str, int]] = {}
    for row, there in zip(table, asked, strict=True):
        if there and row[name] is not None:
            own = count.setdefault(row[name], {"validation": 0, "test": 0, "train": 0})
            own[row["split"]] += 1
    kept = sorted((v for v, n in count.items() if min(n["validation"], n["test"]) >= 5), key=str)
    number = {value: i for i, value in enumerate(kept)}
    codes = [number.get(row[name], -1) if there else -2 for row, there in zip(table, asked, strict=True)]
    return np.array(codes), len(kept)


def settings(root: Path, widths: list[int] | None) -> list[Row]:
    """Means over the two seeds of every setting that has both."""
    by: dict[tuple, list[Path]] = {}
    for file in sorted((root / "numbers").glob("*.json")):
        by.setdefault(tuple(file.stem.split("_")[:3]), []).append(file)
    table = []
    for (kind, d_sae, _), files in by.items():
        if len(files) == len(SEEDS) and (widths is None or int(d_sae) in widths):
            rows = [json.loads(file.read_text()) for file in files]
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "kind"}
            again, by_firings = _stability([root / "sae" / file.stem / "directions.npz" for file in files])
            recovered = float(np.mean([mean[name] for name in PLACES]))
            table.append(mean | {"kind": kind, "again": again, "firings again": by_firings, "rec": recovered})
    return table


def _stability(files: list[Path]) -> tuple[float, float]:
    one, other = (np.load(file) for file in files)
    shares = []
    for a, b in ((one, other), (other, one)):
        live = [torch.from_numpy(s["W_dec"][s["fires"] > 0]) for s in (a, b)]
        again, own = found_again(*live), a["fires"][a["fires"] > 0]
        shares.append((again.mean(), (again * own).sum() / own.sum()))
    return tuple(np.mean(shares, axis=0))


Rule = Callable[[list[Row]], Row]


def rules() -> dict[str, Rule]:
    """What was tried on seed 1."""
    return {
        "frozen: the widest within 5 % of the fewest bits at 0.3": wide_and_short,
        **{f"fewest bits at precision {p}": _least(f"bits {p}") for p in PRECISIONS},
        "fewest bits at 0.1, at most 20 % dead": lambda t: _least("bits 0.1")(
            [r for r in t if r["dead"] <= 0.2]
        ),
        "lowest FVU": _least("fvu"),
        "lowest FVU, at most 10 % dead": lambda t: _least("fvu")([r for r in t if r["dead"] <= 0.1]),
        "knee of L0 and FVU": knee,
        "knee, at most 10 % dead": lambda t: knee([r for r in t if r["dead"] <= 0.1]),
        "most latents found again": lambda t: max(t, key=lambda r: r["again"]),
        "most firings found again": lambda t: max(t, key=lambda r: r["firings again"]),
        "most firings found again, of those within 10 % of the fewest bits at 0.1": stable_and_short,
        "firings found again x explained variance": lambda t: max(
            t, key=lambda r: r["firings again"] * (1 - r["fvu"])
        ),
        "sum of the ranks by bits at 0.1 and by firings found again": ranks,
    }


def _least(key: str) -> Rule:
    return lambda table: min(table, key=lambda row: row[key])


def wide_and_short(table: list[Row]) -> Row:
    """The rule of `sweep`."""
    limit = 1.05 * min(row["bits 0.3"] for row in table)
    return max((r for r in table if r["bits 0.3"] <= limit), key=lambda r: (r["d_sae"], -r["bits 0.3"]))


def stable_and_short(table: list[Row]) -> Row:
    """The most stable of the short descriptions."""
    limit = 1.1 * min(row["bits 0.1"] for row in table)
    return max((r for r in table if r["bits 0.1"] <= limit), key=lambda r: r["firings again"])


def ranks(table: list[Row]) -> Row:
    """The best of both orders together."""
    orders = [[row["bits 0.1"] for row in table], [-row["firings again"] for row in table]]
    return table[int(np.sum([np.argsort(np.argsort(one)) for one in orders], axis=0).argmin())]


def knee(table: list[Row]) -> Row:
    """The point of the front of L0 and FVU furthest below the line between its ends, both as logarithms."""
    line: list[Row] = []
    for row in sorted(table, key=lambda r: (r["l0"], r["fvu"])):
        if not line or row["fvu"] < line[-1]["fvu"]:
            line.append(row)
    x, y = np.log([row["l0"] for row in line]), np.log([row["fvu"] for row in line])
    bend = (y[0] - y) / (y[0] - y[-1]) - (x - x[0]) / (x[-1] - x[0])
    return line[int(bend.argmax())] if bend.max() >= 0.02 else line[-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("train", "measure", "rules"))
    parser.add_argument("root", type=Path)
    parser.add_argument("--widths", type=lambda text: [int(one) for one in text.split(",")])
    args = parser.parse_args()
    if args.step == "train":
        train(args.root, args.widths)
    elif args.step == "measure":
        measure(args.root)
    else:
        table = settings(args.root, args.widths)
        best = max(row["rec"] for row in table)
        for row in table:
            print(json.dumps(row))
        print(
            f"{len(table)} settings, best {best:.3f}, a random one {np.mean([r['rec'] for r in table]):.3f}"
        )
        for name, rule in rules().items():
            row = rule(table)
            print(
                f"{name:75} {row['kind']} {row['d_sae']:.0f} k {row['k']:.0f} regret {best - row['rec']:.3f}"
            )


if __name__ == "__main__":
    main()
