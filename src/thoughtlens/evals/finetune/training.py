"""Further training of an SAE: on what the model loses, and on squared error alone, on the same rows."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import DataError, progress
from thoughtlens.evals.finetune.lessons import Lesson, TextLessons, ThoughtLessons
from thoughtlens.evals.finetune.records import FINETUNED, RIVAL, FinetuneCost
from thoughtlens.sae import SAE, LossTerms, Settings, Trainer
from thoughtlens.sae import Batch as TrainingBatch

EPS = 1e-8
NEVER = 2**62
ERROR = "reconstruction"
"""What the names of a loss's squared errors begin with."""


class Further(Trainer):
    """Training that goes on: penalties that rise at the start of a training have risen."""

    @property
    def progress(self) -> float:
        """The end of a training, as far as coefficients go."""
        return 1.0


class EndToEnd(Further):
    """Training on what the model loses, too.

    With E the squared error of the SAE's own loss and KL the divergence of the model's predictions with
    x_hat in the place of x from its own, a step makes

        (mse * E + c * KL) / (mse + 1) + the loss's other terms,    c = E / (KL + 1e-8), a constant

    smaller. KL is so brought to E's size at every step, so that learning rate and penalties of the squared
    error stay right: after Karvonen 2025 (arXiv:2503.17272), who balances both as they change in a short
    finetune; the formula is this project's. The objective is that of Braun et al. 2024 (arXiv:2405.12241).
    The error x - x_hat is not added back, and the
    gradient goes through the model, which is frozen, and through the latents that fire.
    """

    def __init__(self, sae: SAE, settings: Settings, mse: float) -> None:
        super().__init__(sae, settings)
        self.mse = mse
        self.lost: Callable[[SAE], Float[Tensor, ""]]
        """Of the lesson that the next step is."""
        self.kl: list[float] = []
        """By step."""

    def loss(self, batch: TrainingBatch) -> LossTerms:
        """As above."""
        own, kl = self.sae.loss(batch), self.lost(self.sae)
        self.kl.append(float(kl.detach()))
        errors = {name: term for name, term in own.terms.items() if name.startswith(ERROR)}
        error = sum(float(term.detach()) for term in errors.values())
        share = self.mse / (self.mse + 1)
        terms = own.terms | {name: share * term for name, term in errors.items()}
        terms["kl"] = kl * (error / (self.kl[-1] + EPS) / (self.mse + 1))
        return replace(own, terms=terms, idle=None)  # what is idle on x may fire on what replaces it


class Trained(NamedTuple):
    """Both, after the same steps on the same rows."""

    finetuned: SAE
    rival: SAE
    kl: list[float]
    """Training divergence by step, nats."""
    costs: list[FinetuneCost]


def train_both(
    sae: SAE, lessons: TextLessons | ThoughtLessons, *, steps: int, mse: float, lr: float, seed: int
) -> Trained:
    """Two copies of an SAE trained further, in its normalised units.

    No latent counts as dead, so that losses which revive latents rest.

    Raises:
        DataError: a loss is not finite.
    """
    settings = Settings(
        n_steps=steps, batch_size=1, lr=lr, warmup=0.05, decay=0.95, grad_clip=1.0, dead_after_rows=NEVER,
        eval_every=steps, checkpoint_every_s=0.0, seed=seed,
    )  # fmt: skip
    one, other = (copy.deepcopy(sae).requires_grad_(True) for _ in range(2))
    mine, rival = EndToEnd(one, settings, mse), Further(other, settings)
    n, rng = len(lessons.batches), np.random.default_rng((seed, 17))
    order = np.concatenate([rng.permutation(n) for _ in range(-(-steps // n))])[:steps]
    seconds, rows, read = [0.0, 0.0], 0, 0
    with progress("finetune", steps, "steps") as bar:
        for i in order:
            began = time.monotonic()
            lesson = lessons(int(i), mine.sae)
            mine.lost = lesson.lost
            _step(mine, lesson)
            half = time.monotonic()
            _step(rival, lesson)
            seconds[0] += half - began
            seconds[1] += time.monotonic() - half
            rows, read = rows + len(lesson.x), read + lesson.n_read
            bar.advance(1)
    costs = [
        FinetuneCost(
            arm=arm,
            steps=steps,
            rows=rows,
            tokens=tokens,
            seconds=spent,
            microseconds_per_row=1e6 * spent / rows,
        )
        for arm, tokens, spent in zip((FINETUNED, RIVAL), (read, 0), seconds, strict=True)
    ]
    return Trained(one.requires_grad_(False), other.requires_grad_(False), mine.kl, costs)


def _step(trainer: Further, lesson: Lesson) -> None:
    try:
        trainer.step(lesson.x, lesson.cell)
    except FloatingPointError as error:
        raise DataError(
            f"Training stopped at step {trainer.step_idx + 1}: {error}; lower finetune.lr"
        ) from None
