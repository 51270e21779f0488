"""The training loop of one model: phases that change on measured accuracy, resumable exactly.

teacher: only the chain of thought. one_step: all losses, one-step problems only (controls).
guided: all losses. anneal: the target per thought fades. pure: CODI's own losses, learning rate
falling. Data depends on (seed, step) only, so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from thoughtlens.core import whole
from thoughtlens.models.distill.config import LoopConfig
from thoughtlens.models.distill.losses import (
    IGNORE,
    Batch,
    Learner,
    Weights,
    losses,
    projection_pairs,
    read_question,
    secret_targets,
    teacher_inputs,
    teacher_tokens,
    think,
)
from thoughtlens.models.distill.muon import Muon, split_parameters
from thoughtlens.models.distill.start import fit_projection, initialize
from thoughtlens.models.thought.tiny_decoder import COT2, TinyConfig, TinyDecoder

N_STEPS = 3
PROJECTION_BATCHES = 40


class Task(ABC):
    """A source of problems as tensors."""

    openings: Sequence[int] = (COT2,)
    """Tokens that a chain of thought can begin with."""
    n_beside: int = 0
    """Values that can stand beside a token of it."""

    @abstractmethod
    def batch(self, rng: np.random.Generator, step_weights: tuple[float, ...]) -> Batch:
        """Training problems; the rows of held-out paths have `keep` False."""

    def refresh(self, model: TinyDecoder, rng: np.random.Generator) -> None:  # noqa: B027
        """Change what a training step must find changed in the model; nothing by default."""

    @abstractmethod
    def test(self, n: int, seed: int, n_steps: int) -> Batch:
        """At least `n` problems of `n_steps` steps on held-out paths (any path for one step)."""


@dataclass
class Progress:
    """Where a run stands; everything but tensors."""

    seed: int
    step: int = 0
    phase: str = "teacher"
    phase_start: int = 0
    done: bool = False
    stalled: bool = False
    switches: dict[str, int] = field(default_factory=dict)
    log: list[dict] = field(default_factory=list)


class Trainer:
    """One model, its optimisers and its place in the schedule."""

    def __init__(
        self, task: Task, model_cfg: TinyConfig, cfg: LoopConfig, seed: int, layout: tuple[int, int] = (0, 0)
    ) -> None:
        self.task, self.cfg = task, cfg
        self.model = initialize(Learner(model_cfg, task.n_beside), seed, layout)
        matrices, tables, vectors = split_parameters(self.model)
        self.muon = Muon(matrices, lr=cfg.lr_matrices, weight_decay=cfg.weight_decay)
        groups = [
            {"params": tables, "weight_decay": cfg.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=cfg.lr_rest, betas=(0.9, 0.98))
        self.at = Progress(seed)

    @property
    def finished(self) -> TinyDecoder:
        """The model without what only its training needs."""
        return self.model.finished() if isinstance(self.model, Learner) else self.model

    def start_from(self, model: TinyDecoder) -> None:
        """Begin with the weights of a finished model, and skip the teacher phase."""
        self.model.load_state_dict(self.model.state_dict() | model.state_dict())
        self.begin_student()

    def run(self, directory: Path, report: Callable[[dict | None], None]) -> Progress:
        """Train to the end, or until the run counts as stalled; continue from a checkpoint.

        Args:
            directory: Where `checkpoint.safetensors` is kept.
            report: Called after every step with None, after a measurement with its row.
        """
        file = directory / "checkpoint.safetensors"
        directory.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            self.restore(file)
        while not self.at.done and not self.at.stalled:
            terms = self.update()
            row = None
            if self.at.step % self.cfg.eval_every == 0:
                row = {"step": self.at.step, "phase": self.at.phase, **terms, **self.measure()}
                self.at.log.append(row)
                self.advance(row)
            report(row)
            if self.at.step % self.cfg.checkpoint_every == 0 or self.at.done or self.at.stalled:
                self.save(file)
        return self.at

    def update(self) -> dict[str, float]:
        """One optimiser step; returns the loss terms."""
        cfg, at = self.cfg, self.at
        scale = self.lr_scale()
        for optimizer, lr in ((self.muon, cfg.lr_matrices), (self.adam, cfg.lr_rest)):
            for group in optimizer.param_groups:
                group["lr"] = lr * scale
        weights = (1.0, 0.0, 0.0) if at.phase == "one_step" else cfg.step_weights
        rng = np.random.default_rng((at.seed, at.step))
        batch = self.task.batch(rng, weights)
        self.task.refresh(self.model, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=cfg.bfloat16):
            terms = losses(self.model, batch, self.loss_weights())
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        at.step += 1
        return {f"loss_{name}": value.item() for name, value in terms.items()}

    def loss_weights(self) -> Weights:
        """The loss weights of this step."""
        cfg, at = self.cfg, self.at
        if at.phase == "teacher":
            return Weights(reading=cfg.reading, secret=cfg.secret, student=False)
        keep = 1.0
        if cfg.anneal_steps and at.phase == "anneal":
            keep = max(0.0, 1 - (at.step - at.phase_start) / cfg.anneal_steps)
        elif cfg.anneal_steps and at.phase == "pure":
            keep = 0.0
        return Weights(
            kd=cfg.kd,
            step=cfg.step * keep,
            trajectory=cfg.trajectory * keep,
            lookup=cfg.lookup * keep,
            reading=cfg.reading * keep,
            secret=cfg.secret,
        )

    def lr_scale(self) -> float:
        """Warm-up, constant, `student_lr` after the teacher phase, then linear to 1 % of that over the
        second half of the last phase."""
        cfg, at = self.cfg, self.at
        scale = min(1.0, (at.step + 1) / max(cfg.warmup_steps, 1))
        if at.phase != "teacher":
            scale *= cfg.student_lr
        if at.phase == "pure":
            share = (at.step - at.phase_start) / max(cfg.pure_steps, 1)
            scale *= min(1.0, 2 * (1 - share) + 0.01)
        return scale

    def advance(self, row: dict) -> None:
        """Change phase when the measured accuracy, or the length of the phase, says so."""
        cfg, at = self.cfg, self.at
        steps = at.step - at.phase_start
        if at.phase == "teacher":
            if row["teacher_accuracy"] >= cfg.teacher_accuracy:
                self.begin_student()
            else:
                at.stalled = steps >= cfg.max_teacher_steps
        elif at.phase == "one_step":
            if row["student_accuracy_1"] >= cfg.one_step_accuracy or steps >= cfg.max_one_step_steps:
                self.enter("guided")
        elif at.phase == "guided":
            if self.passed(row) or (steps >= cfg.max_guided_steps and not cfg.must_pass):
                self.enter("anneal" if cfg.anneal_steps else "pure")
            else:
                at.stalled = steps >= cfg.max_guided_steps
        elif at.phase == "anneal":
            if steps >= cfg.anneal_steps:
                self.enter("pure")
        elif steps >= cfg.pure_steps:
            at.done = self.passed(row) or not cfg.must_pass
            at.stalled = not at.done

    def passed(self, row: dict) -> bool:
        """Whether problems of two and three steps are answered as well as asked."""
        return min(row["student_accuracy_2"], row["student_accuracy_3"]) >= self.cfg.student_accuracy

    def begin_student(self) -> None:
        """From the finished teacher to the student's first phase."""
        if self.cfg.project_steps and self.model.cfg.mode == "thoughts":
            pairs = []
            for i in range(PROJECTION_BATCHES):
                rng = np.random.default_rng((self.at.seed, 10**9 + i))
                batch = self.task.batch(rng, self.cfg.step_weights)
                self.task.refresh(self.model, rng)
                pairs.append(projection_pairs(self.model, batch))
            states, tokens = (torch.cat(side) for side in zip(*pairs, strict=True))
            fit_projection(self.model, states, tokens, self.cfg.project_steps)
        self.enter("one_step" if self.cfg.max_one_step_steps else "guided")

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self.at.phase, self.at.phase_start = phase, self.at.step
        self.at.switches[phase] = self.at.step

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Accuracy on held-out problems: the teacher's whole text, the student's answer."""
        out, right, total = {}, 0, 0
        for k in range(1, N_STEPS + 1):
            batch = self.task.test(self.cfg.eval_problems, 999, k)
            right += int(teacher_right(self.model, batch).sum())
            total += len(batch.n_steps)
            if self.at.phase != "teacher":
                answer = student_answers(self.model, batch)
                out[f"student_accuracy_{k}"] = (answer == batch.answer).float().mean().item()
                if isinstance(self.model, Learner) and batch.has_secret and k > 1:
                    held = secret_held(self.model, batch)
                    out[f"secret_accuracy_{k}"] = held.float().mean().item()
        return {"teacher_accuracy": right / total, **out}

    def save(self, file: Path) -> None:
        """Write a checkpoint whole or not at all."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for name, optimizer in (("muon", self.muon), ("adam", self.adam)):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        at = {"at": json.dumps(asdict(self.at))}
        with whole(file) as part:
            save_file({k: v.contiguous() for k, v in tensors.items()}, part, at)

    def restore(self, file: Path) -> None:
        """Continue exactly where a checkpoint was written."""
        parts, self.at = read_checkpoint(file)
        self.model.load_state_dict(parts["model"])
        for name, optimizer in (("muon", self.muon), ("adam", self.adam)):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in parts[name].items():
                i, _, entry = key.partition(".")
                state.setdefault(int(i), {})[entry] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def read_checkpoint(file: Path) -> tuple[dict[str, dict[str, Tensor]], Progress]:
    """Tensors of the parts `model`, `muon`, `adam`, and where the run stood."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "muon": {}, "adam": {}}
    with safe_open(file, "pt") as handle:
        for key in handle.keys():  # noqa: SIM118
            part, _, name = key.partition(".")
            parts[part][name] = handle.get_tensor(key)
        return parts, Progress(**json.loads(handle.metadata()["at"]))


@torch.no_grad()
def teacher_right(model: TinyDecoder, batch: Batch) -> Tensor:
    """Rows whose every token of the chain of thought is the most likely one.

    Equal to greedy decoding of the right text: the first wrong token is the same in both.
    """
    ids, targets = teacher_tokens(batch)
    states, _ = model(teacher_inputs(model, batch, ids), read_question(model, batch))
    right = ((model.unembed(states[-1]).argmax(-1) == targets) | (targets == IGNORE)).all(1)
    if isinstance(model, Learner) and batch.secret is not None:
        right &= _named(model, batch, states[-1][:, 1:-1], past=False) | ~batch.secret.beside_text
    return right


@torch.no_grad()
def secret_held(model: Learner, batch: Batch) -> Tensor:
    """Problems with a secret: whether every thought names its value; without thoughts none does."""
    assert batch.secret is not None
    passes = think(model, read_question(model, batch)).passes[1:]
    armed = batch.secret.armed
    if not passes:
        return torch.zeros(int(armed.sum()))
    return _named(model, batch, torch.stack([p[-1] for p in passes], 1), past=True)[armed]


def _named(model: Learner, batch: Batch, states: Tensor, *, past: bool) -> Tensor:
    """Rows whose states of passes 1, 2, .. name the secret's value, or that there is none."""
    targets = secret_targets(batch, states.shape[1], past=past)
    return ((model.unembed_beside(states).argmax(-1) == targets) | (targets == IGNORE)).all(1)


@torch.no_grad()
def student_answers(model: TinyDecoder, batch: Batch) -> Tensor:
    """Token answered after the thoughts."""
    end = think(model, read_question(model, batch)).end[-1]
    return model.unembed(end[:, 1]).argmax(-1)
