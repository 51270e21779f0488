"""From tokens to a saved SAE, and from an SAE to pages: ours beside SAELens, sparsify and SAEDashboard.

    make peers
    python bench/end_to_end.py DIR [--env .venv-peers] [--tokens 150000] [--times 3] [--parts one equal ..]

SmolLM2-135M, output of block 15, windows of 256 tokens of the bundled text that are the same tokens to
everybody; TopK of 4,608 latents, k 32, one pass, batches of 2,048. Every run is a process of its own, one
after another: imports, loading of the model and saving count. Judged by one formula on vectors of the float32
model that nobody was trained on, by what each library's own loader makes of what it saved.

one        each at its documented settings, SAELens also at our learning rate, sparsify also on a model cut
           after block 15, since it runs the whole one
equal      all in float32; all with the model and the SAE's products in bfloat16
theirs     ours on fewer tokens, several times: how soon it reaches the FVU of the others
sweep      eight SAEs of as many seeds: ours from one extraction, theirs from one pass of the model
pages      all latents of one SAE, activations ready: our interpret and explorer beside SAEDashboard

Each run is written to `results/DATE-end-to-end.json` as it ends, and not repeated when it is there; DIR holds
what runs share and leave. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import judge
from run import RESULTS, processor

from peers import environment, versions
from thoughtlens.core import BY_NAME
from thoughtlens.models import capture, load
from thoughtlens.models.hf.locate import locate
from thoughtlens.problems import TextConfig, iter_documents
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert
from thoughtlens.sae.kinds.config import TopKConfig

MODEL, HOOK, WINDOW, BATCH, D_SAE, K = "smollm2-135m", "layers.15:out", 256, 2048, 4608, 32
HELD_OUT = 80
"""Windows that are judged on."""
SEEDS = tuple(range(8))
DASHBOARD_HOOK, DASHBOARD_WINDOWS = "blocks.15.hook_resid_post", 64
"""SAEDashboard's name of the place, and its windows in a pass by default."""
WORKER = Path(__file__).with_name("end_to_end_worker.py")
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "one": {
        "thoughtlens": {"dtype": "own"},
        "sae_lens": {"dtype": "own"},
        "sae_lens, our rate": {"dtype": "own", "lr": "ours"},
        "sparsify": {"dtype": "own"},
        "sparsify, cut": {"dtype": "own", "cut": True},
    },
    "equal": {
        f"{name} {dtype}": {"dtype": dtype, "lr": "ours" if name == "sae_lens" else None, "cut": True}
        for dtype in ("float32", "bfloat16")
        for name in ("thoughtlens", "sae_lens", "sparsify")
    },
    "theirs": {
        f"thoughtlens {share} of the tokens {epochs} times": {
            "dtype": "own",
            "share": share,
            "epochs": epochs,
        }
        for share, epochs in ((0.125, 8), (0.25, 3), (0.25, 4), (0.5, 1), (0.5, 2))
    },
    "sweep": {
        "thoughtlens": {"dtype": "own", "seeds": SEEDS},
        "sae_lens, our rate": {"dtype": "own", "lr": "ours", "seeds": SEEDS},
        "sparsify, cut": {"dtype": "own", "cut": True, "seeds": SEEDS},
    },
    "pages": {
        "thoughtlens_pages": {"jobs": None},
        "thoughtlens_pages, one process": {"jobs": 1},
        "sae_dashboard": {},
    },
}


def prepare(folder: Path, tokens: int) -> None:
    """The windows, as text and as tokens; the vectors that are judged on; what pages are made of."""
    if (folder / "ready").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    lm = load(MODEL, dtype="float32")
    n = -(-tokens // WINDOW)
    drawn = windows(lm.tokenizer)
    train = [next(drawn) for _ in range(n)]
    test = np.array([next(drawn) for _ in range(HELD_OUT)])
    lines = (json.dumps({"text": lm.tokenizer.decode(ids)}) + "\n" for ids in train)
    (folder / "text.jsonl").write_text("".join(lines), "utf-8")
    np.save(folder / "tokens.npy", np.array(train))
    parts = [capture(lm.model, torch.from_numpy(ids), None, [HOOK])[HOOK] for ids in np.split(test, 10)]
    np.save(folder / "test.npy", torch.cat(parts).flatten(0, 1).numpy())
    (folder / "ready").touch()


def prepare_pages(folder: Path, python: Path) -> None:
    """A store and an SAE of ours, the same SAE in SAELens's format, and its cache of activations."""
    pages = folder / "pages"
    if (pages / "ready").is_file():
        return
    shutil.rmtree(pages, ignore_errors=True)
    measured("thoughtlens_pages", {"jobs": 1}, folder, python)
    runs = pages / "run"
    pages.mkdir()
    (folder / "out").rename(runs)
    for stage in ("interpret", "lens", "explorer"):
        shutil.rmtree(runs / BY_NAME[stage].directory)
    convert(ConvertConfig(source=runs / "sae", to="sae_lens"), pages / "sae_lens")
    lm = load(MODEL, dtype="float32")
    (pages / "acts_of_dashboard").mkdir()
    tokens = torch.from_numpy(np.load(folder / "tokens.npy"))
    for i, part in enumerate(tokens.split(DASHBOARD_WINDOWS)):
        acts = torch.cat([capture(lm.model, few, None, [HOOK])[HOOK] for few in part.split(8)])
        torch.save({DASHBOARD_HOOK: acts}, pages / "acts_of_dashboard" / f"model_activations_{i}.pt")
    (pages / "ready").touch()


def windows(tokenizer: Any) -> Iterator[list[int]]:
    """Tokens of the bundled text in pieces that are the same tokens again when they are read as text."""
    texts = (str(document["question"]) + "\n\n" for document in iter_documents(TextConfig()))
    ids = chain.from_iterable(tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    seen = set()
    while len(piece := list(islice(ids, WINDOW))) == WINDOW:
        text = tokenizer.decode(piece)
        if text not in seen and tokenizer(text)["input_ids"] == piece:
            seen.add(text)
            yield piece


def measured(name: str, setting: dict[str, Any], folder: Path, python: Path) -> dict[str, Any]:
    """Wall and processor seconds and the peak of memory of one run, and what its SAEs reconstruct."""
    library = name.split(",")[0].split(" ")[0]
    ours = library.startswith("thoughtlens")
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    if library == "thoughtlens_pages" and (folder / "pages" / "ready").is_file():
        shutil.copytree(folder / "pages" / "run", out)
    else:
        out.mkdir()
    n = round(setting.get("share", 1) * len(np.load(folder / "tokens.npy", mmap_mode="r")))
    steps = n * WINDOW * setting.get("epochs", 1) // BATCH
    table = {"dtype": "own", "lr": None, "seeds": (0,), "cut": False, "epochs": 1} | setting
    if table["lr"] == "ours":
        table["lr"] = TopKConfig(d_sae=D_SAE, k=K).default_lr(D_SAE, steps)
    table |= {
        "library": library, "folder": str(folder), "out": str(out), "n": n, "model": str(locate(MODEL)),
        "hook": HOOK, "window": WINDOW, "batch": BATCH, "d_sae": D_SAE, "k": K,
    }  # fmt: skip
    file = folder / "setting.json"
    file.write_text(json.dumps(table))
    command = [sys.executable if ours else str(python), str(WORKER), str(file)]
    cost = timed(command, folder / "worker.log", ours)
    if setting.get("jobs", 1) is None:  # its processes are not ours to wait for
        cost |= {"cpu_s": None, "peak_mb": None}
    if library in ("thoughtlens_pages", "sae_dashboard"):
        return cost | {"bytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file())}
    timed([*command, "read"], folder / "worker.log", ours)
    test = np.load(folder / "test.npy")
    found = [np.load(one) for one in sorted(folder.glob("out/read-*.npz"))]
    saes = [judged(test, one["x_hat"], one["fires"]) for one in found]
    return cost | {"saes": saes, "n_tokens": n * WINDOW}


def judged(test: np.ndarray, x_hat: np.ndarray, fires: np.ndarray) -> dict[str, Any]:
    """FVU of all vectors, and without each window's first, whose length outweighs that of all others."""
    later = np.arange(len(test)) % WINDOW > 0
    return judge(test, x_hat, fires) | {"fvu_later": judge(test[later], x_hat[later], fires)["fvu"]}


def timed(command: list[str], log: Path, ours: bool) -> dict[str, Any]:
    """A process and those that it started, waited for."""
    dropped = () if ours else ("PYTHONPATH",)
    env = {k: v for k, v in os.environ.items() if k not in dropped} | {"HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def shown(runs: dict[str, dict[str, Any]]) -> str:
    """Markdown, medians over the rounds."""
    groups = defaultdict(list)
    for run in runs.values():
        groups[run["part"], run["name"]].append(run)
    lines = [
        "| part | run | wall s | processor s | peak MB | FVU | without first tokens | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (part, name), own in groups.items():
        cells = [
            f"{statistics.median(run[key] for run in own):.1f}" for key in ("wall_s", "cpu_s", "peak_mb")
        ]
        for key in ("fvu", "fvu_later"):
            fvu = [sae[key] for run in own for sae in run.get("saes", ())]
            cells.append(f"{statistics.median(fvu):.4f}" if fvu else "")
        lines.append(f"| {part} | {name} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dir", type=Path, help="for what runs share and leave")
    parser.add_argument("--env", type=Path, default=Path(".venv-peers"), help="made by `make peers`")
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    python = environment(options.env)
    folder = options.dir.absolute() / str(options.tokens)
    prepare(folder, options.tokens)
    file = RESULTS / f"{date.today().isoformat()}-end-to-end.json"
    runs = json.loads(file.read_text())["runs"] if file.is_file() else {}
    header = {
        "date": date.today().isoformat(), "processor": processor(), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "peers": versions(python),
    }  # fmt: skip
    for part in options.parts:
        if part == "pages":
            prepare_pages(folder, python)
        for i in range(options.times):
            for name, setting in PARTS[part].items():
                key = f"{part}: {name}, {options.tokens} tokens, round {i}"
                if key in runs:
                    continue
                run = measured(name, setting, folder, python)
                runs[key] = {"part": part, "name": name, "tokens": options.tokens, **run}
                file.write_text(json.dumps(header | {"runs": runs}, indent=1) + "\n")
                print(key, run, flush=True)
    print(shown({key: run for key, run in runs.items() if run["tokens"] == options.tokens}))
    print(f"written to {file}")


if __name__ == "__main__":
    main()
