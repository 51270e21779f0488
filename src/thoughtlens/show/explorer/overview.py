"""What the explorer's first page says about the runs as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from thoughtlens.show.explorer.cells import Cells
from thoughtlens.show.explorer.sources import Row, Source, commands
from thoughtlens.show.explorer.strips import strips

COLUMNS = {
    "density": "share of vectors on which the latent fires",
    "n_fires": "vectors on which it fires",
    "n_problems": "problems (documents) in which it fires",
    "mean_active": "mean activation where it fires",
    "max_active": "largest activation",
    "label_strength": "the rate difference of largest size over all labels; interval and test on the "
    "latent's page",
    "auprc": "area under the precision-recall curve of the explanation as a predictor of firing, on held-out "
    "problems or documents, at the true base rate",
    "random_auprc": "the same for the explanation of a random latent of the same density",
    "effect": "change of accuracy of largest size when the latent was edited; interval on the latent's page",
    "direction_1": "first principal axis of the decoder directions, each of length 1",
    "direction_2": "second principal axis of the decoder directions, each of length 1",
}


def overview(found: Sequence[Source], cells: Sequence[Cells | None], problems: list[Row]) -> Row:
    """Runs, members, definitions, the list of problems, and the command for each table that is missing."""
    run = found[0].run
    interpreted = run.results["interpret"]
    return {
        "name": run.root.resolve().name,
        "kind": run.kind,
        "model": run.meta.get("model"),
        "hooks": run.meta.get("hook_names", []),
        "split": interpreted["split"],
        "definitions": {**interpreted["definitions"], **COLUMNS},
        "members": [_member(*pair) for pair in zip(found, cells, strict=True)],
        "problems": problems,
        "commands": commands(run),
        "warnings": interpreted.get("warnings", []),
        "version": interpreted["versions"]["thoughtlens"],
    }


def _member(source: Source, cells: Cells | None) -> Row:
    keep = ("member", "hook_names", "thoughts", "d_sae", "n", "n_problems", "l0", "n_alive", "n_everywhere")
    results = source.run.results
    validated = {m["member"]: m for m in results.get("validate", {}).get("members", [])}
    found = validated.get(source.name, {}).get("reconstruction", {}).get("sae", {})
    quality = {k: found[k] for k in ("fvu", "explained_variance", "n") if k in found}
    return {
        "key": source.key,
        **{k: source.about[k] for k in keep},
        "label": source.label,
        "kind": source.about.get("kind"),
        "run": source.run.root.resolve().name,
        "model": source.run.meta.get("model"),
        "split": results["interpret"]["split"],
        "quality": quality | {"split": results.get("validate", {}).get("split")},
        "histogram_edges": results["interpret"].get("histogram_edges"),
        "have": source.have(),
        "strips": strips(source, cells),
    }
