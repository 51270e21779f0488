"""Say later where the hooks of an imported store are in a model: names change, vectors do not."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thoughtlens.acts.bring.cells import FED_BACK
from thoughtlens.acts.bring.config import ImportConfig
from thoughtlens.acts.store.meta import META, Shard, StoreMeta
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.settings import imported
from thoughtlens.acts.store.shard import PIECE_BYTES, layout
from thoughtlens.core import (
    ConfigError,
    HookError,
    Json,
    OccupiedError,
    Record,
    digest_tree,
    identity,
    load_config,
    read_json,
    seal,
    to_toml,
    validate_config,
    write_json,
)

BY_HOOK = ("d_in", "median_norm")
"""Keys of an import's result that are tables by hook."""


@dataclass(frozen=True, kw_only=True)
class Placed(Record):
    """A store whose hooks have other names than before."""

    names: dict[str, str]
    """Each hook's name before, and now."""
    model: str
    unresolved: list[str]
    digest_before: str
    digest: str


def place(out: str | Path, hook: Sequence[str], model: str | None = None) -> Placed:
    """Give hooks of an imported store the names of places in a model; its vectors stay as they are.

    The store's digest is that of the new names, and its result keeps the one before.

    Args:
        out: The store.
        hook: `early=layers.3:out`, for hooks by the names that they have.
        model: The model's name, if it is another one.

    Raises:
        ConfigError: a store that was not imported, or nothing to change.
        HookError: no such hook, or two of one place.
        OccupiedError: an unfinished change lies beside it.
    """
    out = Path(out)
    store = ActivationStore.open(out)
    if not imported(store):
        raise ConfigError(f"{out} was extracted from {store.meta.model}, whose hooks it names already")
    cfg = load_config(ImportConfig, out)
    given = validate_config(ImportConfig, {"hook": list(hook)}).places
    asked = {cfg.places.get(name, name): there for name, there in given.items()}
    if not asked and model in (None, store.meta.model):
        raise ConfigError(f"Expected --hook NAME=PLACE or model=NAME for {out}, got neither")
    if unknown := asked.keys() - set(store.hook_names):
        raise HookError(f"{out} has no hook {', '.join(sorted(unknown))}, only {', '.join(store.hook_names)}")
    names = {name: asked.get(name, name) for name in store.hook_names}
    if len(set(names.values())) < len(names):
        raise HookError(f"Expected a place of its own for each hook, got {', '.join(names.values())}")
    earlier = {now: given for given, now in cfg.places.items()}
    told = {earlier.get(name, name): now for name, now in names.items() if name in {*earlier, *asked}}
    changed: Json = {"hook": [f"{name}={now}" for name, now in told.items()]}
    changed |= {} if model is None else {"model": model}
    return _swapped(store, names, validate_config(ImportConfig, cfg.model_dump() | changed))


def _swapped(store: ActivationStore, names: Mapping[str, str], cfg: ImportConfig) -> Placed:
    """Write the store anew beside itself, and put it in its place."""
    out = store.root
    new, old = out.with_name(f"{out.name}.placed"), out.with_name(f"{out.name}.before")
    if new.exists() or old.exists():
        raise OccupiedError(f"{new} or {old} is left of an earlier change: look at it, then delete it")
    ignored = shutil.ignore_patterns("shards")
    shutil.copytree(out, new, ignore=ignored)
    meta = _renamed(store.meta, names, cfg)
    (new / "shards").mkdir()
    shards = [_copied(store, meta, shard, new / shard.file) for shard in store.meta.shards]
    meta = meta.model_copy(update={"shards": shards})
    write_json(new / META, meta.model_dump(mode="json"))
    (new / "config.toml").write_text(to_toml(cfg), "utf-8")
    result = _result(read_json(out / "result.json"), names, meta)
    before = str(result["digest"])
    made = digest_tree(new)
    placed = Placed(
        names=dict(names), model=meta.model, unresolved=meta.unresolved, digest_before=before, digest=made
    )
    write_json(
        new / "result.json",
        result
        | {"config_identity": identity(cfg), "digest": made}
        | {"placed": [*result.get("placed", []), placed.to_json()]},
    )
    seal(new)
    os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old)
    return placed


def _renamed(meta: StoreMeta, names: Mapping[str, str], cfg: ImportConfig) -> StoreMeta:
    now = list(names.values())
    return meta.model_copy(
        update={
            "hook_names": now,
            "unresolved": [name for name in now if ":" not in name and name not in FED_BACK],
            "d_in": {names[hook]: width for hook, width in meta.d_in.items()},
            "model": cfg.model or "",
        }
    )


def _copied(store: ActivationStore, meta: StoreMeta, shard: Shard, target: Path) -> Shard:
    """The same vectors behind a head with the new names."""
    head, total = layout(meta, shard.rows).header, hashlib.sha256()
    with (store.root / shard.file).open("rb") as source, target.open("wb") as made:
        source.seek(len(layout(store.meta, shard.rows).header))
        piece = head
        while piece:
            total.update(piece)
            made.write(piece)
            piece = source.read(PIECE_BYTES)
    return shard.model_copy(update={"bytes": target.stat().st_size, "sha256": total.hexdigest()})


def _result(result: Json, names: Mapping[str, str], meta: StoreMeta) -> Json:
    """The import's result with the new names."""
    of_hooks = {key: {names[h]: v for h, v in result[key].items()} for key in BY_HOOK if key in result}
    examples = [one | {"hook_name": names[one["hook_name"]]} for one in result.get("examples", [])]
    told = [line for line in result["warnings"] if "nobody said which places" not in line]
    return (
        result
        | of_hooks
        | {
            "hook_names": meta.hook_names,
            "unresolved": meta.unresolved,
            "examples": examples,
            "warnings": told,
        }
    )
