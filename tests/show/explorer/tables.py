"""The tables of explain, lens, geometry and interpret that the explorer shows, planted for any number of
latents: every number of latent i follows from i."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.planted import HOOKS
from thoughtlens.core import Number, digest, digest_tree, read_json, write_json
from thoughtlens.core.records.manifest import LIST, relist
from thoughtlens.core.records.record import to_table, write_rows
from thoughtlens.evals.recovery.records import (
    At,
    Followed,
    PlaceRow,
    Recovered,
    RecoveryOutcome,
    ValueRow,
    Variable,
    VariableBy,
)
from thoughtlens.tracing import (
    FOLDER,
    AskedRow,
    AttentionOutcome,
    Graph,
    GraphCut,
    GraphEdge,
    GraphNode,
    WeightsRow,
)

EDGES = [2.0**k for k in range(-8, 9)]
SPLIT = "test"


def plant_explain(root: Path, n: int, texts: list[str], member: str = "pooled") -> None:
    """Latent i says texts[i % len(texts)] by token lookup (chosen, AUPRC i / n), and "rule i" by rules."""
    latent = np.arange(n)
    said = [texts[i % len(texts)] for i in range(n)]
    chosen, rest = _scores(latent, n, member), _scores(latent, n, member)
    chosen |= {"method": ["token"] * n, "text": said, "chosen": [True] * n}
    rest |= {"method": ["rules"] * n, "text": [f"rule {i}" for i in latent], "chosen": [False] * n}
    table = pa.concat_tables([pa.table(rest), pa.table(chosen)])
    write(root / "explain" / "explanations.parquet", table)
    nodes = [
        {"id": 0, "token": texts[0], "depth": 0, "importance": None, "activation": 2.0},
        {"id": 1, "token": " before", "depth": 1, "importance": 0.9, "activation": None},
    ]
    graph = json.dumps({"nodes": nodes, "edges": [[1, 0]]})
    own = np.arange(0, n, 2)
    write(
        root / "explain" / "graphs.parquet",
        {"member": [member] * len(own), "latent": own.astype(np.int32), "graph": [graph] * len(own)},
    )


def plant_lens(
    root: Path, n: int, tokens: list[str], problems: list[str], hooks: list[str], member: str = "pooled"
) -> None:
    """Tokens promoted and suppressed by each latent, and what the first thought of `problems` reads as."""
    latent, sign = np.repeat(np.arange(n), 4), np.tile([1, 1, -1, -1], n)
    words = [tokens[(i + k) % len(tokens)] for i in range(n) for k in range(4)]
    table = {
        "member": [member] * (4 * n),
        "latent": latent.astype(np.int32),
        "sign": sign,
        "rank": np.tile([0, 1, 0, 1], n),
    }
    write(
        root / "lens" / "latents.parquet", table | {"token_id": latent, "token": words, "logit": sign * 3.5}
    )
    spread = {"low": np.full(n, -3.5, np.float32), "high": np.arange(n).astype(np.float32)}
    own = {"member": [member] * n, "latent": np.arange(n, dtype=np.int32), "counts": [[1, 2, 1]] * n}
    write(root / "lens" / "logits.parquet", own | spread)
    read = [
        (lens, hook, 1, p, rank)
        for lens in ("logit", "tuned")
        for hook in hooks
        for p in problems
        for rank in (0, 1)
    ]
    columns = dict(
        zip(
            ("lens", "hook_name", "thought_idx", "problem_id", "rank"),
            map(list, zip(*read, strict=True)),
            strict=True,
        )
    )
    rank = np.array(columns["rank"])
    seen = {
        "lens": ["logit"],
        "hook_name": hooks[:1],
        "thought_idx": [1],
        "column": ["v1"],
        "subset": ["all"],
    }
    write(root / "lens" / "summary.parquet", seen | {"n": [60], "rate": [0.5], "null_high": [0.0625]})
    write(
        root / "lens" / "readings.parquet",
        columns
        | {
            "token_id": rank,
            "token": [tokens[r % len(tokens)] for r in rank],
            "probability": 0.75 - 0.5 * rank,
        },
    )


def plant_geometry(root: Path, n: int, other_sae: str, member: str = "pooled") -> None:
    """The neighbour of latent i is i + 1, its match in `other_sae` is n - 1 - i with score i / n."""
    latent = np.arange(n).astype(np.int32)
    common = {"member": [member] * n, "latent": latent}
    near = {"rank": np.zeros(n, np.int32), "other": (latent + 1) % n, "cosine": np.full(n, 0.5)}
    write(root / "geometry" / "neighbours.parquet", common | near)
    match = {"other_member": [member] * n, "by": pa.array(["decoder"] * n).dictionary_encode()} | {
        "other_sae": [other_sae] * n,
        "other": n - 1 - latent,
        "score": latent / n,
        "null_score": np.full(n, 0.25),
    }
    write(root / "geometry" / "matches.parquet", common | match)


def plant_interpret(root: Path, n: int, member: str = "pooled") -> None:
    """Histograms, deciles, a decile example for each top example, and co-activation with latent i + 1."""
    folder = root / "interpret"
    table = pq.read_table(folder / "latents.parquet")
    table = table.drop_columns([c for c in ("histogram", "deciles") if c in table.column_names])
    counts = [[0, 0, 3, 5] + [0] * (len(EDGES) - 5)] * len(table)
    table = table.append_column("histogram", pa.array(counts)).append_column(
        "deciles", pa.array([list(np.arange(11.0))] * len(table))
    )
    write(folder / "latents.parquet", table)
    examples = pq.read_table(folder / "top_examples.parquet")
    decile = pa.array(10 - np.asarray(examples["rank"]) % 10, pa.int32())
    write(folder / "decile_examples.parquet", examples.append_column("decile", decile))
    latent = np.arange(n).astype(np.int32)
    both = {
        "rank": np.zeros(n, np.int32),
        "other": (latent + 1) % n,
        "n_both": latent + 1,
        "jaccard": np.full(n, 0.125),
    }
    write(folder / "coactivation.parquet", {"member": [member] * n, "latent": latent} | both)
    write_json(folder / "result.json", read_json(folder / "result.json") | {"histogram_edges": EDGES})
    reseal(folder / "result.json")


def plant_edit(root: Path, latents: list[int], problems: list[str]) -> None:
    """An intervention that sets `latents` together at block 1, and one of another latent as its control."""
    folder = root / "intervene" / "latent"
    row = {
        "row": 0, "edit": "edit_latents", "scope": "all", "site": "resid", "layer": 1, "thought_idx": None,
        "control": None, "latents": " ".join(map(str, latents)), "difference": -0.5, "low": -0.75,
        "high": -0.25, "verdict": "worse", "kl": 0.5, "n": 60, "n_groups": 60, "p": 0.01,
        "test": "exact McNemar", "unparsable": 0.0, "other": 0.5, "moved": 1.0, "kl_low": 0.4, "kl_high": 0.6,
        "accuracy_untouched": 1.0,
    }  # fmt: skip
    for share in ("accuracy", "clean", "predicted", "corrupted"):
        row |= {share: 0.5, f"{share}_low": 0.25, f"{share}_high": 0.75}
    control = row | {"row": 1, "control": "latents", "latents": "4", "difference": 0.0}
    n = len(problems)
    answers = {
        "row": [0] * n + [1] * n, "problem_id": problems * 2, "text": ["7</script>"] * n + ["8"] * n,
        "class": ["other"] * n + ["clean"] * n, "kl": np.full(2 * n, 0.5, np.float32),
        "logprob": np.full(2 * n, -0.5, np.float32),
    }  # fmt: skip
    write(folder / "answers.parquet", answers)
    (folder / "config.toml").write_text(f'edit = "edit_latents"\nlatents = {latents}\n')
    result = {
        "stage": "intervene",
        "model": "planted",
        "model_digest": None,
        "site": "resid",
        "edit": "edit_latents",
        "split": SPLIT,
        "n": 60,
        "effects": [row, control],
    }
    inputs = {"sae": {"digest": digest(root / "sae")}}
    write_json(
        folder / "result.json",
        result | {"effects": [row, control], "inputs": inputs, "digest": digest_tree(folder)},
    )


def clause(value: str, says: str = "operation", thoughts=(2,), hooks=(HOOKS[1],)) -> dict[str, object]:
    """A clause as explain writes it."""
    return {"says": says, "value": value, "thoughts": list(thoughts), "hooks": list(hooks), "also": {}}


def say(root: Path, n: int, clauses: dict[int, list]) -> None:
    """By latent, what it is said to be in clauses; the others have none."""
    plant_explain(root, n, ["said"])
    file = root / "explain" / "explanations.parquet"
    table = pq.read_table(file)
    chosen = zip(table["latent"].to_pylist(), table["chosen"].to_pylist(), strict=True)
    own = [clauses.get(i, []) if first else [] for i, first in chosen]
    for name in ("says", "value"):
        said = pa.array([some[0][name] if some else None for some in own], pa.string())
        table = table.append_column(name, said)
    text = ["; or ".join(f"{c['says']} is {c['value']} (thoughts 2)" for c in some) or "said" for some in own]
    table = table.set_column(table.column_names.index("text"), "text", pa.array(text))
    write(file, table.append_column("clauses", pa.array([json.dumps(some) for some in own])))


def plant_recovery(root: Path, d_sae: int, level: str) -> None:
    """operation is told whole at thought 2, half with one step; latent 3 speaks for `level`."""
    share = Number(value=1.0, low=0.9, high=1.0, n=40, split="test")
    half, at = Number(value=0.5, low=0.4, high=0.6, n=20, split="test"), At(hook_name=HOOKS[1], thought_idx=2)
    common = {"place": at, "n_values": 3, "probe": share, "variance_share": half, "found": half}
    told = Recovered(found=half, found_by_two=share, best_f1=share)
    alone = Variable(**common, found_by_two=half, best_f1=half, permuted=told, baselines={})
    rest = {"permuted": told, "baselines": {"kmeans": told}, "by": {"n_steps": {"1": alone}}}
    whole = VariableBy(**common, found_by_two=share, best_f1=share, **rest)
    outcome = RecoveryOutcome(
        member="pooled", d_sae=d_sae, l0=2.0, kind="relu", split="test", found_at=0.9, left_out=[],
        variables={"operation": whole},
        numbers={"steps": Followed(place=at, latent=4, rank_correlation=half)},
    )  # fmt: skip
    folder = root / "recovery"
    folder.mkdir()
    row = {"variable": "operation", "condition": "", "hook_name": HOOKS[1], "thought_idx": 2, "n": 40}
    value = {"value": level, "latent": 3, "second": 3, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    value |= {"f1_of_two": 1.0, "n_latents": 1, "n_sharing": 1, "split": "test"}
    place = {"probe": 1.0, "variance_share": 0.5, "best_f1": 0.5, "best_f1_of_two": 1.0, "chosen": True}
    write_rows(folder / "values.parquet", ValueRow, [ValueRow(**row, **value)])
    write_rows(folder / "places.parquet", PlaceRow, [PlaceRow(**row, **place)])
    write_json(folder / "result.json", {"stage": "recovery", "digest": ""} | outcome.to_json())
    reseal(folder / "result.json")


def _scores(latent: np.ndarray, n: int, member: str) -> dict[str, object]:
    numbers = {
        name: np.full(n, value)
        for name, value in (
            ("pearson", 0.5),
            ("base_rate", 0.01),
            ("token_auprc", 0.125),
            ("random_auprc", 0.0625),
        )
    }
    auprc = latent / n
    return {
        "member": [member] * n, "latent": latent.astype(np.int32), "auprc": auprc, "auprc_low": auprc * 0.9,
        "auprc_high": np.minimum(auprc * 1.1, 1), "precision_at_half_recall": auprc, **numbers,
        "n": np.full(n, 1000), "n_units": np.full(n, 100), "split": [SPLIT] * n,
    }  # fmt: skip


def plant_attention(root: Path, tokens: list[str], problems: list[str]) -> None:
    """Of a model of three thoughts, two layers of one head and a cue of one token: half on the first token,
    the rest in equal shares."""
    rows, heads = [], [(layer, 0) for layer in range(2)]
    for problem in problems:
        for query in range(5):
            n = len(tokens) + query + 1
            weights = [0.5, *[0.5 / (n - 1)] * (n - 1)]
            rows += [
                WeightsRow(problem_id=problem, query=query, layer=layer, head=head, weights=weights)
                for layer, head in heads
            ]
    folder = root / "attention"
    write(folder / "weights.parquet", to_table(WeightsRow, rows))
    asked = [AskedRow(problem_id=problem, tokens=tokens) for problem in problems]
    write(folder / "questions.parquet", to_table(AskedRow, asked))
    outcome = AttentionOutcome(
        split="test", model="planted", model_digest=None, n=len(problems), n_kept=len(problems), n_thoughts=3,
        n_layers=2, n_heads=1, looks=[], by_head=[],
    )  # fmt: skip
    write_json(folder / "result.json", {"stage": "attention", **outcome.to_json()})


def plant_graph(root: Path, problem: str, hostile: str) -> None:
    """Of one problem: a word makes latent 3, that makes the answer by its state, and an error a little."""
    more, less = ({"attribution": 0.5, "effect": effect} for effect in (0.9, -0.1))
    at = {"column": 1, "row": 1, "thought_idx": 2, "hook_name": HOOKS[1], "member": "pooled"}
    graph = Graph(
        name=f"problem-{problem}", model="planted", text=hostile, answer="7", rows=list(HOOKS),
        columns=["word", "thought 2", "answer"], n_tried=9, rank_correlation=0.5, share_shown=0.75,
        warnings=[hostile],
        nodes=[
            GraphNode(id="word 0", kind="token", column=0, text=hostile, share=0.5),
            GraphNode(id="latent", kind="latent", latent=3, says=hostile, activation=2.0, share=0.9, **at),
            GraphNode(id="error", kind="error", activation=0.5, **at),
            GraphNode(id="answer", kind="answer", column=2, text="7", probability=0.9),
        ],
        edges=[
            GraphEdge(source="word 0", target="latent", route="layers.0:kv", flow=0.7, **more),
            GraphEdge(source="latent", target="answer", route="state", flow=0.9, q=0.01, **more),
            GraphEdge(source="error", target="answer", route="layers.1:kv", flow=0.1, **less),
        ],
        cuts=[GraphCut(name="cut best", about="the best are cut", n_cut=2, value=0.25)],
    )  # fmt: skip
    folder = root / FOLDER / graph.name
    folder.mkdir(parents=True)
    told = {"stage": "graph", "problem_id": problem, **graph.to_json()}
    write_json(folder / "result.json", told)
    reseal(folder / "result.json")


def write(file: Path, table: pa.Table | dict[str, object]) -> None:
    """Write a table, and the folder around it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), file)
    reseal(file)


def reseal(file: Path) -> None:
    """List the files of a finished folder anew: this one was changed on purpose."""
    for folder in file.parents[:3]:
        if (folder / LIST).is_file():
            relist(folder)
