"""A thought model over its problems: all asked-for layers and all thoughts in one go."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.records import Accuracy, Answers
from thoughtlens.acts.extract.source import Chunk, Source, flops
from thoughtlens.acts.store.behind import open_thoughts
from thoughtlens.acts.store.meta import PROBLEMS, USED, StoreMeta
from thoughtlens.acts.store.size import StoreSize
from thoughtlens.core import (
    DTYPES,
    DataError,
    HookError,
    Plan,
    read_json,
    write_json,
)
from thoughtlens.models import (
    CONVENTION,
    OUTSIDE,
    Place,
    ThoughtBatch,
    ThoughtModel,
    block_outputs,
    collect,
    is_right,
    named_positions,
    require_shown,
    tiny,
)
from thoughtlens.numerics import wilson
from thoughtlens.problems import ProblemsConfig
from thoughtlens.problems import source as problem_source

ANSWERS = "answers"
QUESTION_TOKENS, ANSWER_TOKENS = 60, 10
LEAST, SHUFFLES = 10, 20
"""Problems from which on answers are held beside those of other problems, and how often."""


def thought_source(cfg: ExtractConfig, wanted: ProblemsConfig, tmp: Path) -> Source:
    """All thoughts of every problem, and the model's own answers."""
    model = open_thoughts(cfg.model, cfg)
    problems, notes = problem_source.find(tiny.own_problems(wanted, model), cfg.seed)
    n_tokens = _lengths(model, problems)
    places = block_outputs(cfg.hook_names, model.spec.n_layers)
    numbers = _numbers(cfg, model, max(n_tokens, default=0))
    reading: dict[str, str | int | bool | None] = {"dtype": cfg.model.dtype}
    outside = [p for p in numbers if p not in model.spec.thoughts]
    require_shown(model, outside)
    if outside:
        reading["n_thoughts"] = model.spec.n_thoughts
    meta = StoreMeta(
        kind="thoughts",
        model=model.name,
        model_revision=model.revision,
        model_digest=model.digest,
        tokenizer_digest=model.tokenizer_digest,
        hook_names=[place.hook_name for place in places],
        modules={place.hook_name: model.module_path(place.site, place.layer) for place in places},
        d_in={place.hook_name: model.width(place) for place in places},
        dtype=cfg.store_dtype,
        thought_convention=f"{CONVENTION}; {OUTSIDE}" if outside else CONVENTION,
        config_hash=model.config_hash,
        reading=reading,
    )
    asked = _Asked(cfg, model, places, numbers, problems, tmp)
    return Source(
        meta=meta,
        n_rows=len(problems) * sum(p >= 0 for p in numbers)
        + sum(-p <= n for n in n_tokens for p in numbers if p < 0),
        n_thoughts=model.spec.n_thoughts if model.spec.varies else None,
        problems=lambda: with_answers(problems, _read_answers(tmp)),
        listed=lambda: problems,
        chunks=lambda start, share: _chunks(asked, start=start, share=share),
        close=lambda: shutil.rmtree(tmp / ANSWERS, ignore_errors=True),
        splits=tuple(problems["split"].unique().to_pylist()),
        notes=notes + _spaces(model, problems["question"].to_pylist()),
        control=model.spec.control,
        settings=model.settings,
        assumed=model.assumed,
        accuracy=_accuracy,
        doubts=_doubts,
    )


def _numbers(cfg: ExtractConfig, model: ThoughtModel, longest: int) -> list[int]:
    """The positions that give rows, ascending.

    Raises:
        HookError: positions that the model does not have or show; says which there are.
    """
    spec, found = model.spec, set()
    for one in cfg.positions:
        first, last = named_positions(one, spec.n_thoughts, spec.n_cue, longest)
        if last < first and one != "thoughts":
            require_shown(model, [-1])
        found |= {*range(first, last + 1)}
    there = range(-longest, spec.n_thoughts + spec.n_cue + 1)
    if strange := sorted(found - {*there}):
        raise HookError(
            f"positions: {strange[0]} does not exist here: there are {there[0]}..{there[-1]} (thoughts "
            f"0..{spec.n_thoughts}; the longest question has {longest} tokens before them)"
        )
    return sorted(found)


def _lengths(model: ThoughtModel, problems: pa.Table) -> list[int]:
    """Tokens of every question before thought 0; empty of a model that does not tell.

    Before the model runs, this says of all questions whether one is empty or longer than the context.

    Raises:
        DataError: some are; which, and what to do.
    """
    refused: dict[str, DataError] = {}
    found = []
    for one, question in zip(
        problems["problem_id"].to_pylist(), problems["question"].to_pylist(), strict=True
    ):
        try:
            found.append(len(model.read_ids(question)))
        except DataError as error:
            refused[one] = error
        except HookError:
            return []  # a model of one's own: it refuses what it cannot read when it comes
    if refused:
        names = list(refused)
        raise DataError(
            f"{model.name} cannot read {len(refused)} of {len(problems)} questions: problem {names[0]}: "
            f"{refused[names[0]]}" + (f"; and also problems {', '.join(names[1:])}" if names[1:] else "")
        )
    return found


def _spaces(model: ThoughtModel, questions: list[str]) -> list[str]:
    """Questions that the model reads with other white space than they have."""
    n = sum(question not in model.reads(question) for question in questions)
    return [
        f"{n} of {len(questions)} questions have double spaces, or space around them, that {model.name} is "
        f"not given; extract.prompt='{{question}}' lets it read them as they stand"
    ] * (n > 0)


def with_answers(problems: pa.Table, answers: Answers) -> pa.Table:
    """The problems with `model_answer` (text), `model_value` (its last number) and `correct`.

    Of a model that stops when it will, with `n_thoughts_used` too: the last thought of each problem.
    """
    gold = problems["answer"].to_pylist()
    right = [is_right(*row) for row in zip(answers.text, answers.value, gold, strict=True)]
    columns = {
        "model_answer": pa.array(answers.text, pa.string()),
        "model_value": pa.array(answers.value, pa.float64()),
        "correct": pa.array(right, pa.bool_()),
    }
    if answers.used is not None:
        columns[USED] = pa.array(answers.used, pa.int64())
    kept = [name for name in problems.column_names if name not in columns]
    return pa.table({**{name: problems[name] for name in kept}, **columns})


def plan_thoughts(cfg: ExtractConfig, wanted: ProblemsConfig) -> Plan:
    """Rows, memory, disk and time of an extraction of thoughts; the model's weights are loaded for it."""
    model = open_thoughts(cfg.model, cfg)
    n, spec = problem_source.count(wanted), model.spec
    per_problem = len(_numbers(cfg, model, QUESTION_TOKENS))
    rows, n_hooks = n * per_problem, len(block_outputs(cfg.hook_names, spec.n_layers))
    parameters = 12 * spec.n_layers * spec.d**2
    tokens = n * (QUESTION_TOKENS + len(spec.thoughts) + ANSWER_TOKENS)
    itemsize, dtype = DTYPES[cfg.store_dtype].itemsize, DTYPES[cfg.model.dtype]
    one_batch = 8 * cfg.batch_problems * (QUESTION_TOKENS + per_problem * n_hooks) * spec.d * 4
    return Plan(
        rows=rows,
        memory_bytes=7e8 + 1.5 * parameters * dtype.itemsize + one_batch,
        disk_bytes=rows * (n_hooks * spec.d * itemsize + 8),
        seconds=5 + 2 * parameters * tokens / flops(cfg.model.device, dtype, spec.d),
    )


def size_of_thoughts(cfg: ExtractConfig, wanted: ProblemsConfig) -> StoreSize:
    """What the store will be."""
    model, n = open_thoughts(cfg.model, cfg), problem_source.count(wanted)
    spec = model.spec
    places, numbers = block_outputs(cfg.hook_names, spec.n_layers), _numbers(cfg, model, QUESTION_TOKENS)
    return StoreSize(
        kind="thoughts",
        n_rows=n * len(numbers),
        n_problems=n,
        d_in={place.hook_name: model.width(place) for place in places},
        thoughts=numbers,
        shares=problem_source.shares(wanted),
    )


class _Asked(NamedTuple):
    """What is run, and what is kept of it."""

    cfg: ExtractConfig
    model: ThoughtModel
    places: list[Place]
    numbers: list[int]
    problems: pa.Table
    tmp: Path


def _chunks(asked: _Asked, *, start: int, share: tuple[int, int]) -> Iterator[Chunk]:
    cfg, model, places, numbers, problems, tmp = asked
    for index, first in enumerate(range(0, len(problems), cfg.batch_problems)):
        if index < start or index % share[1] != share[0]:
            continue
        part = problems.slice(first, cfg.batch_problems)
        batch = collect(
            model, part["question"].to_pylist(), places=places, answers=True,
            max_new_tokens=cfg.max_new_tokens, batch_size=cfg.batch_problems,
            positions=[p for p in numbers if p not in model.spec.thoughts],
        )  # fmt: skip
        _save_answers(tmp, index, batch)
        at = [batch.at(p) for p in numbers]
        had = batch.had(len(model.spec.thoughts))[:, at].flatten()
        yield Chunk(
            index=index,
            acts={place.hook_name: batch[place][:, at].flatten(0, 1)[had] for place in places},
            columns={
                "problem_id": np.repeat(part["problem_id"].to_numpy(zero_copy_only=False), len(at))[had],
                "thought_idx": np.tile(np.array(numbers, dtype=np.int32), len(part))[had],
            },
        )


def _save_answers(tmp: Path, index: int, batch: ThoughtBatch) -> None:
    assert batch.answers is not None
    (tmp / ANSWERS).mkdir(exist_ok=True)
    used = None if batch.used is None else batch.used.tolist()
    found = Answers(text=batch.answers.text, value=batch.answers.value, used=used)
    write_json(tmp / ANSWERS / f"{index:06d}.json", found.to_json())


def _read_answers(tmp: Path) -> Answers:
    parts = [Answers.from_json(read_json(file)) for file in sorted((tmp / ANSWERS).glob("*.json"))]
    return Answers(
        text=[t for part in parts for t in part.text],
        value=[v for part in parts for v in part.value],
        used=None if parts[0].used is None else [n for part in parts for n in part.used or ()],
    )


def _accuracy(root: Path) -> list[Accuracy]:
    right = pq.read_table(root / PROBLEMS, columns=["split", "correct"])
    counts = right.group_by("split", use_threads=False).aggregate([("correct", "sum"), ("correct", "count")])
    found = []
    for split, n_right, n in zip(*(column.to_pylist() for column in counts.columns), strict=True):
        interval = wilson(n_right, n)
        found.append(
            Accuracy(split=split, accuracy=interval.estimate, low=interval.low, high=interval.high, n=n)
        )
    return found


def _doubts(root: Path) -> list[str]:
    """What is to be said where answers are right no more often than without any look at the question."""
    names = ["model_answer", "model_value", "answer", "correct"]
    text, value, gold, correct = (
        column.to_pylist() for column in pq.read_table(root / PROBLEMS).select(names)
    )
    n, right = len(gold), sum(correct)
    if n < LEAST:
        return []
    rng = np.random.default_rng(0)
    other = [gold[i] for _ in range(SHUFFLES) for i in rng.permutation(n)]
    of_others = sum(map(is_right, text * SHUFFLES, value * SHUFFLES, other)) / len(other)
    blind = max(of_others, Counter(gold).most_common(1)[0][1] / n)
    if scipy.stats.binomtest(right, n, blind, alternative="greater").pvalue <= 0.05:
        return []
    return [
        f"the model's answers are right for {right} of {n} problems, no more often than answers of other "
        f"problems or always the same one would be ({blind:.1%}): is it the right checkpoint, base and "
        f"prompt, and does each answer stand beside its own question?"
    ]
