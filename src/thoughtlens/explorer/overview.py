"""What the explorer's first page says about the run as a whole."""

from __future__ import annotations

from typing import Any

from thoughtlens.report.run import Run

COLUMNS = {
    "density": "share of vectors on which the latent fires",
    "n_fires": "vectors on which it fires",
    "n_problems": "problems (documents) in which it fires",
    "mean_active": "mean activation where it fires",
    "max_active": "largest activation",
    "label_strength": "the rate difference of largest size over all labels; interval and test on the "
    "latent's page",
}


def overview(run: Run, problems: list[dict[str, Any]]) -> dict[str, Any]:
    """Run, members, definitions, the list of problems, and what is missing with the command for it."""
    interpreted = run.results["interpret"]
    return {
        "name": run.root.name,
        "kind": run.kind,
        "model": run.meta.get("model"),
        "hooks": run.meta.get("hook_names", []),
        "split": interpreted["split"],
        "definitions": {**interpreted["definitions"], **COLUMNS},
        "members": [_member(run, m, f"m{i}") for i, m in enumerate(interpreted["members"])],
        "problems": problems,
        "missing": _missing(run),
        "warnings": interpreted.get("warnings", []),
        "version": interpreted["versions"]["thoughtlens"],
    }


def _member(run: Run, member: dict[str, Any], key: str) -> dict[str, Any]:
    keep = ("member", "hook_names", "thoughts", "d_sae", "n", "n_problems", "l0", "n_alive", "n_everywhere")
    validated = {m["member"]: m for m in run.results.get("validate", {}).get("members", [])}
    found = validated.get(member["member"], {}).get("reconstruction", {}).get("sae", {})
    quality = {k: found[k] for k in ("fvu", "explained_variance", "n") if k in found}
    return {"key": key, **{k: member[k] for k in keep}, "quality": quality}


def _missing(run: Run) -> list[dict[str, str]]:
    say = {"validate": "reconstruction and dead latents on held-out rows", "classify": "classification"}
    return [
        {"what": what, "command": f"thoughtlens {stage} RECIPE --out {run.root.name}"}
        for stage, what in say.items()
        if stage not in run.results
    ]
