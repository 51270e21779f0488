"""Where texts and problems come from: settings for each source, told apart by `kind` and `source`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from thoughtlens.core import Config, validate_config

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


class GeneratedConfig(_Questions):
    """Problems that are made here."""

    source: Literal["arithmetic", "words", "generated"] = "arithmetic"
    """The task, or `generated`: that which the shipped model was trained on."""
    p: int | None = None
    """The modulus; unset: 23 for arithmetic, 11 for words, as in the shipped models."""
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


class TableConfig(_Questions):
    """Problems of a table that somebody made."""

    source: str
    """`arithmetic`, `words`, `generated` or `gsm8k`, each with its own settings, or a Parquet table with the
    columns problem_id, group_id, split, question, answer, cot, and any labels."""


KINDS: dict[str, type[Config]] = {
    "text": TextConfig,
    "generated": GeneratedConfig,
    "gsm8k": Gsm8kConfig,
    "table": TableConfig,
}


def sources() -> list[str]:
    """What `source` can be beside the path of a table."""
    return [*GeneratedConfig.model_fields["source"].annotation.__args__, "gsm8k"]  # type: ignore[union-attr]


def _problems(table: Any) -> str | None:
    """Which config a table of problems is, by its source, else by its keys."""
    if not isinstance(table, dict):
        return next((name for name, cls in KINDS.items() if type(table) is cls), None)
    source = table.get("source")
    if source is None:
        return "gsm8k" if _fits(Gsm8kConfig, table) and not _fits(GeneratedConfig, table) else "generated"
    return "gsm8k" if source == "gsm8k" else "generated" if source in sources() else "table"


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
    | Annotated[TableConfig, Tag("table")]
)
ProblemsConfig = Annotated[_Tagged, Discriminator(_problems)]
"""Which problems a thought model thinks about."""
AnyProblems = Annotated[Annotated[TextConfig, Tag("text")] | _Tagged, Discriminator(_problems_or_text)]
"""Text, or problems for a thought model."""


def named(source: str, files: tuple[Path, ...] = ()) -> GeneratedConfig | Gsm8kConfig | TableConfig:
    """The problems of that source; `files` are GSM8K's."""
    if source == "gsm8k":
        return Gsm8kConfig(files=files)
    return validate_config(GeneratedConfig if source in sources() else TableConfig, {"source": source})
