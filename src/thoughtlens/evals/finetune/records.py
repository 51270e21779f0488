"""What the finetune stage gives back."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Number, Outcome, Record, column

BEFORE, FINETUNED, RIVAL = "before", "finetuned", "squared_error"
ARMS = {
    BEFORE: "as it was",
    FINETUNED: "trained further on what the model loses",
    RIVAL: "trained further on squared error alone",
}
"""The SAEs that are held beside each other."""


@dataclass(frozen=True, kw_only=True)
class FinetuneArm(Record):
    """One of the SAEs on held-out rows, and the model with it in place."""

    arm: str = column("SAE")
    kl: Number = column("KL added (nats)")
    delta_ce: Number | None = column("cross-entropy added (nats)", default=None)
    """Text."""
    accuracy: Number | None = column("right answers", default=None)
    """Thoughts."""
    fvu: float | None = column("FVU")
    l0: float | None = column("L0")
    n_dead: int = column("dead latents")
    """Latents that fire on no held-out row."""


@dataclass(frozen=True, kw_only=True)
class FinetuneGain(Record):
    """How much better the finetuned SAE is than another; above 0: it loses less, or answers more."""

    rival: str = column("beside")
    measure: str
    difference: Number
    delta: float
    """Differences below this count as equivalent."""
    doubt: str | None = None
    """Why the interval may be too narrow."""


@dataclass(frozen=True, kw_only=True)
class FinetuneCost(Record):
    """What the further training of an arm took."""

    arm: str = column("SAE")
    steps: int
    rows: int = column("vectors")
    """Vectors of the hook that were trained on."""
    tokens: int = column("tokens or problems the model read")
    """0: none, the vectors were at hand."""
    seconds: float
    microseconds_per_row: float = column("microseconds per vector")


@dataclass(frozen=True, kw_only=True)
class FinetuneOutcome(Outcome):
    """What the stage found."""

    member: str
    kind: str
    hook_names: list[str]
    thoughts: list[int] | None
    d_sae: int
    split: str
    train_split: str
    steps: int
    lr: float
    mse: float
    kl_first: float
    """Training divergence, nats, mean over the first tenth of the steps."""
    kl_last: float
    """The same over the last tenth."""
    arms: list[FinetuneArm]
    gains: list[FinetuneGain]
    costs: list[FinetuneCost]
    conclusion: str
    """What the objective bought, in a sentence."""
