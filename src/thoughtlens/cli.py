"""The command line: each command is one call of the library.

stdout is one JSON object, progress goes to stderr. Exit 0: done. 1: an expected error, in one line.
2: wrong usage. A traceback only with `--debug`. Torch is imported inside the commands.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

app = typer.Typer(
    name="thoughtlens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="See what a language model is thinking: extract, train, validate, interpret, classify, report.",
)
problems_app = typer.Typer(no_args_is_help=True, help="Write a table of problems as Parquet.")
app.add_typer(problems_app, name="problems")
bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine; one JSON object each.")
app.add_typer(bench_app, name="bench")

Recipe = Annotated[str, typer.Argument(help="A shipped recipe's name or a TOML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, e.g. sae.k=64 model=gpt2.")]
Out = Annotated[Path, typer.Option("--out", help="The run's directory (or a stage's, for its own config).")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print rows, memory, disk and time expected; stop.")]
Acts = Annotated[Path | None, typer.Option(help="Take the activations from here.")]
Sae = Annotated[Path | None, typer.Option(help="Take the SAE from here.")]


def show(result: dict) -> None:
    """The command's one JSON object."""
    sys.stdout.write(json.dumps(result, ensure_ascii=False, default=str) + "\n")


@app.command()
def run(recipe: Recipe, overrides: Overrides = None, *, out: Out, plan: PlanOnly = False) -> None:
    """All stages of a recipe in order; what is done already is not done again."""
    from thoughtlens import pipeline

    cfg = pipeline.load(recipe, overrides or [])
    show(pipeline.plan(cfg, out) if plan else pipeline.run(cfg, out))


def _stage(
    name: str, recipe: str, overrides: Sequence[str] | None, out: Path, plan: bool, **inputs: Path | None
) -> None:
    from thoughtlens import pipeline

    given = {key: path for key, path in inputs.items() if path is not None}
    show(pipeline.run_one(name, recipe, overrides or [], out, inputs=given, plan_only=plan))


@app.command()
def extract(recipe: Recipe, overrides: Overrides = None, *, out: Out, plan: PlanOnly = False) -> None:
    """Run the model and store its activations."""
    _stage("extract", recipe, overrides, out, plan)


@app.command()
def train(
    recipe: Recipe, overrides: Overrides = None, *, out: Out, acts: Acts = None, plan: PlanOnly = False
) -> None:
    """Train the sparse autoencoder(s) on stored activations."""
    _stage("train", recipe, overrides, out, plan, acts=acts)


@app.command()
def validate(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    acts: Acts = None,
    sae: Sae = None,
    plan: PlanOnly = False,
) -> None:
    """Measure the SAE on held-out rows, beside its baselines."""
    _stage("validate", recipe, overrides, out, plan, acts=acts, sae=sae)


@app.command()
def interpret(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    acts: Acts = None,
    sae: Sae = None,
    plan: PlanOnly = False,
) -> None:
    """Collect what each latent responds to."""
    _stage("interpret", recipe, overrides, out, plan, acts=acts, sae=sae)


@app.command()
def classify(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Out,
    acts: Acts = None,
    sae: Sae = None,
    plan: PlanOnly = False,
) -> None:
    """Score labels with latents, raw activations and baselines on the same folds."""
    _stage("classify", recipe, overrides, out, plan, acts=acts, sae=sae)


@app.command()
def report(recipe: Recipe, overrides: Overrides = None, *, out: Out, plan: PlanOnly = False) -> None:
    """Write report.html, report.md and the figures of a run."""
    _stage("report", recipe, overrides, out, plan)


@app.command()
def fire(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One or more texts.")],
) -> None:
    """Show the strongest latents of a text, its L0, and which of them fire everywhere."""
    from thoughtlens import fire as stage
    from thoughtlens.progress import say

    result = stage.fire(run_dir, texts)
    say(stage.render(result))
    show(result)


@app.command()
def recipe(name: Annotated[str, typer.Argument(help="A shipped recipe's name.")]) -> None:
    """Print a complete recipe with every key explained."""
    from thoughtlens import pipeline
    from thoughtlens.config import load, read_recipe, to_toml
    from thoughtlens.distill import DistillConfig

    of_distill = set(read_recipe(name)) <= set(DistillConfig.model_fields)
    cfg = load(DistillConfig, name) if of_distill else pipeline.load(name)
    sys.stdout.write(to_toml(cfg, comments=True))


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from thoughtlens.config import recipe_names

    show({"recipes": recipe_names()})


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="An acts/ directory.")]) -> None:
    """Check every digest of an activation store."""
    from thoughtlens.store.reader import verify

    show(verify(store))


@problems_app.command("gsm8k")
def problems_gsm8k(
    *,
    file: Annotated[
        list[Path] | None, typer.Option(help="test.jsonl, train.jsonl; without: the hub.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="annotations or regex; unset: annotations, with --seed-protocol regex."),
    ] = None,
    seed_protocol: Annotated[
        bool, typer.Option("--seed-protocol", help="The first study's 600 problems.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
) -> None:
    """GSM8K with operation labels and intermediate values."""
    from thoughtlens.problems import gsm8k

    show(_write_table(gsm8k.table(file, labels=labels, seed_protocol=seed_protocol), out))


@problems_app.command("arithmetic")
def problems_arithmetic(
    *,
    n: Annotated[int, typer.Option(help="How many problems.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 0,
    split: Annotated[str, typer.Option(help="train, validation or test")] = "train",
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
) -> None:
    """Generated multi-step problems whose query, not whose words, decides the operation."""
    from thoughtlens.problems import arithmetic

    show(_write_table(arithmetic.problems(n, seed=seed, split=split), out))


def _write_table(table: pa.Table, out: Path) -> dict:
    from pyarrow import parquet

    from thoughtlens.errors import OccupiedError

    if out.exists():
        raise OccupiedError(f"{out} exists already; choose another --out, or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".tmp")
    parquet.write_table(table, part)
    part.rename(out)
    return {"path": str(out), "n_problems": table.num_rows, "columns": table.column_names}


@app.command()
def distill(recipe: Recipe, overrides: Overrides = None, *, out: Out, plan: PlanOnly = False) -> None:
    """Train a small model that thinks in vectors, with its controls."""
    from thoughtlens import distill as stage
    from thoughtlens.config import load

    cfg = load(stage.DistillConfig, recipe, overrides or [])
    show({"plan": vars(stage.plan(cfg))} if plan else stage.distill(cfg, out))


@app.command()
def gates(
    model: Annotated[str, typer.Argument(help="A thought model: codi-tiny, a hub id, a directory.")],
    overrides: Overrides = None,
    *,
    n: Annotated[int, typer.Option(help="Held-out problems.")] = 3000,
    problems: Annotated[str | None, typer.Option(help="arithmetic, gsm8k:test, or a Parquet file.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of problems and edits.")] = 0,
    out: Out,
) -> None:
    """Test whether a model's thoughts carry its reasoning: ablate, swap, patch, leave early."""
    from thoughtlens import gates as stage
    from thoughtlens.config import load

    table = {"model": model, "n": n, "seed": seed} | ({"problems": problems} if problems else {})
    show(stage.gates(load(stage.GatesConfig, table, overrides or []), out))


@bench_app.command("train-step")
def bench_train_step(
    *,
    d_in: int = 576,
    d_sae: int = 4608,
    batch: int = 2048,
    kind: str = "topk",
    k: int = 32,
    dtype: str = "float32",
    steps: int = 20,
    device: str = "cpu",
) -> None:
    """One whole training step: forward, backward, optimizer and all bookkeeping."""
    from thoughtlens import bench

    show(
        bench.bench_train_step(
            d_in=d_in, d_sae=d_sae, batch=batch, kind=kind, k=k, dtype=dtype, steps=steps, device=device
        )
    )


@bench_app.command("extract")
def bench_extract(
    *,
    model: str = "smollm2-135m",
    layer: int = 15,
    tokens: int = 20_000,
    context_length: int = 256,
    batch_tokens: int = 2048,
    dtype: str = "bfloat16",
    device: str = "cpu",
    source: str = "bundled",
    repeats: int = 3,
) -> None:
    """An extraction beside the bare forward pass to the same block."""
    from thoughtlens import bench

    show(
        bench.bench_extract(
            model=model,
            layer=layer,
            tokens=tokens,
            context_length=context_length,
            batch_tokens=batch_tokens,
            dtype=dtype,
            device=device,
            source=source,
            repeats=repeats,
        )
    )


@bench_app.command("store")
def bench_store(
    *,
    d_in: int = 576,
    n_hooks: int = 1,
    dtype: str = "bfloat16",
    gigabytes: float = 0.25,
    batch: int = 4096,
    seconds: float = 2.0,
    repeats: int = 5,
) -> None:
    """Shuffled reads of an activation store from the page cache."""
    from thoughtlens import bench

    show(
        bench.bench_store(
            d_in=d_in,
            n_hooks=n_hooks,
            dtype=dtype,
            gigabytes=gigabytes,
            batch=batch,
            seconds=seconds,
            repeats=repeats,
        )
    )


@bench_app.command("startup")
def bench_startup(*, repeats: int = 7) -> None:
    """Seconds for `import thoughtlens` and for `thoughtlens --help`, in new processes."""
    from thoughtlens import bench

    show(bench.bench_startup(repeats=repeats))


@bench_app.command("memory")
def bench_memory(*, rows: int = 5_000, factor: int = 10) -> None:
    """Peak memory of extract and train at a number of rows and at several times as many."""
    from thoughtlens import bench

    show(bench.bench_memory(rows=rows, factor=factor))


def main() -> None:
    """Entry point: known errors become one line and exit code 1."""
    from thoughtlens.errors import ThoughtlensError

    debug = "--debug" in sys.argv
    argv = [arg for arg in sys.argv[1:] if arg != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(argv, prog_name="thoughtlens")
    except ThoughtlensError as error:
        if debug:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; what was finished is kept, the same command continues", code=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # The command line is the boundary: whatever was not foreseen must still end in one line.
    except Exception as error:
        if debug:
            raise
        _fail(f"unforeseen {type(error).__name__}: {error} (run again with --debug to see where)")


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int = 1) -> None:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
