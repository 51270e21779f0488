"""Commands that measure this machine."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import typer

from thoughtlens.cli.commands.app import app, show

ROOM = "thoughtlens.ops.bench"
TYPES = {"int": int, "float": float, "str": str}

bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine; one JSON object each.")
app.add_typer(bench_app, name="bench")


def _bench_command(name: str, module: str, about: str) -> None:
    """Add the command of a benchmark, with an option for each of its arguments."""
    function = f"bench_{name.replace('-', '_')}"

    def command(**settings: Any) -> None:
        show(getattr(importlib.import_module(f"{ROOM}.{module}"), function)(**settings))

    command.__signature__ = _signature(module, function)  # type: ignore[attr-defined]
    bench_app.command(name, help=about)(command)


def _signature(module: str, function: str) -> inspect.Signature:
    """Arguments of a benchmark as its source has them; importing it would import torch, also for `--help`."""
    spec = importlib.util.find_spec(f"{ROOM}.{module}")
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    options = [
        inspect.Parameter(
            one.arg,
            inspect.Parameter.KEYWORD_ONLY,
            default=ast.literal_eval(default),
            annotation=TYPES[ast.unparse(one.annotation)],
        )
        for one, default in zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True)
        if one.annotation is not None and default is not None
    ]
    return inspect.Signature(options)


_bench_command(
    "train-step",
    "train_step",
    "One whole training step: forward, backward, optimizer and all bookkeeping.",
)
_bench_command("stack", "stack", "Many SAEs at once beside the same SAEs one after another.")
_bench_command("decode", "decode", "Sparse decoding beside the dense product.")
_bench_command("extract", "extract", "An extraction beside the bare forward pass to the same block.")
_bench_command("store", "store", "Shuffled reads of an activation store from the page cache.")
_bench_command("interpret", "interpret", "All tables of one SAE after encoding; kind text or thoughts.")
_bench_command(
    "startup", "process", "Seconds for `import thoughtlens` and for `thoughtlens --help`, in new processes."
)
_bench_command(
    "memory", "process", "Peak memory of extract and train at a number of rows and at several times as many."
)
_bench_command(
    "calibration",
    "calibration",
    "How often the comparison engine's tests and intervals err where the truth is known.",
)
