"""The tuned lens (Belrose et al. 2023, arXiv:2303.08112): an affine map before the logit lens.

`translate(h) = h + h W + b`, fitted per layer and thought to the model's own final distribution at the
same thought: minimise KL(softmax(final) || softmax(readout(translate(h)))).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.latents.codes.readout import Readout
from thoughtlens.latents.codes.translator import Translator
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.rows import CellRows
from thoughtlens.models import Place, ThoughtBatch, ThoughtModel, collect

HELD_BACK = 0.1
"""Share of the fitting problems that chooses when to stop."""
RIDGE = 1e-2
"""Penalty of the start, as a share of the mean squared state."""
LOOKS = 12
"""Times at which a translator is compared with the best so far."""
FINAL = "thought_out"


@dataclass(frozen=True, eq=False)
class Pairs:
    """States of one hook and thought, each with the model's last state at the same thought."""

    hook_name: str
    x: Float[Tensor, "n d"]
    final_hook: str
    final: Float[Tensor, "n d"]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | Int[Tensor, " m"]) -> Pairs:
        return replace(self, x=self.x[rows], final=self.final[rows])


def identity(d: int) -> Translator:
    """The logit lens as a translator."""
    return Translator(torch.zeros(d, d), torch.zeros(d))


@dataclass(frozen=True, eq=False)
class Finals:
    """The model's last state of every thought: from the store where it is there, else thought again."""

    hook_name: str
    states: ThoughtBatch | None
    line: Int[np.ndarray, " problems"]
    store: ActivationStore

    def pairs(self, cell: CellRows) -> Pairs:
        """The states of a cell with their last states."""
        x = self.store.read(cell.hook_name, cell.rows)
        if self.states is None:
            return Pairs(cell.hook_name, x, self.hook_name, self.store.read(self.hook_name, cell.rows))
        at = torch.from_numpy(np.searchsorted(self.line, cell.line))
        last = self.states[Place(FINAL, cell.thought_idx)][at].float()
        had = ~last.isnan().any(1)  # rounding can let a problem stop a thought earlier than in the store
        return Pairs(cell.hook_name, x[had], self.hook_name, last[had])


def finals(store: ActivationStore, model: ThoughtModel, lines: np.ndarray, batch_size: int) -> Finals:
    """Where the targets of the fit come from, for these lines of the problems."""
    lines = np.unique(lines)
    last = f"layers.{model.spec.n_layers - 1}:out"
    for hook in (FINAL, last):
        if hook in store.hook_names:
            return Finals(hook, None, lines, store)
    questions = [store.questions[int(i)].as_py() for i in lines]
    places = [Place(FINAL, thought) for thought in store.thoughts]
    return Finals(FINAL, collect(model, questions, places=places, batch_size=batch_size), lines, store)


def fit(readout: Readout, pairs: Pairs, cfg: LensConfig) -> Translator:
    """The translator of one layer and thought; the identity where nothing better was found.

    Starts at the affine map to the last state; Adam in units of the states' spread, so that the rate fits
    every layer. The last tenth of the rows chooses among the identity and the translators on the way.
    """
    d = pairs.x.shape[1]
    if pairs.hook_name == pairs.final_hook:
        return identity(d)
    n = len(pairs) - max(1, round(HELD_BACK * len(pairs)))
    train, held = pairs[:n], pairs[n:]
    mean = train.x.mean(0)
    size = (train.x - mean).square().mean().sqrt().clamp_min(1e-12)
    start = _least_squares(train.x, train.final)
    weight, bias = start[0].requires_grad_(), (start[1] / size).requires_grad_()

    def current() -> Translator:
        w, b = weight.detach().clone(), bias.detach()
        return Translator(w, size * b - mean @ w)

    def loss_of(translator: Translator) -> float:
        return float(divergence(readout, translator, held).mean())

    candidates = [(loss_of(t), t) for t in (identity(d), current())]
    rate = cfg.fit_lr / d**0.5
    optimizer = torch.optim.Adam([weight, bias], lr=rate)
    generator = torch.Generator().manual_seed(cfg.seed)
    for step in range(cfg.fit_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / cfg.fit_steps)
        batch = train[torch.randint(n, (min(cfg.fit_batch, n),), generator=generator)]
        translated = batch.x + (batch.x - mean) @ weight + size * bias
        target = readout.logits(batch.final, pairs.final_hook)
        loss = _kl(target, readout.logits(translated, pairs.hook_name)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % max(1, cfg.fit_steps // LOOKS) == 0 or step + 1 == cfg.fit_steps:
            candidates.append((loss_of(current()), current()))
            candidates = [min(candidates, key=lambda pair: pair[0])]
    return candidates[0][1]


def _least_squares(
    x: Float[Tensor, "n d"], final: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]]:
    """The affine map from x to the last state as a start: `x + (x - mean) W + b`, ridge for few rows."""
    wide, mean = x.double(), x.double().mean(0)
    change = final.double() - wide
    shift = change.mean(0)
    gram = (wide - mean).T @ (wide - mean)
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    gram.diagonal().add_(ridge)
    weight = torch.linalg.solve(gram, (wide - mean).T @ (change - shift))
    return weight.float().contiguous(), shift.float()


@torch.no_grad()
def divergence(readout: Readout, translator: Translator, pairs: Pairs) -> Float[Tensor, " n"]:
    """KL(final || lens) of each row, nats, float64."""
    parts = []
    for part in _chunks(pairs, readout):
        lens = readout.logits(translator(part.x), part.hook_name)
        parts.append(_kl(readout.logits(part.final, part.final_hook), lens).double().cpu())
    return torch.cat(parts)


def divergences(
    readout: Readout, translator: Translator, fitted: Pairs, held_out: Pairs
) -> list[Float[np.ndarray, " n"]]:
    """KL of held-out rows from the logit lens, the tuned lens, and the constant of the fitting rows."""
    plain = identity(held_out.x.shape[1])
    found = [divergence(readout, one, held_out) for one in (plain, translator)]
    return [kl.numpy() for kl in (*found, from_constant(readout, fitted, held_out))]


@torch.no_grad()
def from_constant(readout: Readout, fitted: Pairs, pairs: Pairs) -> Float[Tensor, " n"]:
    """KL(final || the mean final distribution of the fitting rows) of each row: what needs no state."""
    total = torch.zeros(readout.n_vocab, dtype=torch.float64)
    for part in _chunks(fitted, readout):
        total += readout.logits(part.final, part.final_hook).softmax(-1).double().sum(0).cpu()
    constant = (total / len(fitted)).clamp_min(torch.finfo(torch.float64).tiny).log()
    parts = []
    for part in _chunks(pairs, readout):
        log_p = readout.logits(part.final, part.final_hook).double().log_softmax(-1).cpu()
        parts.append((log_p.exp() * (log_p - constant)).sum(-1).clamp_min(0))
    return torch.cat(parts)


def _kl(target: Float[Tensor, "n vocab"], logits: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    log_p = target.detach().log_softmax(-1)
    return (log_p.exp() * (log_p - logits.log_softmax(-1))).sum(-1).clamp_min(0)


def _chunks(pairs: Pairs, readout: Readout) -> Iterator[Pairs]:
    return (pairs[i : i + readout.chunk] for i in range(0, len(pairs), readout.chunk))
