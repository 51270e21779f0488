"""What the convert stage writes into its result."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class Proof(Record):
    """How far the forward passes of two formats are from each other on the same rows."""

    n_rows: int
    n_edge_rows: int
    """Rows left out: a latent is within rounding of its threshold, and fires in one format only."""
    l0: float
    max_delta_acts: float
    max_delta_acts_relative: float
    """Over the largest activation of the row, where that is above 1."""
    max_delta_x_hat: float
    max_delta_x_hat_relative: float


@dataclass(frozen=True, kw_only=True)
class Converted(Record):
    """One SAE that was converted."""

    member: str
    source: str = column(key="from")
    """Format it came in."""
    rule: str
    d_in: int
    d_sae: int
    d_out: int
    dtype: str
    hook_name: str | None
    hook_out: str | None
    notes: tuple[str, ...]
    """What a user should know about the way here."""
    proof: Proof


@dataclass(frozen=True, kw_only=True)
class ConvertOutcome(Outcome):
    """The stage's result."""

    to: str
    n: int
    """SAEs."""
    members: list[Converted]
