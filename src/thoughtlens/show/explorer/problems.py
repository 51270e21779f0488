"""Pages of problems: which latents fire where in one problem, and what its thoughts say and do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from thoughtlens.acts import ActivationStore
from thoughtlens.core import Json, Record, of_table, read_parquet
from thoughtlens.interventions import found_in
from thoughtlens.latents import Member, load_tokenizer, token_texts
from thoughtlens.problems import Step
from thoughtlens.sae import load_members
from thoughtlens.show.explorer.attention import attended
from thoughtlens.show.explorer.build import rounded, significant
from thoughtlens.show.explorer.claims import Claims
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.effects import of_problems
from thoughtlens.show.explorer.overview import Listed, Problems
from thoughtlens.show.explorer.rows import Reading, ReadToken, Strongest, Traced, View
from thoughtlens.show.explorer.sources import Source, interpreted, place
from thoughtlens.show.pages.chain import chains
from thoughtlens.show.pages.run import ProblemRow, Run
from thoughtlens.tracing import StepRow

PER_SHARD = 10
ON_A_THOUGHT, ON_A_TOKEN = 16, 6
"""Most latents shown for one vector."""
TOKENS_READ = 5
"""Tokens of a lens reading that are shown."""
PER_PASS = 4096
"""Rows read at a time."""
ROWS = 256
"""Tokens of a document that are shown."""
PLAIN = ("problem_id", "group_id", "split", "question", "answer", "cot")


@dataclass(frozen=True, kw_only=True)
class ProblemPage(Record):
    """A problem or document, and what is known of it."""

    problem_id: str
    group_id: str
    split: str
    question: str
    answer: str
    cot: str
    labels: dict[str, str]
    given: str | None
    """The model's answer."""
    right: bool | None
    tokens: list[str] | None = None
    """Of a document."""
    members: dict[str, list[list[Any]] | None]
    """By SAE, the strongest latents of every vector; None: it was not read on this problem."""
    chain: list[list[Any]]
    """What each thought holds: `chain.Step`."""
    readings: list[list[Any]]
    edits: list[list[Any]]
    attention: Json | None
    """Where its thoughts look (`attention.Attended`); None: its weights are not kept."""
    trace: list[list[Any]]


def problem_shards(
    found: Sequence[Source], claims: Mapping[str, Claims | None], cfg: ExplorerConfig
) -> tuple[dict[str, Any], Problems]:
    """Shards `problems/N` of ten problems each, and the list of the problems in them.

    Those that the model gets wrong come first, up to half of all; then those with an intervention, those with
    a trace, those of which a lens or attention was read; the rest is drawn at random. Other runs' SAEs are
    shown where their store holds the same problem.
    """
    run = found[0].run
    members = {source.key: _member(source) for source in found}
    own = [members[source.key] for source in found if source.run is run]
    store = own[0].store
    chosen, are = _choose(run, own, cfg)
    table = store.problems.take(chosen)
    rows = of_table(ProblemRow, table)
    others = table.drop_columns([name for name in PLAIN if name in table.column_names]).to_pylist()
    ids = [row.problem_id for row in rows]
    readings, edits, told = _readings(run, ids), of_problems(run, ids), chains(run, ids)
    traced = _traced(run, ids)
    tokens = _tokens(own[0], ids) if own[0].text else {}
    looked = {problem_id: one.to_json() for problem_id, one in attended(run, ids).items()}
    strongest = {key: _strongest(member, ids, claims.get(key)) for key, member in members.items()}
    pages = [
        vars(
            ProblemPage(
                problem_id=row.problem_id,
                group_id=row.group_id,
                split=row.split,
                question=row.question,
                answer=row.answer,
                cot=row.cot,
                labels={name: str(value) for name, value in labels.items()},
                given=row.model_answer,
                right=row.correct,
                tokens=tokens.get(row.problem_id),
                members={key: known.get(row.problem_id) for key, known in strongest.items()},
                chain=[step.cells() for step in told.steps.get(row.problem_id, [])] if told else [],
                readings=_lines(readings.get(row.problem_id, [])) or [],
                edits=_lines(edits.get(row.problem_id, [])) or [],
                attention=looked.get(row.problem_id),
                trace=_lines(traced.get(row.problem_id, [])) or [],
            )
        )
        for row, labels in zip(rows, others, strict=True)
    ]
    shards = {
        f"problems/{low // PER_SHARD}": pages[low : low + PER_SHARD]
        for low in range(0, len(pages), PER_SHARD)
    }
    listed = [
        Listed(
            id=row.problem_id,
            split=row.split,
            text=row.question[:120],
            right=row.correct,
            shard=i // PER_SHARD,
        )
        for i, row in enumerate(rows)
    ]
    read_by = f"{told.lens} lens at {told.hook_name}" if told else None
    return shards, Problems(listed=listed, are=are, read_by=read_by)


def _lines(rows: Sequence[View] | None) -> list[list[Any]] | None:
    return None if rows is None else [row.line() for row in rows]


def _member(source: Source) -> Member:
    split, root = interpreted(source.run).split, source.run.root
    store = ActivationStore.open(root / "acts")
    known = load_members(root / "sae", joined=True, hooks=store.meta.d_in, only=[source.name])
    return Member(
        store,
        source.name,
        known[source.name],
        split=None if split == "all" else split,
        batch_size=4096,
    )


def _choose(run: Run, members: Sequence[Member], cfg: ExplorerConfig) -> tuple[np.ndarray, str]:
    """Lines of the problems table, in order, and which they are in words."""
    known = [set(m.rows.problem.tolist()) for m in members]
    lines = np.random.default_rng(cfg.seed).permutation(sorted(set.intersection(*known)))
    table = members[0].store.problems
    ids = table["problem_id"].combine_chunks().cast(pa.string()).take(pa.array(lines))
    edited, traced, read = (_among(ids, files) for files in _told_of(run))
    wrong = np.zeros(len(lines), bool)
    if "correct" in table.column_names:
        wrong = np.array([right is False for right in table["correct"].to_pylist()], bool)[lines]
    first = wrong & (np.cumsum(wrong) <= max(cfg.n_problems // 2, 1))
    rank = np.where(first, 0, np.where(edited, 1, np.where(traced, 2, np.where(read, 3, 4))))
    order = np.argsort(rank, kind="stable")[: cfg.n_problems]
    says = f"{len(order):,} of {len(lines):,}: "
    if wrong.any():
        says += f"{wrong[order].sum():,} of the {wrong.sum():,} that the model gets wrong, then "
    kinds = (("an intervention", edited), ("a trace", traced), ("readings", read))
    known = [what for what, those in kinds if those.any()]
    says += f"those with {', then with '.join(known)}, then others, " if known else ""
    return np.sort(lines[order]), says + "drawn at random"


def _told_of(run: Run) -> tuple[list[Path], list[Path], list[Path]]:
    """Tables that tell of single problems: of interventions, of traces, and of what was read."""
    asked = place(run, "weights").with_name("questions.parquet")
    edited = [path / "answers.parquet" for path in found_in(run.root).values()]
    return edited, [run.folder("trace") / "problems.parquet"], [place(run, "readings"), asked]


def _traced(run: Run, ids: Sequence[str]) -> dict[str, list[Traced]]:
    """By problem, the steps of its trace."""
    file, found = run.folder("trace") / "steps.parquet", dict[str, list[Traced]]()
    if not file.is_file():
        return found
    own = (pc.field("arm") == "thoughts") & pc.field("problem_id").isin(list(ids))
    for row in of_table(StepRow, read_parquet(file, filters=own)):
        said = Step(row.operation or "?", 0, row.before or "", row.follows or "?", row.value, 0, row.word)
        step = Traced(
            step=row.step,
            said=str(said),
            thought=row.thought_idx,
            read_by=row.read_by,
            probability=row.probability,
            null=row.null,
            label=row.label,
            reading_follows=row.reading_follows,
            patched=row.patched,
            next_follows=row.next_follows,
            route=row.route,
        )
        found.setdefault(row.problem_id, []).append(step)
    return found


def _among(ids: pa.Array, files: Sequence[Path]) -> np.ndarray:
    """Which of the problems one of the tables tells of."""
    found: set[str] = set()
    for file in files:
        if file.is_file():
            found |= set(read_parquet(file, columns=["problem_id"])["problem_id"].unique().to_pylist())
    told = pc.is_in(ids, pa.array(sorted(found), pa.string()))  # type: ignore[attr-defined]
    return np.asarray(told.to_numpy(zero_copy_only=False), bool)


def _readings(run: Run, ids: Sequence[str]) -> dict[str, list[Reading]]:
    """By problem, what each of its states reads as through each lens."""
    file = place(run, "readings")
    if not file.is_file() or run.kind == "text":
        return {}
    table = read_parquet(file)
    wanted = pc.and_(  # type: ignore[attr-defined]
        pc.is_in(table["problem_id"].cast(pa.string()), pa.array(list(ids), pa.string())),  # type: ignore[attr-defined]
        pc.less(table["rank"], int(pc.min(table["rank"]).as_py() or 0) + TOKENS_READ),  # type: ignore[attr-defined]
    )
    found: dict[str, dict[tuple, Reading]] = {}
    for row in of_table(ReadToken, table.filter(wanted).sort_by("rank")):
        at = (row.lens, row.hook_name, row.thought_idx)
        new = Reading(lens=row.lens, hook_name=row.hook_name, thought=row.thought_idx, tokens=[])
        reading = found.setdefault(row.problem_id, {}).setdefault(at, new)
        reading.tokens.append([row.token, significant(row.probability, 3)])
    return {problem_id: list(own.values()) for problem_id, own in found.items()}


def _tokens(member: Member, ids: Sequence[str]) -> dict[str, list[str]]:
    """By document, the texts of its first tokens."""
    rows, meta = member.rows, member.store.meta
    tokenizer = load_tokenizer(meta.model, meta.model_revision)
    own = {
        name: rows.columns.token_id[rows.first[unit] : rows.first[unit + 1]][:ROWS]
        for name, unit in _units(member, ids).items()
    }
    texts = token_texts(tokenizer, np.unique(np.concatenate([np.empty(0, np.int64), *own.values()])))
    return {name: [texts[t] for t in tokens.tolist()] for name, tokens in own.items()}


def _units(member: Member, ids: Sequence[str]) -> dict[str, int]:
    """By problem, its number among those that the SAE has rows of; the others are left out."""
    names = member.store.problems["problem_id"].combine_chunks().cast(pa.string())
    lines = pc.index_in(pa.array(list(ids), pa.string()), names).to_pylist()  # type: ignore[attr-defined]
    unit = {line: i for i, line in enumerate(member.rows.problem.tolist())}
    return {name: unit[line] for name, line in zip(ids, lines, strict=True) if line in unit}


def _strongest(member: Member, ids: Sequence[str], claims: Claims | None) -> dict[str, list[list[Any]]]:
    """By problem, the strongest latents of each of its vectors, with the clause of each that is true."""
    rows, units = member.rows, _units(member, ids)
    if not units:
        return {}
    thoughts = rows.columns.thought_idx
    at = thoughts if len(thoughts) else np.arange(len(rows.unit)) - rows.first[rows.unit]
    spans = {
        name: (int(rows.first[unit]), min(int(rows.first[unit + 1]), int(rows.first[unit]) + ROWS))
        for name, unit in units.items()
    }
    n_hooks, found, names = len(member.hook_names), {}, list(spans)
    per_pass = max(1, PER_PASS // max(stop - first for first, stop in spans.values()))
    most = ON_A_TOKEN if member.text else ON_A_THOUGHT
    for some in (names[low : low + per_pass] for low in range(0, len(names), per_pass)):
        best = iter(_best(member.codes_at(np.concatenate([np.arange(*spans[name]) for name in some])), most))
        for name in some:
            vectors = [(place, hook, *next(best)) for place in range(*spans[name]) for hook in range(n_hooks)]
            line = int(rows.problem[units[name]])
            found[name] = [
                Strongest(
                    hook=hook,
                    at=(thought := int(at[place])),
                    n=n,
                    latents=[
                        [latent, act, claims and claims.which(latent, line, thought, hook)]
                        for latent, act in latents
                    ],
                ).line()
                for place, hook, n, latents in vectors
                if n
            ]
    return found


def _best(codes: sp.csr_array, most: int) -> list[tuple[int, list[list[Any]]]]:
    """Of each vector, how many latents fire, and (latent, activation) of the strongest."""
    counts, values = np.diff(codes.indptr), np.asarray(codes.data, np.float32)
    order = np.lexsort((-values, np.repeat(np.arange(len(counts)), counts)))
    kept = order[np.arange(len(order)) - np.repeat(codes.indptr[:-1], counts) < most]
    pairs = zip(codes.indices[kept].tolist(), rounded(values[kept]), strict=True)
    return [(n, [list(pair) for pair in itertools.islice(pairs, min(n, most))]) for n in counts.tolist()]
