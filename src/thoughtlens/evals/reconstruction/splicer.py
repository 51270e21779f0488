"""The language model of a store of text, ready to be spliced with any of its SAEs."""

from __future__ import annotations

from typing import Any

import torch

from thoughtlens.acts.behind import language_model
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.evals.reconstruction import splice
from thoughtlens.evals.reconstruction.subject import Subject
from thoughtlens.models.hf.config import ModelConfig
from thoughtlens.sae.baselines.base import Baseline

REMEDY = "name that one, or set validate.ce_tokens=0"


class Splicer:
    """Fidelity of SAEs on a split of a store; loads the model at once, so that a wrong one is refused early.

    Args:
        store: The store; one of thoughts has no next token, and `skipped` says so.
        model: The model; None: the one that the store names.
        split: Split whose text is read.
        ce_tokens: Tokens to read; with 0 nothing is loaded.
        mean_rows: Rows behind the mean that replaces x in the ablation.
        seed: Fixes texts and resampling.

    Raises:
        MismatchError: the model is not the one that the store was extracted from.
    """

    def __init__(
        self,
        store: ActivationStore,
        *,
        model: ModelConfig | None,
        split: str,
        ce_tokens: int,
        mean_rows: int,
        seed: int,
    ) -> None:
        self.store, self.split, self.ce_tokens = store, split, ce_tokens
        self.mean_rows, self.seed = mean_rows, seed
        self.skipped: str | None = None
        if store.meta.kind != "text":
            self.skipped = "continuous thoughts have no next token; splice them into the thought loop"
        elif ce_tokens == 0:
            self.skipped = "ce_tokens is 0"
        self.lm = None if self.skipped else language_model(store, model, remedy=REMEDY)

    def rows(
        self, subject: Subject, baselines: dict[str, Baseline]
    ) -> tuple[list[dict[str, Any]] | None, str | None]:
        """Fidelity by hook and arm, or the reason why there is none."""
        if self.lm is None:
            return None, self.skipped
        bos = self.lm.tokenizer.bos_token_id
        windows = splice.held_out_text(
            self.store,
            self.split,
            drop_outliers=subject.drops_outliers,
            bos=bos if isinstance(bos, int) else None,
            n_tokens=self.ce_tokens,
            seed=self.seed,
        )
        means = torch.stack([self._mean(subject, hook) for hook in subject.sae.hook_names])
        compared = {name: model for name, model in baselines.items() if name not in ("mean", "cell_mean")}
        models = {"sae": subject.sae, **compared}
        return splice.fidelity(subject, self.lm, windows, models, means, seed=self.seed), None

    def _mean(self, subject: Subject, hook: str) -> torch.Tensor:
        view = self.store.view([hook], subject.train_split, None, subject.drops_outliers)
        total, n = torch.zeros(view.d_in, dtype=torch.float64), min(self.mean_rows, view.n)
        for batch in view.batches(subject.batch_rows, seed=self.seed):
            total += batch.x.double().sum(0)
            n -= len(batch.x)
            if n <= 0:
                break
        return total / (min(self.mean_rows, view.n) - n)
