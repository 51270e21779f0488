"""From finished runs to trackers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thoughtlens.core import NotThereError, StoreError, load_config, read_parquet, read_result
from thoughtlens.ops.tracking.feed import live
from thoughtlens.sae import SIZES, TrainConfig, decided


def track(run: str | Path, to: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Show trackers a finished training, and the headlines of the stages beside it.

    They get the same numbers under the same names as if they had followed it.

    Args:
        run: A run's directory, or the `sae/` in one.
        to, settings: As for `live`; `group` is the directory's name unless given.

    Returns:
        The trackers that took everything, their project, and the number of SAEs and rows.

    Raises:
        NotThereError: no finished training there.
        StoreError: its files do not belong together.
    """
    run = Path(run)
    sae = run if (run / "metrics.parquet").is_file() else run / "sae"
    result = read_result(sae)
    rows = _curves(sae)
    cfg = load_config(TrainConfig, sae)
    members = {m["member"]: _facts(cfg, m) for m in result.get("members", [])}
    if unknown := sorted(set(rows) - set(members) - {f["member"] for f in result.get("failed", [])}):
        raise StoreError(f"{sae}/metrics.parquet has {', '.join(unknown)}, which result.json does not know")
    stages = (
        {}
        if sae == run
        else {f.parent.name: read_result(f.parent) for f in sorted(run.glob("*/result.json"))}
    )
    settings.setdefault("group", run.resolve().name)
    with live(to, **settings) as feed:
        for member, facts in members.items():
            feed(facts, rows.get(member, []))
        feed.summarise(stages or {"sae": result})
    n_rows = sum(len(curve) for curve in rows.values())
    return {"tracked": feed.working, "project": feed.project, "n_saes": len(members), "n_rows": n_rows}


def _curves(sae: Path) -> dict[str, list[dict[str, Any]]]:
    file = sae / "metrics.parquet"
    if not file.is_file():
        raise NotThereError(f"Expected a training curve at {file}, found none; only a training has one")
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in read_parquet(file).to_pylist():
        curves.setdefault(row.pop("member"), []).append(row)
    return curves


def _facts(cfg: TrainConfig, member: dict[str, Any]) -> dict[str, Any]:
    """As `train.jobs.facts` says them while it trains."""
    sizes = {name: member[name] for name in SIZES if name in member}
    return {**sizes, "seed": cfg.seed, "split": cfg.split, "sae": decided(cfg.sae, member["d_in"])}
