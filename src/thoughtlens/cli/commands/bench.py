"""Commands that measure this machine."""

from __future__ import annotations

import typer

from thoughtlens.cli.app import app, show

bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine; one JSON object each.")
app.add_typer(bench_app, name="bench")


@bench_app.command("train-step")
def bench_train_step(
    *,
    d_in: int = 576,
    d_sae: int = 4608,
    batch: int = 2048,
    kind: str = "topk",
    k: int = 32,
    dtype: str = "bfloat16",
    steps: int = 20,
    device: str = "cpu",
) -> None:
    """One whole training step: forward, backward, optimizer and all bookkeeping."""
    from thoughtlens.ops.bench.train_step import bench_train_step

    show(
        bench_train_step(
            d_in=d_in, d_sae=d_sae, batch=batch, kind=kind, k=k, dtype=dtype, steps=steps, device=device
        )
    )


@bench_app.command("stack")
def bench_stack(
    *,
    members: int = 42,
    d_in: int = 192,
    d_sae: int = 1536,
    batch: int = 1024,
    kind: str = "topk",
    k: int = 32,
    dtype: str = "float32",
    steps: int = 5,
    group_size: int = 0,
    device: str = "cpu",
) -> None:
    """Many SAEs at once beside the same SAEs one after another."""
    from thoughtlens.ops.bench.stack import bench_stack

    show(
        bench_stack(
            members=members,
            d_in=d_in,
            d_sae=d_sae,
            batch=batch,
            kind=kind,
            k=k,
            dtype=dtype,
            steps=steps,
            group_size=group_size,
            device=device,
        )
    )


@bench_app.command("decode")
def bench_decode(
    *,
    d_out: int = 576,
    d_sae: int = 4608,
    batch: int = 2048,
    k: int = 32,
    steps: int = 20,
    device: str = "cpu",
) -> None:
    """Sparse decoding beside the dense product."""
    from thoughtlens.ops.bench.decode import bench_decode

    show(bench_decode(d_out=d_out, d_sae=d_sae, batch=batch, k=k, steps=steps, device=device))


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
    from thoughtlens.ops.bench.extract import bench_extract

    show(
        bench_extract(
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
    from thoughtlens.ops.bench.store import bench_store

    show(
        bench_store(
            d_in=d_in,
            n_hooks=n_hooks,
            dtype=dtype,
            gigabytes=gigabytes,
            batch=batch,
            seconds=seconds,
            repeats=repeats,
        )
    )


@bench_app.command("interpret")
def bench_interpret(
    *, rows: int = 1_000_000, d_sae: int = 8192, l0: int = 32, kind: str = "text", seed: int = 0
) -> None:
    """All tables of one SAE after encoding; kind text or thoughts."""
    from thoughtlens.ops.bench.interpret import bench_interpret

    show(bench_interpret(rows=rows, d_sae=d_sae, l0=l0, kind=kind, seed=seed))


@bench_app.command("startup")
def bench_startup(*, repeats: int = 7) -> None:
    """Seconds for `import thoughtlens` and for `thoughtlens --help`, in new processes."""
    from thoughtlens.ops.bench.process import bench_startup

    show(bench_startup(repeats=repeats))


@bench_app.command("memory")
def bench_memory(*, rows: int = 5_000, factor: int = 10) -> None:
    """Peak memory of extract and train at a number of rows and at several times as many."""
    from thoughtlens.ops.bench.process import bench_memory

    show(bench_memory(rows=rows, factor=factor))


@bench_app.command("calibration")
def bench_calibration(*, runs: int = 400, coverage_runs: int = 1000, seed: int = 0) -> None:
    """How often the comparison engine's tests and intervals err where the truth is known."""
    from thoughtlens.evals.probing import calibration
    from thoughtlens.ops.bench.limits import require_positive

    require_positive(runs=runs, coverage_runs=coverage_runs)
    show(
        {
            "null_rejections": calibration.null_rejections(runs, seed=seed),
            "coverage": calibration.coverage(coverage_runs, seed=seed),
            "leak": calibration.leak(seed=seed),
        }
    )
