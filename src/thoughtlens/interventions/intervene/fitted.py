"""Directions and subspaces that are fitted on the states of training problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import ConfigError, DataError
from thoughtlens.interventions.edits.changes import present
from thoughtlens.interventions.edits.dictionaries import Dictionary
from thoughtlens.interventions.edits.places import Change
from thoughtlens.interventions.effects.subject import held_out
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.trials import States, states_at
from thoughtlens.models import Place, ThoughtModel
from thoughtlens.problems import of_members

RIDGE = 1e-2
"""Penalty of the probe, as a share of the mean variance of a coordinate."""
MOST = 4
"""Values of a column that are steered to where none are named: the most frequent ones."""


@dataclass(frozen=True, eq=False)
class Fitting:
    """Training problems and what the model thinks about them."""

    table: pa.Table
    states: States

    @classmethod
    def of(cls, cfg: InterveneConfig, model: ThoughtModel, places: Sequence[Place], n: int) -> Fitting:
        """At most `n` problems of split train."""
        table = held_out(cfg.problems, model, split="train", n=n, seed=cfg.seed + 1)
        return cls(table, states_at(cfg, model, table["question"].to_pylist(), places))

    def labels(self, column: str) -> list[str | None]:
        """Each problem's value of a column.

        Raises:
            DataError: no such column, or one of sets.
        """
        if column not in self.table.column_names:
            raise DataError(
                f"column: the problems have no {column!r}; there are {', '.join(self.table.column_names)}"
            )
        if pa.types.is_nested(self.table[column].type):
            raise DataError(f"column: {column!r} holds sets; {of_members(column)}")
        return [None if value is None else str(value) for value in self.table[column].to_pylist()]

    def values(self, column: str, asked: Sequence[str] | None) -> list[str]:
        """The values that are asked for, or the most frequent ones, each with at least two problems.

        Raises:
            ConfigError: a value that no two training problems have.
        """
        n = Counter(label for label in self.labels(column) if label is not None)
        if wrong := [value for value in asked or () if n[value] < 2]:
            there = ", ".join(sorted(n)[:12])
            raise ConfigError(
                f"classes: fewer than two of {len(self.table)} training problems have {column}={wrong[0]}; "
                f"there are {there}"
            )
        found = list(asked or sorted(value for value, _ in n.most_common(MOST) if n[value] > 1))
        if len(n) < 2 or not found:
            raise DataError(f"column: {column!r} has one value only in the training problems")
        return found

    def towards(self, column: str, value: str, place: Place) -> dict[str, Float[Tensor, " width"]]:
        """From the other values to this one: by the difference of means, and by a ridge probe's weights."""
        x, own = self._labelled(column, place, value)
        if not bool(own.any()) or bool(own.all()):
            raise DataError(f"{place}: no problem with {column}={value}, or none without, had this thought")
        difference, centred = x[own].mean(0) - x[~own].mean(0), x - x.mean(0)
        scatter = centred.T @ centred / len(x)
        if not bool(centred.any()):
            return {"diffmean": torch.zeros_like(difference), "probe": torch.zeros_like(difference)}
        penalty = RIDGE * float(scatter.diagonal().mean()) * torch.eye(x.shape[1], dtype=x.dtype)
        return {"diffmean": difference, "probe": torch.linalg.solve(scatter + penalty, difference)}

    def _labelled(self, column: str, place: Place, value: str) -> tuple[Tensor, Tensor]:
        """States of problems that have a label and this thought, and which of them have the value."""
        labels = self.labels(column)
        known = torch.tensor([label is not None for label in labels])
        known &= ~self.states[place].isnan().any(1)
        own = torch.tensor([label == value for label in labels])
        return self.states[place][known].double(), own[known]

    def subspace(
        self, basis: str, place: Place, *, column: str | None, dictionary: Dictionary | None, seed: int
    ) -> Float[Tensor, "k width"]:
        """Orthonormal directions, those first that count most."""
        x = present(self.states[place]).double()
        centred = x - x.mean(0)
        if basis == "pca":
            return torch.linalg.svd(centred, full_matrices=False).Vh
        if basis == "random":
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randn(x.shape[1], x.shape[1], generator=generator, dtype=torch.float64)
            return torch.linalg.qr(drawn).Q.T
        if basis == "latents":
            assert dictionary is not None
            acts = dictionary.sae.at(*place).encode(x.float()).double()
            rows = dictionary.sae.W_dec.detach().double()
            used = acts.square().mean(0).sqrt() * rows.norm(dim=1)
            return _orthonormal(rows[torch.argsort(used, descending=True)[: int((used > 0).sum())]])
        assert column is not None
        labels = self.labels(column)
        values = sorted({label for label in labels if label is not None})
        weights = torch.stack([self.towards(column, value, place)["probe"] for value in values])
        return torch.linalg.svd(weights, full_matrices=False).Vh[: max(len(values) - 1, 1)]


def _orthonormal(rows: Float[Tensor, "m width"]) -> Float[Tensor, "k width"]:
    """What each row adds to those before it, at most as many as they are wide."""
    found: list[Tensor] = []
    for row in rows:
        rest = row.clone()
        for _ in range(2):  # twice, since once loses digits
            for one in found:
                rest -= (rest @ one) * one
        if float(rest.norm()) > 1e-6 * float(row.norm()):
            found.append(rest / rest.norm())
        if len(found) == rows.shape[1]:
            break
    return torch.stack(found) if found else rows[:0]


def keep(mean: Float[Tensor, " width"], directions: Float[Tensor, "k width"]) -> Change:
    """The mean, and of x - mean what lies in these directions."""
    return Change(lambda x: mean.to(x) + ((x - mean.to(x)) @ directions.to(x).T) @ directions.to(x))


def remove(mean: Float[Tensor, " width"], directions: Float[Tensor, "k width"]) -> Change:
    """x without what of x - mean lies in these directions."""
    return Change(lambda x: x - ((x - mean.to(x)) @ directions.to(x).T) @ directions.to(x))
