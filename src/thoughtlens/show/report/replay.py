"""The section on the first study's pipeline, replayed and then corrected one choice at a time."""

from __future__ import annotations

from typing import Any

from thoughtlens.show.report.blocks import Block, Section, Table, Text, verdict_of
from thoughtlens.show.run import Run
from thoughtlens.show.text import between, fixed, number, percent, points

SIDES = {"better": "SAE higher", "worse": "SAE lower"}


def replay(run: Run) -> Section | None:
    """Two pipelines side by side, and what lies between them."""
    result = run.results.get("replay")
    if result is None:
        return None
    ladder = result["ladder"]
    first, last = ladder[0], ladder[-1]
    text = (
        f"The first study of CODI's thoughts, step by step, on this run's model: {result['n_problems']:,} "
        f"problems in {result['n_groups']:,} groups, hooks {', '.join(result['hook_names'])}. As it was, "
        f"SAE minus "
        f"raw is {points(first['difference'])} points; with every choice corrected it is "
        f"{points(last['difference'])} points {between(last['low'], last['high'], points)}. Each line below "
        f"changes "
        f"one thing and keeps the changes above it. Labels of {result['labels_differ']:,} problems differ "
        f"between "
        f"the two ways of labelling, {result['unlabelled']:,} have none in the second."
    )
    blocks: list[Block] = [Text(text), _ladder(ladder), _sae(result["sae"]), _classes(result["per_class"])]
    return Section("replay", "The first study, replayed", blocks)


def _ladder(ladder: list[dict[str, Any]]) -> Table:
    rows = [
        (
            row["change"], row["what"], _share(row, "raw"), _share(row, "sae"), points(row["difference"]),
            between(row["low"], row["high"], points), points(row["moved"]), number(row["n"]), _side(row),
        )
        for row in ladder
    ]  # fmt: skip
    columns = (
        "change", "what", "raw", "SAE", "SAE - raw (points)", "95 % interval", "moved by", "n", "reading",
    )  # fmt: skip
    note = (
        "The order of changes is part of what each one moves. Where the arms were tested on different "
        "problems there "
        "is no paired interval; a side is named only where the interval does not hold 0."
    )
    return Table("One change at a time, each on top of those above", columns, rows, note, 2)


def _sae(both: dict[str, dict[str, Any]]) -> Table:
    was, now = both["as it was"], both["corrected"]
    explained = "explained_variance_of_residuals"
    rows = [
        ("measured on", was["measured_on"], now["measured_on"]),
        ("rows", number(was["rows"]), number(now["rows"])),
        ("mean squared error", number(was["mse"]), number(now["mse"])),
        ("explained variance, of residuals", percent(was[explained]), ""),
        ("explained variance", "", percent(now["explained_variance"])),
        ("latents a vector", fixed(was["l0"], 1), fixed(now["l0"], 1)),
        (
            "latents that never fire",
            f"{was['dead']:,} of {was['d_sae']:,}",
            f"{now['dead']:,} of {now['d_sae']:,}",
        ),
    ]
    return Table("The SAE, as it was measured and held out", ("", "as it was", "corrected"), rows)


def _classes(both: dict[str, list[dict[str, Any]]]) -> Table:
    rows = [
        (which, c["class"], percent(c["precision"]), percent(c["recall"]), fixed(c["f1"], 2), number(c["n"]))
        for which, classes in both.items()
        for c in classes
    ]
    columns = ("protocol", "class", "precision", "recall", "F1", "n of the class")
    return Table("Each class from SAE latents", columns, rows, n_words=2)


def _share(row: dict[str, Any], arm: str) -> str:
    return f"{percent(row[arm])} {between(row[f'{arm}_low'], row[f'{arm}_high'], percent)}"


def _side(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"not paired: {row['n_tested_by_both']} of {row['n']} tested by both"
    word = verdict_of(row)
    return SIDES.get(word, word)
