"""What the latents of an SAE do on each problem of a store, one number for each latent and unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtlens.core import DataError, MismatchError
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.geometry.config import GeometryConfig

Key = tuple[str, int]
"""problem_id, and the thought or position; -1 where a unit is a whole problem."""


@dataclass(frozen=True, eq=False)
class Units:
    """Units that two members share, with the places in which each finds them."""

    keys: list[Key]
    groups: list[str]
    """Group of each unit: units of one are not independent."""
    places: tuple[dict[Key, np.ndarray], dict[Key, np.ndarray]]


def shared_units(a: Member, b: Member, cfg: GeometryConfig) -> Units:
    """Units of both members, at most `n_units`, drawn by the seed.

    Raises:
        DataError: fewer than 8 problems or groups are shared.
        MismatchError: rows of texts that were cut into other tokens, or one id with two questions.
    """
    if cfg.unit == "row":
        _require_same_rows(a, b)
    lines = [_lines(member) for member in (a, b)]
    ids = [i for i in lines[0] if i in lines[1]]
    if cfg.same_questions:
        _require_same_questions(a, b, lines, ids)
    order = np.random.default_rng((cfg.seed, 61)).permutation(len(ids))
    named = (a.store.problems[name].to_pylist() for name in ("problem_id", "group_id"))
    groups = dict(zip(*named, strict=True))
    places: tuple[dict[Key, np.ndarray], dict[Key, np.ndarray]] = ({}, {})
    for i in order:
        ours = [_places(member, lines[j][ids[i]], ids[i], cfg.unit) for j, member in enumerate((a, b))]
        both = [key for key in ours[0] if key in ours[1]]
        for key in both[: cfg.n_units - len(places[0])]:
            places[0][key], places[1][key] = ours[0][key], ours[1][key]
        if len(places[0]) >= cfg.n_units:
            break
    keys = sorted(places[0])
    found = [str(groups[problem]) for problem, _ in keys]
    if len(set(found)) < 8:
        raise DataError(
            f"Expected at least 8 groups of problems in both {a.store.root} and {b.store.root} (split "
            f"{cfg.split or 'all'}), found {len(set(found))} ({len(ids)} shared problem ids); extract both "
            f"stores from the same problems"
        )
    return Units(keys, found, places)


def pooled(member: Member, units: Units, side: int, cfg: GeometryConfig) -> Float[Tensor, "d_sae units"]:
    """Pooled activations of every latent on every unit, float32."""
    per_unit = [units.places[side][key] for key in units.keys]
    places, n_hooks = np.concatenate(per_unit), len(member.hook_names)
    unit = np.repeat(np.arange(len(per_unit)), [len(p) for p in per_unit])
    out = np.zeros((len(per_unit), member.sae.d_sae), np.float32)
    for low in range(0, len(places), cfg.batch_size):
        fires = member.codes_at(places[low : low + cfg.batch_size]).tocoo()
        at = (unit[low + fires.row // n_hooks], fires.col)
        (np.add if cfg.pool == "mean" else np.maximum).at(out, at, fires.data)
    if cfg.pool == "mean":
        out /= (np.bincount(unit) * n_hooks)[:, None]
    return torch.from_numpy(np.ascontiguousarray(out.T))


def live(member: Member, cfg: GeometryConfig) -> Bool[np.ndarray, " d_sae"]:
    """Latents that fire on a problem, of at most `n_units` problems drawn by the seed."""
    n = len(member.rows.problem)
    chosen = np.sort(np.random.default_rng((cfg.seed, 62)).permutation(n)[: cfg.n_units])
    places = np.concatenate([np.arange(*member.rows.first[unit : unit + 2]) for unit in chosen])
    found = np.zeros(member.sae.d_sae, bool)
    for low in range(0, len(places), cfg.batch_size):
        found[member.codes_at(places[low : low + cfg.batch_size]).indices] = True
    return found


def _lines(member: Member) -> dict[str, int]:
    """problem_id -> unit of the member."""
    ids = member.store.problems["problem_id"].to_pylist()
    return {ids[line]: unit for unit, line in enumerate(member.rows.problem.tolist())}


def _places(member: Member, unit: int, problem: str, kind: str) -> dict[Key, np.ndarray]:
    places = np.arange(member.rows.first[unit], member.rows.first[unit + 1])
    if kind == "problem":
        return {(problem, -1): places}
    index = np.arange(len(places)) if member.text else member.rows.columns.thought_idx[places]
    return {(problem, int(i)): places[n : n + 1] for n, i in enumerate(index)}


def _require_same_rows(a: Member, b: Member) -> None:
    if a.text != b.text or (a.text and a.store.meta.tokenizer_digest != b.store.meta.tokenizer_digest):
        raise MismatchError(
            f"unit=row needs rows that mean the same in both stores; {a.store.root} and {b.store.root} hold "
            f"other kinds of rows or other tokens; use unit=problem"
        )


def _require_same_questions(a: Member, b: Member, lines: list[dict[str, int]], ids: list[str]) -> None:
    texts = [member.store.problems["question"].to_pylist() for member in (a, b)]
    for i in ids:
        ours, theirs = (
            text[member.rows.problem[line[i]]]
            for text, member, line in zip(texts, (a, b), lines, strict=True)
        )
        if ours != theirs:
            raise MismatchError(
                f"Problem {i!r} is {ours[:60]!r} in {a.store.root} and {theirs[:60]!r} in {b.store.root}: "
                f"the stores hold other problems under the same ids; if they are the same problems in other "
                f"words, say same_questions=false"
            )
