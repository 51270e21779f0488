"""What projects, runs and numbers are called in a tracker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Facts = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Names:
    """One way of naming: `NAMES` has the project's own, and that of the first study of CODI's thoughts."""

    project: str
    run: Callable[[str, Facts], str]
    """Name of an SAE's run, from that of its group."""
    settings: Callable[[Facts], dict[str, Any]]
    """What the run is said to be."""
    values: Callable[[Facts, Row], dict[str, float]]
    """The numbers of one row of the training curve."""


def _own_values(facts: Facts, row: Row) -> dict[str, float]:
    return _numbers({name: value for name, value in row.items() if name != "member"})


def _study_run(_: str, facts: Facts) -> str:
    """`sae_8192feat_l10.001`; kinds without l1 say their own setting, one of several members its name."""
    sae = facts["sae"]
    setting = next((f"{key}{sae[key]}" for key in ("l1", "k") if sae.get(key) is not None), sae["kind"])
    member = "" if facts["member"] == "pooled" else f"_{facts['member']}"
    return f"sae_{facts['d_sae']}feat_{setting}{member}"


def _study_settings(facts: Facts) -> dict[str, Any]:
    named = {
        "n_features": facts["d_sae"],
        "input_dim": facts["d_in"],
        "l1_coefficient": facts["sae"].get("l1"),
        "batch_size": facts["batch_size"],
        "n_epochs": facts["passes"],
        "learning_rate": facts["lr_peak"],
        "n_problems": facts.get("n_problems"),
        "n_vectors": facts["n_vectors"],
    }
    return {name: value for name, value in named.items() if value is not None}


def _study_values(facts: Facts, row: Row) -> dict[str, float]:
    named = {
        "epoch": row["rows_seen"] / facts["n_vectors"],
        "loss/total": row.get("loss"),
        "loss/reconstruction": row.get("loss_reconstruction"),
        "loss/sparsity": row.get("loss_l1"),
        "sparsity/l0": row.get("l0_train"),
    }
    return _numbers(named)


def _numbers(table: Row) -> dict[str, float]:
    return {name: value for name, value in table.items() if isinstance(value, int | float)}


NAMES = {
    "own": Names("thoughtlens", lambda group, facts: f"{group} {facts['member']}", dict, _own_values),
    "sae-pilot": Names("sae-pilot", _study_run, _study_settings, _study_values),
}
