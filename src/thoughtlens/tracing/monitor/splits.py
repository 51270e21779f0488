"""The problems of a split in every run of the model, and which of them have something to notice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from thoughtlens.core import ConfigError, progress
from thoughtlens.latents import PROBLEM_COLUMNS, Readout
from thoughtlens.models import Hook, ThoughtModel, is_right, parse_number
from thoughtlens.problems import Rule
from thoughtlens.tracing.monitor.broken import broken
from thoughtlens.tracing.monitor.config import Kind, MonitorConfig
from thoughtlens.tracing.monitor.judged import Sample
from thoughtlens.tracing.monitor.records import WatchedRow
from thoughtlens.tracing.monitor.scores import contradictions, explained, order
from thoughtlens.tracing.monitor.watched import Watched, joined, watch

NONE = "none"
"""The error of a run of the model as it is."""


@dataclass(frozen=True, eq=False)
class Who:
    """The model, and how it is asked."""

    cfg: MonitorConfig
    model: ThoughtModel
    readout: Readout
    rule: Rule | None

    def look(
        self, questions: Sequence[str], hooks: Sequence[Hook] = (), n_thoughts: int | None = None
    ) -> Watched:
        sizes = {"batch_size": self.cfg.batch_size, "max_new_tokens": self.cfg.max_new_tokens}
        return watch(self.model, self.readout, questions, hooks, n_thoughts=n_thoughts, **sizes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A split's problems in every run: first as the model is, then each with an error."""

    who: Who
    name: str
    table: pa.Table
    seen: Watched
    row: np.ndarray
    """Line of the table."""
    error: np.ndarray
    """`none`, or how the answer was broken."""
    at: np.ndarray
    """The thought of the error; -1: none."""
    shuffle: np.ndarray
    """Another problem for every one."""

    @cached_property
    def right(self) -> np.ndarray:
        """Whether the answers are right; None where nobody says what is."""
        if "answer" not in self.table.column_names:
            return np.full(len(self.row), None, object)
        gold, found = self.table["answer"].to_pylist(), []
        for i, text in zip(self.row, self.seen.answers, strict=True):
            found.append(None if gold[i] is None else is_right(text, parse_number(text), str(gold[i])))
        return np.array(found, object)

    @cached_property
    def own(self) -> np.ndarray:
        """Which runs are of the model as it is."""
        return self.error == NONE

    @cached_property
    def groups(self) -> np.ndarray:
        return np.unique(self.table["group_id"].to_pylist(), return_inverse=True)[1][self.row]

    @cached_property
    def questions(self) -> list[str]:
        return self.table["question"].to_pylist()

    @cached_property
    def columns(self) -> list[list[str]]:
        """What the answer's chain says."""
        return explained(self.who.rule, self.seen)

    @cached_property
    def usual(self) -> Watched:
        return self.seen.take(np.flatnonzero(self.own))

    @cached_property
    def contradicts(self) -> np.ndarray:
        return contradictions(self.who.rule, self.seen, self.usual)

    @cached_property
    def shuffled(self) -> Watched:
        """Everybody with the thoughts of another one."""
        return self.seen.thinking_of(self.shuffle)

    def sample(self, truth: Kind) -> Sample:
        """Which runs have something to notice, and which are clean.

        An answer is broken if it was right and is not, or, where nobody says what is right, if it changed.
        """
        own, right, wrong = self.own, self.right == True, self.right == False  # noqa: E712
        if truth == "label":
            positive, clean = (one[self.row] & own for one in labelled(self.who.cfg, self.table))
        elif truth == "wrong":
            positive, clean = own & wrong, own & right
        elif (right | wrong).all():
            positive, clean = ~own & right[self.row] & wrong, own & right
        else:
            answers = np.array(self.seen.answers, object)
            positive, clean = ~own & (answers != answers[self.row]), own
        return Sample(self.name, positive, clean, self.groups)


def watched(who: Who, tables: Mapping[str, pa.Table]) -> dict[str, Split]:
    """Every split in every run."""
    found = {}
    with progress("monitor", len(tables), "splits") as bar:
        for i, (name, table) in enumerate(tables.items()):
            found[name] = _split(who, name, table, np.random.default_rng((who.cfg.seed, 71, i)))
            bar.advance(1)
    return found


def _split(who: Who, name: str, table: pa.Table, rng: np.random.Generator) -> Split:
    base, errors = who.look(table["question"].to_pylist()), []
    if "broken" in who.cfg.wanted:
        errors = list(broken(who.look, base, who.model.spec, who.cfg.errors, rng))
    row = np.concatenate([np.arange(len(table)), *(one.rows for one in errors)])
    return Split(
        who=who,
        name=name,
        table=table,
        seen=joined([base, *(one.seen for one in errors)]),
        row=row,
        error=np.array([NONE] * len(table) + [one.error for one in errors for _ in one.rows], object),
        at=np.array([-1] * len(table) + [one.thought for one in errors for _ in one.rows]),
        shuffle=order(len(row), rng),
    )


def rows_of(split: Split, beyond: np.ndarray) -> list[WatchedRow]:
    """The lines of the table."""
    ids = split.table["problem_id"].to_pylist()
    return [
        WatchedRow(
            problem_id=ids[i],
            split=split.name,
            error=split.error[k],
            error_idx=None if split.at[k] < 0 else int(split.at[k]),
            answer=split.seen.answers[k],
            is_right=split.right[k],
            contradicts=float(split.contradicts[k]),
            beyond=None if np.isnan(beyond[k]) else float(beyond[k]),
            margin=float(split.seen.first.margin[k]),
            entropy=float(split.seen.first.entropy[k]),
        )
        for k, i in enumerate(split.row)
    ]


def labelled(cfg: MonitorConfig, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Problems with the label's value that is to be noticed, and clean ones."""
    assert cfg.label is not None
    values, counts = _texts(table, cfg.label), np.ones(len(table), bool)
    for condition in cfg.where:
        column, _, wanted = condition.partition("=")
        counts &= np.isin(_texts(table, column), wanted.split(","))
    positive = values == (cfg.positive or "true")
    clean = (values != "") & ~positive if cfg.clean is None else values == cfg.clean
    return positive & counts, clean & counts


def require_label(cfg: MonitorConfig, problems: pa.Table) -> None:
    """Refuse a label that cannot be told.

    Raises:
        ConfigError: there is no column of this name, it has one value, or not those that are named.
    """
    if cfg.label is None:
        return
    own = [name for name in problems.column_names if name not in PROBLEM_COLUMNS]
    conditions = [condition.partition("=") for condition in cfg.where]
    wanted = [(column, "where", value) for column, _, told in conditions for value in told.split(",")]
    named = [("positive", cfg.positive or "true"), ("clean", cfg.clean)]
    wanted += [(cfg.label, field, value) for field, value in named if value is not None]
    for field, name in (("label", cfg.label), *(("where", column) for column, *_ in conditions)):
        if name not in own or pa.types.is_nested(problems[name].type):
            there = ", ".join(own) or "it has none"
            raise ConfigError(f"{field}: expected a column of {cfg.acts} ({there}), got {name!r}")
    values = sorted({*_texts(problems, cfg.label).tolist()} - {""})
    if len(values) < 2:
        raise ConfigError(
            f"label: {cfg.label!r} of {cfg.acts} is {values[0] if values else 'empty'} in every problem: "
            f"there is nothing to tell apart"
        )
    for column, field, value in wanted:
        there = sorted({*_texts(problems, column).tolist()} - {""})
        if value not in there:
            shown = ", ".join(there[:12]) + (", .." if len(there) > 12 else "")
            form = f"{column}=VALUE" if field == "where" else "VALUE"
            raise ConfigError(f"{field}: name a value of {column!r} with {field}={form}: it has {shown}")


def _texts(table: pa.Table, column: str) -> np.ndarray:
    """A column as it is named in settings; empty where there is no value."""
    found = table[column].to_pylist()
    return np.array(["" if one is None else _text(one) for one in found], object)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
