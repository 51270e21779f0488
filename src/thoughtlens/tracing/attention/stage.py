"""The attention stage: where each thought and the answer's cue look, in the question and among thoughts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from thoughtlens.acts import ActivationStore, StoreSize, thought_model
from thoughtlens.core import Number, Plan, Result, column_table, progress, run_stage, schema, write_rows
from thoughtlens.latents import of_thoughts
from thoughtlens.models import Attention, ThoughtModel
from thoughtlens.models import attention as attention_of
from thoughtlens.numerics import bootstrap_means
from thoughtlens.tracing.attention.config import AttentionConfig
from thoughtlens.tracing.attention.records import (
    AskedRow,
    AttentionOutcome,
    HeadRow,
    LookRow,
    MeanRow,
    WeightsRow,
)
from thoughtlens.tracing.read.subject import problems_of

PARTS = ("question", "begin", "thoughts", "rest")
DEFINITIONS = {
    "weight": "softmax weight of a head, without what the value that it brings is worth: high attention is "
    "no proof of use; an edge is tested with: intervene edit=cut",
    "looks": "share of the weights from a position, mean over layers, heads and problems; low, high: 95 %, "
    "problems of one group together (bootstrap)",
    "uniform_on_thoughts": "earlier thoughts / all positions that can be looked at: what an attention that "
    "does not choose would give",
    "query, key": "positions: -1 the token before begin of thought, 0 begin of thought, 1 .. n the thoughts, "
    "then the cue's tokens",
}


def attention(cfg: AttentionConfig, out: str | Path) -> Result:
    """Read the attention of a store's model on the store's problems.

    The directory holds `weights.parquet` and `questions.parquet` of some problems, `means.parquet` over all.

    Raises:
        HookError: a model whose attention cannot be seen.
        MismatchError: other weights than those that made the store.
        StoreError: a store of texts.
        DataError: no problems in the split, or none with a question.
    """
    return run_stage("attention", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": Path(cfg.acts)})


def plan(cfg: AttentionConfig) -> Plan:
    """Problems, memory and time; zeros where the store does not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    return Plan(rows=cfg.n, memory_bytes=1e9, disk_bytes=cfg.n_kept * 40_000.0, seconds=4 + cfg.n * 0.004)


@dataclass(eq=False)
class _Sums:
    """Weights added up over problems, with the last position on the right."""

    weights: Float[np.ndarray, "queries layers heads keys"]
    n: Float[np.ndarray, "queries keys"]

    def add(self, found: Attention) -> None:
        """One batch more."""
        wider = len(found.keys) - self.weights.shape[-1]
        if wider > 0:
            self.weights = np.pad(self.weights, [(0, 0)] * 3 + [(wider, 0)])
            self.n = np.pad(self.n, [(0, 0), (wider, 0)])
        own = found.weights.double().numpy()
        self.weights[..., -own.shape[-1] :] += np.nan_to_num(own).sum(0)
        self.n[:, -own.shape[-1] :] += _there(found).sum(0)


def _work(cfg: AttentionConfig, tmp: Path) -> AttentionOutcome:
    store = ActivationStore.open(cfg.acts)
    table = problems_of(store, cfg.split, cfg.n, cfg.seed, "attention")
    model = thought_model(store)
    sums: _Sums | None = None
    shares, uniform = [], []
    with pq.ParquetWriter(tmp / "weights.parquet", schema(WeightsRow), compression="zstd") as kept:
        for low, found in _batches(cfg, model, table["question"].to_pylist()):
            if sums is None:
                shape = found.weights.shape[1:]
                sums = _Sums(np.zeros(shape), np.zeros((shape[0], shape[-1])))
            sums.add(found)
            shares.append(_shares(found, model.spec.n_thoughts))
            uniform.append(_uniform(found, model.spec.n_thoughts))
            for i in range(min(len(found.weights), cfg.n_kept - low)):
                kept.write_table(_weights(found, i, table["problem_id"][low + i].as_py()))
    assert sums is not None
    asked = table.slice(0, cfg.n_kept)
    write_rows(tmp / "questions.parquet", AskedRow, _asked(model, asked))
    pq.write_table(_means(sums), tmp / "means.parquet", compression="zstd")
    looks = _looks(np.concatenate(shares), np.concatenate(uniform), model, table, cfg)
    cue = looks[-1]
    return AttentionOutcome(
        split=cfg.split,
        model=store.meta.model,
        model_digest=store.meta.model_digest,
        n=len(table),
        n_kept=len(asked),
        n_thoughts=model.spec.n_thoughts,
        n_layers=sums.weights.shape[1],
        n_heads=sums.weights.shape[2],
        looks=looks,
        by_head=_heads(sums, np.concatenate(shares), model.spec.n_thoughts, len(table)),
        headline={
            "answer_on_thoughts": cue.thoughts,
            "answer_on_question": cue.question,
            "uniform_on_thoughts": Number(value=cue.uniform_on_thoughts, n=len(table), split=cfg.split),
        },
        definitions=DEFINITIONS,
        warnings=[f"these are no thoughts: {control}" for control in [model.spec.control] if control],
    )


def _batches(
    cfg: AttentionConfig, model: ThoughtModel, questions: list[str]
) -> Iterator[tuple[int, Attention]]:
    """All questions, and the number of each batch's first one."""
    with progress("attention", len(questions), "problems") as bar:
        for low in range(0, len(questions), cfg.batch_size):
            some = questions[low : low + cfg.batch_size]
            yield low, attention_of(model, some, batch_size=cfg.batch_size)
            bar.advance(len(some))


def _there(found: Attention) -> Float[np.ndarray, "problems queries keys"]:
    """1 where a problem has both positions and the query may look at the key."""
    keys, queries = np.array(found.keys), np.array(found.queries)
    real = keys >= -np.array(found.n_tokens)[:, None]
    had = ~found.weights[:, :, 0, 0, -1].isnan().numpy()
    stands = np.concatenate([np.ones((len(had), -found.keys.start), bool), had], 1)
    return ((keys <= queries[:, None]) & (real & stands)[:, None] & had[:, :, None]).astype(float)


def _parts(keys: range, query: int, n_thoughts: int) -> dict[str, np.ndarray]:
    """Which keys are of the question, the begin-of-thought position, earlier thoughts, and the rest."""
    at = np.array(keys)
    thoughts = (at >= 1) & (at <= n_thoughts) & (at < query)
    begin = (at == 0) & (query > 0)
    return {"question": at < 0, "begin": begin, "thoughts": thoughts, "rest": (at >= 0) & ~thoughts & ~begin}


def _shares(found: Attention, n_thoughts: int) -> Float[np.ndarray, "problems queries layers heads parts"]:
    """Weights on each part; NaN at thoughts that a problem did not have."""
    x = found.weights.double().numpy()
    return np.stack(
        [
            np.stack([x[:, q][..., part].sum(-1) for part in _parts(found.keys, q, n_thoughts).values()], -1)
            for q in found.queries
        ],
        1,
    )


def _uniform(found: Attention, n_thoughts: int) -> Float[np.ndarray, "problems queries 2"]:
    """Earlier thoughts, and all positions, that each query can look at."""
    there = _there(found)
    thoughts = [there[:, q, _parts(found.keys, q, n_thoughts)["thoughts"]].sum(-1) for q in found.queries]
    return np.stack([np.stack(thoughts, 1), there.sum(-1)], -1)


def _weights(found: Attention, i: int, problem_id: str) -> pa.Table:
    """All heads of one problem."""
    n_queries, n_layers, n_heads, _ = found.weights.shape[1:]
    first = len(found.keys) - len(found.queries) - found.n_tokens[i]
    x, begin = found.weights[i].numpy(), len(found.keys) - len(found.queries)
    had = [q for q in range(n_queries) if not np.isnan(x[q, 0, 0, -1])]
    rows = [(q, layer, head) for q in had for layer in range(n_layers) for head in range(n_heads)]
    cut = [x[q, layer, head, first : begin + q + 1] for q, layer, head in rows]
    query, layers, heads = (np.array(part, np.int32) for part in zip(*rows, strict=True))
    table = {"problem_id": pa.array([problem_id] * len(rows)).dictionary_encode(), "query": query}
    table |= {"layer": layers, "head": heads, "weights": pa.array(cut, pa.list_(pa.float32()))}
    return pa.table(table).cast(schema(WeightsRow))


def _asked(model: ThoughtModel, table: pa.Table) -> list[AskedRow]:
    read = of_thoughts(model).read
    rows = []
    for problem_id, question in zip(
        table["problem_id"].to_pylist(), table["question"].to_pylist(), strict=True
    ):
        ids = model.read_ids(question)
        texts = read(sorted(set(ids)))
        rows.append(AskedRow(problem_id=problem_id, tokens=[texts[i] or f"<{i}>" for i in ids]))
    return rows


def _means(sums: _Sums) -> pa.Table:
    """A row for every query, key and head that some problem has."""
    n_queries, n_layers, n_heads, n_keys = sums.weights.shape
    q, key = np.nonzero(sums.n)
    n = sums.n[q, key]
    mean = sums.weights[q, :, :, key] / n[:, None, None]
    layer, head = np.indices((n_layers, n_heads)).reshape(2, -1)
    each = n_layers * n_heads
    return column_table(
        MeanRow,
        {
            "query": np.repeat(q, each),
            "key": np.repeat(key - (n_keys - n_queries), each),
            "layer": np.tile(layer, len(q)),
            "head": np.tile(head, len(q)),
            "mean": mean.reshape(-1),
            "n": np.repeat(n, each),
        },
    )


def _looks(
    shares: np.ndarray, uniform: np.ndarray, model: ThoughtModel, table: pa.Table, cfg: AttentionConfig
) -> list[LookRow]:
    groups = np.unique(table["group_id"].to_pylist(), return_inverse=True)[1]
    rows, n = [], model.spec.n_thoughts
    for query in range(shares.shape[1]):
        mean = shares[:, query].mean((1, 2))
        had = ~np.isnan(mean[:, 0])
        if not had.any():
            continue
        found = bootstrap_means(mean[had], groups[had], seed=cfg.seed)
        numbers = [replace(one.number(cfg.split), n=int(had.sum())) for one in found]
        rows.append(
            LookRow(
                query=query,
                called=_called(query, n),
                **dict(zip(PARTS, numbers, strict=True)),
                uniform_on_thoughts=float((uniform[had, query, 0] / uniform[had, query, 1]).mean()),
                n_keys=float(uniform[had, query, 1].mean()),
            )
        )
    return rows


def _called(query: int, n_thoughts: int) -> str:
    if query > n_thoughts:
        return f"answer cue, token {query - n_thoughts}"
    return f"thought {query}" if query else "begin of thought"


def _heads(sums: _Sums, shares: np.ndarray, n_thoughts: int, n: int) -> list[HeadRow]:
    """Every head from the last token of the cue."""
    n_queries, n_layers, n_heads, n_keys = sums.weights.shape
    common = np.flatnonzero(sums.n[-1] == n)
    rows = []
    for layer in range(n_layers):
        for head in range(n_heads):
            mean = sums.weights[-1, layer, head, common] / n
            best = int(mean.argmax())
            on = shares[:, -1, layer, head].mean(0)
            rows.append(
                HeadRow(
                    layer=layer,
                    head=head,
                    **{name: float(value) for name, value in zip(PARTS, on, strict=True)},
                    most=int(common[best]) - (n_keys - n_queries),
                    on_most=float(mean[best]),
                )
            )
    return rows
