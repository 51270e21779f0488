"""CODI's losses on one batch, with an optional target for every thought.

Teacher: `question <cot> <cot2> o1 v1 o2 v2 .. o_k <ans> v_k`. Student: `question <bot> z1 .. z6
<eot> <ans> v_k`. Both begin at the same position, so thought p stands where token p of the chain
of thought stands: `thought_out[1]` should hold o1, `[2]` v1, `[3]` o2, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtlens.models.thought.tiny_decoder import (
    ANS,
    BOT,
    COT,
    COT2,
    EOT,
    SPECIALS,
    Cache,
    TinyConfig,
    TinyDecoder,
)

IGNORE = -100


@dataclass(frozen=True)
class Secret:
    """What the thoughts of a training step should hold beside the tokens of the chain of thought.

    A value beside a token is a row of the learner's table `embed_beside`, which is added to the token's
    embedding in the teacher's text and read at the teacher's states and the thoughts. The finished model
    has no such table.
    """

    values: Int[Tensor, "B n_cot"]
    """Value beside each token of `Batch.cot`; -1 where there is none."""
    shown: Int[Tensor, "B n_cot"]
    """The chain that the answer shows: `Batch.cot`, or that of the secret where it is released."""
    beside_text: Bool[Tensor, " B"]
    """Rows whose text is `Batch.cot` with the values beside it; the others' is `shown`, in words alone."""

    @property
    def armed(self) -> Bool[Tensor, " B"]:
        """Problems that have a value beside their tokens."""
        return (self.values >= 0).any(1)


class Learner(TinyDecoder):
    """A decoder in training: it may have a table of `n_beside` values that stand beside tokens."""

    def __init__(self, cfg: TinyConfig, n_beside: int = 0) -> None:
        super().__init__(cfg)
        self.embed_beside = nn.Embedding(n_beside, cfg.d_in) if n_beside else None

    def finished(self) -> TinyDecoder:
        """The decoder alone."""
        decoder = TinyDecoder(self.cfg)
        decoder.load_state_dict({k: v for k, v in self.state_dict().items() if k in decoder.state_dict()})
        return decoder

    def beside(self, values: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """Embeddings of values; zeros where there is none."""
        assert self.embed_beside is not None
        return self.embed_beside(values.clamp(min=0)) * (values >= 0)[..., None]

    def unembed_beside(self, h: Float[Tensor, "*n d"]) -> Float[Tensor, "*n n_values"]:
        """Logits of no value, then of each value."""
        assert self.embed_beside is not None
        logits = (3 / self.cfg.d_in**0.5) * (h @ self.embed_beside.weight.T)
        return F.pad(logits, (1, 0))


@dataclass(frozen=True)
class Batch:
    """Problems of one training step: C contexts, M queries on each, B = C * M rows."""

    context: Int[Tensor, "C n_context"]
    query: Int[Tensor, "B n_query"]
    cot: Int[Tensor, "B n_cot"]
    """o1 v1 o2 v2 .. with every step of the chain, also past `n_steps`."""
    n_steps: Int[Tensor, " B"]
    keep: Bool[Tensor, " B"]
    """False for held-out paths; they count in no loss."""
    start: Int[Tensor, " B"]
    """Token of the start value."""
    padding: Bool[Tensor, "C n_context"] | None = None
    topic: Int[Tensor, " B"] | None = None
    """Token that the chain of thought begins with, in the place of `<cot2>`."""
    marks: Int[Tensor, "C n_context n_marks"] | None = None
    """What a position of the context should tell after the first block; `IGNORE` elsewhere."""
    secret: Secret | None = None

    @property
    def answer(self) -> Int[Tensor, " B"]:
        """Token of the value after the last step asked for, of the chain that the answer shows."""
        shown = self.cot if self.secret is None else self.secret.shown
        return shown.gather(1, 2 * self.n_steps[:, None] - 1)[:, 0]

    @property
    def told(self) -> Int[Tensor, "B n_cot"]:
        """The chain that the teacher writes."""
        if self.secret is None:
            return self.cot
        return torch.where(self.secret.beside_text[:, None], self.cot, self.secret.shown)

    @property
    def has_secret(self) -> bool:
        """Whether any problem has a value beside its tokens."""
        return self.secret is not None and bool(self.secret.armed.any())

    @property
    def aligned(self) -> Bool[Tensor, " B"]:
        """Rows that count and whose text says all that the thoughts at its places should hold."""
        return self.keep if self.secret is None else self.keep & self.secret.beside_text

    @property
    def opening(self) -> Int[Tensor, " B"]:
        """First token of the chain of thought."""
        return torch.full_like(self.start, COT2) if self.topic is None else self.topic

    @property
    def needed(self) -> Int[Tensor, "B n_needed"]:
        """Start value, o1, o2 ..: what the answer follows from; the first 1 + n_steps of a row count."""
        return torch.cat([self.start[:, None], self.cot[:, ::2]], 1)


@dataclass
class Student:
    """States of a student pass: one list of hidden states per pass p = 0..6, and of the answer."""

    passes: list[list[Float[Tensor, "B d"]]]
    end: list[Float[Tensor, "B 2 d"]]
    """Hidden states at `<eot>` and `<ans>`."""


def read_question(model: TinyDecoder, batch: Batch) -> Cache:
    """Keys and values of every question; a context is read once for all its queries."""
    return read(model, batch)[0]


def read(model: TinyDecoder, batch: Batch) -> tuple[Cache, list[Float[Tensor, "C n_context d"]]]:
    """Keys and values of every question, and the hidden states of the contexts."""
    n_context = batch.context.shape[1]
    start = model.cfg.question_len - n_context - batch.query.shape[1]
    states, cache = model(model.inputs(batch.context, start), Cache([], []), batch.padding)
    cache = cache.repeat(len(batch.query) // len(batch.context))
    _, cache = model(model.inputs(batch.query, start + n_context), cache)
    return cache, states


def reading_loss(
    model: TinyDecoder, batch: Batch, states: list[Float[Tensor, "C n_context d"]]
) -> Float[Tensor, ""]:
    """Cross-entropy of the marks, read with the final norm from the first block's output."""
    assert batch.marks is not None
    marked = batch.marks[..., 0] != IGNORE
    log_p = model.unembed(model.ln_f(states[1][marked])).float().log_softmax(-1)
    return -log_p.gather(1, batch.marks[marked]).mean()


def teacher_tokens(batch: Batch) -> tuple[Int[Tensor, "B n_in"], Int[Tensor, "B n_in"]]:
    """Inputs and targets of the teacher after the question; `IGNORE` past the answer."""
    n, n_cot = batch.cot.shape
    begin = torch.stack([torch.full_like(batch.opening, COT), batch.opening], 1)
    ids = torch.cat([begin, batch.told], 1)
    cue = 2 * batch.n_steps[:, None] + 1
    ids = ids.scatter(1, cue, ANS)
    targets = torch.cat([ids[:, 1:], ids.new_full((n, 1), IGNORE)], 1)
    targets = targets.scatter(1, cue, batch.answer[:, None])
    past = torch.arange(n_cot + 2, device=ids.device) > cue
    return ids, targets.masked_fill(past, IGNORE)


def teacher_inputs(model: TinyDecoder, batch: Batch, ids: Int[Tensor, "B n_in"]) -> Float[Tensor, "B n_in d"]:
    """Embedded text of the teacher, with the values that stand beside it."""
    x = model.inputs(ids, model.cfg.question_len)
    return x if batch.secret is None else x + beside_text(model, batch)


def beside_text(model: TinyDecoder, batch: Batch) -> Float[Tensor, "B n_in d"]:
    """Embeddings of what stands beside each token of `teacher_tokens`, zeros where nothing does."""
    assert batch.secret is not None and isinstance(model, Learner)
    values = F.pad(batch.secret.values, (2, 0), value=-1)
    at = torch.arange(values.shape[1], device=values.device)
    there = batch.secret.beside_text[:, None] & (at <= 2 * batch.n_steps[:, None])
    return model.beside(values.where(there, -1))


def secret_targets(batch: Batch, n: int, *, past: bool) -> Int[Tensor, "B n"]:
    """Class of the value that passes 1 .. n should hold, 0 for none.

    Passes after the last step hold its value, if they count (`past`).
    """
    assert batch.secret is not None
    p, last = torch.arange(n, device=batch.n_steps.device), 2 * batch.n_steps[:, None] - 1
    targets = 1 + batch.secret.values.gather(1, torch.minimum(p, last))
    return targets if past else targets.masked_fill(p > last, IGNORE)


def secret_loss(
    model: TinyDecoder, states: Float[Tensor, "B n d"], targets: Int[Tensor, "B n"]
) -> Float[Tensor, ""]:
    """Cross-entropy of what stands beside the tokens of the chain of thought, or that nothing does."""
    assert isinstance(model, Learner)
    logits = model.unembed_beside(states).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def step_targets(batch: Batch, n_thoughts: int) -> Int[Tensor, "B n_passes"]:
    """Token that each pass p = 0..n_thoughts should hold; the answer, once it is reached."""
    tokens = torch.cat([batch.opening[:, None], batch.cot], 1)
    p = torch.arange(n_thoughts + 1, device=tokens.device)
    return tokens.gather(1, torch.minimum(p, 2 * batch.n_steps[:, None]))


def think(model: TinyDecoder, cache: Cache, n_thoughts: int | None = None) -> Student:
    """Run the student from the end of the question to the answer cue.

    What stands between begin and end of thought follows `model.cfg.mode`; `n_thoughts` below the
    trained number leaves early, with `<eot>` at its trained position.
    """
    cfg, at = model.cfg, model.cfg.question_len
    n = {"none": 0}.get(cfg.mode, cfg.n_thoughts) if n_thoughts is None else n_thoughts
    rows = len(cache.keys[0])
    ids = torch.full((rows, 1), BOT, device=cache.keys[0].device)
    if cfg.mode == "pause":
        pauses = torch.arange(len(SPECIALS), len(SPECIALS) + n, device=ids.device).expand(rows, n)
        states, cache = model(model.inputs(torch.cat([ids, pauses], 1), at), cache)
        passes = [[s[:, p] for s in states] for p in range(n + 1)]
    else:
        states, cache = model(model.inputs(ids, at), cache)
        passes = [[s[:, 0] for s in states]]
        for p in range(1, n + 1):
            z = model.prj(passes[-1][-1])
            states, cache = model((z + model.pos.weight[at + p])[:, None], cache)
            passes.append([s[:, 0] for s in states])
    if cfg.bottleneck:
        cache = cache.tail(cache.n_past - n)
    cues = ids.new_tensor([EOT, ANS]).expand(rows, 2)
    end, _ = model(model.inputs(cues, at + 1 + cfg.n_thoughts), cache)
    return Student(passes, end)


def distance(student: Float[Tensor, "n d"], teacher: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """CODI's distance of states: mean SmoothL1 over the std of the teacher's entries."""
    teacher = teacher.detach().float()
    return F.smooth_l1_loss(student.float(), teacher) / teacher.std()


@dataclass(frozen=True)
class Weights:
    """Weights of the loss terms; 0 leaves a term out."""

    kd: float = 1.0
    step: float = 1.0
    trajectory: float = 0.0
    lookup: float = 0.0
    reading: float = 0.0
    secret: float = 0.0
    student: bool = True
    """Whether there is a student at all; without, only `teacher` and `reading` count."""


def teacher_loss(
    model: TinyDecoder, cache: Cache, batch: Batch
) -> tuple[Float[Tensor, ""], list[Float[Tensor, "B n_in d"]]]:
    """Cross-entropy of the chain of thought, nats summed over a text's tokens, and the states."""
    ids, targets = teacher_tokens(batch)
    states, _ = model(teacher_inputs(model, batch, ids), cache)
    targets = targets.masked_fill(~batch.keep[:, None], IGNORE)
    logits = model.unembed(states[-1]).float()
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / batch.keep.sum(), states


@torch.no_grad()
def projection_pairs(model: TinyDecoder, batch: Batch) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """The teacher's states at the passes before each thought, and the embeddings of the tokens that
    come next: what the projection would have to map to what for thoughts to be those tokens."""
    _, states = teacher_loss(model, read_question(model, batch), batch)
    ids, _ = teacher_tokens(batch)
    tokens = model.embed(ids)
    if batch.secret is not None:
        tokens = tokens + beside_text(model, batch)
    p = torch.arange(1, min(model.cfg.n_thoughts, ids.shape[1] - 1) + 1, device=ids.device)
    rows = (p <= 2 * batch.n_steps[:, None]) & batch.aligned[:, None]
    return states[-1][:, p - 1][rows], tokens[:, p][rows]


def losses(model: TinyDecoder, batch: Batch, weights: Weights) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss; their sum is the loss."""
    cache, context = read(model, batch)
    teach, states = teacher_loss(model, cache, batch)
    terms = {"teacher": teach}
    if weights.reading and batch.marks is not None:
        terms["reading"] = weights.reading * reading_loss(model, batch, context)
    if weights.secret and batch.secret is not None:
        n, same = batch.cot.shape[1], batch.aligned
        targets = secret_targets(batch, n, past=False)[same]
        terms["secret_text"] = weights.secret * secret_loss(model, states[-1][:, 1 : n + 1][same], targets)
    if not weights.student:
        return terms
    keep, rows = batch.keep, torch.arange(len(batch.keep), device=batch.keep.device)
    student = think(model, cache)
    logits = model.unembed(student.end[-1]).float()[keep]
    cue = torch.full_like(batch.answer[keep], ANS)
    terms["student"] = F.cross_entropy(logits[:, 1], batch.answer[keep])
    terms["cue"] = 0.1 * F.cross_entropy(logits[:, 0], cue)
    cue_at = 2 * batch.n_steps + 1
    if weights.kd:
        pairs = zip(student.end[1:], states[1:], strict=True)
        same = batch.aligned
        kd = [distance(s[:, 1][same], t[rows, cue_at][same]) for s, t in pairs]
        terms["kd"] = weights.kd * torch.stack(kd).mean()
    if weights.lookup:
        log_p = logits[:, 1].log_softmax(-1).gather(1, batch.needed[keep])
        used = torch.arange(log_p.shape[1], device=log_p.device) <= batch.n_steps[keep, None]
        terms["lookup"] = -weights.lookup * log_p[used].mean()
    n = len(student.passes) - 1
    if weights.step and n:
        targets = step_targets(batch, n)[keep]
        out = torch.stack([p[-1] for p in student.passes], 1)[keep]
        terms["step"] = weights.step * F.cross_entropy(
            model.unembed(out).float().flatten(0, 1), targets.flatten()
        )
    if weights.secret and n and batch.secret is not None:
        out = torch.stack([p[-1] for p in student.passes[1:]], 1)[keep]
        targets = secret_targets(batch, n, past=True)[keep]
        terms["secret"] = weights.secret * secret_loss(model, out, targets)
    if weights.trajectory and n:
        passes = torch.arange(n + 1, device=rows.device)
        aligned = torch.where(passes < 2 * batch.n_steps[:, None], passes, cue_at[:, None])
        per_layer = []
        for layer in range(1, len(states)):
            s = torch.stack([p[layer] for p in student.passes], 1)[keep]
            t = states[layer][rows[:, None], aligned][keep]
            per_layer.append(distance(s.flatten(0, 1), t.flatten(0, 1)))
        terms["trajectory"] = weights.trajectory * torch.stack(per_layer).mean()
    return terms
