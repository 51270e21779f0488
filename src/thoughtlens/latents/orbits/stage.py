"""How far a state moves from thought to thought, whether it comes to rest, and its path on two components."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts import ActivationStore, StoreSize, thought_model
from thoughtlens.core import (
    ConfigError,
    DataError,
    MismatchError,
    Number,
    Plan,
    Result,
    StoreError,
    run_stage,
    warn,
    write_rows,
)
from thoughtlens.latents.orbits.config import OrbitsConfig
from thoughtlens.latents.orbits.records import OrbitRow, OrbitsOutcome, RoundRow
from thoughtlens.models import Place, ThoughtModel, collect
from thoughtlens.numerics import wilson

AGREEMENT = 0.98
"""Least median cosine of a model's states with the stored ones."""
DEFINITIONS = {
    "step_norm": "|s_t - s_(t-1)|, s_t a problem's state at thought t: median over problems; step_low, "
    "step_high: quartiles",
    "step_ratio": "|s_t - s_(t-1)| / |s_(t-1) - s_(t-2)|, median: below 1 the steps shrink",
    "turn": "cosine of s_t - s_(t-1) with s_(t-1) - s_(t-2), median: 1 straight on, -1 back",
    "distance": "|s_t - s_end|, median; `end` says what s_end is",
    "spread": "|s_t - s'_t|, s' the state of another problem, median: what a distance is small beside",
    "at_rest": "share of problems with |s_end - s_before| <= rest x |s_end|, the last step that is known; "
    "Wilson 95 %. A state that comes to rest says nothing of whether the model reasons: gates asks that",
    "orbits": "states of some problems on the two leading principal components of all states at their hook",
}


def orbits(cfg: OrbitsConfig, out: str | Path) -> Result:
    """Follow the states of a store's problems; `rounds.parquet` and `orbits.parquet` hold what is shown.

    Raises:
        StoreError: a store of texts.
        DataError: fewer than two problems, or no problem with two thoughts.
        ConfigError: further rounds of a model that stops when it will, or of one that has no room for them.
        MismatchError: a model that does not give the stored states.
    """
    return run_stage("orbits", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": cfg.acts})


def plan(cfg: OrbitsConfig) -> Plan:
    """Rows, memory and time; zeros where the store does not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    rows = cfg.n * (store.n_cells + cfg.beyond * len(store.d_in))
    bytes_ = 20.0 * rows * max(store.d_in.values())
    return Plan(rows=rows, memory_bytes=5e8 + bytes_, disk_bytes=rows * 8.0, seconds=2 + rows * 1e-4)


@torch.no_grad()
def _work(cfg: OrbitsConfig, tmp: Path) -> OrbitsOutcome:
    store = ActivationStore.open(cfg.acts)
    if store.meta.kind != "thoughts":
        raise StoreError(f"{cfg.acts} is a store of texts: orbits follow thoughts")
    lines = _lines(store, cfg)
    states = {hook: _states(store, hook, lines) for hook in store.hook_names}
    ends = _further(store, cfg, lines, states) if cfg.beyond else {h: _last(s) for h, s in states.items()}
    rounds, drawn, shown, at_rest = [], [], {}, {}
    ids = store.problems["problem_id"].take(lines[: cfg.drawn]).to_pylist()
    for hook, s in states.items():
        before, end = ends[hook]
        rounds += _rounds(hook, store.own_thoughts, s, end)
        still = ((end - before).norm(dim=1) <= cfg.rest * end.norm(dim=1))[~before.isnan().any(1)]
        share = wilson(int(still.sum()), len(still))
        at_rest[hook] = Number(
            value=share.estimate, low=share.low, high=share.high, n=len(still), split=cfg.split
        )
        flat, shown[hook] = _on_two(s)
        drawn += [
            OrbitRow(problem_id=str(one), hook_name=hook, thought_idx=t, x=float(x), y=float(y))
            for i, one in enumerate(ids)
            for t, (x, y) in zip(store.own_thoughts, flat[i].tolist(), strict=True)
            if not np.isnan(x)
        ]
    write_rows(tmp / "rounds.parquet", RoundRow, rounds)
    write_rows(tmp / "orbits.parquet", OrbitRow, drawn)
    warnings = _doubts(cfg, at_rest)
    for line in warnings:
        warn(line)
    last = store.hook_names[-1]
    return OrbitsOutcome(
        split=cfg.split,
        n=len(lines),
        hook_names=store.hook_names,
        end=f"the state after {cfg.beyond} further rounds" if cfg.beyond else "each problem's last thought",
        at_rest=at_rest,
        variance_shown=shown,
        rounds=rounds,
        headline={"at_rest": at_rest[last]},
        definitions=DEFINITIONS,
        warnings=warnings,
    )


def _doubts(cfg: OrbitsConfig, at_rest: dict[str, Number]) -> list[str]:
    moving = [hook for hook, share in at_rest.items() if (share.value or 0) < 0.5]
    if not moving:
        return []
    end = f"{cfg.beyond} further rounds" if cfg.beyond else "the last thought"
    return [
        f"most problems are not at rest after {end} at {', '.join(moving)}: the distances are to a "
        f"state that is no fixed point"
    ]


def _lines(store: ActivationStore, cfg: OrbitsConfig) -> np.ndarray:
    """Lines of some problems of the split, drawn at random."""
    view = store.view(store.hook_names[:1], split=cfg.split)
    lines = np.unique(store.problem_idx[view.rows_of(np.arange(view.n_rows))])
    if len(lines) < 2 or len(store.own_thoughts) < 2:
        raise DataError(
            f"Expected two problems and two thoughts or more in split {cfg.split!r} of {store.root}, got "
            f"{len(lines)} and {len(store.own_thoughts)}"
        )
    return np.random.default_rng((cfg.seed, 67)).permutation(lines)[: cfg.n]


def _states(store: ActivationStore, hook: str, lines: np.ndarray) -> Float[Tensor, "n thoughts d"]:
    """States of problems in their order; NaN at thoughts that a problem did not think."""
    assert store.thought_idx is not None
    place = np.full(len(store.problems), -1)
    place[lines] = np.arange(len(lines))
    at = place[store.problem_idx]
    rows = np.flatnonzero((at >= 0) & np.isin(store.thought_idx, store.own_thoughts))
    found = torch.full((len(lines), len(store.own_thoughts), store.meta.d_in[hook]), torch.nan)
    thought = np.searchsorted(store.own_thoughts, store.thought_idx[rows])
    found[torch.from_numpy(at[rows]), torch.from_numpy(thought)] = store.read(hook, rows)
    return found


def _last(s: Float[Tensor, "n thoughts d"]) -> tuple[Tensor, Tensor]:
    """The last two states of every problem."""
    thought = torch.arange(s.shape[1])
    last = torch.where(s[:, :, 0].isnan(), -1, thought).amax(1)
    row = torch.arange(len(s))
    before = torch.where((last > 0)[:, None], s[row, (last - 1).clamp_min(0)], torch.nan)
    return before, s[row, last]


def _further(
    store: ActivationStore, cfg: OrbitsConfig, lines: np.ndarray, states: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """By hook, the last two states after further rounds of the model."""
    model = thought_model(store)
    wider = _longer(model, cfg.beyond)
    questions = store.questions.take(lines).to_pylist()
    places = [Place(hook) for hook in store.hook_names]
    try:
        batch = collect(wider, questions, places=places, batch_size=cfg.batch_size)
    except (DataError, IndexError) as error:
        raise ConfigError(
            f"beyond: {model.name} has no room for {cfg.beyond} further thoughts ({error})"
        ) from None
    found = {}
    for hook, place in zip(store.hook_names, places, strict=True):
        s = batch[place].float().cpu()
        own = s[:, store.own_thoughts]
        cosine = float(torch.cosine_similarity(own, states[hook], dim=2).nanmedian())
        if not cosine >= AGREEMENT:
            raise MismatchError(
                f"{model.name} does not give the states of {store.root} at {hook}: their median cosine is "
                f"{cosine:.3f}, expected {AGREEMENT} or more"
            )
        found[hook] = s[:, -2], s[:, -1]
    return found


def _longer(model: ThoughtModel, beyond: int) -> ThoughtModel:
    """The same model, with more thoughts."""
    if model.spec.varies:
        raise ConfigError(
            f"beyond: {model.name} stops when it will, so its last thought is its last; leave it out"
        )
    wider = copy.copy(model)
    wider.spec = replace(model.spec, n_thoughts=model.spec.n_thoughts + beyond)
    return wider


def _rounds(hook: str, thoughts: list[int], s: Float[Tensor, "n thoughts d"], end: Tensor) -> list[RoundRow]:
    steps = s[:, 1:] - s[:, :-1]
    length = steps.norm(dim=2)
    other = s.roll(1, 0)
    rows = []
    for i, thought in enumerate(thoughts):
        step = length[:, i - 1] if i else None
        earlier = length[:, i - 2] if i > 1 else None
        rows.append(
            RoundRow(
                hook_name=hook,
                thought_idx=thought,
                n=int((~s[:, i, 0].isnan()).sum()),
                norm=_median(s[:, i].norm(dim=1)) or 0.0,
                step_norm=_median(step),
                step_low=_median(step, 0.25),
                step_high=_median(step, 0.75),
                step_ratio=None if step is None or earlier is None else _median(step / earlier),
                turn=None
                if i < 2
                else _median(torch.cosine_similarity(steps[:, i - 1], steps[:, i - 2], dim=1)),
                distance=_median((s[:, i] - end).norm(dim=1)) or 0.0,
                spread=_median((s[:, i] - other[:, i]).norm(dim=1)),
            )
        )
    return rows


def _median(x: Tensor | None, share: float = 0.5) -> float | None:
    """A quantile of what is finite."""
    known = x[x.isfinite()] if x is not None else None
    return None if known is None or not len(known) else float(known.double().quantile(share))


def _on_two(s: Float[Tensor, "n thoughts d"]) -> tuple[Tensor, float]:
    """States on their two leading components, and the share of variance that these hold."""
    flat = s.flatten(0, 1).double()
    there = ~flat.isnan().any(1)
    centred = flat - flat[there].mean(0)
    values, vectors = torch.linalg.eigh(centred[there].T @ centred[there])
    two = vectors[:, -2:].flip(1)
    two = two * torch.where(two.abs().amax(0) == two.amax(0), 1.0, -1.0)  # a sign for good
    total = float(values.sum())
    shown = float(values[-2:].sum()) / total if total > 0 else 1.0
    flat = torch.nn.functional.pad(centred @ two, (0, 2 - two.shape[1]))  # a state of one number has one
    return flat.view(*s.shape[:2], 2), shown
