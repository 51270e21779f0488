"""Everything that `interpret` does after encoding, on codes drawn at random."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from thoughtlens.core import ConfigError, Json, Parts, validate_config
from thoughtlens.latents import (
    Coded,
    Codes,
    CodeWriter,
    Fires,
    InterpretConfig,
    RowColumns,
    Rows,
    Tables,
    stretches,
)
from thoughtlens.ops.bench.limits import require_one_of, require_positive

ROWS_PER_UNIT = {"text": 256, "thoughts": 7}
VOCABULARY, WORDS_PER_TEXT = 20_000, 30
CHUNK = 8192


def bench_interpret(
    *, rows: int = 1_000_000, d_sae: int = 8192, l0: int = 32, kind: str = "text", seed: int = 0
) -> Json:
    """Time all tables of one SAE whose codes are on disk: documents of 256 tokens, or problems of 7 thoughts.

    Labels, numbers and reasoning texts are tested as with the defaults of `interpret`; compiling is not
    counted.

    Returns:
        `codes_s`, drawing the codes and writing both orders; `tables_s`, all that comes after, and `cpu_s`,
        the processor time of that over all threads; `peak_mb`, the largest resident size of the process in
        the meantime, libraries and pages of mapped files included (Linux); with settings.
    """
    require_one_of("kind", kind, ROWS_PER_UNIT)
    require_positive(rows=rows, d_sae=d_sae, l0=l0)
    if l0 > d_sae:
        raise ConfigError(f"Expected l0 <= d_sae, got {l0} and {d_sae}")
    _run(20 * ROWS_PER_UNIT[kind], min(d_sae, 64), min(l0, 8), kind, seed)
    return {
        "benchmark": "interpret", "rows": rows, "d_sae": d_sae, "l0": l0, "kind": kind,
        "threads": torch.get_num_threads(), **_run(rows, d_sae, l0, kind, seed),
    }  # fmt: skip


def _run(n: int, d_sae: int, l0: int, kind: str, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="thoughtlens-bench-") as folder:
        root, start = Path(folder), time.perf_counter()
        table = _rows(n, kind, seed)
        codes = _write(root, table, d_sae, l0, seed)
        written, cpu = time.perf_counter(), time.process_time()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        coded = Coded(
            "planted", codes, Fires.of(codes), table, _problems(len(table.problem), kind, seed),
            None if kind == "text" else list(range(ROWS_PER_UNIT[kind])),
            lambda ids: {i: f"t{i}" for i in ids},
        )  # fmt: skip
        Tables(validate_config(InterpretConfig, {"acts": root, "sae": root}), coded).write(Parts(root), 0)
        found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        assert found is not None
        peak = int(found[1]) / 1024
        return {
            "codes_s": written - start,
            "tables_s": time.perf_counter() - written,
            "cpu_s": time.process_time() - cpu,
            "peak_mb": peak,
            "n_fires": codes.n_fires,
        }


def _rows(n: int, kind: str, seed: int) -> Rows:
    per_unit = ROWS_PER_UNIT[kind]
    row = np.arange(n)
    unit, at = row // per_unit, (row % per_unit).astype(np.int32)
    first = np.r_[np.arange(0, n, per_unit), n]
    columns = RowColumns(thought_idx=at)
    if kind == "text":
        token = np.random.default_rng(seed).zipf(1.3, n) % VOCABULARY
        stretch = stretches(unit, at)
        ids = token.astype(np.int32)
        columns = RowColumns(position=at + 1, token_id=ids, stretch=stretch, first=at == 0)
    return Rows(row, row, unit, first, np.arange(len(first) - 1), columns)


def _write(root: Path, table: Rows, d_sae: int, l0: int, seed: int) -> Codes:
    """`l0` draws a vector, of latents whose densities fall off; drawn twice counts once."""
    rng = np.random.default_rng(seed)
    writer = CodeWriter(
        root / "codes" / "0", root / "scratch", member="planted", hook_names=["layers.0:out"], d_sae=d_sae,
        row=table.row, problem=table.unit,
    )  # fmt: skip
    for low in range(0, len(table.row), CHUNK):
        size = min(CHUNK, len(table.row) - low)
        latent = np.sort((d_sae * rng.random((size, l0)) ** 2).astype(np.int32), axis=1)
        keep = np.diff(latent, axis=1, prepend=-1) > 0
        writer.append(keep.sum(1), latent[keep], rng.gamma(2.0, size=int(keep.sum())))
    return writer.finish()


def _problems(n: int, kind: str, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    ids, texts = [f"p{i}" for i in range(n)], [""] * n
    table: dict[str, Any] = {"problem_id": ids, "group_id": ids, "split": ["train"] * n, "question": texts}
    if kind == "thoughts":
        words = rng.geometric(0.02, (n, WORDS_PER_TEXT))
        table["question"] = [f"What is the result of problem {i}?" for i in range(n)]
        table["cot"] = [" ".join(f"w{w}" for w in line) for line in words.tolist()]
        table["operation"] = rng.choice(["add", "sub", "mul", "mixed"], n)
        table["correct"] = rng.random(n) < 0.7
        table["value"] = rng.integers(0, 1000, n)
    else:
        table["source"] = rng.choice(["news", "code", "web"], n)
    return pa.table(table)
