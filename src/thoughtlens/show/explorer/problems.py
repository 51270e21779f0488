"""Pages of problems: which latents fire where in one problem, and what its thoughts say and do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.codes.tokens import load_tokenizer, token_texts
from thoughtlens.sae.formats.io import load as load_sae
from thoughtlens.show.explorer.build import significant
from thoughtlens.show.explorer.effects import of_problems
from thoughtlens.show.explorer.sources import Row, Source, place
from thoughtlens.show.interventions import found_in
from thoughtlens.show.run import Run

if TYPE_CHECKING:
    from thoughtlens.show.explorer.config import ExplorerConfig

PER_SHARD = 10
STRONGEST = 6
"""Latents shown for one vector."""
TOKENS_READ = 5
"""Tokens of a lens reading that are shown."""
PER_PASS = 16
"""Problems read at a time."""
ROWS = 256
"""Tokens of a document that are shown."""
PLAIN = ("problem_id", "group_id", "split", "question", "answer", "cot")


def problem_shards(found: Sequence[Source], cfg: ExplorerConfig) -> tuple[dict[str, Any], list[Row]]:
    """Shards `problems/N` of ten problems each, and the list of the problems in them.

    Problems are drawn at random, first among those with a lens reading or an intervention. Other runs' SAEs
    are shown where their store holds the same problem.
    """
    run = found[0].run
    members = {source.key: _member(source) for source in found}
    own = [members[source.key] for source in found if source.run is run]
    store = own[0].store
    chosen = _choose(run, own, cfg)
    table = store.problems.take(chosen).to_pylist()
    ids = [row["problem_id"] for row in table]
    readings, edits = _readings(run, ids), of_problems(run, ids)
    tokenizer = load_tokenizer(store.meta.model, store.meta.model_revision) if own[0].text else None
    strongest = {key: _strongest(member, ids) for key, member in members.items()}
    pages = []
    for row in table:
        page = _page(row, own[0], tokenizer)
        page["members"] = {key: found.get(row["problem_id"]) for key, found in strongest.items()}
        page["readings"] = readings.get(row["problem_id"], [])
        page["edits"] = edits.get(row["problem_id"], [])
        pages.append(page)
    shards = {
        f"problems/{low // PER_SHARD}": pages[low : low + PER_SHARD]
        for low in range(0, len(pages), PER_SHARD)
    }
    listed = [
        {
            "id": row["problem_id"],
            "split": row["split"],
            "text": row.get("question", "")[:120],
            "right": row.get("correct"),
            "shard": i // PER_SHARD,
        }
        for i, row in enumerate(table)
    ]
    return shards, listed


def _member(source: Source) -> Member:
    split = source.run.results["interpret"]["split"]
    store = ActivationStore.open(source.run.root / "acts")
    return Member(
        store,
        source.name,
        load_sae(source.sae_dir),
        split=None if split == "all" else split,
        batch_size=4096,
    )


def _choose(run: Run, members: Sequence[Member], cfg: ExplorerConfig) -> np.ndarray:
    """Lines of the problems table, in order: a random choice, problems of which more is known first."""
    known = [set(m.rows.problem.tolist()) for m in members]
    lines = np.random.default_rng(cfg.seed).permutation(sorted(set.intersection(*known)))
    ids = members[0].store.problems["problem_id"].combine_chunks().cast(pa.string()).take(pa.array(lines))
    told = pc.is_in(ids, pa.array(sorted(_told_of(run)), pa.string()))  # type: ignore[attr-defined]
    order = np.argsort(~np.asarray(told.to_numpy(zero_copy_only=False), bool), kind="stable")
    return np.sort(lines[order[: cfg.n_problems]])


def _told_of(run: Run) -> set[str]:
    """Problems with a lens reading, or with an intervention."""
    files = [place(run, "readings"), *(path / "answers.parquet" for path in found_in(run).values())]
    found: set[str] = set()
    for file in files:
        if file.is_file():
            found |= set(pq.read_table(file, columns=["problem_id"])["problem_id"].unique().to_pylist())
    return found


def _readings(run: Run, ids: Sequence[str]) -> dict[str, list[list[Any]]]:
    """By problem: [lens, hook, thought, [[token, probability], ...]]."""
    file = place(run, "readings")
    if not file.is_file() or run.kind == "text":
        return {}
    table = pq.read_table(file)
    wanted = pc.and_(  # type: ignore[attr-defined]
        pc.is_in(table["problem_id"].cast(pa.string()), pa.array(list(ids), pa.string())),  # type: ignore[attr-defined]
        pc.less(table["rank"], int(pc.min(table["rank"]).as_py() or 0) + TOKENS_READ),  # type: ignore[attr-defined]
    )
    found: dict[str, dict[tuple, list]] = {}
    for row in table.filter(wanted).sort_by("rank").to_pylist():
        at = (row["lens"], row["hook_name"], row["thought_idx"])
        read = found.setdefault(row["problem_id"], {}).setdefault(at, [])
        read.append([row["token"], significant(row["probability"], 3)])
    return {problem: [[*at, tokens] for at, tokens in cells.items()] for problem, cells in found.items()}


def _page(row: Row, member: Member, tokenizer: Any) -> Row:
    labels = {name: str(value) for name, value in row.items() if name not in PLAIN}
    page = {key: row.get(key, "") for key in PLAIN} | {"labels": labels}
    page |= {"given": row.get("model_answer"), "right": row.get("correct")}
    if tokenizer is not None:
        rows = member.rows
        unit = _units(member, [row["problem_id"]])[row["problem_id"]]
        ids = rows.columns["token_id"][rows.first[unit] : rows.first[unit + 1]][:ROWS]
        texts = token_texts(tokenizer, np.unique(ids))
        page["tokens"] = [texts[t] for t in ids.tolist()]
    return page


def _units(member: Member, ids: Sequence[str]) -> dict[str, int]:
    """By problem, its number among those that the SAE has rows of; the others are left out."""
    names = member.store.problems["problem_id"].combine_chunks().cast(pa.string())
    lines = pc.index_in(pa.array(list(ids), pa.string()), names).to_pylist()  # type: ignore[attr-defined]
    unit = {line: i for i, line in enumerate(member.rows.problem.tolist())}
    return {name: unit[line] for name, line in zip(ids, lines, strict=True) if line in unit}


def _strongest(member: Member, ids: Sequence[str]) -> dict[str, list[list[Any]]]:
    """By problem: [hook, place, [(latent, activation), ...]] of each of its vectors.

    The place is the thought_idx, or the number of the token.
    """
    rows, units = member.rows, _units(member, ids)
    first = {name: int(rows.first[unit]) for name, unit in units.items()}
    stop = {name: min(int(rows.first[unit + 1]), first[name] + ROWS) for name, unit in units.items()}
    thoughts, n_hooks = rows.columns.get("thought_idx"), len(member.hook_names)
    found: dict[str, list[list[Any]]] = {}
    for low in range(0, len(units), PER_PASS):
        names = list(units)[low : low + PER_PASS]
        places = np.concatenate([np.arange(first[name], stop[name]) for name in names])
        codes, low_place = member.codes_at(places), 0
        for name in names:
            n = stop[name] - first[name]
            vectors = codes[low_place * n_hooks : (low_place + n) * n_hooks]
            at = range(n) if thoughts is None else thoughts[first[name] : stop[name]].tolist()
            found[name] = [
                [hook, at[i], best]
                for i in range(n)
                for hook in range(n_hooks)
                if (best := _best(vectors, i * n_hooks + hook))
            ]
            low_place += n
    return found


def _best(codes: sp.csr_array, vector: int) -> list[list[Any]]:
    """(latent, activation) of the largest activations of a vector."""
    span = slice(codes.indptr[vector], codes.indptr[vector + 1])
    latents, values = codes.indices[span], np.asarray(codes.data[span], np.float32)
    order = np.argsort(-values, kind="stable")[:STRONGEST]
    return [[int(latents[i]), significant(float(values[i]), 3)] for i in order]
