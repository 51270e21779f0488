"""The classify stage: labels from latents, raw activations and baselines, all under one protocol.

Every arm is scored on the same units with the same grouped folds, the same learner, grid and scaler,
and the same menu of poolings. C and pooling are chosen inside the training folds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator, model_validator

from thoughtlens import sae as saes
from thoughtlens.baselines import probes, scores
from thoughtlens.baselines.probes import Folds, Probe
from thoughtlens.baselines.representations import ARMS, CELL_POOLINGS, TOKEN_POOLINGS
from thoughtlens.baselines.samples import Cover, TextSamples, ThoughtSamples, Units, stored_documents
from thoughtlens.baselines.text import bag_of_words
from thoughtlens.config import Config
from thoughtlens.errors import ConfigError, DataError
from thoughtlens.explain.preferences import PROBLEM_COLUMNS, encode_labels
from thoughtlens.explain.reading import TextReader
from thoughtlens.problems.labelled import labelled
from thoughtlens.progress import progress, warn
from thoughtlens.stage import Plan, digest, run_stage
from thoughtlens.store import ActivationStore

SELECTED, SELECTED_CELL = "selected", "selected_cell"
CELL_ARMS = ("sae", "raw")
"""Arms that are also scored on every single cell."""


class ClassifyConfig(Config):
    """Which labels to predict, from what, and how it is scored."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE(s)."""
    target: str | None = None
    """Label column of the store's problems to predict."""
    data: str | None = None
    """Instead of `target`, for text: a file of labelled texts (.csv, .jsonl, .parquet) or
    `sae-probes:NAME`; the model is run on them."""
    text_column: str = "text"
    """Column of the texts in `data`."""
    label_column: str = "label"
    """Column of the labels in `data`."""
    group_column: str | None = None
    """Column whose values are never on both sides of a split; unset: `group_id` of the store, or copies
    of a text in `data`."""
    split: str | None = None
    """Split whose problems are classified, or `all`; unset: those the SAE was not trained on."""
    members: tuple[str, ...] | None = None
    """SAEs of the directory to use; unset: all. Each (hook, thought) may be covered once."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Representations to score; those that the data cannot have are left out and named."""
    poolings: tuple[str, ...] | None = None
    """How a unit's vectors become one row; unset: all."""
    primary_pooling: str = SELECTED
    """Pooling of the one comparison named before looking, SAE against raw; `selected` is each arm's best
    pooling by its inner folds."""
    per_cell: bool = True
    """Also score every (hook, thought) alone, for SAE and raw."""
    folds: int = Field(5, ge=2)
    """Outer folds; every unit is predicted once, by a probe that has not seen its group."""
    inner_folds: int = Field(3, ge=2)
    """Folds inside a training fold, by which C and pooling are chosen."""
    c_grid: tuple[float, ...] = probes.GRID
    """Inverse regularisation strengths to choose from."""
    max_iter: int = Field(200, ge=1)
    """Steps of the optimizer for each fit."""
    max_units: int | None = Field(3000, ge=10)
    """Most problems or texts; more are thinned by whole groups. Unset: no limit."""
    pca_k: int | None = Field(None, ge=1)
    """Principal components of the PCA arm per vector; unset: the SAE's L0, rounded."""
    delta: float = Field(0.03, ge=0)
    """Difference of accuracy below which two arms count as equivalent."""
    seed: int = Field(0, ge=0)
    """Seed of thinning, folds, shuffled labels and resampling."""

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [n for n in names if n not in ARMS]:
            raise ValueError(f"no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
        if not {"sae", "raw"} <= set(names):
            raise ValueError("arms must hold sae and raw, which are compared")
        return tuple(name for name in ARMS if name in names)

    @field_validator("c_grid")
    @classmethod
    def _positive(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if not grid or min(grid) <= 0:
            raise ValueError("c_grid needs positive numbers")
        return tuple(sorted(set(grid)))

    @model_validator(mode="after")
    def _consistent(self) -> ClassifyConfig:
        if self.target is not None and self.data is not None:
            raise ValueError("give target (a label column of the store) or data (labelled texts), not both")
        known = [*CELL_POOLINGS, *TOKEN_POOLINGS]
        for name in (*(self.poolings or ()), self.primary_pooling):
            if name not in (*known, SELECTED):
                raise ValueError(f"no pooling {name!r}; there are {', '.join(known)}")
        return self


def classify(cfg: ClassifyConfig, out: str | Path) -> dict[str, Any]:
    """Score a label with every arm and pooling; an interrupted call continues.

    Returns:
        The stage's result: the table of arms and poolings, comparisons with verdicts, per-class scores
        and confusion matrices at the primary pooling, and the protocol.

    Raises:
        ConfigError: no target, one the store does not have, or two SAEs for one cell.
        DataError: constant labels, a class in too few groups, fewer groups than folds, repeated ids.
    """
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    if cfg.data is not None and Path(cfg.data).expanduser().is_file():
        inputs["data"] = Path(cfg.data).expanduser()
    return run_stage("classify", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def plan(cfg: ClassifyConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file():
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    store = ActivationStore.open(cfg.acts)
    n = min(cfg.max_units or len(store.problems), len(store.problems))
    width = len(store.cells) * max(store.meta.d_in.values())
    fits = len(cfg.arms) * 4 * cfg.folds * (cfg.inner_folds + 1) * len(cfg.c_grid)
    return Plan(
        rows=n,
        memory_bytes=0.5e9 + 24.0 * n * max(n, width),
        disk_bytes=100.0 * n * len(cfg.arms) * 6,
        seconds=fits * 40 * 6.0 * n * min(n, width) / 1e10,
    )


def _work(cfg: ClassifyConfig, tmp: Path) -> dict[str, Any]:
    store = ActivationStore.open(cfg.acts)
    members = _members(cfg)
    units, lines, seen = _units(cfg, store, members)
    folds = probes.make_folds(
        units.y,
        units.groups,
        n_splits=cfg.folds,
        n_inner=cfg.inner_folds,
        seed=cfg.seed,
        classes=units.classes,
    )
    cover = Cover(store, members, cfg.pca_k, cfg.seed)
    found, targets = _probe_all(cfg, tmp, units, folds, _samples(cfg, cover, units, lines))
    shutil.rmtree(tmp / "parts", ignore_errors=True)
    return _report(cfg, tmp, units, folds, cover, found, targets, seen)


def _members(cfg: ClassifyConfig) -> dict[str, saes.SAE]:
    members = saes.load_members(cfg.sae)
    for name in cfg.members or ():
        if name not in members:
            raise ConfigError(f"members: expected some of {', '.join(members)}, got {name!r}")
    return {name: sae for name, sae in members.items() if cfg.members is None or name in cfg.members}


def _units(
    cfg: ClassifyConfig, store: ActivationStore, members: dict[str, saes.SAE]
) -> tuple[Units, np.ndarray | None, dict[str, Any]]:
    """What is classified; the lines of the problems table it comes from; what the SAE saw of it."""
    problems = store.problems
    trained = {sae.provenance.get("split") for sae in members.values()} - {None}
    same_store = {sae.provenance.get("acts_digest") for sae in members.values()} == {digest(cfg.acts)}
    split = np.array(problems["split"].to_pylist(), object)
    saw = np.isin(split, list(trained)) if trained else np.ones(len(split), bool)
    if cfg.data is not None:
        if store.meta.kind != "text":
            raise ConfigError(f"data is for texts, and {cfg.acts} holds thoughts; give target instead")
        table = labelled(
            cfg.data,
            text_column=cfg.text_column,
            label_column=cfg.label_column,
            group_column=cfg.group_column,
        )
        known = {q for q, own in zip(problems["question"].to_pylist(), saw, strict=True) if own}
        ids = [f"row {i}" for i in range(len(table))]
        units, index = _make_units(cfg, ids, table["group"], table["label"], table["text"].to_pylist())
        return units, None, _seen(sum(t in known for t in units.texts), len(index), same_store, "all")
    if cfg.target is None or cfg.target not in problems.column_names or cfg.target in PROBLEM_COLUMNS:
        own = [name for name in problems.column_names if name not in PROBLEM_COLUMNS]
        raise ConfigError(
            f"target: expected a label column of {cfg.acts} ({', '.join(own) or 'it has none'})"
            f"{' or data=FILE' if store.meta.kind == 'text' else ''}, got {cfg.target!r}"
        )
    lines, name = _chosen(cfg, split, saw)
    table = problems.take(pa.array(lines))
    group = cfg.group_column or "group_id"
    if group not in table.column_names:
        raise ConfigError(f"group_column: {group!r} is not among {', '.join(table.column_names)}")
    text = "question" if "question" in table.column_names else "text"
    units, index = _make_units(
        cfg, table["problem_id"].to_pylist(), table[group], table[cfg.target], table[text].to_pylist()
    )
    lines = lines[index]
    return units, lines, _seen(int(saw[lines].sum()), len(lines), same_store, name)


def _chosen(cfg: ClassifyConfig, split: np.ndarray, saw: np.ndarray) -> tuple[np.ndarray, str]:
    if cfg.split is None and (~saw).any():
        return np.flatnonzero(~saw), "+".join(sorted(set(split[~saw])))
    if cfg.split in (None, "all"):
        return np.arange(len(split)), "all"
    if not (split == cfg.split).any():
        raise ConfigError(f"split: expected one of {', '.join(sorted(set(split)))} or all, got {cfg.split!r}")
    return np.flatnonzero(split == cfg.split), cfg.split


def _make_units(
    cfg: ClassifyConfig, ids: list[str], groups: pa.ChunkedArray, labels: pa.ChunkedArray, texts: list[str]
) -> tuple[Units, np.ndarray]:
    """Units with a label, thinned by whole groups; and which of the rows they are."""
    y, classes = encode_labels(labels)
    codes = probes.require_groups(ids, groups.to_pylist())
    keep = np.flatnonzero(y >= 0)
    if not len(keep):
        raise DataError("Expected labels, every one is missing; choose another target")
    if cfg.max_units is not None and len(keep) > cfg.max_units:
        rank = np.random.default_rng(cfg.seed).permutation(codes.max() + 1)[codes[keep]]
        order = np.argsort(rank, kind="stable")
        last = rank[order[cfg.max_units]]
        keep = keep[rank < last]
    present, y = np.unique(y[keep], return_inverse=True)
    groups_kept = np.unique(codes[keep], return_inverse=True)[1]
    pick = keep.tolist()
    return Units(
        [ids[i] for i in pick], groups_kept, y, [classes[i] for i in present], [texts[i] for i in pick]
    ), keep


def _seen(n_seen: int, n: int, same_store: bool, split: str) -> dict[str, Any]:
    standing = "transductive" if n_seen else "inductive" if same_store else "unknown"
    return {"split": split, "n_seen_by_sae": n_seen, "standing": standing, "n": n}


def _samples(
    cfg: ClassifyConfig, cover: Cover, units: Units, lines: np.ndarray | None
) -> ThoughtSamples | TextSamples:
    if lines is not None and cover.store.meta.kind == "thoughts":
        return ThoughtSamples(cover, lines)
    hooks = list(dict.fromkeys(hook for hook, _, _ in cover.cells))
    if lines is not None:
        documents = stored_documents(cover.store, hooks, lines)
    else:
        reader = TextReader.like(cfg.acts)
        documents = ((r.index, r.acts) for r in reader.read(units.texts, hooks))
    return TextSamples(cover, len(units.y), documents, [a for a in cfg.arms if ARMS[a].kind == "vectors"])


Key = tuple[str, str]


def _probe_all(
    cfg: ClassifyConfig, tmp: Path, units: Units, folds: Folds, samples: ThoughtSamples | TextSamples
) -> tuple[dict[Key, Probe], dict[str, np.ndarray]]:
    """Every (arm, pooling), and the labels each arm was scored on; finished ones are read back."""
    wanted = {arm: _wanted(cfg, arm, samples) for arm in cfg.arms}
    targets, found = {}, {}
    with progress("classify", sum(map(len, wanted.values())), "probes") as bar:
        for arm, names in wanted.items():
            shuffled = ARMS[arm].permuted
            y = probes.permute_labels(units.y, units.groups, folds, seed=cfg.seed) if shuffled else units.y
            targets[arm] = y
            missing = [n for n in names if not _part(tmp, arm, n).is_file()]
            for name, X in _features(arm, missing, units, samples):
                _save(_probe_one(cfg, X, y, folds, len(units.classes)), _part(tmp, arm, name))
                bar.advance(1, f"{arm} {name}")
            for name in names:
                found[arm, name] = _load(_part(tmp, arm, name))
    for arm in cfg.arms:
        _select(found, arm, folds)
    return found, targets


def _wanted(cfg: ClassifyConfig, arm: str, samples: ThoughtSamples | TextSamples) -> list[str]:
    if ARMS[arm].kind != "vectors":
        return ["none"]
    own = [n for n in samples.poolings_of(arm) if cfg.poolings is None or n in cfg.poolings]
    if not own and arm == "raw":
        raise ConfigError(f"poolings: expected some of {', '.join(samples.poolings)}, got {cfg.poolings}")
    cells = samples.cell_names() if cfg.per_cell and arm in CELL_ARMS else []
    return own + (cells if len(cells) > 1 else [])


def _features(arm: str, names: Sequence[str], units: Units, samples: ThoughtSamples | TextSamples):
    if ARMS[arm].kind == "vectors":
        return samples.features(arm, names) if names else iter(())
    if ARMS[arm].kind == "text":
        return ((name, bag_of_words(units.texts)) for name in names)
    return ((name, None) for name in names)


def _probe_one(cfg: ClassifyConfig, X: Any, y: np.ndarray, folds: Folds, n_classes: int) -> Probe:
    if X is None:
        return probes.majority(y, folds, n_classes=n_classes)
    return probes.probe(X, y, folds, n_classes=n_classes, grid=cfg.c_grid, max_iter=cfg.max_iter)


def _select(found: dict[Key, Probe], arm: str, folds: Folds) -> None:
    """Add the arm's best pooling, and best cell, as its inner folds see them."""
    own = {name: p for (a, name), p in found.items() if a == arm and name != "none"}
    cells = {name: p for name, p in own.items() if name.startswith("cell:")}
    whole = {name: p for name, p in own.items() if name not in cells}
    for name, menu in ((SELECTED, whole), (SELECTED_CELL, cells)):
        if menu:
            found[arm, name] = probes.select(list(menu.values()), folds)[0]


def _part(tmp: Path, arm: str, name: str) -> Path:
    safe = name.replace("/", "_").replace(":", "_")
    return tmp / "parts" / f"{arm}.{safe}.npz"


def _save(probe: Probe, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, **vars(probe))
    os.replace(part, file)


def _load(file: Path) -> Probe:
    with np.load(file, allow_pickle=False) as table:
        plain = {name: table[name] for name in table.files}
    return Probe(**{name: value if value.ndim else value.item() for name, value in plain.items()})


def _report(
    cfg: ClassifyConfig,
    tmp: Path,
    units: Units,
    folds: Folds,
    cover: Cover,
    found: dict[Key, Probe],
    targets: dict[str, np.ndarray],
    seen: dict[str, Any],
) -> dict[str, Any]:
    """Tables on disk, and the stage's result."""
    rows = [
        _row(key, p, targets[key[0]], units, seed=cfg.seed, split=seen["split"]) for key, p in found.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp / "table.parquet")
    pq.write_table(
        _predictions(units, folds, found, targets), tmp / "predictions.parquet", compression="zstd"
    )
    main = [row for row in rows if row["hook_name"] is None]
    right = {
        (a, n): p.pred == targets[a]
        for (a, n), p in found.items()
        if not ARMS[a].permuted and not n.startswith("cell:")
    }
    primary = ("sae", cfg.primary_pooling)
    if primary not in right:
        names = sorted({n for a, n in right if a == "sae"})
        raise ConfigError(f"primary_pooling: expected one of {', '.join(names)}, got {cfg.primary_pooling!r}")
    compared = scores.comparisons(
        right, units.groups, against="raw", primary=primary, delta=cfg.delta, seed=cfg.seed
    )
    primary_row = next(row for row in compared if row["primary"])
    at = {a: found.get((a, cfg.primary_pooling), found.get((a, "none"))) for a in cfg.arms}
    matrices = {
        a: scores.confusion(targets[a], p.pred, len(units.classes)) for a, p in at.items() if p is not None
    }
    warnings = _warnings(cfg, units, found, seen)
    for text in warnings:
        warn(text)
    return {
        "target": cfg.target or cfg.data,
        "kind": cover.store.meta.kind,
        "classes": [{"class": name, "n": int((units.y == i).sum())} for i, name in enumerate(units.classes)],
        "n": len(units.y),
        "n_groups": len(np.unique(units.groups)),
        "split": seen["split"],
        "transductive": seen,
        "protocol": _protocol(cfg, folds, cover),
        "arms": {a: ARMS[a].what for a in cfg.arms},
        "arms_left_out": [a for a in cfg.arms if at[a] is None],
        "table": main,
        "comparisons": compared,
        "primary_pooling": cfg.primary_pooling,
        "per_class": {a: scores.per_class(m, units.classes) for a, m in matrices.items()},
        "confusion": {a: m.tolist() for a, m in matrices.items()},
        "headline": _headline(main, primary_row, cfg.primary_pooling),
        "definitions": scores.DEFINITIONS,
        "warnings": warnings,
    }


def _headline(table: list[dict[str, Any]], primary: dict[str, Any], pooling: str) -> dict[str, Any]:
    """Accuracy of every arm at the primary pooling, and the comparison named before looking."""
    out: dict[str, Any] = {
        f"accuracy_{row['arm']}": {
            "value": row["accuracy"],
            **{k: row[k] for k in ("low", "high", "n", "split")},
        }
        for row in sorted(table, key=lambda row: list(ARMS).index(row["arm"]))
        if row["pooling"] in (pooling, "none")
    }
    keys = ("low", "high", "p", "n", "n_groups", "verdict")
    return out | {"sae_minus_raw": {"value": primary["difference"], **{k: primary[k] for k in keys}}}


def _row(key: Key, p: Probe, y: np.ndarray, units: Units, *, seed: int, split: str) -> dict[str, Any]:
    arm, name = key
    hook, _, thought = (
        name.removeprefix("cell:").rpartition("/") if name.startswith("cell:") else (None, "", "")
    )
    return {
        "arm": arm,
        "pooling": "cell" if hook else name,
        "hook_name": hook,
        "thought_idx": int(thought) if hook else None,
        "split": split,
        **scores.score(y, p.pred, p.proba, units.groups, seed=seed),
        "n_features": p.n_features,
        "c_median": None if np.isnan(p.c).any() else float(np.median(p.c)),
        "n_unconverged": p.n_unconverged,
    }


def _predictions(
    units: Units, folds: Folds, found: dict[Key, Probe], targets: dict[str, np.ndarray]
) -> pa.Table:
    tables = []
    classes = pa.array(units.classes)
    for (arm, name), p in found.items():
        n = len(p.pred)
        columns = {
            "arm": pa.array([arm] * n).dictionary_encode(),
            "pooling": pa.array([name] * n).dictionary_encode(),
            "id": pa.array(units.ids).dictionary_encode(),
            "group": units.groups.astype(np.int32),
            "fold": folds.outer.astype(np.int32),
            "label": pa.DictionaryArray.from_arrays(pa.array(targets[arm], pa.int32()), classes),
            "predicted": pa.DictionaryArray.from_arrays(pa.array(p.pred, pa.int32()), classes),
            "p_true": p.proba[np.arange(n), targets[arm]],
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).unify_dictionaries()


def _protocol(cfg: ClassifyConfig, folds: Folds, cover: Cover) -> dict[str, Any]:
    return {
        "folds": cfg.folds,
        "inner_folds": cfg.inner_folds,
        "folds_digest": folds.digest,
        "group": cfg.group_column or ("copies of a text" if cfg.data else "group_id"),
        "learner": probes.LEARNER,
        "c_grid": list(cfg.c_grid),
        "scaler": probes.SCALER,
        "chosen_by": "log-loss over the inner folds of each training fold",
        "poolings": list(
            cfg.poolings or (CELL_POOLINGS if cover.store.meta.kind == "thoughts" else TOKEN_POOLINGS)
        ),
        "pca_k": {f"{hook} {name}".strip(): c.pca.d_sae for (hook, name), c in cover.coders.items()},
        "l0": cover.l0,
        "delta": cfg.delta,
        "seed": cfg.seed,
    }


def _warnings(cfg: ClassifyConfig, units: Units, found: dict[Key, Probe], seen: dict[str, Any]) -> list[str]:
    out = []
    if seen["standing"] == "transductive":
        out.append(
            f"transductive: the SAE was trained on {seen['n_seen_by_sae']} of the {seen['n']} units "
            f"that are classified"
        )
    if seen["standing"] == "unknown":
        out.append("the SAE was trained on another store, so whether it saw these units is not known")
    fits = cfg.folds * (cfg.inner_folds + 1) * len(cfg.c_grid)
    late = [f"{a} {n}" for (a, n), p in found.items() if p.n_unconverged > 0.1 * fits]
    if late:
        out.append(
            f"more than a tenth of the fits stopped at max_iter = {cfg.max_iter} for {', '.join(late[:4])}"
            f"{' and others' if len(late) > 4 else ''}; raise max_iter to be sure of their scores"
        )
    left_out = [a for a in cfg.arms if not any(key[0] == a for key in found)]
    if left_out:
        out.append(f"arms without their vectors in this store, left out: {', '.join(left_out)}")
    return out
