"""Commands that write tables of problems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtlens.cli.commands.app import app, show

if TYPE_CHECKING:
    import pyarrow as pa

problems_app = typer.Typer(no_args_is_help=True, help="Write a table of problems as Parquet.")
app.add_typer(problems_app, name="problems")

Files = Annotated[list[Path] | None, typer.Option(help="test.jsonl, train.jsonl; without: the hub.")]
Count = Annotated[int, typer.Option(help="How many problems.")]
Seed = Annotated[int, typer.Option(help="Seed of the generator.")]
Split = Annotated[str, typer.Option(help="train, validation or test")]
Source = Annotated[str, typer.Argument(help="prosqa, gsm8k, svamp, ..., or a table.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Its settings: n=500 columns.question=Q")
]
Target = Annotated[Path, typer.Option("--out", help="Parquet file to write.")]


@problems_app.command("gsm8k")
def problems_gsm8k(
    *,
    file: Files = None,
    labels: Annotated[
        str | None,
        typer.Option(help="annotations or regex; unset: annotations, with --seed-protocol regex."),
    ] = None,
    seed_protocol: Annotated[
        bool, typer.Option("--seed-protocol", help="The first study's 600 problems.")
    ] = False,
    out: Target,
) -> None:
    """GSM8K with operation labels and intermediate values."""
    from thoughtlens.problems import gsm8k

    show(_write_table(gsm8k.table(file, labels=labels, seed_protocol=seed_protocol), out))


@problems_app.command("arithmetic")
def problems_arithmetic(*, n: Count = 1000, seed: Seed = 0, split: Split = "train", out: Target) -> None:
    """Generated multi-step problems whose query, not whose words, decides the operation."""
    from thoughtlens.problems import arithmetic

    show(_write_table(arithmetic.problems(n, seed=seed, split=split), out))


@problems_app.command("write")
def problems_write(
    *,
    source: Source,
    overrides: Overrides = None,
    file: Files = None,
    out: Target,
) -> None:
    """Problems of any source: prosqa, svamp, commonsenseqa, your own table with columns.question=NAME ..."""
    show(_write_table(_found(source, file, overrides), out))


@problems_app.command("twins")
def problems_twins(
    *,
    source: Source,
    overrides: Overrides = None,
    file: Files = None,
    n: Annotated[int | None, typer.Option(help="Pairs, at most; unset: all that there are.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for problems.parquet and twins.parquet.")],
) -> None:
    """Problems and their twins, line by line: one operand of an annotated chain, or one edge, is another."""
    from thoughtlens.problems import twins

    _claim(out)
    found = twins(_found(source, file, overrides), seed=seed, n=n)
    first, second = (
        _write_table(table, out / f"{name}.parquet")
        for name, table in (("problems", found.first), ("twins", found.second))
    )
    paths = {"problems": first["path"], "twins": second["path"]}
    left_out = found.left_out
    show(paths | {"n_pairs": len(found.first), "change": found.change, "left_out": left_out})


@problems_app.command("blind")
def problems_blind(*, source: Source, overrides: Overrides = None, file: Files = None) -> None:
    """How often rules are right that only look at the words of a question."""
    from thoughtlens.problems import blind

    show({"rules": [one.to_json() for one in blind(_found(source, file, overrides))]})


@problems_app.command("audit")
def problems_audit(
    *,
    file: Files = None,
    seed_protocol: Annotated[
        bool, typer.Option("--seed-protocol", help="Only the first study's 600 problems.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Markdown file for the full list.")] = None,
) -> None:
    """GSM8K's operation labels by regular expression beside those of its calculator annotations."""
    from thoughtlens.problems import audit, gsm8k, markdown

    found = audit(gsm8k.table(file, seed_protocol=seed_protocol))
    if out is not None:
        _claim(out)
        out.write_text(markdown(found), "utf-8")
        show({"path": str(out), **replace(found, disagreements=None).to_json()})
    else:
        show(found.to_json())


@problems_app.command("words")
def problems_words(*, n: Count = 1000, seed: Seed = 0, split: Split = "train", out: Target) -> None:
    """The same problems in English sentences, with held-out wording in the split test."""
    from thoughtlens.problems import words

    show(_write_table(words.problems(n, seed=seed, split=split), out))


def _found(source: str, files: list[Path] | None, overrides: list[str] | None) -> pa.Table:
    """The problems of a source, with what is to be said of them."""
    from thoughtlens.problems import named
    from thoughtlens.problems import source as sources

    return sources.problems(named(source, tuple(files or ()), overrides or []))


def _write_table(table: pa.Table, out: Path) -> dict:
    from pyarrow import parquet

    from thoughtlens.core import whole

    _claim(out)
    with whole(out) as part:
        parquet.write_table(table, part)
    return {"path": str(out), "n_problems": table.num_rows, "columns": table.column_names}


def _claim(out: Path) -> None:
    """Make the way to a file that must not be there yet."""
    from thoughtlens.core import OccupiedError

    if out.exists():
        raise OccupiedError(f"{out} exists already; choose another --out, or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
