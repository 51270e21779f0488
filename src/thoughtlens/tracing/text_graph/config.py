"""What the textgraph stage reads, and how many edges it tries."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from thoughtlens.core import Config


class TextgraphConfig(Config):
    """Whose graph is made, of which text."""

    acts: Path
    """The activation store: the model behind it, and how it reads texts."""
    sae: Path
    """SAEs, transcoders or a crosscoder, of any format, on two or more hooks: their latents are the nodes."""
    explain: Path | None = None
    """What the latents are said to stand for."""
    text: str | None = None
    """The text; or `texts`."""
    texts: Path | None = None
    """A file with several texts, one per line. Edges are then of latents wherever they fire."""
    target: str | None = None
    """The next token whose logit is the answer, such as " Paris"; unset: the likeliest, of several texts each
    one's own."""
    member: str | None = None
    """The SAE of that name alone; unset: all, the pooled one first where several stand on one hook."""
    budget: int = Field(300, ge=1)
    """Edges that are tried by an intervention, those through which most would flow by the slope."""
    n_targets: int = Field(32, ge=1)
    """Nodes whose sources are looked for, the answer among them."""
    n_random: int = Field(16, ge=2)
    """Random directions that each source's change is held against."""
    least: float = Field(0.001, ge=0, lt=1)
    """Share of the answer that must flow through an edge to be shown."""
    q: float = Field(0.05, gt=0, lt=1)
    """False-discovery rate over all edges that are tried."""
    batch_tokens: int = Field(2048, ge=1)
    """Tokens of the model at a time."""
    seed: int = Field(0, ge=0)
    """Fixes the random directions."""
