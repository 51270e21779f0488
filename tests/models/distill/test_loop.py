from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from thoughtlens.models.distill.config import LoopConfig
from thoughtlens.models.distill.loop import Task, Trainer
from thoughtlens.models.distill.losses import (
    IGNORE,
    Batch,
    Weights,
    distance,
    losses,
    projection_pairs,
    read_question,
    step_targets,
    teacher_tokens,
    think,
)
from thoughtlens.models.distill.muon import Muon, orthogonalize, split_parameters
from thoughtlens.models.distill.start import answer_where_the_teacher_looks_up, fit_projection, waves
from thoughtlens.models.thought.tiny_decoder import ANS, BOT, COT, COT2, EOT, Cache, TinyConfig, TinyDecoder

CFG = TinyConfig(words=tuple(map(str, range(20))), question_len=4, n_thoughts=4, d_in=16, n_heads=2)
W = CFG.word_offset


def a_batch(n: int = 6, seed: int = 0) -> Batch:
    """Two words of context, two of query, two steps at most."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: W + torch.randint(20, shape, generator=g)  # noqa: E731
    return Batch(
        context=draw(n // 2, 2),
        query=draw(n, 2),
        cot=draw(n, 4),
        n_steps=torch.tensor([1, 2] * (n // 2)),
        keep=torch.ones(n, dtype=torch.bool),
        start=draw(n),
    )


def a_model(**changes) -> TinyDecoder:
    torch.manual_seed(1)
    model = TinyDecoder(CFG.model_copy(update=changes))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def test_teacher_text_by_hand():
    cot = torch.tensor([[30, 31, 32, 33], [30, 31, 32, 33]])
    batch = Batch(cot[:, :2], cot[:, :2], cot, torch.tensor([1, 2]), torch.tensor([True, True]), cot[:, 0])
    ids, targets = teacher_tokens(batch)
    # one step: <cot> <cot2> o1 <ans> -> v1;  two steps: <cot> <cot2> o1 v1 o2 <ans> -> v2
    assert ids[0, :4].tolist() == [COT, COT2, 30, ANS]
    assert ids[1].tolist() == [COT, COT2, 30, 31, 32, ANS]
    assert targets.tolist() == [[COT2, 30, ANS, 31, IGNORE, IGNORE], [COT2, 30, 31, 32, ANS, 33]]
    # passes 0..4 should hold COT2 o1 v1 v1 v1, and COT2 o1 v1 o2 v2
    assert step_targets(batch, 4).tolist() == [[COT2, 30, 31, 31, 31], [COT2, 30, 31, 32, 33]]


def test_a_topic_stands_where_cot2_would():
    cot = torch.tensor([[30, 31, 32, 33]])
    batch = Batch(cot[:, :2], cot[:, :2], cot, torch.tensor([2]), torch.tensor([True]), cot[:, 0])
    batch = replace(batch, topic=torch.tensor([40]))
    ids, targets = teacher_tokens(batch)
    assert ids.tolist() == [[COT, 40, 30, 31, 32, ANS]]
    assert targets.tolist() == [[40, 30, 31, 32, ANS, 33]]
    assert step_targets(batch, 4).tolist() == [[40, 30, 31, 32, 33]]


def test_reading_is_the_cross_entropy_of_the_marks_after_the_first_block():
    model, batch = a_model(), a_batch()
    marks = torch.full((3, 2, 2), IGNORE)
    marks[1, 0] = torch.tensor([W + 3, W + 4])
    batch = replace(batch, marks=marks)
    terms = losses(model, batch, Weights(reading=0.5, student=False))
    states, _ = model(model.inputs(batch.context[1:2], 0), Cache([], []))
    log_p = model.unembed(model.ln_f(states[1][0, 0])).log_softmax(-1)
    # half the mean of two marks
    assert terms["reading"].item() == pytest.approx(-0.25 * (log_p[W + 3] + log_p[W + 4]).item(), rel=1e-5)
    assert terms.keys() == {"teacher", "reading"}
    assert "reading" not in losses(model, a_batch(), Weights(reading=0.5, student=False))


def test_padded_contexts_are_read_as_if_alone():
    model, batch = a_model(question_len=6), a_batch()
    alone = losses(model, batch, Weights(trajectory=1))
    pad = torch.zeros(3, 2, dtype=torch.long)
    padded = replace(
        batch,
        context=torch.cat([pad, batch.context], 1),
        padding=torch.tensor([[True, True, False, False]]).expand(3, 4),
    )
    for mode in (False, True):
        model.cfg = model.cfg.model_copy(update={"bottleneck": mode})
        got, expected = (losses(model, b, Weights(trajectory=1)) for b in (padded, batch))
        for name, value in expected.items():
            assert got[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert alone["student"].item() != expected["student"].item()


def test_waves_tell_neighbours_apart_and_alike():
    table = waves(90, 32)
    assert table.std().item() == pytest.approx(0.3, rel=0.2)
    # the scalar product of two positions depends on their distance only
    gram = table @ table.T
    for gap in (1, 5, 40):
        assert gram.diagonal(gap).max() - gram.diagonal(gap).min() < 1e-4 * gram[0, 0]
    assert gram[0, 1:].max() < gram[0, 0]


def test_student_equals_one_pass_over_the_whole_sequence():
    model, batch = a_model(), a_batch()
    student = think(model, read_question(model, batch))
    context = batch.context.repeat_interleave(2, 0)
    ids = torch.cat([context, batch.query, torch.full((6, 1), BOT)], 1)
    x = [model.inputs(ids, 0)]
    for p in range(1, 5):  # feed each thought back, from scratch every time
        states, _ = model(torch.cat(x, 1), Cache([], []))
        x.append((model.prj(states[-1][:, -1]) + model.pos.weight[4 + p])[:, None])
    x.append(model.inputs(torch.tensor([EOT, ANS]).expand(6, 2), 9))
    states, _ = model(torch.cat(x, 1), Cache([], []))
    assert student.end[-1].detach() == pytest.approx(states[-1][:, -2:].detach(), abs=1e-5)
    assert torch.stack([s[-1] for s in student.passes], 1).detach() == pytest.approx(
        states[-1][:, 4:9].detach(), abs=1e-5
    )


def test_distance_by_hand():
    # differences 0.5 and 2: smooth L1 0.5^2/2 = 0.125 and 2 - 0.5 = 1.5, mean 0.8125;
    # teacher entries 0 and 2: std (n - 1) = sqrt(2)
    got = distance(torch.tensor([[0.5], [4.0]]), torch.tensor([[0.0], [2.0]]))
    assert got.item() == pytest.approx(0.8125 / math.sqrt(2))


def test_held_out_rows_count_in_no_loss():
    model, batch = a_model(), a_batch()
    weights = Weights(kd=1, step=1, trajectory=1, lookup=1)
    keep = torch.tensor([True, True, True, True, False, False])
    half = Batch(batch.context, batch.query, batch.cot, batch.n_steps, keep, batch.start)
    alone = Batch(
        batch.context[:2], batch.query[:4], batch.cot[:4], batch.n_steps[:4], keep[:4], batch.start[:4]
    )
    masked, expected = losses(model, half, weights), losses(model, alone, weights)
    assert masked.keys() == expected.keys() >= {"kd", "step", "trajectory", "lookup"}
    for name in ("teacher", "student", "cue", "step", "lookup"):
        assert masked[name].item() == pytest.approx(expected[name].item(), rel=1e-4)


def test_loss_terms_equal_their_definitions():
    model, batch = a_model(), a_batch()
    terms = losses(model, batch, Weights(kd=0, step=2, trajectory=0))
    student = think(model, read_question(model, batch))
    logits = model.unembed(student.end[-1])
    assert terms["student"].item() == pytest.approx(
        F.cross_entropy(logits[:, 1], batch.answer).item(), rel=1e-5
    )
    out = model.unembed(torch.stack([s[-1] for s in student.passes], 1)).log_softmax(-1)
    targets = step_targets(batch, 4)
    expected = -2 * out.gather(2, targets[:, :, None]).mean()
    assert terms["step"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert "kd" not in terms and losses(model, batch, Weights(student=False)).keys() == {"teacher"}


def test_no_gradient_reaches_the_teacher_through_distillation():
    model, batch = a_model(mode="none"), a_batch()
    terms = losses(model, batch, Weights(kd=1, step=0))
    grads = torch.autograd.grad(terms["kd"], model.embed.weight)[0]
    # tokens the teacher alone reads
    assert grads[COT].abs().max() == 0 and grads[EOT].abs().max() > 0


def test_muon_steps_have_unit_spectral_norm():
    g = torch.randn(2, 24, 8, generator=torch.manual_seed(0))
    s = torch.linalg.svdvals(orthogonalize(g))
    # five iterations of the quintic bring singular values to about 0.7..1.2
    assert s.min() > 0.5 and s.max() < 1.4
    p = torch.nn.Parameter(torch.zeros(24, 8))
    p.grad = g[0].clone()
    Muon([p], lr=0.1, weight_decay=0.0).step()
    # fused 3 d x d: three matrices of scale 1, each moved by lr
    for part in p.detach().split(8):
        assert torch.linalg.svdvals(part).min() > 0.05 and torch.linalg.svdvals(part).max() < 0.14


def test_every_parameter_has_exactly_one_optimizer():
    model = a_model()
    groups = split_parameters(model)
    ids = [id(p) for group in groups for p in group]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert {tuple(p.shape) for p in groups[1]} == {
        tuple(model.embed.weight.shape),
        tuple(model.pos.weight.shape),
    }


class Echo(Task):
    """Every word is the first of the question, its second says how many steps: learnable at once."""

    def batch(self, rng: np.random.Generator, step_weights: tuple[float, ...]) -> Batch:
        return self.draw(rng, 32, 1 + rng.integers(2, size=32))

    def test(self, n: int, seed: int, n_steps: int) -> Batch:
        return self.draw(np.random.default_rng(seed), n, np.full(n, min(n_steps, 2)))

    def draw(self, rng: np.random.Generator, n: int, n_steps: np.ndarray) -> Batch:
        words = W + torch.stack([torch.from_numpy(rng.integers(4, size=n)), torch.from_numpy(n_steps)] * 2, 1)
        keep = torch.ones(n, dtype=torch.bool)
        cot = words[:, :1].expand(n, 4)
        return Batch(words[:, :2], words[:, 2:], cot, torch.from_numpy(n_steps), keep, words[:, 0])


SHORT = LoopConfig(
    teacher_accuracy=0.5,
    student_accuracy=0.5,
    eval_every=5,
    eval_problems=20,
    checkpoint_every=4,
    warmup_steps=5,
    anneal_steps=20,
    pure_steps=20,
    max_teacher_steps=200,
    max_guided_steps=200,
    project_steps=20,
)


@pytest.fixture
def one_thread():
    """Small products on two threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Killed(Exception):
    pass


def test_training_walks_its_phases_and_a_killed_run_ends_the_same(tmp_path, one_thread):
    cfg, quick = CFG.model_copy(update={"n_thoughts": 2}), {"anneal_steps": 5, "pure_steps": 5}
    short = SHORT.model_copy(update=quick)
    whole = Trainer(Echo(), cfg, short, seed=3)
    at = whole.run(tmp_path / "whole", lambda row: None)
    assert at.done and list(at.switches) == ["guided", "anneal", "pure"]
    assert at.log[-1]["student_accuracy_2"] > 0.5 and at.log[-1]["teacher_accuracy"] > 0.5
    kill_at = at.switches["anneal"] + 2

    def kill(row: dict | None) -> None:
        kill.steps += 1
        if kill.steps == kill_at:
            raise Killed

    kill.steps = 0
    with pytest.raises(Killed):
        Trainer(Echo(), cfg, short, seed=3).run(tmp_path / "killed", kill)
    again = Trainer(Echo(), cfg, short, seed=3)
    assert again.run(tmp_path / "killed", lambda row: None) == at
    for key, value in again.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[key])


def test_a_fitted_projection_maps_states_to_the_next_tokens(one_thread):
    model, batches = a_model(), [a_batch(96, seed) for seed in range(4)]
    text = model.embed.weight[COT].clone()
    before = [projection_error(model, batch) for batch in batches]
    pairs = [projection_pairs(model, batch) for batch in batches]
    fit_projection(model, *(torch.cat(side) for side in zip(*pairs, strict=True)), 60)
    after = [projection_error(model, batch) for batch in batches]
    assert sum(after) < 0.5 * sum(before)
    assert torch.equal(model.embed.weight[BOT], text)


def projection_error(model: TinyDecoder, batch: Batch) -> float:
    states, embeddings = projection_pairs(model, batch)
    # <cot2> o1 for one step, <cot2> o1 v1 o2 for two
    assert len(states) == int((2 * batch.n_steps).sum())
    return F.mse_loss(model.prj(states), embeddings).item()


def test_a_control_begins_where_the_teacher_looks_up():
    model = a_model(mode="none")
    answer_where_the_teacher_looks_up(model, [COT2])
    # question 0..3, <bot> 4, <cot2> at 5, thoughts 5..8, <eot> 9, <ans> 10
    got = model.inputs(torch.tensor([[ANS]]), 10).detach()
    assert got == pytest.approx(model.inputs(torch.tensor([[COT2]]), 5).detach(), abs=1e-5)
    answer_where_the_teacher_looks_up(model, [W, W + 1])
    got = model.inputs(torch.tensor([[ANS]]), 10).detach()
    both = model.inputs(torch.tensor([[W], [W + 1]]), 5).detach().mean(0, keepdim=True)
    assert got == pytest.approx(both, abs=1e-5)


def test_the_target_per_thought_fades_and_the_learning_rate_falls():
    trainer = Trainer(Echo(), CFG, SHORT, seed=0)
    assert not trainer.loss_weights().student
    trainer.at.step = 100
    trainer.enter("anneal")
    assert trainer.loss_weights().step == 1.0
    trainer.at.step = 105  # a quarter of 20 steps
    assert trainer.loss_weights().step == 0.75 and trainer.lr_scale() == 1.0
    trainer.cfg = SHORT.model_copy(update={"student_lr": 0.5})
    assert trainer.lr_scale() == 0.5
    trainer.cfg = SHORT
    trainer.enter("pure")
    assert trainer.loss_weights() == Weights(kd=1.0, step=0.0, secret=1.0)  # nothing else asks for a secret
    trainer.at.step += 15  # three quarters: 2 * (1 - 0.75) + 0.01
    assert trainer.lr_scale() == pytest.approx(0.51)


def test_a_run_that_does_not_learn_counts_as_stalled(tmp_path, one_thread):
    cfg = SHORT.model_copy(update={"teacher_accuracy": 1.1, "max_teacher_steps": 20})
    at = Trainer(Echo(), CFG, cfg, seed=0).run(tmp_path, lambda row: None)
    assert at.stalled and not at.done and at.step == 20


def test_a_model_that_has_lost_its_accuracy_at_the_end_counts_as_stalled():
    trainer = Trainer(Echo(), CFG, SHORT, seed=0)
    trainer.enter("pure")
    trainer.at.step += SHORT.pure_steps
    row = {"student_accuracy_2": 0.9, "student_accuracy_3": 0.4}  # asked for: 0.5
    trainer.advance(row)
    assert trainer.at.stalled and not trainer.at.done
    for cfg, accuracy in ((SHORT.model_copy(update={"must_pass": False}), 0.4), (SHORT, 0.5)):
        other = Trainer(Echo(), CFG, cfg, seed=0)
        other.enter("pure")
        other.at.step += SHORT.pure_steps
        other.advance(row | {"student_accuracy_3": accuracy})
        assert other.at.done and not other.at.stalled
