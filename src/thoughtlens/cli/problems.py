"""Commands that write tables of problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtlens.cli.app import app, show

if TYPE_CHECKING:
    import pyarrow as pa

problems_app = typer.Typer(no_args_is_help=True, help="Write a table of problems as Parquet.")
app.add_typer(problems_app, name="problems")


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
