"""The replay as a Markdown table."""

from __future__ import annotations

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """The ladder and what was measured of the SAE, to be read as text."""
    lines = [
        "| change, each on top of those above | raw | SAE | SAE - raw (points) | moved | n | says |",
        "| :-- | --: | --: | --: | --: | --: | :-- |",
    ]
    for row in result["ladder"]:
        cells = [
            f"**{row['change']}**: {row['what']}",
            _share(row, "raw"),
            _share(row, "sae"),
            difference(row),
            "" if row["moved"] is None else f"{100 * row['moved']:+.1f}",
            str(row["n"]),
            row["verdict"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def difference(row: dict[str, Any]) -> str:
    """SAE minus raw in points, with its paired interval where there is one."""
    text = f"{100 * row['difference']:+.1f}"
    if row["low"] is None:
        return f"{text} ({row['n_tested_by_both']} of {row['n']} problems tested by both)"
    return f"{text} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def _share(row: dict[str, Any], arm: str) -> str:
    return f"{row[arm]:.1%} [{row[f'{arm}_low']:.1%}, {row[f'{arm}_high']:.1%}]"
