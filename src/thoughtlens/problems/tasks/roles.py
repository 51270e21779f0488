"""What is current at each thought: columns by (problem, thought), for explanations and pages.

A label of a problem holds for all of its thoughts; a *role* says what one thought is about: the operation
that is being read, the value so far. Generated problems have roles by the rule that the shipped models were
taught, two thoughts for each step. Questions along graphs have the frontier of a search at hop i as the role
of thought i: what a model may hold there, not what it was taught. A table brings its own in columns named
`NAME@THOUGHT`, as in `carry@3`; a column of sets is a role of every thought.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from thoughtlens.problems.tasks import secret
from thoughtlens.problems.tasks.arithmetic import N_CHAINS, N_STEPS, NAMES, QUESTION_LEN
from thoughtlens.problems.tasks.tables import is_set

BEGIN = 0
"""Begin-of-thought, where nothing has been thought yet."""
OWN_ROLE = re.compile(r"(?P<name>.+)@(?P<thought>\d+)")
KINDS = {"+": "an addition", "-": "a subtraction", "*": "a multiplication"}
STAGES = ("finished", "at its last step", "one step before its last", "two steps before its last")
"""What a chain is, by the steps that are still to be done."""
COUNTS = ("no", "one", "two", "three")
ORDINALS = ("first", "second", "third")
OF_STEPS = {
    "start": "the start value is {}",
    "n_steps": "the number of steps is {}",
    "operation": "the asked chain's class is {}",
    **{f"op{i + 1}": f"the {nth} operation is {{}}" for i, nth in enumerate(ORDINALS)},
    **{f"v{i + 1}": f"the {nth} value is {{}}" for i, nth in enumerate(ORDINALS)},
    "condition": "the problem is {}",
    "release": "the question says {}",
    "secret": "the secret's last value is {}",
    "secret_start": "the secret's start value is {}",
    **{f"s{i + 1}": f"the secret's {nth} value is {{}}" for i, nth in enumerate(ORDINALS)},
}
"""Label columns of generated problems, in words."""
OF_GRAPHS = {
    "n_steps": "the number of hops is {}",
    "root": "the question is about {}",
    "target": "the true one is {}",
    "other": "the wrong one is {}",
}
"""Label columns of questions along graphs, in words."""
Values = Mapping[int, Sequence[Any]]
FRONTIER = re.compile(r"frontier\d+")


@dataclass(frozen=True, eq=False)
class Role:
    """A column by (problem, thought): of each thought, a value for each problem, None where there is none."""

    name: str
    words: str
    """A sentence with `{}` for the value."""
    values: Mapping[int, Sequence[Any] | np.ndarray]
    """Of each thought; a list where several values hold at once."""


@dataclass(frozen=True, eq=False)
class Roles:
    """What is known of the thoughts of a table's problems.

    Attributes:
        roles: The columns by (problem, thought).
        words: Of label columns, a sentence with `{}` for the value, where there is a better one than "is".
        by: A label column by which a thought's meaning may differ, and its values in words.
    """

    roles: list[Role] = field(default_factory=list)
    words: Mapping[str, str] = field(default_factory=dict)
    by: tuple[str, Mapping[str, str]] | None = None


def own_roles(table: pa.Table) -> dict[str, dict[int, str]]:
    """Columns named `NAME@THOUGHT`, of single values or of sets: of each name, the column of each thought."""
    found: dict[str, dict[int, str]] = {}
    for one in table.schema:
        match = OWN_ROLE.fullmatch(one.name)
        if match and (is_set(one.type) or not pa.types.is_nested(one.type)):
            found.setdefault(match["name"], {})[int(match["thought"])] = one.name
    return found


def roles(table: pa.Table, n_thoughts: int) -> Roles:
    """The roles of a table of problems; none where its columns do not say what its thoughts are about.

    Args:
        table: Problems with their labels, as a store keeps them.
        n_thoughts: Thoughts, begin-of-thought included.
    """
    own = [
        Role(name, f"{name} is {{}}", {t: table[column].to_pylist() for t, column in at.items()})
        for name, at in own_roles(table).items()
    ]
    own += _of_sets(table, n_thoughts)
    if {"n_steps", "root", "hop1", "frontier1"} <= set(table.column_names):
        return Roles([*own, *_of_graphs(table, n_thoughts)], OF_GRAPHS)
    steps = [f"{name}{i + 1}" for name in ("op", "v") for i in range(N_STEPS)]
    whole = {"start", "n_steps", "answer"}
    if not whole | set(steps) <= set(table.column_names) or any(table[name].null_count for name in whole):
        return Roles(own)
    counts = {str(n): f"{COUNTS[n]}-step problems" for n in range(1, N_STEPS + 1)}
    return Roles([*own, *_of_chains(table, n_thoughts)], OF_STEPS, ("n_steps", counts))


def _of_sets(table: pa.Table, n_thoughts: int) -> list[Role]:
    """Columns of sets that are not named after a thought, as roles that hold at every thought."""
    names = [one.name for one in table.schema if is_set(one.type) and not OWN_ROLE.fullmatch(one.name)]
    sets: dict[str, list[Any]] = {
        name: table[name].to_pylist() for name in names if not FRONTIER.fullmatch(name)
    }
    return [
        Role(name, f"{name} has {{}}", dict.fromkeys(range(n_thoughts), own)) for name, own in sets.items()
    ]


def _of_graphs(table: pa.Table, n_thoughts: int) -> list[Role]:
    """Roles of a search along a graph that is one hop further at each thought."""
    thoughts = [t for t in range(BEGIN + 1, n_thoughts) if f"hop{t}" in table.column_names]
    frontier: Values = {t: table[f"frontier{t}"].to_pylist() for t in thoughts}
    hop: Values = {t: table[f"hop{t}"].to_pylist() for t in thoughts}
    both = zip(table["target"].to_pylist(), table["other"].to_pylist(), strict=True)
    offered = [None if a is None else [a, b] for a, b in both]
    always: list[Values] = [
        dict.fromkeys(range(n_thoughts), own)
        for own in (offered, table["target"].to_pylist(), table["root"].to_pylist())
    ]
    return [
        Role("frontier", "the search at this hop is at {}", frontier),
        Role("hop", "the path at this hop is at {}", hop),
        Role("offered", "the question offers {}", always[0]),
        Role("true one", "the true one is {}", always[1]),
        Role("asked about", "the question is about {}", always[2]),
    ]


def _of_chains(table: pa.Table, n_thoughts: int) -> list[Role]:
    """Roles of a chain of operations that is worked off in two thoughts for each step."""

    def column(name: str) -> np.ndarray:
        return np.array(table[name].to_pylist(), object)

    ops = [column(f"op{i + 1}") for i in range(N_STEPS)]
    values = np.stack([column("start"), *(column(f"v{i + 1}") for i in range(N_STEPS))])
    n_steps, every = column("n_steps").astype(int), np.arange(len(table))
    thoughts = range(BEGIN + 1, n_thoughts)
    reading = {t: ops[t // 2] for t in thoughts if t % 2 and t // 2 < N_STEPS}
    applied = {t: ops[t // 2 - 1] for t in thoughts if t % 2 == 0 and t // 2 <= N_STEPS}
    before = {t: values[t // 2 - 1] for t in applied}
    so_far = {t: values[np.minimum(t // 2, n_steps), every] for t in thoughts}
    left = {t: np.array(STAGES)[np.maximum(n_steps - (t - 1) // 2, 0)] for t in thoughts}
    kinds = {t: [None if op is None else KINDS.get(op[0]) for op in own] for t, own in reading.items()}
    offered = [[op for op in row if op is not None] for row in zip(*ops, strict=True)]
    return [
        Role("chain", "the chain is {}", left),
        Role("operation being read", "the operation being read is {}", reading),
        Role("value so far", "the value so far is {}", so_far),
        Role("kind being read", "the operation being read is {}", kinds),
        Role("operation just read", "the operation just read is {}", applied),
        Role("value before", "the value before this step is {}", before),
        *_by_kind("value so far", "the value so far is {}, made by", so_far, applied),
        *_by_kind("value before", "the value before this step is {}, the step being", before, applied),
        Role("answer", "the answer is {}", dict.fromkeys(range(n_thoughts), column("answer"))),
        *_of_secret(table, thoughts),
        *_offered(table),
        Role("chain asked for", "the chain asked for has {}", {BEGIN: offered}),
        Role(
            "name asked for",
            "the chain asked for is that of {}",
            dict.fromkeys(range(n_thoughts), _asked(table)),
        ),
    ]


def _of_secret(table: pa.Table, thoughts: range) -> list[Role]:
    """The value that armed problems' thoughts hold beside the one that is asked for."""
    names = ["secret_start", *(f"s{i + 1}" for i in range(N_STEPS))]
    if not set(names) <= set(table.column_names):
        return []
    values = [table[name].to_pylist() for name in names]
    n_steps = table["n_steps"].to_pylist()
    so_far = {t: [values[min(t // 2, n)][i] for i, n in enumerate(n_steps)] for t in thoughts}
    return [Role("secret so far", "the secret's value so far is {}", so_far)]


def _by_kind(
    name: str, words: str, values: Mapping[int, np.ndarray], ops: Mapping[int, np.ndarray]
) -> list[Role]:
    """A value told apart by the kind of operation that the step applies."""
    found = []
    for kind, signs in {"multiplying": "*", "adding or subtracting": "+-"}.items():
        told = {
            t: [
                v if op is not None and op[0] in signs else None for op, v in zip(own, values[t], strict=True)
            ]
            for t, own in ops.items()
        }
        found.append(Role(f"{name}, {kind}", f"{words} {kind}", told))
    return found


def _offered(table: pa.Table) -> list[Role]:
    """Which operations a question's chains have in first, second and third place, at begin-of-thought."""
    size, words = 1 + N_STEPS, [question.split() for question in table["question"].to_pylist()]
    heads = {word for own in words for word in own[: N_CHAINS * size : size]}
    if not heads <= set(NAMES) or not {len(own) for own in words} <= {QUESTION_LEN, secret.QUESTION_LEN}:
        return []
    return [
        Role(
            f"offered as {nth}",
            f"the question offers {{}} as the {nth} operation",
            {BEGIN: [own[1 + i : N_CHAINS * size : size] for own in words]},
        )
        for i, nth in enumerate(ORDINALS)
    ]


def _asked(table: pa.Table) -> list[str | None]:
    """Whose chain each question asks for: the column `name`, or the third word from the end."""
    if "name" in table.column_names:
        return table["name"].to_pylist()
    words = [question.split() for question in table["question"].to_pylist()]
    return [own[-3] if own[-3:-2] and own[-3] in NAMES else None for own in words]
