"""What a clause may speak of: statements that hold for a vector or not, and the contexts it may hold in.

A statement is a role, a label, a word of the question or a token, with its value. A context is a hook, a
thought, and where a source says so a condition such as the number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from jaxtyping import Int

from thoughtlens.acts import ActivationStore
from thoughtlens.latents.codes.labels import Label, encode_labels, read_labels
from thoughtlens.latents.codes.tokens import quoted
from thoughtlens.latents.explain.columns import (
    MIN_COUNT,
    MOST_LEVELS,
    code_of,
    frequent,
    incidence,
    position_bins,
    position_names,
)
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.corpus import Corpus, Part
from thoughtlens.problems import OWN_ROLE, Role, Roles, roles
from thoughtlens.sae import Crosscoder

ANY = "any"
NEIGHBOURS = {"token": 0, "next token": -1, "token before": 1}
"""Of text: which tokens count, by their distance before the one that a vector is on."""


class Statement(NamedTuple):
    """A column's value, and the sentence about it."""

    says: str
    value: str
    text: str


class Context(NamedTuple):
    """Where a clause may hold."""

    hook_name: str
    thought: int | None
    condition: str


@dataclass(frozen=True, eq=False)
class Stated:
    """The vectors of one part: which statements hold, and the context of each."""

    holds: sp.csr_array
    by_statement: sp.csc_array
    context: Int[np.ndarray, " n"]


class Block(NamedTuple):
    """Statements that come from one column, and what holds where."""

    statements: list[Statement]
    holds: sp.csr_array | np.ndarray


class Encoded(NamedTuple):
    """A role's values, [problems x thoughts, levels]: all thoughts of a problem in turn."""

    name: str
    words: str
    levels: list[str]
    holds: sp.csr_array


class Known:
    """What a store's problems say of themselves: roles, labels, and by what thoughts differ; read once.

    Attributes:
        roles: Columns by (problem, thought).
        labels: Columns by problem, as classes.
        words: Of labels, a sentence with `{}` for the value.
        condition: The label by which the meaning of a thought differs, with its values in words.
    """

    def __init__(self, store: ActivationStore, cfg: ExplainConfig) -> None:
        problems, thoughts = store.problems, store.own_thoughts if store.meta.kind == "thoughts" else []
        self.n_thoughts = max(thoughts, default=-1) + 1
        known = roles(problems, self.n_thoughts) if self.n_thoughts else Roles()
        labels = read_labels(
            problems, cfg.labels, max_levels=cfg.max_levels, min_count=MIN_COUNT, most=MOST_LEVELS
        )
        self.labels = [one for one in labels if one.levels and not OWN_ROLE.fullmatch(one.name)]
        self.words = known.words
        self.roles = [_encoded(one, self.n_thoughts, cfg.max_levels) for one in known.roles if one.values]
        self.condition = _condition(known, problems)

    def several(self, name: str, thoughts: Sequence[int]) -> bool:
        """Whether a role is about different things at two of these thoughts, in most problems."""
        for role in self.roles:
            if role.name == name:
                known = [t for t in thoughts if t in range(self.n_thoughts)]
                own = [role.holds[t :: self.n_thoughts + 1] for t in known]
                return any(a.multiply(b).sum() <= min(a.sum(), b.sum()) / 2 for a, b in combinations(own, 2))
        return False


class Statements:
    """The statements about one member's vectors, fixed by the fitting problems and the labels there are."""

    def __init__(self, corpus: Corpus, names: dict[int, str], known: Known) -> None:
        self.corpus, self.names, self.known = corpus, names, known
        member = corpus.member
        joined = isinstance(member.sae, Crosscoder) and member.sae.cfg.over == "thoughts"
        self.placed = not (member.text or joined)
        self.condition = known.condition if self.placed else None
        conditions = self.condition.levels if self.condition is not None else [""]
        self.contexts = [
            Context(place.hook_name, place.thought if self.placed else None, condition)
            for place in corpus.cells
            for condition in conditions
        ]
        self.kinds = frequent(corpus.fit)
        self.statements: list[Statement] = []

    def of(self, part: Part, rng: np.random.Generator | None = None) -> Stated:
        """What holds for a part's vectors; with `rng`, dealt to other problems (of text: vectors)."""
        unit, n = part.unit, part.n
        if rng is not None and self.placed:
            unit = rng.permutation(part.n_units)[unit]
        anywhere = Block([Statement("place", ANY, "any problem")], np.ones((n, 1), np.float32))
        blocks = [*self._roles(part, unit), anywhere, *self._labels(part, unit), *self._tokens(part, unit)]
        self.statements = [one for block in blocks for one in block.statements]
        holds = sp.csr_array(sp.hstack([block.holds for block in blocks], format="csr", dtype=np.float32))
        context = part.cell
        if self.condition is not None:
            context = context * len(self.condition.levels) + self.condition.codes[part.line][unit]
        if rng is not None and not self.placed:
            order = rng.permutation(n)
            holds, context = holds[order], context[order]
        return Stated(holds, sp.csc_array(holds), context)

    def _roles(self, part: Part, unit: np.ndarray) -> list[Block]:
        blocks = []
        n = self.known.n_thoughts  # of a token of the question or of the cue no role is known
        own = [place.thought for place in self.corpus.cells]
        thought = np.array([p if p in range(n) else n for p in own])
        for role in self.known.roles if self.placed else ():
            own = [Statement(role.name, v, role.words.format(v)) for v in role.levels]
            rows = part.line[unit] * (self.known.n_thoughts + 1) + thought[part.cell]
            blocks.append(Block(own, role.holds[rows]))
        return blocks

    def _labels(self, part: Part, unit: np.ndarray) -> list[Block]:
        blocks, every = [], np.arange(part.n)
        for label in self.known.labels:
            words = self.known.words.get(label.name, f"{label.name} is {{}}")
            own = [Statement(label.name, v, words.format(v)) for v in label.levels]
            blocks.append(Block(own, incidence(every, label.codes[part.line][unit], part.n, len(own))))
        return blocks

    def _tokens(self, part: Part, unit: np.ndarray) -> list[Block]:
        tokens, kinds, n = part.tokens, self.kinds, part.n
        shown = [quoted(self.names[i]) for i in kinds.tolist()]
        if part.where is None:
            own = [Statement("question", name, f"the question has {name}") for name in shown]
            has = incidence(tokens.stretch, code_of(kinds, tokens.ids), part.n_units, len(own))
            return [Block(own, has[unit])]
        blocks = []
        for says, distance in NEIGHBOURS.items():
            codes = code_of(kinds, tokens.before(distance))[part.where]
            own = [Statement(says, name, f"the {says} is {name}") for name in shown]
            blocks.append(Block(own, incidence(np.arange(n), codes, n, len(own))))
        bins = position_bins(self.corpus.member.rows.columns.position[part.place])
        at = [Statement("position", name, f"the position is {name}") for name in position_names()]
        return [*blocks, Block(at, incidence(np.arange(n), bins, n, len(at)))]


def _encoded(role: Role, n_thoughts: int, max_levels: int) -> Encoded:
    """A role's values as columns, told apart as those of labels are; by problem, a row for each thought, and
    an empty one for what is no thought."""
    rows, values = [], []
    for thought, own in role.values.items():
        if thought < n_thoughts:
            said, problem = pa.array(own), np.arange(len(own))
            if pa.types.is_list(said.type):
                said, problem = said.flatten(), pc.list_parent_indices(said).to_numpy()  # type: ignore[attr-defined]
            rows.append(problem * (n_thoughts + 1) + thought)
            values.append(said)
    kinds = {one.type for one in values if not pa.types.is_null(one.type)}
    kind = kinds.pop() if len(kinds) == 1 else pa.string()
    table = pa.table({"role": pa.chunked_array([one.cast(kind) for one in values], kind)})
    (label,) = read_labels(table, ("role",), max_levels=max_levels, min_count=MIN_COUNT, most=MOST_LEVELS)
    n = len(next(iter(role.values.values()))) * (n_thoughts + 1)
    holds = incidence(np.concatenate([np.zeros(0, int), *rows]), label.codes, n, len(label.levels))
    return Encoded(role.name, role.words, label.levels, holds)


def _condition(known: Roles, problems: pa.Table) -> Label | None:
    """The column by which thoughts differ, its levels in words; None where there is none."""
    if known.by is None:
        return None
    name, words = known.by
    codes, values = encode_labels(problems[name])
    return Label(name, codes, [words.get(v, f"{name} {v}") for v in values], len(values))
