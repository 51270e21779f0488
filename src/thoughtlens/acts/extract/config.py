"""What to extract."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from thoughtlens.models import ModelConfig, ThoughtModelConfig, named_positions
from thoughtlens.problems import AnyProblems, Bos, TextConfig


class ExtractConfig(ThoughtModelConfig):
    """What to run through which model, and what to keep of it."""

    model: ModelConfig = ModelConfig()
    """The model."""
    problems: AnyProblems = TextConfig()
    """The text, or the problems a thought model thinks about."""
    hook_names: tuple[str, ...] | None = Field(None, min_length=1)
    """Where activations are read: `layers.8:out` is the residual stream after block 8 (counted from 0),
    `layers.8.mlp:out`, `layers.8.self_attn:in`, `embed:out`, or a module path of the model with a side.
    Of thoughts: `layers.8:out`, `layers.8.attn:out`, `layers.8.mlp:out`, `layers.8.head.2:out`, `thought_in`
    or `thought_out`. Unset: `layers.15:out` of text (with
    15 blocks or fewer, the middle one's), every block's output of thoughts."""
    positions: tuple[str, ...] = Field(("begin", "thoughts"), min_length=1)
    """Thoughts: which positions give rows: `question` (its tokens, -1 the last one as it is read), `begin`
    (0), `thoughts` (1..n), `answer` (the tokens between thoughts and answer, n+1 and on), or numbers and
    ranges such as `-5..-1`."""
    context_length: int = Field(256, gt=0)
    """Most tokens the model sees at once; a longer document is cut into several windows."""
    max_windows: int | None = Field(None, gt=0)
    """Read this many windows of each document at most, so that a given number of rows spans more documents;
    unset: the whole document."""
    batch_tokens: int = Field(2048, gt=0)
    """Tokens of one forward pass, padding included."""
    max_tokens: int = Field(200_000, ge=0)
    """Rows to store at most; 0: the whole corpus."""
    store_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Number format on disk; overflow is refused, not clipped."""
    bos: Bos = "tokenizer"
    """Put the begin-of-sequence token before each window: if the `tokenizer` does so by itself, `always`
    or `never`."""
    drop_special: bool = True
    """Leave out the positions of special tokens: begin, end, padding, roles of a chat."""
    batch_problems: int = Field(512, gt=0)
    """Thoughts: problems that are thought about at once."""
    max_new_tokens: int = Field(64, gt=0)
    """Thoughts: longest answer."""
    outlier_factor: float = Field(10.0, gt=1)
    """A row is flagged in the column `outlier` where its norm at any hook exceeds this many times the median
    of the first 4,096 rows. Flagged rows are stored; `drop_outliers` leaves them out when they are read."""
    shard_rows: int = Field(65_536, gt=0)
    """Rows of a shard file; an interrupted extraction continues at the last finished one."""
    seed: int = 0
    """Fixes the order of the batches, and the split where `problems.seed` is unset."""

    @field_validator("positions")
    @classmethod
    def _named(cls, positions: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(part.strip() for one in positions for part in one.split(","))
        for one in found:
            named_positions(one, n_thoughts=0, n_cue=0, longest=0)
        return found

    @field_validator("hook_names")
    @classmethod
    def _different(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names and len(set(names)) < len(names):
            raise ValueError("hook_names has a name twice")
        return names
