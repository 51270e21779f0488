"""What the intervene stage gives back, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thoughtlens.core import Number, Outcome, Record, column

FOLDER = "intervene"
"""The folder of a run's interventions."""


def found_in(run: Path) -> dict[str, Path]:
    """Finished interventions of a run: `intervene/` itself, or the folders in it."""
    root = run / FOLDER
    places = [root, *(sorted(root.iterdir()) if root.is_dir() else [])]
    return {p.name: p for p in places if p.suffix != ".tmp" and (p / "result.json").is_file()}


@dataclass(frozen=True, kw_only=True)
class About(Record):
    """What an edit is, and at which places it is made."""

    edit: str
    scope: str = ""
    """cell, thought, all or exit: what is edited in one run."""
    site: str | None = column(default=None, null=True)
    layer: int | None = column(default=None, null=True)
    """None: several layers, or a site without."""
    thought_idx: int | None = column("thought", default=None, null=True)
    """None: several thoughts; of an early exit, how many were thought."""
    control: str | None = column(default=None, null=True)
    """random, latents or elsewhere; None: the edit that was asked for."""
    donor: str | None = None
    """swap: same or different, the donor's value of the column."""
    dose: float | None = None
    direction: str | None = None
    """steer: the direction's name (direction_ROW), or latent_LATENT; of a control latent,
    latent_LATENT_for_LATENT."""
    latents: str | None = None
    """edit_latents: those that are edited together, separated by spaces."""
    cut_heads: str | None = None
    """cut: those whose edges are cut, separated by spaces; None: all."""
    source: str | None = None
    """path: what the position `thought_idx` reads of the twin: changed words, other words, or such as
    thought 2."""
    rank: int | None = None
    """rank: how many directions are kept or removed."""
    arm: str | None = None
    """splice: what reconstructs; route: which part is the twin's; rank: whose directions."""

    @property
    def edited_latents(self) -> list[int]:
        """The latents that the edit is made with."""
        if self.latents is not None:
            return [int(latent) for latent in self.latents.split()]
        kind, _, latent = (self.direction or "").partition("_")
        return [int(latent.partition("_")[0])] if kind == "latent" else []

    def where(self) -> str:
        """The edit and its place in words: `ablate_mean resid[1, 3]`."""
        at = [str(i) for i in (self.layer, self.thought_idx) if i is not None]
        dose = f", dose {self.dose:g}" if self.dose is not None else ""
        rank = f", {self.rank} of {self.arm}" if self.rank is not None else ""
        source = f" of {self.source}" if self.source is not None else ""
        return f"{self.edit} {self.site or ''}[{', '.join(at) or 'all'}]{source}{dose}{rank}"


@dataclass(frozen=True, kw_only=True)
class Numbered(Record):
    """A row that `answers.parquet` refers to."""

    row: int


@dataclass(frozen=True, kw_only=True)
class EffectRow(About, Numbered):
    """A row of `effects.parquet`; its column definitions are in the result."""

    n: int
    n_groups: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_untouched: float
    difference: float = column("difference of accuracy")
    low: float
    high: float
    p: float
    test: str
    verdict: str
    minimal_detectable_difference: float | None = column(default=None, null=True)
    answer_logprob: float | None = column(default=None, null=True)
    kl: float = column("KL (nats)")
    kl_low: float
    kl_high: float
    delta_logprob: float | None = column(default=None, null=True)
    delta_logprob_low: float | None = column(default=None, null=True)
    delta_logprob_high: float | None = column(default=None, null=True)
    clean: float
    clean_low: float
    clean_high: float
    predicted: float
    predicted_low: float
    predicted_high: float
    corrupted: float
    corrupted_low: float
    corrupted_high: float
    other: float
    unparsable: float
    changed_site: float | None = column("change at the place", default=None, null=True)
    changed_thoughts: float | None = column("change of later thoughts", default=None, null=True)
    moved: float = column("answers whose logits moved")
    beyond_random: float | None = column(default=None, null=True)
    beyond_random_low: float | None = column(default=None, null=True)
    beyond_random_high: float | None = column(default=None, null=True)
    beyond_random_verdict: str | None = column(default=None, null=True)
    p_holm: float | None = column(default=None, null=True)
    beyond_random_p: float | None = column(default=None, null=True)
    n_edited: int | None = column(default=None, null=True)
    kl_doubt: str | None = column(default=None, null=True)
    delta_logprob_doubt: str | None = column(default=None, null=True)

    @property
    def change(self) -> Number:
        """The change of accuracy."""
        return Number(
            value=self.difference, low=self.low, high=self.high, n=self.n, verdict=self.verdict,
            p=self.p, p_holm=self.p_holm, n_groups=self.n_groups,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AnswerRow(Record):
    """A problem's answer under an edit, in `answers.parquet`."""

    row: int = column(arrow="int32")
    """Of `effects.parquet`; -1: untouched."""
    problem_id: str
    text: str
    is_what: str = column(key="class")
    """clean, predicted, corrupted, other or unparsable."""
    logprob: float = column(arrow="float32")
    kl: float = column(arrow="float32")


@dataclass(frozen=True, kw_only=True)
class RouteRow(Record):
    """A row of `routes.parquet`: which way a thought's effect takes; definitions are in the result."""

    thought_idx: int = column("thought")
    state_is_read: bool
    n: int
    moved_state: float
    moved_state_low: float
    moved_state_high: float
    moved_keys: float
    moved_keys_low: float
    moved_keys_high: float
    moved_values: float
    moved_values_low: float
    moved_values_high: float
    moved_kv: float
    moved_kv_low: float
    moved_kv_high: float
    moved_both: float
    moved_both_low: float
    moved_both_high: float
    state_first: float | None
    state_first_low: float | None
    state_first_high: float | None
    state_last: float | None
    state_last_low: float | None
    state_last_high: float | None
    kv_first: float | None
    kv_first_low: float | None
    kv_first_high: float | None
    kv_last: float | None
    kv_last_low: float | None
    kv_last_high: float | None
    carried_by: str


@dataclass(frozen=True, kw_only=True)
class RankRow(Record):
    """A row of `ranks.parquet`: how few directions of a place do; definitions are in the result."""

    scope: str
    site: str | None
    layer: int | None
    thought_idx: int | None = column("thought")
    arm: str = column("directions")
    n: int
    n_groups: int
    cost_of_mean: float
    cost_of_mean_low: float
    cost_of_mean_high: float
    keep_rank: int | None
    remove_rank: int | None
    ks: list[int]
    kept: list[float | None]
    kept_low: list[float | None]
    kept_high: list[float | None]
    removed: list[float | None]
    removed_low: list[float | None]
    removed_high: list[float | None]


@dataclass(frozen=True, kw_only=True)
class LargestEffect(Number):
    """The edit with the largest effect, of several."""

    edit: str | None = None
    site: str | None = None
    layer: int | None = None
    thought_idx: int | None = None
    dose: float | None = None
    n_edits: int | None = None
    """Among how many it is the largest."""


@dataclass(frozen=True, kw_only=True)
class RouteNumber(Number):
    """How often a thought of the twin brings the twin's answer, and by which way."""

    thought_idx: int | None = None
    carried_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class InterveneOutcome(Outcome):
    """What became of the answers under one kind of edit."""

    model: str
    model_digest: str | None
    edit: str
    site: str
    split: str
    n: int
    headline: Mapping[str, LargestEffect | RouteNumber | Number] = field(default_factory=dict)
    effects: list[EffectRow]
    routes: list[RouteRow] = field(default_factory=list)
    ranks: list[RankRow] = field(default_factory=list)
    model_settings: dict[str, bool | int | float | str | None] | None = None
    """How the model thinks, as given, stated by its checkpoint, or assumed."""
    model_settings_assumed: list[str] | None = None
    """Those that nothing stands behind."""
