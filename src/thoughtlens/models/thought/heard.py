"""What a loader tells while it opens a checkpoint, for whoever listens; nobody does unless asked.

So a checkpoint that cannot be opened is described by the code that would have opened it, up to where it
stops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass
class Heard:
    """What was told, in the order in which loaders come to know it."""

    layout: str | None = None
    files: list[Path] = field(default_factory=list)
    digest: str | None = None
    revision: str | None = None
    shapes: dict[str, list[int]] = field(default_factory=dict)
    """Of the file's tensors, by the names in it."""
    differing_head: bool = False
    """Whether the head is stored and is not the embedding, though the config ties them."""
    unused: list[str] = field(default_factory=list)
    """Tensors that the loader knows and leaves aside."""
    stop_heads: list[str] = field(default_factory=list)
    """Those of them that would decide how many thoughts to think."""
    base: str | None = None
    config: PretrainedConfig | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    wanted: dict[str, list[int]] = field(default_factory=dict)
    """Shapes of what the base model needs, by its own names."""
    prefix: str = ""
    """What the file puts before these names."""
    head: list[str] = field(default_factory=list)
    """Names, as in the file, of what the module needs that makes the next thought."""
    rows: int | None = None
    settings: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """Setting -> value, and who says it; nobody where it is assumed."""
    tokens: dict[str, tuple[int, str]] = field(default_factory=dict)
    """What a thought token is for -> its id, and who says it."""
    scaling: float | None = None
    """What LoRA's update is multiplied by; of several, the largest."""


_LISTENER: ContextVar[Heard | None] = ContextVar("listener", default=None)


def tell(**facts: Any) -> None:
    """Say what is known now; costs nothing where nobody listens."""
    if (heard := _LISTENER.get()) is not None:
        for name, value in facts.items():
            setattr(heard, name, value)


@contextmanager
def listening() -> Iterator[Heard]:
    """What loaders tell while this is open."""
    token = _LISTENER.set(Heard())
    try:
        yield _LISTENER.get()  # type: ignore[misc]
    finally:
        _LISTENER.reset(token)
