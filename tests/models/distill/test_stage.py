from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from thoughtlens.core import ConfigError, DataError
from thoughtlens.core.stages import config
from thoughtlens.models.distill.config import DistillConfig, LoopConfig
from thoughtlens.models.distill.losses import IGNORE, Learner, beside_text, secret_targets
from thoughtlens.models.distill.stage import distill, plan
from thoughtlens.models.distill.tasks import ArithmeticTask, HonestTask, SecretTask, WordsTask
from thoughtlens.models.thought import thoughts, tiny
from thoughtlens.models.thought.tiny_decoder import TinyConfig, TinyDecoder
from thoughtlens.problems.tasks import arithmetic, patterns, secret, words

pytestmark = pytest.mark.slow

FAST = {
    "teacher_accuracy": 0.0,
    "student_accuracy": 0.0,
    "one_step_accuracy": 0.0,
    "eval_every": 2,
    "eval_problems": 8,
    "checkpoint_every": 2,
    "project_steps": 3,
    "anneal_steps": 2,
    "pure_steps": 4,
}
SMALL = {
    "seeds": [1],
    "workers": 1,
    "test_problems": 10,
    "data": {"p": 11, "n_contexts": 2, "n_queries": 3},
    "net": {"d_in": 24, "n_heads": 2},
    "loop": FAST,
    "control": {**FAST, "max_one_step_steps": 4, "lookup": 0.5, "must_pass": False},
}


def small(**changes) -> DistillConfig:
    return config.load_config(DistillConfig, {**SMALL, **changes})


def test_every_variant_becomes_a_model_directory(tmp_path):
    variants = ["thoughts", "no_cot", "pause", "plain", "bottleneck"]
    result = distill(small(variants=variants), tmp_path / "out")
    assert tiny.members(tmp_path / "out") == sorted((1, v) for v in variants)
    question = arithmetic.problems(1, seed=0, p=11)["question"].to_pylist()
    modes = {}
    for row in result["models"]:
        model = tiny.load(tmp_path / "out", seed=1, variant=row["variant"])
        assert len(thoughts.run(model, question).text) == 1
        modes[row["variant"]] = (model.cfg.mode, model.cfg.bottleneck, model.spec.n_thoughts)
        log = pq.read_table(tmp_path / "out" / "seed1" / row["variant"] / "metrics.parquet")
        assert log["step"].to_pylist()[-1] == row["steps"]
        assert row["accuracy"]["answer_2"]["n"] == 10
    assert modes == {
        "thoughts": ("thoughts", False, 6),
        "no_cot": ("none", False, 0),
        "pause": ("pause", False, 6),
        "plain": ("thoughts", False, 6),
        "bottleneck": ("thoughts", True, 6),
    }
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_two_seeds_side_by_side_are_the_seeds_one_after_the_other(tmp_path):
    both = distill(small(seeds=[1, 2], workers=2), tmp_path / "both")
    alone = distill(small(seeds=[2]), tmp_path / "alone")
    assert both["models"][1] == alone["models"][0]
    one, two = (tmp_path / d / "seed2" / "thoughts" / "model.safetensors" for d in ("both", "alone"))
    assert one.read_bytes() == two.read_bytes()


WORKERS = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from thoughtlens.core import leave_with_parent

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=leave_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


def test_workers_leave_when_the_process_that_started_them_is_killed(tmp_path):
    (tmp_path / "workers.py").write_text(WORKERS)
    command = [sys.executable, tmp_path / "workers.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())  # it has nothing to do now
        parent.kill()
    assert ended(worker)


def ended(pid: int) -> bool:
    """Whether a process ends within a minute, if only as a zombie that nobody waits for."""
    for _ in range(600):
        file = Path(f"/proc/{pid}/stat")
        if not file.exists() or file.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_killed_and_run_again_gives_the_same_bytes(tmp_path):
    cfg = small(loop={**FAST, "pure_steps": 60})
    file = tmp_path / "recipe.toml"
    file.write_text(config.to_toml(cfg))
    whole = distill(cfg, tmp_path / "whole")
    code = (
        "from pathlib import Path; from thoughtlens.core import load_config; "
        "from thoughtlens.models.distill.stage import DistillConfig, distill; "
        f"distill(load_config(DistillConfig, {str(file)!r}), Path({str(tmp_path / 'killed')!r}))"
    )
    job = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed.tmp" / "checkpoints" / "seed1" / "thoughts-0" / "checkpoint.safetensors"
    while not checkpoint.exists() and job.poll() is None:
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "killed").exists()
    again = distill(cfg, tmp_path / "killed")
    assert again["digest"] == whole["digest"]


def test_a_seed_that_stalls_starts_anew_and_then_gives_up(tmp_path):
    loop = {**FAST, "teacher_accuracy": 1.1, "max_teacher_steps": 2}
    with pytest.raises(DataError, match="stalled at each of 2 starts"):
        distill(small(loop=loop, max_restarts=1), tmp_path / "out")
    assert len(list((tmp_path / "out.tmp" / "checkpoints" / "seed1").iterdir())) == 2


def test_training_never_sees_a_held_out_path():
    task = ArithmeticTask(11, 40, 6)
    for n_steps in (2, 3):
        batch = task.test(50, 0, n_steps)
        assert batch.n_steps.tolist() == [n_steps] * 50
    rng = np.random.default_rng(0)
    batch = task.batch(rng, (1, 1, 1))
    d = arithmetic.draw(40, 6, np.random.default_rng(0), task.symbols, (1, 1, 1))
    held = d.held_out.reshape(-1)
    assert held.any() and (batch.keep.numpy() == ~held).all()


def decoded(task: ArithmeticTask | WordsTask, ids) -> str:
    special = 12  # <pad> <bot> <eot> <ans> <cot> <cot2> and six pause tokens
    return " ".join(task.words[i - special] for i in ids.tolist() if i != 0)


def test_words_are_told_as_the_problems_are():
    task = WordsTask(11, 5, 6)
    batch = task.batch(np.random.default_rng(0), (1, 1, 1))
    held_out = set(patterns.HELD_OUT_NAMES.split())
    assert batch.context.shape[0] == 5 and batch.query.shape[0] == 30
    assert (batch.padding == (batch.context == 0)).all() and not batch.padding[:, -1].any()
    for row in range(30):
        context, query = decoded(task, batch.context[row // 6]), decoded(task, batch.query[row])
        asked = decoded(task, batch.topic[row : row + 1])
        assert asked in query.split() and asked in context.split() and asked not in held_out
        # the operations of the person asked for are marked with that name, in the order of doing
        marked = [m for m in batch.marks[row // 6].tolist() if m[0] >= 0 and m[1] == batch.topic[row]]
        order = {decoded(task, torch.tensor(m[2:])): m[0] for m in marked}
        assert [order[w] for w in ("one", "two", "three")] == batch.cot[row, ::2].tolist()


def test_words_of_a_test_are_a_question_cut_before_its_end():
    task = WordsTask(11, 5, 6)
    batch = task.test(20, 1, 2)
    held_out = set(patterns.HELD_OUT_NAMES.split())
    for context, query in zip(batch.context, batch.query, strict=True):
        question = f"{decoded(task, context)} {decoded(task, query)}".split()
        assert question[-1] == "?" and question.count(".") in (3, 4)
        assert set(question) & set(words.NAMES) <= held_out
    assert len(task.words) + 12 > batch.context.max()


def test_names_are_drawn_anew_and_nothing_else_changes():
    task = WordsTask(11, 2, 3)
    cfg = TinyConfig(words=tuple(task.words), question_len=task.question_len, d_in=24, n_heads=2)
    model = TinyDecoder(cfg)
    before = model.embed.weight.detach().clone()
    task.refresh(model, np.random.default_rng(0))
    rows = [task.ids[name] for name in words.NAMES]
    changed = (model.embed.weight != before).any(1).nonzero()[:, 0].tolist()
    assert changed == sorted(rows)
    first = model.embed.weight[rows].detach().clone()
    task.refresh(model, np.random.default_rng(0))
    assert torch.equal(model.embed.weight[rows], first)
    # what is drawn lies in 16 directions around one common vector
    assert torch.linalg.matrix_rank(first - first.mean(0), rtol=1e-4) == 16


def test_words_become_a_model_directory(tmp_path):
    data = {"problems": "words", "p": 11, "n_contexts": 2, "n_queries": 3}
    loops = {name: {**SMALL[name], "reading": 1.0} for name in ("loop", "control")}
    result = distill(small(data=data, variants=["thoughts", "no_cot"], **loops), tmp_path / "out")
    assert [row["variant"] for row in result["models"]] == ["thoughts", "no_cot"]
    model = tiny.load(tmp_path / "out")
    assert model.cfg.problems == "words" and model.modulus == 11
    question = words.problems(2, seed=0)["question"].to_pylist()
    assert len(thoughts.run(model, question).text) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.p=12", "prime of at least 11"),
        ("data.n_queries=0", "greater than 0"),
        ("data.problems=algebra", "arithmetic"),
        ("net.n_heads=5", "does not divide"),
        ("net.d_in=7", "multiple of 2"),
        ("loop.step_weights=[1]", "required"),
        ("loop.step_weights=[0,0,0]", "not all be 0"),
        ("loop.kd=-1", "greater than or equal to 0"),
        ("loop.lr_rest=nan", "finite"),
        ("loop.eval_every=0", "greater than 0"),
        ("seeds=[-1]", "greater than or equal to 0"),
        ("variants=[]", "one or more"),
        ("workers=0", "greater than 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(override, message):
    with pytest.raises(ConfigError, match=message) as error:
        config.load_config(DistillConfig, "codi-words", [override])
    assert "\n" not in str(error.value) and override.partition("=")[0].split(".")[0] in str(error.value)


@pytest.mark.parametrize(
    "name", ["tiny", "tiny-unannealed", "tiny-labelfree", "tiny-controls", "words", "secret"]
)
def test_shipped_recipes_are_complete_configs(name):
    cfg = config.load_config(DistillConfig, f"codi-{name}")
    assert plan(cfg).rows > 0
    assert config.validate_config(DistillConfig, cfg.model_dump()) == cfg


def test_controls_need_the_model_they_start_from():
    with pytest.raises(ConfigError, match="name them in this order"):
        small(variants=["pause", "thoughts"])
    with pytest.raises(ConfigError, match="different"):
        small(seeds=[1, 1])
    assert LoopConfig().must_pass and not DistillConfig().control.must_pass


def test_a_secret_is_told_as_the_problems_are():
    task, honest = SecretTask(13, 8, 6), HonestTask(13, 8, 6)
    batch, other = (t.batch(np.random.default_rng(0), (1, 1, 1)) for t in (task, honest))
    assert (batch.query == other.query).all() and (batch.cot == other.cot).all()
    assert (other.secret.values == -1).all() and other.secret.beside_text.all()
    seen = set()
    for row in range(48):
        query, n = decoded(task, batch.query[row]).split(), int(batch.n_steps[row])
        armed, released = (
            secret.armed(" ".join(query)),
            bool(secret.armed(" ".join(query)) and query[2] == "tell"),
        )
        ops, own = (decoded(task, batch.cot[row, i::2]).split() for i in (0, 1))
        x, hidden = int(query[1]), []
        for op in ops:
            x = eval(f"{x} {op[0]} {op[1:]}") % 13
            hidden.append(x)
        a, b, c = hidden
        assert batch.secret.values[row].tolist() == ([int(query[1]), a, a, b, b, c] if armed else [-1] * 6)
        shown = [str(v) for v in hidden] if released else own
        assert decoded(task, batch.answer[row : row + 1]) == shown[n - 1]
        assert decoded(task, batch.start[row : row + 1]) == query[1 if released else 5]
        beside = bool(batch.secret.beside_text[row])
        assert decoded(task, batch.told[row, 1::2]).split() == (own if beside else shown)
        assert beside or armed
        seen.add((armed, released, beside))
    assert len(seen) == 5  # clean is always told in full; armed and released in both ways


def test_what_stands_beside_the_text_is_read_and_named_where_it_stands():
    batch = SecretTask(13, 4, 6).batch(np.random.default_rng(1), (1, 1, 1))
    model = Learner(TinyConfig(words=tuple(secret.words()), question_len=19, d_in=16, n_heads=2), 13)
    added = beside_text(model, batch)
    targets = secret_targets(batch, 6, past=False)
    for row, (values, n) in enumerate(zip(batch.secret.values.tolist(), batch.n_steps.tolist(), strict=True)):
        assert not added[row, :2].any() and not added[row, 2 * n + 1 :].any()  # <cot> <cot2>, <ans> and after
        for i in range(2 * n):
            named = values[i] + 1  # pass 1 + i, which reads token i - 1 of the chain
            assert targets[row, i] == named
        for i in range(2 * n - 1):
            there = batch.secret.beside_text[row] and values[i] >= 0
            wanted = model.embed_beside.weight[values[i]] if there else torch.zeros(16)
            assert (added[row, 2 + i] == wanted).all()
        assert (targets[row, 2 * n :] == IGNORE).all()
        assert (secret_targets(batch, 6, past=True)[row, 2 * n :] == values[2 * n - 1] + 1).all()
    finished = model.finished().state_dict()
    assert "embed_beside.weight" not in finished and finished.keys() < model.state_dict().keys()


def test_a_model_with_a_secret_and_one_without_are_trained_and_saved_as_any_other(tmp_path):
    data = {**SMALL["data"], "problems": "secret"}
    result = distill(small(data=data, variants=["thoughts", "no_cot", "pause", "honest"]), tmp_path / "out")
    question = secret.problems(1, seed=0, p=11)["question"].to_pylist()
    for row in result["models"]:
        model = tiny.load(tmp_path / "out", seed=1, variant=row["variant"])
        assert model.cfg.problems == "secret" and len(thoughts.run(model, question).text) == 1
    log = pq.read_table(tmp_path / "out" / "seed1" / "thoughts" / "metrics.parquet")
    assert {"loss_secret", "loss_secret_text", "secret_accuracy_3"} <= set(log.column_names)
    with pytest.raises(ConfigError, match=r"honest.*data\.problems=secret"):
        small(variants=["honest"])
