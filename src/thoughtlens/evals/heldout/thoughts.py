"""What a thought model answers when its thoughts are replaced by an SAE's reconstructions.

Explained variance misleads on thoughts: directions of little variance can carry the answer. So the
reconstruction is put back into the running loop, in one (hook, thought) cell at a time and in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from thoughtlens.acts import ActivationStore, made_with, thought_model
from thoughtlens.core import MismatchError, NotThereError
from thoughtlens.evals.heldout.records import ThoughtFidelity
from thoughtlens.evals.heldout.subject import Subject
from thoughtlens.interventions import (
    Answers,
    Edit,
    EffectRow,
    Problems,
    groups_of,
    numbered,
    rows_of,
    run_edits,
    spliced,
)
from thoughtlens.models import ModelConfig, Place, ThoughtModel, collect, is_read
from thoughtlens.sae import SAE, Baseline

BATCH = 256
REMEDY = "name that one, or set validate.answer_problems=0"
AGREEMENT = 0.98
"""Least median cosine between the model's states and the stored ones."""
CHECKED = 32
"""Problems that are compared with the stored ones."""
COLUMNS = (
    "n", "n_groups", "accuracy", "accuracy_low", "accuracy_high", "accuracy_untouched", "difference", "low",
    "high", "p", "verdict", "answer_logprob", "delta_logprob", "delta_logprob_low", "delta_logprob_high",
    "kl", "kl_low", "kl_high", "changed_site", "moved", "kl_doubt",
)  # fmt: skip

DEFINITIONS = {
    "spliced_accuracy": "right answers / problems with x replaced by x_hat at every place of the SAE that "
    "the model goes on with; spliced_difference: minus the untouched model's, paired 95 % interval, "
    "equivalent within 0.03",
    "spliced_kl": "KL(untouched || spliced) of the answer's first token, nats, mean over problems",
}


UNREAD = "the model goes on with none of the states that this SAE reads"


class Answered(NamedTuple):
    """What a model answers untouched, and under each edit."""

    problems: Problems
    plain: Answers
    edits: list[Edit]
    answers: list[Answers]


class ThoughtSplicer:
    """Answers of a store's thought model with SAEs spliced in; loads the model at once.

    Args:
        store: A store of thoughts.
        model: The model; None: the one that the store was extracted from.
        split: Split of the problems.
        n: Problems, one of a group; with 0 nothing is loaded.
        seed: Fixes problems and resampling.

    Raises:
        MismatchError: the model is not the one that the store was extracted from.
    """

    def __init__(
        self, store: ActivationStore, *, model: ModelConfig | None, split: str, n: int, seed: int
    ) -> None:
        self.store, self.seed = store, seed
        self.skipped: str | None = "answer_problems is 0" if n == 0 else None
        self.rows_of_problems = _one_a_group(store, split, n, seed)
        if self.skipped is None and len(self.rows_of_problems) < 2:
            self.skipped = f"fewer than 2 groups of problems in split {split!r}"
        if self.skipped is None:
            try:
                self.model: ThoughtModel = thought_model(store, model, remedy=REMEDY)
            except NotThereError as error:
                self.skipped = f"the model of the store is not there: {error}"

    @torch.no_grad()
    def rows(
        self, subject: Subject, baselines: dict[str, Baseline]
    ) -> tuple[list[ThoughtFidelity] | None, str | None]:
        """One row per place and arm, then all places at once; or the reason why there is none."""
        if self.skipped is not None:
            return None, self.skipped
        mean = "cell_mean" if "cell_mean" in baselines else "mean"
        arms: dict[str, SAE | Baseline] = {"sae": subject.sae}
        arms |= {name: baselines[name] for name in ("pca_l0", "random", mean) if name in baselines}
        if not self.places(subject):
            return None, UNREAD
        found = self.answered(subject, arms, ("cell", "all"))
        rows = numbered(rows_of(found.problems, found.plain, found.edits, found.answers, self.seed))
        return [_row(edit, row) for edit, row in zip(found.edits, rows, strict=True)], None

    def answered(
        self, subject: Subject, arms: Mapping[str, SAE | Baseline], scopes: tuple[str, ...]
    ) -> Answered:
        """What is answered with each arm in place of the states, by scope and then by arm.

        Raises:
            MismatchError: the model does not give the states of the store.
        """
        places = self.places(subject)
        problems = Problems(self.store.problems.take(self.rows_of_problems))
        self._require_agreement(problems, places)
        groups, fitted = groups_of(places, scopes), dict.fromkeys(places, arms)
        edits = [
            Edit.at(group.about(arm), group.places, spliced(fitted, arm)) for group in groups for arm in arms
        ]
        longest = made_with(self.store).max_new_tokens
        plain, answers = run_edits(
            self.model, problems.questions, edits, batch_size=BATCH, max_new_tokens=longest
        )
        return Answered(problems, plain, edits, answers)

    def places(self, subject: Subject) -> list[Place]:
        """Where the SAE was trained and something reads the state."""
        found = [Place(hook, p) for hook in subject.sae.hook_names for p in subject.thoughts or ()]
        return [place for place in found if is_read(self.model.spec, place)]

    def _require_agreement(self, problems: Problems, places: list[Place]) -> None:
        rows = self.rows_of_problems[:CHECKED]
        batch = collect(self.model, problems.questions[:CHECKED], places=places)
        place = places[0]
        thought = self.store.rows["thought_idx"].to_numpy()
        found = [np.flatnonzero((self.store.problem_idx == row) & (thought == place.thought)) for row in rows]
        had = torch.tensor([len(at) > 0 for at in found])
        stored = self.store.read(place.hook_name, np.concatenate(found))
        cosine = torch.cosine_similarity(batch[place][had].float(), stored, dim=1).nanmedian().item()
        if not cosine >= AGREEMENT:
            raise MismatchError(
                f"{self.model.name} does not give the states of {self.store.root} at {place}: their median "
                f"cosine is {cosine:.3f}, expected {AGREEMENT} or more. Name the model it was extracted "
                f"from, or set validate.answer_problems=0"
            )


def _row(edit: Edit, row: EffectRow) -> ThoughtFidelity:
    (first, _), several = edit.changes[0], len(edit.changes) > 1
    return ThoughtFidelity(
        hook_name=None if several else first.hook_name,
        thought_idx=None if several else first.thought,
        arm=edit.name,
        scope=row.scope,
        **{name: getattr(row, name) for name in COLUMNS},
    )


def _one_a_group(store: ActivationStore, split: str, n: int, seed: int) -> list[int]:
    """Lines of the problems table, one of each group, in random order."""
    splits = np.array(store.problems["split"].to_pylist(), object)
    lines = np.random.default_rng((seed, 5)).permutation(np.flatnonzero(splits == split))
    groups = store.problems["group_id"].to_pylist()
    first = {groups[i]: int(i) for i in lines[::-1]}
    return list(first.values())[:n]
