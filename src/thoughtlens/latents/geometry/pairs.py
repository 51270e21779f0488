"""Which members are compared, by what, and the rows that come of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool

from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError, MismatchError, NotThereError, column_table, schema
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.geometry import activation, decoder, units
from thoughtlens.latents.geometry.blocks import Matches, neighbours
from thoughtlens.latents.geometry.config import GeometryConfig
from thoughtlens.latents.geometry.records import (
    ActivationPair,
    ComparedPair,
    DecoderPair,
    MatchRow,
    NeighbourRow,
    PairNames,
)
from thoughtlens.sae import SAE, load_members

UNTRAINED = 71
"""Sets the seeds of untrained SAEs apart from all others."""


@dataclass(frozen=True, eq=False)
class Collection:
    """The SAEs of one directory, and the store that they read."""

    path: Path
    members: dict[str, SAE]
    acts: Path | None

    @cached_property
    def store(self) -> ActivationStore:
        """The opened store; only where `acts` is given."""
        assert self.acts is not None
        return ActivationStore.open(self.acts)


def open_collections(cfg: GeometryConfig) -> list[Collection]:
    """`sae`, then every one of `others`.

    Raises:
        NotThereError: a directory without any of the members asked for.
    """
    stores = [cfg.acts, *(cfg.other_acts or [cfg.acts] * len(cfg.others))]
    found = []
    for path, acts in zip((cfg.sae, *cfg.others), stores, strict=True):
        hooks = ActivationStore.open(acts).meta.d_in if acts is not None else None
        members = load_members(path, joined=True, hooks=hooks)
        chosen = {n: s for n, s in members.items() if not cfg.members or n in cfg.members}
        if not chosen:
            whole = Collection(Path(path), members, acts)
            raise NotThereError(f"members: {path} has {_names(whole)}, got {', '.join(cfg.members)}")
        found.append(Collection(Path(path), chosen, acts))
    return found


@dataclass(frozen=True, eq=False)
class Pair:
    """Two members to be compared."""

    sides: tuple[tuple[Collection, str], tuple[Collection, str]]

    def compare(self, cfg: GeometryConfig) -> tuple[ComparedPair, pa.Table]:
        """A row for each way of comparing them, and their matches."""
        rows, tables, names = [], [], vars(self._names())
        for by in self.ways(cfg):
            row, matches = self._decoder(cfg) if by == "decoder" else self._activation(cfg)
            rows.append(row)
            tables.append(column_table(MatchRow, {**names, "by": by, **matches._asdict()}))
        return ComparedPair(rows=rows), pa.concat_tables(tables).unify_dictionaries()

    def ways(self, cfg: GeometryConfig) -> list[str]:
        """By what they can be compared.

        Raises:
            ConfigError: what was asked for cannot be, or nothing can; says what to give.
        """
        a, b = (c.members[name] for c, name in self.sides)
        same_space = a.W_dec.shape[1:] == b.W_dec.shape[1:] and _same_model(a, b)
        stores = all(c.acts is not None for c, _ in self.sides)
        within = self.sides[0][0] is self.sides[1][0]
        can = {"decoder": same_space, "activation": stores}
        if cfg.by is not None:
            if missing := [by for by in cfg.by if not can[by]]:
                raise ConfigError(f"{self}: cannot be compared by {missing[0]}: {_needs(missing[0])}")
            return list(cfg.by)
        found = [
            by for by, able in can.items() if able and not (within and by == "activation" and same_space)
        ]
        if not found:
            raise ConfigError(
                f"{self}: nothing to compare by: {_needs('decoder')}; or {_needs('activation')}"
            )
        return found

    def __str__(self) -> str:
        return " and ".join(f"{c.path}:{name}" for c, name in self.sides)

    def doubt(self) -> str | None:
        """Why they say nothing of each other: no two trainings have the same latent at every index."""
        a, b = (c.members[name].W_dec for c, name in self.sides)
        if a.shape != b.shape or not torch.allclose(a, b, atol=1e-4):
            return None
        return (
            f"{self} have the same decoder, latent by latent: copies, or trained with one seed; that they "
            f"agree says nothing of stability or transfer"
        )

    def _names(self) -> PairNames:
        (a, name), (b, other) = self.sides
        return PairNames(member=name, other_sae="" if a is b else str(b.path), other_member=other)

    def _decoder(self, cfg: GeometryConfig) -> tuple[DecoderPair, Matches]:
        rows = [decoder.directions(c.members[name]) for c, name in self.sides]
        alive = [
            _live(cfg, c, name) & (w.norm(dim=1) > 0).numpy()
            for w, (c, name) in zip(rows, self.sides, strict=True)
        ]
        found, matches = decoder.compare(rows[0], rows[1], (alive[0], alive[1]), cfg.seed)
        return DecoderPair(**vars(self._names()), **vars(found)), matches

    def _activation(self, cfg: GeometryConfig) -> tuple[ActivationPair, Matches]:
        a, b = (_member(cfg, c, name) for c, name in self.sides)
        shared = units.shared_units(a, b, cfg)
        new = activation.Untrained(
            units.pooled(untrained(a, cfg.seed), shared, 0, cfg),
            (
                units.pooled(untrained(b, cfg.seed + 1), shared, 1, cfg),
                units.pooled(untrained(b, cfg.seed + 2), shared, 1, cfg),
            ),
        )
        found, matches = activation.compare(
            units.pooled(a, shared, 0, cfg), units.pooled(b, shared, 1, cfg),
            np.unique(shared.groups, return_inverse=True)[1], new,
            n_permutations=cfg.n_permutations, seed=cfg.seed,
        )  # fmt: skip
        how = {"unit": cfg.unit, "pool": cfg.pool, "split": cfg.split or "all"}
        return ActivationPair(**vars(self._names()), **how, **vars(found)), matches


def untrained(member: Member, seed: int) -> Member:
    """The same member with an SAE that has learned nothing: random directions of the same lengths."""
    found, sae = copy.copy(member), copy.deepcopy(member.sae)
    with torch.no_grad():
        lengths = sae.W_enc.flatten(0, -2).norm(dim=0)
        sae.reset_parameters(torch.Generator().manual_seed(_stream(seed)))
        sae.W_enc *= lengths / sae.W_enc.flatten(0, -2).norm(dim=0).clamp_min(1e-12)
    found.sae = sae
    return found


def _stream(seed: int) -> int:
    """Seeds of its own: an SAE that was made from the same seed has other directions."""
    return int(np.random.SeedSequence([seed, UNTRAINED]).generate_state(1, np.uint64)[0] >> 1)


def pairs_of(cfg: GeometryConfig, collections: list[Collection]) -> list[Pair]:
    """Members of the first directory among themselves, or every two directories' members.

    Raises:
        ConfigError: directories without a member name in common.
    """
    first, *others = collections
    if not others:
        two = combinations(first.members, 2)
        return [
            Pair(((first, a), (first, b))) for a, b in two if _one_space(first.members[a], first.members[b])
        ]
    found = []
    for one, other in combinations(collections, 2):
        if cfg.pairs == "all" or len(one.members) == len(other.members) == 1:
            names = [(a, b) for a in one.members for b in other.members]
        else:
            names = [(a, a) for a in one.members if a in other.members]
        if not names:
            raise ConfigError(
                f"{one.path} has {_names(one)} and {other.path} has {_names(other)}: "
                f"no name in common; say pairs=all, or members=[..]"
            )
        found += [Pair(((one, a), (other, b))) for a, b in names]
    return found


def neighbours_table(cfg: GeometryConfig, collection: Collection) -> pa.Table:
    """The k nearest other latents of every latent by decoder cosine; rows of zeros have none."""
    tables = []
    for name, sae in collection.members.items():
        rows = decoder.directions(sae)
        there = np.flatnonzero((rows.norm(dim=1) > 0).numpy())
        if len(there) < 2:
            continue
        index, cosine = neighbours(rows[there], cfg.k)
        n, k = index.shape
        columns = {
            "member": name,
            "latent": np.repeat(there, k),
            "rank": np.tile(np.arange(k), n),
            "other": there[index.flatten().numpy()],
            "cosine": cosine.flatten().numpy(),
        }
        tables.append(column_table(NeighbourRow, columns))
    return pa.concat_tables([schema(NeighbourRow).empty_table(), *tables]).unify_dictionaries()


def _member(cfg: GeometryConfig, collection: Collection, name: str) -> Member:
    try:
        return Member(
            collection.store, name, collection.members[name], split=cfg.split, batch_size=cfg.batch_size
        )
    except MismatchError as error:
        raise MismatchError(f"{error}. Give the store of {collection.path} with --acts") from None


def _live(cfg: GeometryConfig, collection: Collection, name: str) -> Bool[np.ndarray, " d_sae"]:
    if collection.acts is None:
        return np.ones(collection.members[name].d_sae, bool)
    return units.live(_member(cfg, collection, name), cfg)


def _names(collection: Collection) -> str:
    return ", ".join(collection.members)


def _one_space(a: SAE, b: SAE) -> bool:
    return a.W_dec.shape[1:] == b.W_dec.shape[1:]


def _same_model(a: SAE, b: SAE) -> bool:
    """Unless both say where they come from and it differs."""
    theirs = {sae.provenance.get("model_digest") for sae in (a, b)} - {None}
    return len(theirs) < 2


def _needs(by: str) -> str:
    if by == "decoder":
        return "decoders need SAEs of one model and width"
    return "activations need the stores of both SAEs (--acts, once for each --sae)"
