"""The explanation shown of each latent, with what it writes and what changing it does, where a run knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from thoughtlens.core import NotThereError, digest, read_recipe, read_result
from thoughtlens.latents.explain.lookup import quoted
from thoughtlens.sae.formats.io import member_names

N_TOKENS = 4
Row = dict[str, Any]


def about(run: str | Path) -> list[Row]:
    """The chosen row of every explained latent, the best score first, with two more columns.

    `output`: the tokens that its decoder row raises and lowers most (`thoughtlens lens`), "" if not known.
    `effect`: what editing it does to the model's answers (`thoughtlens intervene`), "" if not measured.

    Raises:
        NotThereError: the run has no finished explain stage.
    """
    run = Path(run)
    file = run / "explain" / "explanations.parquet"
    if not file.is_file():
        raise NotThereError(
            f"Expected explanations at {file}, found none; make them: thoughtlens explain {run}"
        )
    shown = [row for row in pq.read_table(file).to_pylist() if row["chosen"]]
    wanted = {(row["member"], row["latent"]) for row in shown}
    output, effect = _outputs(run, wanted), _effects(run, wanted)
    for row in shown:
        key = row["member"], row["latent"]
        row |= {"output": output.get(key, ""), "effect": "; ".join(effect.get(key, []))}
    return sorted(shown, key=lambda row: (-row["auprc"], row["member"], row["latent"]))


def render(rows: list[Row], most: int = 10) -> str:
    """The best of them, for people."""
    lines = []
    for row in rows[:most]:
        lines.append(
            f"{row['member']} {row['latent']}: {row['text']} [{row['method']}, average precision "
            f"{row['auprc']:.2f} ({row['auprc_low']:.2f} to {row['auprc_high']:.2f}), base rate "
            f"{row['base_rate']:.2g}, n = {row['n']:,}, {row['split']}]"
        )
        lines += [f"    {row[name]}" for name in ("output", "effect") if row[name]]
    if len(rows) > most:
        lines.append(f"and {len(rows) - most} more in explanations.parquet")
    return "\n".join(lines)


def _outputs(run: Path, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], str]:
    file = run / "lens" / "latents.parquet"
    if not file.is_file():
        return {}
    tokens: dict[tuple[str, int], dict[int, list[str]]] = {}
    columns = ["member", "latent", "sign", "rank", "token"]
    latents = [("latent", "in", sorted({latent for _, latent in wanted}))] if wanted else None
    table = pq.read_table(file, columns=columns, filters=latents).to_pylist()
    for row in sorted(table, key=lambda r: r["rank"]):
        if (key := (row["member"], row["latent"])) in wanted:
            tokens.setdefault(key, {}).setdefault(row["sign"], []).append(quoted(row["token"]))
    words = {1: "raises", -1: "lowers"}
    return {
        key: "output: "
        + "; ".join(f"{words[s]} {', '.join(signs[s][:N_TOKENS])}" for s in (1, -1) if s in signs)
        for key, signs in tokens.items()
    }


def _effects(run: Path, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], list[str]]:
    """Of each latent, its edits without controls: those of this run's SAEs only."""
    root = run / "intervene"
    places = [root, *(sorted(root.iterdir()) if root.is_dir() else [])]
    found: dict[tuple[str, int], list[str]] = {}
    for path in places:
        if path.suffix == ".tmp" or not (path / "result.json").is_file():
            continue
        result, cfg = read_result(path), read_recipe(path)
        own = result["inputs"].get("sae", {}).get("digest")
        if not cfg.get("latents") or own != digest(run / "sae"):
            continue
        names = [cfg["member"]] if cfg.get("member") else member_names(run / "sae")
        for row in result["effects"]:
            if (latent := _only_latent(row)) is None:
                continue
            for name in names:
                if (key := (name, latent)) in wanted:
                    found.setdefault(key, []).append(_effect(row, result["split"]))
    return found


def _only_latent(row: Row) -> int | None:
    """The one latent that an edit was made with; None for controls and for several at once."""
    named = row.get("latents") or (row.get("direction") or "").removeprefix("latent_")
    return int(named) if row["control"] is None and named.isdigit() else None


def _effect(row: Row, split: str) -> str:
    at = "everywhere" if row["layer"] is None else f"at layer {row['layer']}, thought {row['thought_idx']}"
    dose = f" by {row['dose']:g}" if row.get("dose") is not None else ""
    return (
        f"effect: {row['edit'].replace('_', ' ')}{dose} {at}: accuracy {row['difference']:+.3f} "
        f"({row['low']:+.3f} to {row['high']:+.3f}), {row['verdict']}, n = {row['n']:,}, {split}"
    )
