"""The language model on held-out text with x replaced by x_hat at a hook, against itself untouched.

The model must give the store's own activations back, so that what is spliced is what the SAE was judged
on. All replacements are made at the same positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore, language_model
from thoughtlens.core import MismatchError, progress
from thoughtlens.evals.heldout.records import TextFidelity
from thoughtlens.evals.heldout.subject import Subject
from thoughtlens.evals.heldout.windows import Window, held_out_text, pack
from thoughtlens.models import LanguageModel, ModelConfig, capture, pad, replace
from thoughtlens.numerics import (
    RatioInterval,
    SplicedFidelity,
    ce_loss_score,
    kl_score,
    next_token,
    ratio_over_groups,
)
from thoughtlens.sae import SAE, Baseline

AGREEMENT = 0.98
"""Least median cosine between the model's activations and the stored ones."""
REMEDY = "name that one, or set validate.ce_tokens=0"
DEFINITIONS = {
    "delta_ce": "cross-entropy with x replaced minus the untouched model's, nats per predicted token",
    "kl": "mean over predicted tokens of KL(untouched || replaced), nats",
    "top1_agreement": "share of predictions whose most likely token stays the same",
    "ce_loss_score_*": "(ce_ablated - ce) / (ce_ablated - ce_clean); ablated: zeros, or the hook's training "
    "mean, at the same positions; 1 costs nothing, 0 is as bad as the ablation",
    "kl_score_*": "1 - kl / kl_ablated, same ablations",
}

Change = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]
Changes = dict[str, dict[str, Change]]
"""By hook, then by name: what x is replaced by."""
Tallies = dict[tuple[str, str], SplicedFidelity]
"""By hook and name."""


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
        self._read: dict[bool, list[Window]] = {}
        if self.lm is not None:
            self._text(drop_outliers=False)  # a text that cannot be spliced is refused before all else

    @torch.no_grad()
    def rows(
        self, subject: Subject, baselines: dict[str, Baseline]
    ) -> tuple[list[TextFidelity] | None, str | None]:
        """By hook: the SAE, each baseline but the means, zeros, and the mean of the hook's training rows; or
        the reason why there is none.

        Raises:
            MismatchError: the model does not give the activations of the store.
        """
        if self.lm is None:
            return None, self.skipped
        models = {"sae": subject.sae} | {n: b for n, b in baselines.items() if n not in ("mean", "cell_mean")}
        tallies, read = self.tallies(subject, models)
        return rows_of(subject.sae.hook_names, tallies, read), None

    @torch.no_grad()
    def tallies(self, subject: Subject, models: Mapping[str, SAE | Baseline]) -> tuple[Tallies, Read]:
        """Sums by hook and name, of each model, of zeros and of the mean, all at the same positions.

        Raises:
            MismatchError: the model does not give the activations of the store.
        """
        assert self.lm is not None
        changes = {hook: self._changes(subject, hook, models) for hook in subject.sae.hook_names}
        tallies = {(hook, name): SplicedFidelity() for hook, own in changes.items() for name in own}
        batches = pack(self._text(drop_outliers=subject.drops_outliers))
        _require_agreement(subject, self.lm, batches[0])
        with progress(f"splice {subject.label}", sum(len(b) for b in batches), "windows") as bar:
            for batch in batches:
                _count(self.lm, batch, changes, tallies)
                bar.advance(len(batch))
        n_vocab = int(self.lm.model.get_input_embeddings().num_embeddings)  # pyright: ignore[reportArgumentType]
        windows = [w for batch in batches for w in batch]
        return tallies, Read(self.store.group_idx, windows, self.seed, n_vocab)

    def _text(self, *, drop_outliers: bool) -> list[Window]:
        assert self.lm is not None
        if drop_outliers not in self._read:
            self._read[drop_outliers] = held_out_text(
                self.store,
                self.split,
                self.lm,
                drop_outliers=drop_outliers,
                n_tokens=self.ce_tokens,
                seed=self.seed,
            )
        return self._read[drop_outliers]

    def _changes(
        self, subject: Subject, hook: str, models: Mapping[str, SAE | Baseline]
    ) -> dict[str, Change]:
        def through(model: SAE | Baseline) -> Change:
            here = model.at(hook)
            return lambda x: here.decode_sparse(here.encode_sparse(x), x)

        mean, device = self._mean(subject, hook), subject.sae.W_enc.device
        return {name: through(model) for name, model in models.items()} | {
            "zero": torch.zeros_like,
            "mean": lambda x: mean.to(device, x.dtype).expand_as(x),
        }

    def _mean(self, subject: Subject, hook: str) -> Float64[Tensor, " d_in"]:
        view = self.store.view([hook], subject.train_split, None, subject.drops_outliers)
        total, n = torch.zeros(view.d_in, dtype=torch.float64), min(self.mean_rows, view.n)
        for batch in view.batches(subject.batch_rows, seed=self.seed):
            total += batch.x.double().sum(0)
            n -= len(batch.x)
            if n <= 0:
                break
        return total / (min(self.mean_rows, view.n) - n)


def _count(lm: LanguageModel, batch: Sequence[Window], changes: Changes, tallies: Tallies) -> None:
    """Score one batch under every change."""
    read = Inputs.of(lm, batch)
    groups = torch.tensor([w.problem for w in batch], device=read.ids.device)[:, None].expand_as(read.ids)
    clean, targets, counted = next_token(lm.model(**read.inputs).logits, read.ids, read.stored)
    for hook, own in changes.items():
        for name, change in own.items():
            with replace(lm.model, hook, read.spliced(change)):  # unnamed: two logits would be held at once
                found = tallies[hook, name]
                found.update(clean, lm.model(**read.inputs).logits[:, :-1], targets, counted, groups[:, 1:])


class Inputs(NamedTuple):
    """A batch of windows as a model takes it, and which of its positions are what."""

    ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"]
    stored: Bool[Tensor, "batch seq"]
    """Those that have a row."""
    kept: Bool[Tensor, "batch seq"]
    """Those that are replaced."""

    @classmethod
    def of(cls, lm: LanguageModel, batch: Sequence[Window]) -> Inputs:
        """On the model's device."""
        ids, mask = pad([w.tokens for w in batch])
        stored, kept = (pad(of, False)[0] for of in ([w.row >= 0 for w in batch], [w.kept for w in batch]))
        return cls(*(torch.from_numpy(a).to(lm.model.device) for a in (ids, mask.astype(int), stored, kept)))

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model is called with."""
        return {"input_ids": self.ids, "attention_mask": self.mask, "use_cache": False}

    def spliced(self, change: Change) -> Callable[[Tensor], Tensor]:
        """What becomes of all states of a hook: those that are kept are changed."""

        def splice(x: Tensor) -> Tensor:
            x_hat = x.clone()
            x_hat[self.kept] = change(x[self.kept].float()).to(x)
            return x_hat

        return splice


class Sums(NamedTuple):
    """Of one tally, by document or as means; in the order of `metrics.fidelity.SUMS`."""

    n: np.ndarray
    ce_clean: np.ndarray
    ce: np.ndarray
    kl: np.ndarray
    agree: np.ndarray


class _Score(NamedTuple):
    """Against one ablation; None where it does no harm."""

    ce: float | None
    kl: float | None
    low: float | None
    high: float | None


class Read(NamedTuple):
    """What was read."""

    group_idx: np.ndarray
    """Group of each line of the problems table."""
    windows: list[Window]
    seed: int
    n_vocab: int

    def interval(self, tally: SplicedFidelity, top: np.ndarray, bottom: np.ndarray) -> RatioInterval | None:
        """Of a ratio of sums by document, over groups of documents; None where it has no value."""
        return ratio_over_groups(top, bottom, self.group_idx[sorted(tally.sums)], seed=self.seed)


def rows_of(hooks: Sequence[str], tallies: Tallies, read: Read) -> list[TextFidelity]:
    """Numbers and intervals by hook and name."""
    return [
        row
        for hook in hooks
        for row in _rows(hook, {name: tally for (at, name), tally in tallies.items() if at == hook}, read)
    ]


def _rows(hook: str, tallies: dict[str, SplicedFidelity], read: Read) -> list[TextFidelity]:
    """Numbers and intervals by name."""
    rows = []
    for name, tally in tallies.items():
        mine = Sums(*tally.per_group().T)
        found = read.interval(tally, mine.ce - mine.ce_clean, mine.n)
        zero, mean = (_score(tally, tallies[ablation], read) for ablation in ("zero", "mean"))
        rows.append(
            TextFidelity(
                hook_name=hook,
                arm=name,
                n=tally.n,
                n_documents=len(mine.n),
                n_groups=None if found is None else found.support.n_groups,
                n_windows=len(read.windows),
                n_tokens=sum(len(w.tokens) for w in read.windows),
                n_uncovered=sum(w.n_uncovered for w in read.windows),
                **tally.compute(),
                delta_ce_low=None if found is None else found.low,
                delta_ce_high=None if found is None else found.high,
                doubt="alone in one group" if found is None else found.doubt,
                ce_uniform=math.log(read.n_vocab),
                ce_loss_score_zero=zero.ce,
                kl_score_zero=zero.kl,
                ce_loss_score_zero_low=zero.low,
                ce_loss_score_zero_high=zero.high,
                ce_loss_score_mean=mean.ce,
                kl_score_mean=mean.kl,
                ce_loss_score_mean_low=mean.low,
                ce_loss_score_mean_high=mean.high,
            )
        )
    return rows


def _score(tally: SplicedFidelity, ablated: SplicedFidelity, read: Read) -> _Score:
    mine, other = Sums(*tally.per_group().T), Sums(*ablated.per_group().T)
    found, worst = (Sums(*(one.per_group().sum(0) / one.n)) for one in (tally, ablated))
    gap = other.ce - other.ce_clean
    interval = read.interval(tally, other.ce - mine.ce, gap)
    return _Score(
        ce_loss_score(float(found.ce_clean), float(found.ce), float(worst.ce)) if gap.sum() > 0 else None,
        kl_score(float(found.kl), float(worst.kl)) if worst.kl > 0 else None,
        None if interval is None else interval.low,
        None if interval is None else interval.high,
    )


def _require_agreement(subject: Subject, lm: LanguageModel, batch: Sequence[Window]) -> None:
    ids, mask = (torch.from_numpy(a) for a in pad([w.tokens for w in batch]))
    row = pad([w.row for w in batch], -1)[0]
    here = torch.from_numpy(row >= 0)
    found = capture(lm.model, ids, mask.long(), subject.sae.hook_names)
    for hook, x in found.items():
        stored = subject.store.read(hook, row[row >= 0])
        cosine = torch.cosine_similarity(x.cpu()[here].float(), stored, dim=1).median().item()
        if not cosine >= AGREEMENT:
            raise MismatchError(
                f"{lm.name} does not give the activations of {subject.store.root} at {hook!r}: their median "
                f"cosine is {cosine:.3f}, expected at least {AGREEMENT}. Name the model it was extracted from"
            )
