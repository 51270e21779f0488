"""Where texts and problems come from: settings for each source, told apart by `kind` and `source`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from thoughtlens.core import Config, apply_overrides, validate_config

BUNDLED = "bundled"
COLUMNS = ("problem_id", "group_id", "split", "question", "answer", "cot")
"""Columns of every table of problems; labels follow."""
SPLITS = ("train", "validation", "test")
Bos = Literal["tokenizer", "always", "never"]


class TextConfig(Config):
    """Where text comes from and how it is split."""

    kind: Literal["text"] = "text"
    """Plain text; each document is one problem."""
    source: str = BUNDLED
    """`bundled` (running text of the package sae-probes, no network), a .txt file (documents separated by
    blank lines), a .jsonl or .parquet file (one document per row), or a data set for the library `datasets`:
    a hub id or a directory, streamed."""
    column: str = "text"
    """Column that holds the text (.jsonl, .parquet, data sets)."""
    chat: bool = False
    """The column holds chats, lists of messages with role and content: the model's own chat template makes a
    text of each."""
    roles: tuple[str, ...] = ()
    """Chats: only tokens that these roles say give rows, for example `assistant`; none: all tokens, but the
    template's special ones where `drop_special` is set."""
    label_columns: tuple[str, ...] = ()
    """Further columns to keep as labels of the document (.jsonl, .parquet, data sets)."""
    subset: str | None = None
    """Name of the data set's configuration on the hub."""
    hub_split: str = "train"
    """Which split of a data set to read; it is then split again by document."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    n_documents: int | None = Field(default=None, gt=0)
    """Stop after this many documents that hold text; unset: all."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of documents held out for choices made during training."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of documents held out for the final numbers."""
    seed: int | None = None
    """Fixes the split and the order of the bundled text; unset: the seed of the extraction, else 0."""

    @model_validator(mode="after")
    def _some_train(self) -> TextConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test must stay below 1, got {self.validation} + {self.test}")
        if self.roles and not self.chat:
            raise ValueError("roles are those of chats: set chat=true")
        if clash := set(self.label_columns) & {*COLUMNS, self.column}:
            raise ValueError(f"label_columns may not repeat {', '.join(sorted(clash))}")
        return self


class _Questions(Config):
    kind: Literal["problems"] = "problems"
    """Questions with answers, labels and splits, for a thought model."""
    n: int | None = Field(default=None, gt=0)
    """How many problems, of a table drawn at random; unset: 20,000 generated ones, or all of a table."""
    classes: tuple[str, ...] = ()
    """Keep only problems with these operations; each must occur. None: keep all, also unlabelled ones."""
    members: tuple[str, ...] = ()
    """Columns of sets, such as `frontier2`: each member gets a column of yes and no, `frontier2_has_wumpus`,
    for stages that read single values; the 64 most frequent members, where there are more."""


class GeneratedConfig(_Questions):
    """Problems that are made here."""

    source: Literal["arithmetic", "words", "secret", "generated"] = "arithmetic"
    """The task, or `generated`: that which the shipped model was trained on."""
    p: int | None = None
    """The modulus; unset: 23 for arithmetic, 11 for words, 13 for secret, as in the shipped models."""
    n_steps: tuple[int, ...] = (2, 3)
    """Numbers of steps, equally often."""
    seed: int | None = None
    """Fixes the problems; unset: the seed of the run."""


class Gsm8kConfig(_Questions):
    """GSM8K with operation labels."""

    source: Literal["gsm8k"] = "gsm8k"
    """GSM8K, from files or the hub."""
    files: tuple[Path, ...] = ()
    """Its test.jsonl and train.jsonl; none: the hub."""
    labels: Literal["annotations", "regex"] | None = None
    """Where `operation` comes from; unset: annotations, with `seed_protocol` regex."""
    seed_protocol: bool = False
    """Only the 600 problems of the first study of CODI's thoughts."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training problems that become the split `validation`, by a hash of their id."""


class GraphConfig(_Questions):
    """Questions along a graph of made-up concepts, made here or from published files."""

    source: Literal["prosqa", "prontoqa"] = "prosqa"
    """Which of two somebody is, or whether something is true of somebody."""
    files: tuple[Path, ...] = ()
    """Published files, whose names say train, valid or test; none: problems are made here."""
    hops: tuple[int, ...] = ()
    """Numbers of hops, equally often, counted as their authors do: all edges of prosqa, the rules of prontoqa
    without the fact that they begin with. None: 3, 4 and 5 of prosqa, 5 of prontoqa."""
    seed: int | None = None
    """Fixes the problems that are made; unset: the seed of the run."""


class SetConfig(_Questions):
    """A published set of questions, from files or the hub."""

    source: Literal[
        "gsm8k-aug", "gsm8k-aug-nl", "svamp", "multiarith", "gsm-hard", "commonsenseqa", "strategyqa"
    ]
    """Which set; its columns are known."""
    files: tuple[Path, ...] = ()
    """Its files (.json, .jsonl, .parquet, .csv), whose names say train, valid or test; one that says none is
    all test. None: the hub."""
    splits: Literal["published", "made"] = "published"
    """As published, or made anew by a hash of each question: for sets that are published for testing only."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training problems that become the split `validation` where none is published; of all
    problems where splits are made."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of the problems that become the split `test`, where splits are made."""


class ColumnsConfig(Config):
    """Which columns of a table are what; unset: the column of that name, if there is one."""

    question: str | None = None
    """The text that the model reads."""
    answer: str | None = None
    """The right answer; of `... #### 42` the part behind the mark."""
    chain: str | None = None
    """The solution, as text or as a list of steps; it becomes the column `cot`."""
    split: str | None = None
    """train, validation (also dev, valid or val) or test; no such column: made by a hash of each question."""
    problem_id: str | None = None
    """An id for each problem; no such column: the number of its row."""
    group_id: str | None = None
    """Problems with one value, as those of one template, are never in several splits."""


class TableConfig(_Questions):
    """Problems of a table that somebody made."""

    source: str
    """The name of a source (`arithmetic`, `words`, `generated`, `gsm8k`, `prosqa`, `svamp`, ...), each with
    its own settings, or a table (.parquet, .csv, .jsonl, .json) with the columns problem_id, group_id, split,
    question, answer, cot, and any labels. With `columns` those that are missing are made."""
    columns: ColumnsConfig = ColumnsConfig()
    """How the columns are called."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the problems that become the split `validation`, where splits are made."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of the problems that become the split `test`, where splits are made."""


KINDS: dict[str, type[Config]] = {
    "text": TextConfig,
    "graph": GraphConfig,
    "set": SetConfig,
    "generated": GeneratedConfig,
    "gsm8k": Gsm8kConfig,
    "table": TableConfig,
}
OF_SOURCE: dict[str, str] = {
    source: kind
    for kind, cls in KINDS.items()
    if kind not in ("text", "table")
    for source in get_args(cls.model_fields["source"].annotation)
}
"""The kind of each source that has a name."""


def sources() -> list[str]:
    """What `source` can be beside the path of a table."""
    return list(OF_SOURCE)


def _problems(table: Any) -> str | None:
    """Which config a table of problems is, by its source, else by its keys."""
    if not isinstance(table, dict):
        return next((name for name, cls in KINDS.items() if type(table) is cls), None)
    source = table.get("source")
    if source is None:
        return "gsm8k" if _fits(Gsm8kConfig, table) and not _fits(GeneratedConfig, table) else "generated"
    return OF_SOURCE.get(source, "table") if isinstance(source, str) else "table"


def _problems_or_text(table: Any) -> str | None:
    """The same where it may be a text too: without `kind`, a file is text unless other keys deny it."""
    if not isinstance(table, dict) or table.get("kind") == "problems":
        return _problems(table)
    found = _problems(table)
    named = table.get("source") in sources() and found is not None and _fits(KINDS[found], table)
    return found if "kind" not in table and (named or not _fits(TextConfig, table)) else "text"


def _fits(cls: type[Config], names: Iterable[str]) -> bool:
    return set(names) <= set(cls.model_fields)


_Tagged = (
    Annotated[GeneratedConfig, Tag("generated")]
    | Annotated[Gsm8kConfig, Tag("gsm8k")]
    | Annotated[GraphConfig, Tag("graph")]
    | Annotated[SetConfig, Tag("set")]
    | Annotated[TableConfig, Tag("table")]
)
ProblemsConfig = Annotated[_Tagged, Discriminator(_problems)]
"""Which problems a thought model thinks about."""
AnyProblems = Annotated[Annotated[TextConfig, Tag("text")] | _Tagged, Discriminator(_problems_or_text)]
"""Text, or problems for a thought model."""


def named(source: str, files: tuple[Path, ...] = (), overrides: Sequence[str] = ()) -> ProblemsConfig:
    """The problems of that source; `files` are those of a published set, `overrides` further settings."""
    cls: Any = KINDS[OF_SOURCE.get(source, "table")]
    table = {"source": source} | ({"files": files} if files else {})
    return validate_config(cls, apply_overrides(cls, table, overrides), overrides)
