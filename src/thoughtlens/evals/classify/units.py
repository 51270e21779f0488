"""What is classified: problems of the store, or labelled texts; and what the SAE has seen of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError, DataError, MismatchError, digest
from thoughtlens.evals.classify.conditions import masks
from thoughtlens.evals.classify.config import ClassifyConfig
from thoughtlens.evals.classify.records import Seen
from thoughtlens.evals.probing import probes
from thoughtlens.evals.probing.attention import Bags
from thoughtlens.evals.probing.coders import Cover
from thoughtlens.evals.probing.matrices import dense
from thoughtlens.evals.probing.menu import ARMS
from thoughtlens.evals.probing.samples import TextSamples, ThoughtSamples, Units, stored_documents
from thoughtlens.latents import PROBLEM_COLUMNS, encode_labels
from thoughtlens.problems import grouped, labelled, of_members, slipped
from thoughtlens.sae import SAE, Crosscoder, io

STEPS = "n_steps"
MAX_NUMERIC_CLASSES = 30
"""Different values above which a numeric target is a number to predict rather than a class."""


def load_members(cfg: ClassifyConfig, store: ActivationStore) -> dict[str, SAE]:
    """The SAEs that the config names, one by one or by partition."""
    members = io.load_members(cfg.sae, joined=True, hooks=store.meta.d_in)
    for name, sae in members.items():
        if isinstance(sae, Crosscoder):
            raise MismatchError(
                f"Expected SAEs or transcoders, got the crosscoder {name!r} in {cfg.sae}: its "
                f"code is not of one (hook, thought); interpret says where its latents live"
            )
    if cfg.members is None:
        return members
    chosen: dict[str, SAE] = {}
    for name in cfg.members:
        found = {name: members[name]} if name in members else _partition(name, members)
        if not found:
            there = [one for one in ("per_layer", "per_thought", "per_cell") if _partition(one, members)]
            raise ConfigError(
                f"members: expected some of {', '.join([*there, *members])}, which are in {cfg.sae}, got "
                f"{name!r}"
            )
        chosen |= found
    return chosen


def _partition(name: str, members: dict[str, SAE]) -> dict[str, SAE]:
    """The members of one layer each, one thought each, or one of both."""
    wanted = {"per_layer": (True, False), "per_thought": (False, True), "per_cell": (True, True)}.get(name)
    return {
        key: sae
        for key, sae in members.items()
        if wanted == (len(sae.hook_names) == 1, len(sae.provenance.get("thoughts") or ()) == 1)
    }


def load_units(
    cfg: ClassifyConfig, store: ActivationStore, members: dict[str, SAE]
) -> tuple[Units, np.ndarray | None, Seen]:
    """What is classified; the lines of the problems table it comes from; what the SAE saw of it."""
    problems = store.problems
    trained = {str(s) for sae in members.values() if (s := sae.provenance.get("split")) is not None}
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
        known = {q for q, own in zip(store.questions.to_pylist(), saw, strict=True) if own}
        ids = [f"row {i}" for i in range(len(table))]
        units, index = _make_units(cfg, ids, table["group"], table["label"], table["text"].to_pylist())
        seen = _seen(sum(t in known for t in units.texts), len(index), same_store, "all")
        return units, None, _noted(seen, units, table["label"], table["group"].take(pa.array(index)))
    if cfg.target is None or cfg.target not in problems.column_names or cfg.target in PROBLEM_COLUMNS:
        own = [name for name in problems.column_names if name not in PROBLEM_COLUMNS]
        raise ConfigError(
            f"target: expected a label column of {cfg.acts} ({', '.join(own) or 'it has none'})"
            f"{' or data=FILE' if store.meta.kind == 'text' else ''}, got {cfg.target!r}"
        )
    lines, name = _chosen(cfg, split, saw)
    if cfg.train_where:
        lines = lines[np.logical_or(*masks(cfg, problems))[lines]]
        if not len(lines):
            raise DataError(f"split {name}: no problem has {', '.join((*cfg.train_where, *cfg.test_where))}")
    table = problems.take(pa.array(lines))
    group = cfg.group_column or "group_id"
    if group not in table.column_names:
        raise ConfigError(f"group_column: {group!r} is not among {', '.join(table.column_names)}")
    texts = _texts(cfg, table)
    units, index = _make_units(cfg, table["problem_id"].to_pylist(), table[group], table[cfg.target], texts)
    lines = lines[index]
    if STEPS in table.column_names and cfg.target != STEPS:
        steps = np.array(table[STEPS].to_pylist(), dtype=float)[index]
        units = replace(units, n_steps=np.nan_to_num(steps))
    seen = _seen(int(saw[lines].sum()), len(lines), same_store, name)
    return units, lines, _noted(seen, units, table[cfg.target], table[group].take(pa.array(index)))


def _noted(seen: Seen, units: Units, labels: pa.ChunkedArray, groups: pa.ChunkedArray) -> Seen:
    """With what was left out or put together, and whether groups fit their texts."""
    nan = pc.sum(pc.is_nan(labels)).as_py() if pa.types.is_floating(labels.type) else 0  # type: ignore[attr-defined]
    named = np.unique(np.array(groups.to_pylist(), object).astype(str), return_inverse=True)[1]
    return replace(
        seen,
        n_unlabelled=labels.null_count + (nan or 0),
        n_copies=len(np.unique(named)) - len(np.unique(units.groups)),
        n_contradicted=0 if units.classes is None else _contradicted(units),
        out_of_step=_out_of_step(units.texts, named),
    )


def _contradicted(units: Units) -> int:
    known = [i for i, text in enumerate(units.texts) if text.strip()]
    alike = grouped([units.texts[i] for i in known], [None] * len(known))
    labels = np.unique(np.stack([alike, units.y[known].astype(int)], axis=1), axis=0)[:, 0]
    return int(np.isin(alike, labels[:-1][labels[1:] == labels[:-1]]).sum())


def same_vectors(units: Units, samples: ThoughtSamples | TextSamples) -> Units:
    """The units, those with equal raw vectors in one group: copies, whatever their texts and groups say."""
    pooling = next(name for name in samples.poolings if name in ("concat", "mean"))
    ((_, X),) = samples.features("raw", [pooling])
    assert not isinstance(X, Bags)
    rows = np.ascontiguousarray(dense(X))
    if len(np.unique(rows, axis=0)) == len(rows):
        return units
    own = [row.tobytes().hex() for row in rows]
    first = grouped(own, [str(code) for code in units.groups])
    return replace(units, groups=np.unique(units.groups[first], return_inverse=True)[1])


def _out_of_step(texts: Sequence[str], groups: Int[np.ndarray, " n"]) -> str | None:
    order = np.argsort(groups, kind="stable").tolist()
    found = slipped(texts, [(a, b) for a, b in pairwise(order) if groups[a] == groups[b]])
    if found is None:
        return None
    return (
        f"texts of one group are less alike than texts {found.lines:+d} line(s) away, by {found.more:.0%} of "
        f"their words in {found.n} pairs: groups and texts look out of step, so that twins stand on both "
        f"sides of a split"
    )


def _texts(cfg: ClassifyConfig, problems: pa.Table) -> list[str]:
    """The problems' texts; empty ones where there are none and no arm is made of them."""
    for name in ("question", "text"):
        if name in problems.column_names:
            return [text or "" for text in problems[name].to_pylist()]
    if words := [arm for arm in cfg.arms if ARMS[arm].kind in ("text", "counts")]:
        rest = json.dumps([arm for arm in cfg.arms if arm not in words])
        raise ConfigError(
            f"The problems of {cfg.acts} have no column question, and {', '.join(words)} are made of it: "
            f"leave them out, classify.arms={shlex.quote(rest)}, or write a store with the questions"
        )
    return [""] * len(problems)


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
    """Units with a label, thinned by whole groups; and which of the rows they are.

    Near copies of a text are one group, whatever group they name; units without text are no copies.
    """
    named = probes.require_groups(ids, groups.to_pylist())
    codes = np.unique(
        named[grouped([text or None for text in texts], [str(c) for c in named])], return_inverse=True
    )[1]
    y, classes = _target(cfg, labels)
    keep = np.flatnonzero(y >= 0) if classes is not None else np.flatnonzero(np.isfinite(y))
    if not len(keep):
        raise DataError("Expected labels, every one is missing; choose another target")
    if 0 < cfg.max_units < len(keep):
        rank = np.random.default_rng(cfg.seed).permutation(codes.max() + 1)[codes[keep]]
        order = np.argsort(rank, kind="stable")
        last = rank[order[cfg.max_units]]
        keep = keep[rank < last]
    y, groups_kept = y[keep], np.unique(codes[keep], return_inverse=True)[1]
    if classes is not None:
        present, y = np.unique(y, return_inverse=True)
        classes = [classes[i] for i in present]
    pick = keep.tolist()
    return Units([ids[i] for i in pick], groups_kept, y, classes, [texts[i] for i in pick]), keep


def _target(cfg: ClassifyConfig, labels: pa.ChunkedArray) -> tuple[np.ndarray, list[str] | None]:
    """Class codes (-1: no label, or none of `classes`) and names; or numbers (NaN: none) and None."""
    if pa.types.is_nested(labels.type):
        name = cfg.target or cfg.label_column
        raise ConfigError(f"target: {name!r} holds sets, not one value for each problem; {of_members(name)}")
    numeric = pa.types.is_integer(labels.type) or pa.types.is_floating(labels.type)
    many = numeric and len(labels.unique()) > MAX_NUMERIC_CLASSES
    if cfg.task == "regression" or (cfg.task == "auto" and many and cfg.classes is None):
        try:
            column = pc.cast(labels, pa.float64()).combine_chunks()
        except pa.ArrowInvalid as error:
            raise ConfigError(
                f"task: regression needs a target of numbers, {cfg.target or cfg.label_column!r} has "
                f"{str(error).splitlines()[0]!r}; use task=classification"
            ) from None
        return np.array(column.to_numpy(zero_copy_only=False), dtype=float), None
    y, classes = encode_labels(labels)
    if cfg.classes is not None:
        if unknown := [name for name in cfg.classes if name not in classes]:
            raise ConfigError(f"classes: expected some of {', '.join(classes)}, got {unknown[0]!r}")
        wanted = [classes.index(name) for name in cfg.classes]
        y = np.where(np.isin(y, wanted), y, -1)
    return y, classes


def _seen(n_seen: int, n: int, same_store: bool, split: str) -> Seen:
    standing = "transductive" if n_seen else "inductive" if same_store else "unknown"
    return Seen(split=split, n_seen_by_sae=n_seen, standing=standing, n=n)


def load_samples(
    cfg: ClassifyConfig, cover: Cover, units: Units, lines: np.ndarray | None
) -> ThoughtSamples | TextSamples:
    if lines is not None and cover.store.meta.kind == "thoughts":
        return ThoughtSamples(cover, lines)
    hooks = list(dict.fromkeys(hook for hook, _, _ in cover.cells))
    if lines is not None:
        documents = stored_documents(cover.store, hooks, lines)
    else:
        from thoughtlens.latents import TextReader  # here, since it loads transformers

        reader = TextReader.like(cover.store)
        documents = ((r.index, r.acts) for r in reader.read(units.texts, hooks))
    return TextSamples(cover, len(units.y), documents, [a for a in cfg.arms if ARMS[a].kind == "vectors"])
