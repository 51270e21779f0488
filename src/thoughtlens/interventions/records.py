"""What the intervene stage gives back, and the rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.core import Outcome, Record, column


@dataclass(frozen=True, kw_only=True)
class EffectRow(Record):
    """An edit in `effects.parquet`: what it changed, beside the untouched run on the same problems."""

    row: int
    edit: str
    scope: str
    """cell: one place; all: every place at once; exit: thoughts left out."""
    site: str | None = column(null=True, default=None)
    layer: int | None = column(null=True, default=None)
    thought_idx: int | None = column("thought", null=True, default=None)
    control: str | None = column(null=True, default=None)
    """random, latents or elsewhere, of an edit that another is held against."""
    arm: str | None = None
    donor: str | None = None
    dose: float | None = None
    direction: str | None = None
    latents: str | None = None
    """Numbers of the latents that were edited together, with blanks between."""
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
    minimal_detectable_difference: float | None = column(null=True, default=None)
    answer_logprob: float | None = column(null=True, default=None)
    kl: float = column("KL (nats)")
    kl_low: float
    kl_high: float
    delta_logprob: float | None = column(null=True, default=None)
    delta_logprob_low: float | None = column(null=True, default=None)
    delta_logprob_high: float | None = column(null=True, default=None)
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
    changed_site: float | None = column("change at the place", null=True, default=None)
    changed_thoughts: float | None = column("change of later thoughts", null=True, default=None)
    moved: float = column("answers whose logits moved")
    beyond_random: float | None = column(null=True, default=None)
    beyond_random_low: float | None = column(null=True, default=None)
    beyond_random_high: float | None = column(null=True, default=None)
    beyond_random_verdict: str | None = column(null=True, default=None)
    p_holm: float | None = column(null=True, default=None)

    @property
    def edited_latents(self) -> list[int]:
        """The latents that the edit was made with."""
        if self.latents:
            return [int(i) for i in self.latents.split()]
        direction = self.direction or ""
        return [int(direction.removeprefix("latent_"))] if direction.startswith("latent_") else []


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
    """How often each part of a thought alone brings the twin's answer, and its shares in both orders."""

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
class InterveneOutcome(Outcome):
    """What the intervene stage measured."""

    model: str
    model_digest: str | None
    edit: str
    site: str
    split: str
    n: int
    effects: list[EffectRow]
    routes: list[RouteRow] = field(default_factory=list)
