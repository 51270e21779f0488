"""Pages of problems: which latents fire where in one problem or document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtlens import sae as saes
from thoughtlens.explain.member import Member
from thoughtlens.explain.tokens import load_tokenizer, token_texts
from thoughtlens.explorer.build import significant
from thoughtlens.report.run import Run
from thoughtlens.store import ActivationStore

if TYPE_CHECKING:
    from thoughtlens.explorer import ExplorerConfig

PER_SHARD = 10
STRONGEST = 6
"""Latents shown for one vector."""
ROWS = 256
"""Tokens of a document that are shown."""
PLAIN = ("problem_id", "group_id", "split", "question", "answer", "cot")


def problem_shards(run: Run, cfg: ExplorerConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Shards `problems/N` of ten problems each, and the list of the problems in them."""
    store = ActivationStore.open(run.root / "acts")
    split = run.results["interpret"]["split"]
    members = [
        Member(store, name, sae, split=None if split == "all" else split, batch_size=4096)
        for name, sae in saes.load_members(run.root / "sae").items()
    ]
    known = [set(m.rows.problem.tolist()) for m in members]
    lines = np.array(sorted(set.intersection(*known)))
    chosen = np.sort(
        np.random.default_rng(cfg.seed).choice(lines, min(cfg.n_problems, len(lines)), replace=False)
    )
    table = store.problems.take(chosen).to_pylist()
    tokenizer = load_tokenizer(store.meta.model, store.meta.model_revision) if members[0].text else None
    pages = [
        _page(row, int(line), members, tokenizer) for row, line in zip(table, chosen.tolist(), strict=True)
    ]
    shards = {
        f"problems/{low // PER_SHARD}": pages[low : low + PER_SHARD]
        for low in range(0, len(pages), PER_SHARD)
    }
    listed = [
        {
            "id": row["problem_id"],
            "split": row["split"],
            "text": row.get("question", "")[:120],
            "shard": i // PER_SHARD,
        }
        for i, row in enumerate(table)
    ]
    return shards, listed


def _page(row: dict[str, Any], line: int, members: list[Member], tokenizer: Any) -> dict[str, Any]:
    labels = {name: str(value) for name, value in row.items() if name not in PLAIN}
    page = {key: row.get(key, "") for key in PLAIN} | {"labels": labels, "members": {}}
    for member in members:
        page["members"][member.name] = _strongest(member, line)
    if tokenizer is not None:
        rows = members[0].rows
        unit = int(np.flatnonzero(rows.problem == line)[0])
        ids = rows.columns["token_id"][rows.first[unit] : rows.first[unit + 1]][:ROWS]
        texts = token_texts(tokenizer, np.unique(ids))
        page["tokens"] = [texts[t] for t in ids.tolist()]
    return page


def _strongest(member: Member, line: int) -> list[list[Any]]:
    """[hook, place, [(latent, activation), ...]] of each vector; place: thought_idx, or the token's place."""
    rows = member.rows
    unit = int(np.flatnonzero(rows.problem == line)[0])
    start, stop = int(rows.first[unit]), int(rows.first[unit + 1])
    stop = min(stop, start + ROWS)
    fires = member.at(np.arange(start, stop), first_unit=unit)
    order = np.lexsort((-fires.value, fires.place, fires.hook))
    found: dict[tuple[int, int], list[Any]] = {}
    for i in order.tolist():
        best = found.setdefault((int(fires.hook[i]), int(fires.place[i])), [])
        if len(best) < STRONGEST:
            best.append([int(fires.latent[i]), significant(float(fires.value[i]), 3)])
    thoughts = rows.columns.get("thought_idx")
    return [
        [hook, place - start if thoughts is None else int(thoughts[place]), best]
        for (hook, place), best in found.items()
    ]
