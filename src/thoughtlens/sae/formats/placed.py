"""SAEs of a store whose hooks have got other names: the same weights, of the places by their new names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from thoughtlens.core import Json, digest_tree, read_json, require_sound, seal, write_json
from thoughtlens.sae.formats.native import FILES


def place(directory: Path, names: Mapping[str, str], *, before: str, now: str, model: str) -> bool:
    """Give trained SAEs the new names of a store's hooks; weights stay as they are.

    Args:
        directory: What the stage train made.
        names: Each hook's name before, and now.
        before: The digest of the store that they were trained on.
        now: Its digest with the new names.
        model: The model's name.

    Returns:
        Whether the SAEs were of that store; others are left alone.

    Raises:
        StoreError: a damaged file.
    """
    file = directory / "result.json"
    result = read_json(file) if file.is_file() else {}
    if result.get("inputs", {}).get("acts", {}).get("digest") != before:
        return False
    headers = sorted(directory.rglob("cfg.json"))
    require_sound([file, *headers])
    for header in headers:
        table = _header(read_json(header), names)
        table["provenance"] |= {"acts_digest": now, "model": model}
        write_json(header, table)
        if header.parent != directory:
            seal(header.parent, [header.parent / name for name in FILES])
    members = [
        one | {"hook_names": [names[h] for h in one["hook_names"]]} for one in result.get("members", [])
    ]
    inputs = result["inputs"] | {"acts": result["inputs"]["acts"] | {"digest": now}}
    write_json(file, result | {"members": members, "inputs": inputs, "digest": digest_tree(directory)})
    seal(directory)
    return True


def _header(table: Json, names: Mapping[str, str]) -> Json:
    cells = table["cells"] and [[names[hook], thought] for hook, thought in table["cells"]]
    config = {
        key: names.get(value, value) if key in ("hook_in", "hook_out") else value
        for key, value in table["config"].items()
    }
    return table | {"hook_names": [names[h] for h in table["hook_names"]], "cells": cells, "config": config}
