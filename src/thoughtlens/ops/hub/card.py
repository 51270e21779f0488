"""The card: a README.md with what a stranger must know, filled from the `result.json` that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from thoughtlens.core import STAGES, ThoughtlensError, digest, headline, number, read_json
from thoughtlens.ops.hub.contents import KINDS, Contents
from thoughtlens.ops.hub.manifest import Manifest

MOST_MEMBERS = 60
TAGS = ("sparse-autoencoder", "sae", "interpretability", "mechanistic-interpretability", "thoughtlens")


def card(found: Contents, repo: str, manifest: Manifest, staged: Path, license: str | None) -> str:
    """The text of the card.

    Args:
        found: What is pushed.
        repo: Where to, for the commands that it shows.
        manifest: The files.
        staged: The files as they are pushed, without private paths. Only these are read, and for an SAE on
            its own the results of the stages beside it that measured this very SAE.
        license: As the hub names it.
    """
    results, saes = _results(found, staged), _saes(staged, found.kind)
    models = sorted({str(s.model) for s in saes if s.model})
    front = ModelCardData(
        library_name="thoughtlens",
        tags=[*TAGS, *sorted({str(s.kind) for s in saes})],
        license=license,
        base_model=sorted({str(s.model) for s in saes if s.on_hub}) or None,
    )
    parts = [
        f"---\n{front.to_yaml().strip()}\n---",
        f"# {_cell(found.root.name)}",
        f"{KINDS[found.kind].capitalize()} of [thoughtlens](https://github.com/thoughtlens/thoughtlens) "
        f"{manifest.thoughtlens}: sparse autoencoders of {_cell(', '.join(models) or 'an unnamed model')}.",
        _use(found, repo),
        _table("SAEs", ("SAE", "kind", "d_in", "d_sae", "hooks", "thoughts"), _sae_rows(saes)),
        _measured(results),
        _list("Not here", [*found.missing, *_not_measured(found, results)]),
        _list(
            "Warnings", list(dict.fromkeys(str(w) for r in results.values() for w in r.get("warnings") or []))
        ),
        _provenance(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(found: Contents, staged: Path) -> dict[str, dict[str, Any]]:
    """By stage, in a reader's order."""
    files = [*sorted(staged.glob("*/result.json")), staged / "result.json"]
    results = [read_json(f) for f in files if f.is_file()]
    if found.kind in ("sae", "stack"):
        results += _beside(found.root)
    by_stage = {r["stage"]: r for r in results if isinstance(r.get("stage"), str)}
    order = [stage.name for stage in STAGES]
    return {s: by_stage[s] for s in (*order, *sorted(by_stage.keys() - set(order))) if s in by_stage}


def _beside(root: Path) -> list[dict[str, Any]]:
    """Results of the stages that stand beside an `sae/` and say that they measured this one."""
    if not (root / "result.json").is_file():
        return []
    own = digest(root)
    found = []
    for file in sorted(root.parent.glob("*/result.json")):
        try:
            result = read_json(file)
        except ThoughtlensError:
            continue
        if ((result.get("inputs") or {}).get("sae") or {}).get("digest") == own:
            found.append(result)
    return found


class _Told(NamedTuple):
    """What an SAE says of itself: whatever stands in its header."""

    name: str
    on_hub: bool
    kind: Any
    d_in: Any
    d_sae: Any
    hook_names: Any
    model: Any
    thoughts: Any


def _saes(staged: Path, kind: str) -> list[_Told]:
    """What the SAEs say of themselves."""
    root = staged / "sae" if kind == "run" else staged
    files = [root / "cfg.json"] if (root / "cfg.json").is_file() else sorted(root.glob("*/cfg.json"))
    found = []
    for file in files:
        header = read_json(file)
        name = "" if file.parent == root else file.parent.name
        provenance = header.get("provenance") or {}
        kept = [header.get(key) for key in ("kind", "d_in", "d_sae", "hook_names")]
        told = [provenance.get(key) for key in ("model", "thoughts")]
        found.append(_Told(name, _on_hub(provenance), *kept, *told))
    return found


def _on_hub(provenance: Mapping[str, Any]) -> bool:
    """Whether the model is one of the hub's: a folder, whatever its name, has a digest and no commit."""
    model = str(provenance.get("model"))
    local = provenance.get("model_revision") is None and provenance.get("model_digest") is not None
    return not local and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) is not None


def _sae_rows(saes: list[_Told]) -> list[tuple[str, ...]]:
    rows = []
    for s in saes[:MOST_MEMBERS]:
        said = "" if s.thoughts is None else ", ".join(map(str, s.thoughts))
        sizes = number(s.d_in), number(s.d_sae)
        rows.append((s.name or "(the only one)", str(s.kind), *sizes, ", ".join(s.hook_names or []), said))
    if len(saes) > MOST_MEMBERS:
        rows.append((f"and {len(saes) - MOST_MEMBERS} more", "", "", "", "", ""))
    return rows


def _measured(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows, definitions = [], {}
    for stage, result in results.items():
        for line in headline(result):
            rows.append((stage, line.name, line.value, line.interval, line.n, line.split))
            if line.definition:
                definitions[line.name] = line.definition
    table = _table("Measured", ("stage", "number", "value", "95 % interval", "n", "split"), rows)
    return "\n\n".join(p for p in (table, _list("", [f"{k}: {v}" for k, v in definitions.items()])) if p)


def _not_measured(found: Contents, results: Mapping[str, Any]) -> list[str]:
    """What a reader of an SAE alone will look for."""
    if found.kind not in ("sae", "stack"):
        return []
    return [f"{stage} (no result of it is here)" for stage in ("train", "validate") if stage not in results]


def _use(found: Contents, repo: str) -> str:
    folder = found.root.name
    module, function, place = {
        "sae": ("thoughtlens.sae", "load", folder),
        "stack": ("thoughtlens.sae", "load_members", folder),
        "run": ("thoughtlens.sae", "load_members", f"{folder}/sae"),
    }.get(found.kind, ("thoughtlens.core.stages.stage", "read_result", folder))
    pages = [quote(f"{folder}/{page}") for page in ("explorer/index.html", "report/report.html")]
    page = f"\n# open {', '.join(pages)}" if found.kind == "run" else ""
    where = repo if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) else "WHERE_THIS_IS"
    return (
        f"## Use\n\n```sh\npip install thoughtlens\nthoughtlens pull {where} {quote(folder)}{page}\n```\n\n"
        f"```python\nimport {module}\n\nloaded = {module}.{function}({json.dumps(place)})\n```"
    )


def _provenance(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for stage, result in results.items():
        versions = result.get("versions") or {}
        made = ", ".join(
            f"{k} {v}" for k, v in versions.items() if k in ("thoughtlens", "torch", "transformers")
        )
        rows.append(
            (
                stage,
                str(result.get("git_commit") or ""),
                number(result.get("seed")),
                made,
                str(result.get("digest") or "")[:16],
            )
        )
    return _table("Made with", ("stage", "commit", "seed", "versions", "digest"), rows)


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _list(title: str, items: list[str]) -> str:
    if not items:
        return ""
    return (f"## {title}\n\n" if title else "") + "\n".join(f"- {_cell(item)}" for item in items)


def _cell(text: str) -> str:
    """Text that is no markup."""
    return re.sub(r"([\\|`<>\[\]*#])", r"\\\1", " ".join(str(text).split()))
