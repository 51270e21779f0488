"""What `meta.json` of an activation store says, and nothing about how the bytes are read."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from thoughtlens.core import BY_NAME, Config, NotThereError, StoreError, read_json, require_sound

if TYPE_CHECKING:
    import torch

SCHEMA = 1
USED = "n_thoughts_used"
"""Column of the problems: the last thought of each, where a problem can stop thinking early."""
META, PROGRESS, ROWS, PROBLEMS = "meta.json", "progress.json", "rows.parquet", "problems.parquet"


class Shard(Config):
    """One finished shard file."""

    file: str
    """Path inside the store, `shards/00000.safetensors`."""
    rows: int = Field(gt=0)
    """Rows of every tensor in it."""
    bytes: int = Field(gt=0)
    """Size of the file."""
    sha256: str
    """Digest of the whole file."""


class StoreMeta(Config):
    """The contents of `meta.json`: where the activations come from and where they lie."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    schema_number: Literal[1] = Field(default=SCHEMA, alias="schema")
    """Version of the format; raised on every change."""
    kind: Literal["text", "thoughts"]
    """Whether a row is a token position of a text or a continuous thought of a problem."""
    model: str = ""
    """The model's name as the user gave it; empty of imported activations that nobody named one for."""
    model_revision: str | None = None
    """The hub's revision, if there is one."""
    model_digest: str | None = None
    """Digest of the weights."""
    tokenizer_digest: str | None = None
    """Digest of the tokenizer."""
    config_hash: str | None = None
    """Digest of what else the states follow from: the model's config; of thoughts also how it thinks."""
    hook_names: list[str] = Field(min_length=1)
    """Hooks in the order of the tensors in a shard."""
    unresolved: list[str] = Field(default_factory=list)
    """Hooks of imported activations whose place in the model nobody said."""
    modules: dict[str, str] = Field(default_factory=dict)
    """hook_name -> the path of the model's own module."""
    d_in: dict[str, int]
    """hook_name -> width."""
    reading: dict[str, str | int | bool | None] = Field(default_factory=dict)
    """What else decides a row, by the name of its setting: the model's `dtype`, and how text was cut."""
    dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"
    """Number format of the stored activations."""
    thought_convention: str | None = None
    """How `thought_idx` counts; unset for text."""
    n_rows: int = Field(default=0, ge=0)
    """Rows in all shards."""
    shards: list[Shard] = Field(default_factory=list)
    """Finished shards; all but the last have the same number of rows."""
    tables: dict[str, str] = Field(default_factory=dict)
    """sha256 of `rows.parquet` and `problems.parquet`."""

    @model_validator(mode="after")
    def _consistent(self) -> StoreMeta:
        if len(set(self.hook_names)) != len(self.hook_names):
            raise ValueError(f"hook_names has a name twice: {self.hook_names}")
        if set(self.d_in) != set(self.hook_names) or min(self.d_in.values()) < 1:
            raise ValueError(f"d_in must give a width > 0 for each of {self.hook_names}, got {self.d_in}")
        if [s.file for s in self.shards] != [shard_file(i) for i in range(len(self.shards))]:
            raise ValueError("shards are not named shards/00000.safetensors, shards/00001.safetensors, ...")
        rows = [s.rows for s in self.shards]
        if sum(rows) != self.n_rows or any(r != rows[0] for r in rows[:-1]) or rows[-1:] > rows[:1]:
            raise ValueError(f"shards of {rows} rows do not make a store of n_rows = {self.n_rows}")
        return self

    @property
    def n_thoughts(self) -> int | None:
        """The last thought, where rows of the question's tokens or of the answer's cue may stand beside those
        of thoughts, below 0 and above it; None: every row is a thought's."""
        found = self.reading.get("n_thoughts")
        return None if found is None else int(found)

    def is_thought(self, thought: int) -> bool:
        """Whether rows with this `thought_idx` are of a thought, and not of a token before or behind them."""
        return thought >= 0 and (self.n_thoughts is None or thought <= self.n_thoughts)

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch's."""
        from thoughtlens.core import DTYPES  # here: it loads torch, which pages of a run do without

        return DTYPES[self.dtype]

    @property
    def shard_rows(self) -> int:
        """Rows of every shard but the last; 0 before the first."""
        return self.shards[0].rows if self.shards else 0


def places_said(meta: StoreMeta, root: Path) -> str:
    """The command that says where the hooks of an imported store are, with places to be put right."""
    hooks = [f"--hook {quote(name)}=layers.{3 + i}:out" for i, name in enumerate(meta.unresolved)]
    model = [] if meta.model else [f"model={'codi-tiny' if meta.kind == 'thoughts' else 'gpt2'}"]
    return " ".join(["thoughtlens import", *hooks, *model, "--out", quote(str(root))])


def shard_file(index: int) -> str:
    """Path of a shard inside its store."""
    return f"shards/{index:05d}.safetensors"


def load_meta(root: Path) -> StoreMeta:
    """Read and check `meta.json`.

    Raises:
        NotThereError: nothing at `root`, or a store that was never finished.
        StoreError: something else lies there, or a schema this version does not read.
    """
    unfinished = (root / PROGRESS).is_file() or root.with_name(root.name + ".tmp").is_dir()
    if not (root / META).is_file() and unfinished:
        raise NotThereError(
            f"Expected a finished activation store at {root}, found an unfinished one: "
            f"run the command that was writing it again, it continues"
        )
    if not root.exists():
        extract, of_run = BY_NAME["extract"], root.name == BY_NAME["extract"].directory
        raise NotThereError(
            f"Expected an activation store at {root}, found nothing there; extract first: "
            f"{extract.first(root.parent if of_run else root)}"
            f"{'' if of_run else f', and give {root / extract.directory}'}"
        )
    if not (root / META).is_file():
        raise StoreError(
            f"Expected an activation store, a directory with {META}, got {root}: it is something else"
        )
    table = read_json(root / META)
    require_sound([root / META])
    return parse_meta(table, root / META)


def parse_meta(table: dict, where: Path) -> StoreMeta:
    """`StoreMeta` from its JSON, or one line."""
    if table.get("schema") != SCHEMA:
        raise StoreError(
            f"Expected schema {SCHEMA} in {where}, got {table.get('schema')!r}: it is not an activation "
            f"store of this version; read it with the version that wrote it, or extract again"
        )
    try:
        return StoreMeta.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise StoreError(f"{where} is damaged or not ours: {key + ': ' if key else ''}{message}") from None
