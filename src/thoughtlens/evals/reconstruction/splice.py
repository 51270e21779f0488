"""The language model on held-out text with x replaced by x_hat at a hook, against itself untouched.

The text is put together from the store's own rows, and the model must give the stored activations
back, so that what is spliced is what the SAE was judged on. Every arm replaces the same positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.acts.store.meta import ROWS
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.tables import stream
from thoughtlens.core import DataError, MismatchError, progress
from thoughtlens.evals.reconstruction.subject import Subject, row_columns
from thoughtlens.models.hf.capture import capture, replace
from thoughtlens.models.hf.load import LanguageModel
from thoughtlens.models.hf.reader import pad
from thoughtlens.numerics.metrics.fidelity import SUMS, SplicedFidelity, ce_loss_score, kl_score, next_token
from thoughtlens.numerics.stats.intervals import bootstrap_ratio
from thoughtlens.sae.base import SAE
from thoughtlens.sae.baselines.base import Baseline

BATCH_TOKENS = 1024
DOCUMENT_TOKENS = 512
"""Tokens that one document counts for when documents are chosen: a few long ones say less than many."""
AGREEMENT = 0.98
"""Least median cosine between the model's activations and the stored ones."""

DEFINITIONS = {
    "delta_ce": "cross-entropy with x replaced minus the untouched model's, nats per predicted token",
    "kl": "mean over predicted tokens of KL(untouched || replaced), nats",
    "top1_agreement": "share of predictions whose most likely token stays the same",
    "ce_loss_score_*": "(ce_ablated - ce) / (ce_ablated - ce_clean); ablated: zeros, or the hook's training "
    "mean, at the same positions; 1 costs nothing, 0 is as bad as the ablation",
    "kl_score_*": "1 - kl / kl_ablated, same ablations",
}

Change = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]


@dataclass(frozen=True, eq=False)
class Window:
    """Tokens of a document that the model reads at once."""

    problem: int
    tokens: Int[np.ndarray, " seq"]
    row: Int[np.ndarray, " seq"]
    """Row of the store; -1 where there is none (begin of sequence)."""
    kept: Bool[np.ndarray, " seq"]
    """Positions to replace."""


def held_out_text(
    store: ActivationStore, split: str, *, drop_outliers: bool, bos: int | None, n_tokens: int, seed: int
) -> list[Window]:
    """About `n_tokens` tokens of random documents of a split, as the windows that were extracted.

    A window of which a token is missing (a special one in the middle) is left out.
    """
    problems = _documents(store, split, n_tokens, seed)
    columns = _columns(store, problems)
    windows = _cut(columns, drop_outliers, bos)
    turn = {problem: place for place, problem in enumerate(problems)}
    number: dict[int, int] = {}
    ranked = []
    for window in windows:
        number[window.problem] = number.get(window.problem, -1) + 1
        ranked.append((number[window.problem], turn[window.problem], window))
    chosen, total = [], 0
    for *_, window in sorted(ranked, key=lambda r: r[:2]):
        if total >= n_tokens:
            break
        chosen.append(window)
        total += int((window.row >= 0).sum())
    return sorted(chosen, key=lambda w: len(w.tokens))


@torch.no_grad()
def fidelity(
    subject: Subject,
    lm: LanguageModel,
    windows: Sequence[Window],
    models: dict[str, SAE | Baseline],
    means: Float[Tensor, "n_hooks d_in"],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """One row per hook and arm: each of `models`, zeros, and the mean of the hook's training rows.

    Raises:
        MismatchError: the model does not give the activations of the store.
    """
    hooks = subject.sae.hook_names
    arms = {hook: _arms(subject, hook, models, means[i]) for i, hook in enumerate(hooks)}
    tallies = {(hook, arm): SplicedFidelity() for hook in hooks for arm in arms[hook]}
    batches = _pack(windows)
    _require_agreement(subject, lm, batches[0])
    with progress(f"splice {subject.label}", sum(len(b) for b in batches), "windows") as bar:
        for batch in batches:
            _count(lm, batch, arms, tallies)
            bar.advance(len(batch))
    return [
        row for hook in hooks for row in _rows(hook, {arm: tallies[hook, arm] for arm in arms[hook]}, seed)
    ]


def _arms(subject: Subject, hook: str, models: dict[str, SAE | Baseline], mean: Tensor) -> dict[str, Change]:
    def through(model: SAE | Baseline) -> Change:
        here = model.at(hook)
        return lambda x: here.decode_sparse(here.encode_sparse(x), x)

    arms = {name: through(model) for name, model in models.items()}
    device = subject.sae.W_enc.device
    zero: Change = torch.zeros_like
    return arms | {"zero": zero, "mean": lambda x: mean.to(device, x.dtype).expand_as(x)}


def _count(
    lm: LanguageModel,
    batch: Sequence[Window],
    arms: dict[str, dict[str, Change]],
    tallies: dict[tuple[str, str], SplicedFidelity],
) -> None:
    """Score one batch in every arm."""
    device = lm.model.device
    ids, mask = (torch.from_numpy(a).to(device) for a in pad([w.tokens for w in batch]))
    stored = torch.from_numpy(pad([w.row >= 0 for w in batch], False)[0]).to(device)
    kept = torch.from_numpy(pad([w.kept for w in batch], False)[0]).to(device)
    groups = torch.tensor([w.problem for w in batch], device=device)[:, None].expand_as(ids)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "use_cache": False}
    clean, targets, counted = next_token(lm.model(**inputs).logits, ids, stored)
    for hook, changes in arms.items():
        for arm, change in changes.items():

            def splice(x: Tensor, change: Change = change) -> Tensor:
                x_hat = x.clone()
                x_hat[kept] = change(x[kept].float()).to(x)
                return x_hat

            with replace(lm.model, hook, splice):
                spliced = lm.model(**inputs).logits[:, :-1]
            tallies[hook, arm].update(clean, spliced, targets, counted, groups[:, 1:])


def _rows(hook: str, tallies: dict[str, SplicedFidelity], seed: int) -> list[dict[str, Any]]:
    """Numbers and intervals by arm; the scores are None where the ablation does no harm."""
    results = {arm: tally.compute() for arm, tally in tallies.items()}
    sums = {arm: dict(zip(SUMS, tally.per_group().T, strict=True)) for arm, tally in tallies.items()}
    rows = []
    for arm, result in results.items():
        row: dict[str, Any] = {"hook_name": hook, "arm": arm, "n": tallies[arm].n}
        row |= {"n_documents": len(sums[arm]["n"]), **result}
        mine = sums[arm]
        row |= _interval("delta_ce", mine["ce"] - mine["ce_clean"], mine["n"], seed)
        for ablation in ("zero", "mean"):
            other = sums[ablation]
            row[f"ce_loss_score_{ablation}"] = row[f"kl_score_{ablation}"] = None
            gap = other["ce"] - other["ce_clean"]
            row |= _interval(f"ce_loss_score_{ablation}", other["ce"] - mine["ce"], gap, seed)
            if gap.sum() > 0:
                score = ce_loss_score(result["ce_clean"], result["ce"], results[ablation]["ce"])
                row[f"ce_loss_score_{ablation}"] = score
            if results[ablation]["kl"] > 0:
                row[f"kl_score_{ablation}"] = kl_score(result["kl"], results[ablation]["kl"])
        rows.append(row)
    return rows


def _interval(name: str, top: np.ndarray, bottom: np.ndarray, seed: int) -> dict[str, float | None]:
    """Cluster bootstrap over documents; None with one document, or where the denominator is not positive."""
    if len(top) < 2 or bottom.sum() <= 0:
        return {f"{name}_low": None, f"{name}_high": None}
    found = bootstrap_ratio(top, bottom, seed=seed)
    return {f"{name}_low": found.low, f"{name}_high": found.high}


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


def _documents(store: ActivationStore, split: str, n_tokens: int, seed: int) -> list[int]:
    """Lines of the problems table, in random order, until there is enough text."""
    rows = np.bincount(store.problem_idx, minlength=store.problems.num_rows)
    splits = np.array(store.problems["split"].to_pylist(), object)
    candidates = np.flatnonzero((splits == split) & (rows > 1))
    order = np.random.default_rng(seed).permutation(candidates)
    enough = np.searchsorted(np.cumsum(np.minimum(rows[order], DOCUMENT_TOKENS)), n_tokens) + 1
    return order[:enough].tolist()


def _columns(store: ActivationStore, problems: Sequence[int]) -> dict[str, np.ndarray]:
    """The row columns of some problems, in the store's order."""
    chosen = np.isin(store.problem_idx, np.asarray(problems, dtype=np.int64))
    first, parts = 0, []
    names = ["token_id", "position", *(n for n in ("window", "outlier") if n in row_columns(store))]
    for batch in stream(store.root / ROWS, names):
        here = np.flatnonzero(chosen[first : first + len(batch)])
        columns = {n: batch[n].to_numpy(zero_copy_only=False)[here] for n in names}
        parts.append({"row": here + first, **columns})
        first += len(batch)
    found = {n: np.concatenate([p[n] for p in parts]) for n in ("row", *names)}
    return {"problem": store.problem_idx[found["row"]], **found}


def _cut(columns: dict[str, np.ndarray], drop_outliers: bool, bos: int | None) -> list[Window]:
    """Rows that follow each other in one window, with the begin of sequence put back."""
    row, problem, position = columns["row"], columns["problem"], columns["position"]
    window = columns.get("window", np.zeros(len(row), dtype=np.int64))
    new = (np.diff(problem) != 0) | (np.diff(window) != 0) | (np.diff(position) <= 0) | (np.diff(row) != 1)
    windows = []
    for part in np.split(np.arange(len(row)), np.flatnonzero(new) + 1):
        first = int(position[part[0]]) if len(part) else 0
        head = [] if first == 0 else [bos]
        if len(part) < 2 or first > 1 or None in head or position[part[-1]] - first != len(part) - 1:
            continue
        kept = np.ones(len(part), dtype=bool)
        if drop_outliers:
            kept = ~columns["outlier"][part]
        windows.append(
            Window(
                problem=int(problem[part[0]]),
                tokens=np.r_[np.array(head, dtype=np.int64), columns["token_id"][part]],
                row=np.r_[np.full(len(head), -1), row[part]],
                kept=np.r_[np.zeros(len(head), dtype=bool), kept],
            )
        )
    return windows


def _pack(windows: Sequence[Window]) -> list[list[Window]]:
    """Batches of windows, which come shortest first, of at most `BATCH_TOKENS` with padding."""
    if not windows:
        raise DataError("Expected held-out text to splice into, found no whole window of at least two tokens")
    batches: list[list[Window]] = [[]]
    for window in windows:
        if batches[-1] and (len(batches[-1]) + 1) * len(window.tokens) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(window)
    return batches
