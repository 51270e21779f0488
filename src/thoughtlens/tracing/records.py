"""What `think` gives back: a question, its thoughts, how each was read, and what was tested of it."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtlens.core import Number, Record, column

DEFINITIONS = {
    "reading": "the likeliest token if this thought were written down: softmax(W_U norm(state)) of what the "
    "thought hands on (logit lens, nostalgebraist 2020)",
    "probability": "of that token, by the same softmax over the whole vocabulary; not a test of the reading",
    "null": "mean probability of the same token in the same thought of n_others other problems: what is as "
    "large there says nothing of this question; unset where no other problem is at hand",
    "latents": "the strongest latents of the run's SAE on this thought, over its hooks, by activation",
    "says": "the latent's explanation in the run; unset where it has none",
    "tested": "by live: the thought is taken from other problems, and what follows is another answer, or "
    "another reading of a later thought. changed: share of thoughts with another reading after which it is; "
    "kept: share of thoughts with the same reading after which nothing is; whole_pass: `changed` where the "
    "keys and values of the pass are taken over too. By run: changed is the share of right answers that an "
    "edit of this thought took on the run's problems. Intervals: Wilson, 95 %; of the run its own",
    "verdict": "used: the interval of changed lies above a half; not used: below it, and so does that of "
    "whole_pass; used by another way: only that of whole_pass lies above it; more than it reads: used, and "
    "that of kept lies below it; else unclear. The last thought's state is read by nothing: there the "
    "verdict is of whole_pass",
}
USED, NOT_USED, OTHER_WAY = "used", "not used", "used by another way"
MORE, UNCLEAR = "more than it reads", "unclear"


@dataclass(frozen=True, kw_only=True)
class Strong(Record):
    """A latent that fires on a thought."""

    latent: int
    activation: float
    hook_name: str
    says: str | None = column(default=None, null=True)
    auprc: float | None = column(default=None, null=True)
    """How well that explanation tells, on held-out rows, where the latent fires."""
    verdict: str | None = column(default=None, null=True)
    """How far it can be trusted, in words."""


@dataclass(frozen=True, kw_only=True)
class Tested(Record):
    """Whether what follows depends on a thought, and on what it reads."""

    by: str
    """live: on this question; run: on the run's problems, by its stage `effects`."""
    verdict: str
    changed: Number | None = column(default=None, null=True)
    kept: Number | None = column(default=None, null=True)
    whole_pass: Number | None = column(default=None, null=True)

    @classmethod
    def of(
        cls,
        by: str,
        *,
        changed: Number | None = None,
        kept: Number | None = None,
        whole_pass: Number | None = None,
    ) -> Tested:
        """With the verdict that these numbers amount to."""
        first = whole_pass if changed is None else changed
        verdict = UNCLEAR
        if _above(first):
            verdict = MORE if _below(kept) else USED
        elif _above(whole_pass):
            verdict = OTHER_WAY if _below(changed) else UNCLEAR
        elif first is None and _below(kept):
            verdict = MORE
        elif _below(first) and (whole_pass is None or _below(whole_pass)):
            verdict = NOT_USED
        return cls(by=by, verdict=verdict, changed=changed, kept=kept, whole_pass=whole_pass)


@dataclass(frozen=True, kw_only=True)
class Reading(Record):
    """What one thought reads as."""

    thought: int
    """0 is begin-of-thought, before anything was fed back."""
    reading: str
    probability: float
    null: float | None = column(default=None, null=True)
    others: list[tuple[str, float]]
    """The next likeliest tokens."""
    latents: list[Strong]
    tested: Tested | None = column(default=None, null=True)


@dataclass(frozen=True, kw_only=True)
class Thinking(Record):
    """One question, its thoughts and its answer."""

    question: str
    answer: str
    thoughts: list[Reading]
    model: str
    lens: str = "logit"
    """What reads: the model's own output side."""
    n_others: int = 0
    """Other problems that `null` is the mean of."""
    member: str | None = column(default=None, null=True)
    """The SAE whose latents are shown; None: a model without a run has none."""
    definitions: dict[str, str]
    warnings: list[str]

    def _repr_html_(self) -> str:
        from thoughtlens.tracing.shown import page

        return page([self])


class Thinkings(list[Thinking]):
    """Several questions, as a notebook shows them."""

    def _repr_html_(self) -> str:
        from thoughtlens.tracing.shown import page

        return page(self)


def _above(share: Number | None) -> bool:
    return share is not None and (share.low or 0.0) > 0.5


def _below(share: Number | None) -> bool:
    return share is not None and share.high is not None and share.high < 0.5
