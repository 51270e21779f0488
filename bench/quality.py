"""What SAEs reconstruct: ours beside those of SAELens, dictionary_learning and sparsify, on the same rows.

    make peers
    python bench/quality.py --acts STORE --out DIR [--rows 1000000] [--kinds topk batchtopk]

Same rows in the same order, one pass, same width, batch and sparsity, float32; each library takes its own
steps in its own environment, with its default learning rate and with ours, on rows scaled as its own
documentation advises. Judged on the test rows by one formula, on what each library's saved SAE makes of them.
A run that was stopped goes on with what is missing. JSON goes to `results/`, a table to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import of_today, processor, write

from peers import environment, versions
from thoughtlens import sae as saes
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.view import View
from thoughtlens.core import validate_config
from thoughtlens.numerics.metrics.reconstruction import FVU
from thoughtlens.sae.kinds.config import CONFIGS
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

PEERS = {
    "topk": ["sae_lens", "dictionary_learning", "sparsify"],
    "batchtopk": ["sae_lens", "dictionary_learning"],
}
BATCH = 2048


def scale(library: str, rows: np.ndarray) -> float:
    """What rows are multiplied by: SAELens' `expected_average_only_in`, dictionary_learning's
    `normalize_activations`; sparsify takes them as they are."""
    norms = np.linalg.norm(rows[: 100 * BATCH], axis=1)
    if library == "sae_lens":
        return float(rows.shape[1] ** 0.5 / norms.mean())
    return float(1 / np.sqrt(np.square(norms).mean())) if library == "dictionary_learning" else 1.0


def dump(view: View, n: int, file: Path, *, seed: int | None) -> np.ndarray:
    """The first `n` vectors of a view, in the order of training (`seed`) or of the store, in a file."""
    if not file.is_file():
        part = np.lib.format.open_memmap(file.with_suffix(".part"), "w+", np.float32, (n, view.d_in))
        batches = view.sequential(BATCH) if seed is None else view.batches(BATCH, seed=seed, epochs=1)
        done = 0
        for batch in batches:
            x = batch.x[: n - done].numpy()
            part[done : done + len(x)] = x
            done += len(x)
            if done == n:
                break
        part.flush()
        file.with_suffix(".part").replace(file)
    return np.load(file, mmap_mode="r")


def judge(x: np.ndarray, x_hat: np.ndarray, fires: np.ndarray) -> dict[str, Any]:
    """FVU, L0 and the share of latents that never fire, on the test rows."""
    fvu = FVU()
    for low in range(0, len(x), BATCH):
        fvu.update(torch.from_numpy(x[low : low + BATCH].copy()), torch.from_numpy(x_hat[low : low + BATCH]))
    return {
        "fvu": float(fvu.compute()),
        "l0": float(fires.sum() / len(x)),
        "dead": float((fires == 0).mean()),
    }


def ours(options: argparse.Namespace, kind: str, n: int, test: np.ndarray, seed: int) -> dict[str, Any]:
    """Our SAE by the train stage with its defaults."""
    sae_cfg = {"kind": kind, "d_sae": options.d_sae, "k": options.k}
    table = {"acts": options.acts, "sae": sae_cfg, "batch_size": BATCH, "n_vectors": n, "seed": seed}
    out = options.out / f"thoughtlens-{kind}-{seed}"
    train(validate_config(TrainConfig, table), out)
    sae, parts, fires = saes.load(out), [], torch.zeros(options.d_sae)
    with torch.no_grad():
        for low in range(0, len(test), BATCH):
            acts = sae.encode(torch.from_numpy(test[low : low + BATCH].copy()))
            parts.append(sae.decode(acts))
            fires += (acts != 0).sum(0)
    return judge(test, torch.cat(parts).numpy(), fires.numpy())


def theirs(
    options: argparse.Namespace, setting: dict[str, Any], rows: Path, test: np.ndarray, python: Path
) -> dict[str, Any]:
    """A library's SAE, trained in its own environment."""
    factor = scale(setting["library"], np.load(rows, mmap_mode="r"))
    name = "-".join(str(setting[key]) for key in ("library", "kind", "lr", "seed"))
    file, out = options.out / f"{name}.json", options.out / f"{name}.npz"
    scaled = options.out / f"{setting['library']}-rows.npy"
    if not scaled.is_file():
        np.save(scaled.with_suffix(".part.npy"), np.load(rows) * np.float32(factor))
        scaled.with_suffix(".part.npy").replace(scaled)
    np.save(options.out / "test-scaled.npy", test * np.float32(factor))
    table = setting | {"rows": str(scaled), "test": str(options.out / "test-scaled.npy"), "out": str(out)}
    file.write_text(json.dumps(table))
    worker = Path(__file__).with_name("peer_worker.py")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"}
    with file.with_suffix(".log").open("w") as log:
        subprocess.run([python, worker, file], stderr=log, check=True, env=env)
    found = np.load(out)
    result = judge(test, found["x_hat"] / np.float32(factor), found["fires"])
    out.unlink()
    return result


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Markdown, one line per run."""
    lines = [
        "| kind | library | learning rate | seed | FVU | L0 | never fire |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in runs.values():
        lines.append(
            f"| {r['kind']} | {r['library']} | {r['lr'] or 'its default'} | {r['seed']} | {r['fvu']:.4f} | "
            f"{r['l0']:.2f} | {r['dead']:.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", type=Path, default=Path(".venv-peers"), help="made by `make peers`")
    parser.add_argument("--acts", type=Path, required=True, help="activation store")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and finished runs")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--d-sae", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--kinds", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    python = environment(options.env)
    store = ActivationStore.open(options.acts)
    rows = options.out / "rows.npy"
    n = len(dump(store.view(split="train", drop_outliers=True), options.rows, rows, seed=0))
    held_out = store.view(split="test", drop_outliers=True)
    test = np.array(dump(held_out, held_out.n, options.out / "test.npy", seed=None))
    steps = n // BATCH
    done = options.out / "runs.json"
    runs = json.loads(done.read_text()) if done.is_file() else {}
    for kind in options.kinds:
        lr = CONFIGS[kind]().default_lr(options.d_sae, steps)
        for seed in options.seeds:
            plan = [("thoughtlens", None)] + [(peer, rate) for peer in PEERS[kind] for rate in (None, lr)]
            for library, rate in plan:
                name = f"{kind} {library} {rate} {seed}"
                if name in runs:
                    continue
                own = {"library": library, "kind": kind, "lr": rate, "seed": seed}
                if library == "thoughtlens":
                    found = ours(options, kind, n, test, seed)
                else:
                    setting = own | {
                        "d_in": test.shape[1], "d_sae": options.d_sae, "k": options.k, "batch": BATCH,
                        "steps": steps, "dtype": "float32", "threads": torch.get_num_threads(),
                    }  # fmt: skip
                    found = theirs(options, setting, rows, test, python)
                runs[name] = own | found
                done.write_text(json.dumps(runs, indent=2) + "\n")
                print(name, runs[name], flush=True)
    print(table(runs))
    header = {
        "date": date.today().isoformat(), "processor": processor(), "torch": torch.__version__,
        "peers": versions(python), "rows": n, "test_rows": len(test), "d_sae": options.d_sae, "k": options.k,
    }  # fmt: skip
    write(of_today("quality"), header | {"runs": list(runs.values())})


if __name__ == "__main__":
    main()
