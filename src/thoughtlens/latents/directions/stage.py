"""The directions stage: probes, means, components or vectors of one's own as a dictionary of their two ends.

A direction u with offset c is read out as z = x . u / |u| - c. Its high end is active where z is above a
threshold, its low end where -z is, each as strongly as that: what the stages read as two latents, 2i and
2i + 1, of which each is explained and scored by itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.core import DataError, HookError, MismatchError, Plan, Result, run_stage, warn
from thoughtlens.latents.directions.config import DirectionsConfig
from thoughtlens.latents.directions.fitting import Rows, made_of
from thoughtlens.latents.directions.records import DirectionRow, DirectionsOutcome
from thoughtlens.sae import SAE, Directions, ImportedConfig, create, read_directions, save, write_directions

MEMBER, FILE = "directions", "directions.safetensors"
BINS = 60
ALL = "all"
"""Instead of a split: every row."""
FLAT = 1e-5
"""A threshold is at least this share of the rows' mean length: what is nearer to 0 is rounding."""
DEFINITIONS = {
    "projection": "x . u / |u|, the length of a vector along a direction",
    "active": "high end: projection - offset above threshold_high; low end: offset - projection above "
    "threshold_low; the activation is that difference",
    "mean, sd, min, max, counts": "of projection - offset over the n rows",
}


def directions(cfg: DirectionsConfig, out: str | Path) -> Result:
    """Write a dictionary of directions (`directions/`), and the vectors themselves
    (`directions.safetensors`), from which the same can be made for another store.

    Raises:
        MismatchError: directions of another width than the hook.
        HookError: no such hook; or several, and none is named.
        ConfigError, DataError: see `made_of` and `read_directions`.
    """
    cfg.require_source()
    inputs = {
        name: path for name in ("acts", "file", "translators") if (path := getattr(cfg, name)) is not None
    }
    return run_stage("directions", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def plan(cfg: DirectionsConfig) -> Plan:
    """Rows, memory and time."""
    return Plan(rows=cfg.n_fit, memory_bytes=1e9, disk_bytes=1e6, seconds=5.0)


def _work(cfg: DirectionsConfig, tmp: Path) -> DirectionsOutcome:
    store = ActivationStore.open(cfg.acts)
    given = read_directions(cfg.file, cfg.names) if cfg.file is not None else None
    hook = _hook(cfg, store, given)
    thoughts = cfg.thoughts or (given and given.thoughts)
    rows, split = _rows(cfg, store, hook, thoughts)
    found = made_of(cfg, rows).named(cfg.names, f"from={cfg.made}") if given is None else given
    if found.vectors.shape[1] != store.meta.d_in[hook]:
        turned = len(found.vectors) == store.meta.d_in[hook]
        reason = "its columns have that one: save it the other way, a row for each direction"
        raise MismatchError(
            f"{cfg.file} holds directions of width {found.vectors.shape[1]}, {hook} in {store.root} has "
            f"{store.meta.d_in[hook]}: "
            + (reason if turned else "they belong to another hook or model; name theirs: hook=NAME")
        )
    found = replace(found, hook_name=hook, thoughts=thoughts)
    z = rows.x @ torch.from_numpy(found.units).T
    offset, offset_is = _offset(cfg, found, z)
    least = FLAT * float(rows.x.norm(dim=1).mean())
    table = [
        _row(cfg, 2 * i, name, z[:, i] - offset[i], offset=(float(offset[i]), offset_is), least=least)
        for i, name in enumerate(found.names)
    ]
    notes = [
        f"{row.name}: hardly varies over these rows, so it is never active"
        for row in table
        if row.sd <= least
    ]
    notes += _elsewhere(cfg, given, hook, thoughts)
    if split == ALL and cfg.made in ("diffmean", "probe", "pca"):
        notes.append(
            f"{cfg.acts} has no split train: the directions are fitted on all rows, and nothing is held out "
            f"to test them on"
        )
    for note in notes:
        warn(note)
    found = replace(found, offset=offset)
    write_directions(found, tmp / FILE)
    save(_dictionary(found, table, store, split), tmp / MEMBER)
    return DirectionsOutcome(
        source=found.source,
        hook_name=hook,
        thoughts=None if thoughts is None else list(thoughts),
        d_in=found.vectors.shape[1],
        split=split,
        n=len(z),
        directions=table,
        headline={"n_directions": len(table)},
        definitions=DEFINITIONS,
        warnings=notes,
    )


def _hook(cfg: DirectionsConfig, store: ActivationStore, given: Directions | None) -> str:
    """The hook that is named, by the settings or by the file; else the only one."""
    named = cfg.hook or (given and given.hook_name)
    names = ", ".join(store.hook_names)
    if named and named not in store.hook_names:
        raise HookError(f"hook: {store.root} holds {names}, not {named!r}; name one of them: hook=NAME")
    if not named and len(store.hook_names) > 1:
        raise HookError(f"hook: {store.root} holds {names}; say at which the directions are: hook=NAME")
    return named or store.hook_names[0]


def _rows(
    cfg: DirectionsConfig, store: ActivationStore, hook: str, thoughts: tuple[int, ...] | None
) -> tuple[Rows, str]:
    """At most `n_fit` rows of split train, drawn at random; of all rows where there is no such split."""
    splits = set(store.problems["split"].to_pylist())
    split = "train" if "train" in splits else None
    view = store.view([hook], split=split, thoughts=list(thoughts) if thoughts else None)
    at = np.arange(view.n)
    if view.n > cfg.n_fit:
        at = np.sort(np.random.default_rng(cfg.seed).choice(view.n, cfg.n_fit, replace=False))
    if len(at) < 2:
        raise DataError(f"directions need two rows or more, got {len(at)} of {hook} in {store.root}")
    problem = np.asarray(store.problem_idx)[view.rows_of(at)]
    return Rows(store, hook, view.read(at).double(), problem), split or ALL


def _elsewhere(
    cfg: DirectionsConfig, given: Directions | None, hook: str, thoughts: tuple[int, ...] | None
) -> list[str]:
    """How the settings read directions of a file where they are not from."""
    if given is None:
        return []
    notes = []
    if given.hook_name not in (None, hook):
        notes.append(
            f"{cfg.file} says that its directions are of {given.hook_name}, and they are read at {hook}"
        )
    if given.thoughts is not None and thoughts is not None and not {*thoughts} <= {*given.thoughts}:
        own, other = (", ".join(map(str, some)) for some in (given.thoughts, thoughts))
        notes.append(
            f"{cfg.file} says that its directions are of thought {own}, and they are read at {other}"
        )
    return notes


def _offset(
    cfg: DirectionsConfig, found: Directions, z: Float64[Tensor, "n k"]
) -> tuple[Float64[np.ndarray, " k"], str]:
    if cfg.offset is not None:
        return np.full(z.shape[1], cfg.offset), "as asked for"
    if found.offset is not None:
        return found.offset, "as they came" if cfg.file else "as they were fitted"
    return z.mean(0).numpy(), "mean over the rows"


def _row(
    cfg: DirectionsConfig,
    high: int,
    name: str,
    z: Float64[Tensor, " n"],
    *,
    offset: tuple[float, str],
    least: float,
) -> DirectionRow:
    values = z.numpy()
    ends = [max(float(np.quantile(side, 1 - cfg.share)), least) for side in (values, -values)]
    ends = ends if cfg.threshold is None else [max(cfg.threshold, least)] * 2
    if values.std() <= least:
        ends = [max(end, float(np.abs(values).max()) * 2) for end in ends]
    counts, edges = np.histogram(values, BINS)
    return DirectionRow(
        name=name,
        high=high,
        offset=offset[0],
        offset_is=offset[1],
        threshold_high=ends[0],
        threshold_low=ends[1],
        mean=float(values.mean()),
        sd=float(values.std()),
        min=float(values.min()),
        max=float(values.max()),
        share_high=float((values > ends[0]).mean()),
        share_low=float((-values > ends[1]).mean()),
        edges=edges.tolist(),
        counts=counts.tolist(),
    )


def _dictionary(found: Directions, table: list[DirectionRow], store: ActivationStore, split: str) -> SAE:
    """The two ends of each direction as an SAE that fires beyond a threshold."""
    n, width = found.vectors.shape
    sae = create(
        ImportedConfig(
            d_sae=2 * n, pre_bias=False, normalization="none", decoder_norm="free", rule="jumprelu"
        ),
        width,
        seed=0,
    )
    signs = np.tile([1.0, -1.0], n)
    ends = torch.from_numpy(np.repeat(found.units, 2, axis=0) * signs[:, None]).float()
    offset = np.repeat([row.offset for row in table], 2) * signs
    thresholds = [end for row in table for end in (row.threshold_high, row.threshold_low)]
    with torch.no_grad():
        sae.W_enc.copy_(ends.T)
        sae.W_dec.copy_(ends)
        sae.b_enc.copy_(torch.from_numpy(-offset))
        sae.b_dec.zero_()
        sae.get_parameter("threshold").copy_(torch.tensor(thresholds))
    meta = store.meta
    sae.hook_names = [str(found.hook_name)]
    sae.provenance = {
        "model": meta.model, "model_revision": meta.model_revision, "model_digest": meta.model_digest,
        "split": split, "thoughts": None if found.thoughts is None else list(found.thoughts),
        "directions": {"names": list(found.names), "source": found.source},
    }  # fmt: skip
    return sae.eval()
