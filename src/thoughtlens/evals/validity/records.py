"""What the gates stage gives back, and what it keeps of each seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thoughtlens.core import Json, Number, Outcome, Record, column
from thoughtlens.interventions import Counts


@dataclass(frozen=True, kw_only=True)
class SeedCounts(Record):
    """All counts of one seed, in `seed_SEED.json`."""

    counts: Counts
    probes: dict[str, Counts]
    changed: dict[str, float]
    """By edit: share of the problems whose answer logits it moved."""
    model_settings: dict[str, bool | int | float | str | None] | None = None
    """How the model thinks, as given, stated by its checkpoint, or assumed."""
    model_settings_assumed: list[str] | None = None
    """Those that nothing stands behind."""


@dataclass(frozen=True, kw_only=True)
class Accuracy(Record):
    """The accuracies every thought model is judged by; None where nothing was measured."""

    thoughts: Number | None
    cot: Number | None
    no_cot: Number | None
    pause: Number | None
    mean_ablated: Number | None
    zeroed: Number | None
    resampled: Number | None
    by_n_thoughts: list[Number | None]
    direct: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Gate(Record):
    """A rule and whether it holds; None where it could not be measured."""

    holds: bool | None = column(key="pass")
    rule: str


@dataclass(frozen=True, kw_only=True)
class Reproduces(Gate):
    """Against a published accuracy."""

    ours: Number | None
    published: float | None = None


@dataclass(frozen=True, kw_only=True)
class BetterThanControls(Gate):
    """The gaps to controls that never think."""

    gaps: dict[str, float | None]
    paired: dict[str, Number | None]
    """The gap on the problems that both were given."""
    controls_are_fair: dict[str, bool | None]
    lacking: list[str]


@dataclass(frozen=True, kw_only=True)
class NeedsItsThoughts(Gate):
    """Accuracies without the thoughts, and the floor they must fall to."""

    floor: float | None
    mean_ablated: float | None
    resampled: float | None


@dataclass(frozen=True, kw_only=True)
class GrowsWithThoughts(Gate):
    """What more thoughts bring."""

    rise: float | None = None
    falls: int | None = None


@dataclass(frozen=True, kw_only=True)
class AtTheValue(Gate):
    """Early exits before and after the thought that holds the value."""

    highest_before: Number | None = None
    lowest_after: Number | None = None


@dataclass(frozen=True, kw_only=True)
class FollowsTheDonor(Gate):
    """Shares of answers that are the donor's, and a stranger's."""

    donor: float | None
    stranger: float | None


@dataclass(frozen=True, kw_only=True)
class TwinsMove(Gate):
    """By twin and thought: share of answers that become the twin's."""

    storing: dict[str, float] | None = None
    others: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class BestCell(Record):
    """Where a value is read best."""

    cell: str
    accuracy: float
    begin_of_thought: float


@dataclass(frozen=True, kw_only=True)
class ThoughtsHoldValues(Gate):
    """By value: the cell that tells it best."""

    v1: BestCell | None = None
    v2: BestCell | None = None


@dataclass(frozen=True, kw_only=True)
class SurvivesSplicing(Gate):
    """Accuracies through the SAEs and through what stands beside them."""

    spliced: float | None = None
    lost: float | None = None
    shuffled: float | None = None
    pca: float | None = None


@dataclass(frozen=True, kw_only=True)
class TextIsBlind(Gate):
    """What a bag of words reads."""

    accuracy: Number | None


@dataclass(frozen=True, kw_only=True)
class EditsBite(Gate):
    """By edit: share of the problems whose answer logits it moved."""

    changed: Mapping[str, float]

    def to_json(self) -> Json:
        """The edits stand beside `pass` and `rule`."""
        table = super().to_json()
        return table | table.pop("changed")


@dataclass(frozen=True, kw_only=True)
class Gates(Record):
    """All gates of a model."""

    reproduces: Reproduces = column(key="G0")
    better_than_controls: BetterThanControls = column(key="G1")
    needs_its_thoughts: NeedsItsThoughts = column(key="G2")
    grows_with_thoughts: GrowsWithThoughts = column(key="G3")
    at_the_value: AtTheValue = column(key="G3_at_the_value")
    follows_the_donor: FollowsTheDonor = column(key="G4")
    twins_move: TwinsMove = column(key="G5")
    thoughts_hold_values: ThoughtsHoldValues = column(key="G6")
    survives_splicing: SurvivesSplicing = column(key="G7")
    text_is_blind: TextIsBlind
    edits_bite: EditsBite

    def decisive(self) -> dict[str, Gate]:
        """What must hold before a model is called latent-reasoning."""
        return {
            "G1": self.better_than_controls,
            "G2": self.needs_its_thoughts,
            "G3": self.grows_with_thoughts,
        }


@dataclass(frozen=True, kw_only=True)
class Mode(Record):
    """The same model without thinking in vectors."""

    accuracy: Number
    difference: Number
    """Accuracy with thoughts minus that, same problems, with its verdict."""


@dataclass(frozen=True, kw_only=True)
class GatesOutcome(Outcome):
    """What the gates stage gives back."""

    model: str
    split: str
    n_seeds: int
    latent_reasoning: bool
    accuracy: Accuracy
    accuracy_by_steps: dict[str, Accuracy]
    gates: Gates
    counts: dict[str, Number | None]
    per_seed: list[dict[str, Number | None]]
    modes: dict[str, Mode] = field(default_factory=dict)
    """By mode, words or direct."""
    model_settings: dict[str, bool | int | float | str | None] | None = None
    """How the model thinks, as given, stated by its checkpoint, or assumed."""
    model_settings_assumed: list[str] | None = None
    """Those that nothing stands behind."""
