"""Where a state of a thought model lies: at a hook, of a thought. Costs no torch.

The index convention is that of `thoughtlens.models.thought.thoughts` and docs/thoughts.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from thoughtlens.core import HookError

SITES = ("thought_in", "resid", "thought_out", "kv")
PARTS = {"kv": (0, 1), "keys": (0,), "values": (1,)}
"""Sites of a block's attention: which of the pair (key, value) they are."""
INNER = ("attn", "mlp", "heads")
"""What a block's parts add to the stream, and what each head brings before they are mixed."""
LAYERED = ("resid", *PARTS, *INNER)
CONVENTION = "thought_idx 0 is the begin-of-thought position, 1..n the thoughts fed back"
"""What a store of thoughts says about how it counts."""
OUTSIDE = "-1 is the question's last token as it is read, -2 the one before; n+1.. are the answer's cue"
"""The same of positions that are no thoughts."""
NAMED = ("question", "begin", "thoughts", "answer")
"""Positions by name."""
POSITIONS = re.compile(r"(-?\d+)(?:\.\.(-?\d+))?")
BLOCK = re.compile(r"layers\.(\d+)(?::(\w+)|\.(attn|mlp|heads|head\.\d+):out)")
TEXT = re.compile(r"(?P<hook>[^@\s]+)(?:@(?P<thought>-?\d+))?")


class Place(NamedTuple):
    """A state of the running model: `layers.1:out@3` is the output of block 1 at thought 3.

    Equal to the pair (hook_name, thought), as which stores and SAEs keep it.
    """

    hook_name: str
    """`thought_in`, `thought_out`, `layers.1:out` (site resid), `layers.1:kv`, `layers.1:keys`,
    `layers.1:values`; `layers.1.attn:out`, `layers.1.mlp:out`, `layers.1.head.2:out`; of a language model,
    any hook."""
    thought: int | None = None
    """0 the begin-of-thought position, 1.. the thoughts fed back, then the answer's cue; -1 the question's
    last token; None: all of them, or none on text."""

    @classmethod
    def at(cls, site: str, layer: int | None = None, thought: int | None = None) -> Place:
        """The place of a site; `layer` of those that a block has."""
        if layer is None:
            return cls(site, thought)
        if site in INNER or site.startswith("head."):
            return cls(f"layers.{layer}.{site}:out", thought)
        return cls(f"layers.{layer}:{'out' if site == 'resid' else site}", thought)

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place that prints like this: `thought_in@3`, `layers.0:kv@2`; without `@`, of any thought.

        Raises:
            HookError: no such text.
        """
        found = TEXT.fullmatch(text)
        if found is None:
            raise HookError(f"Expected a place such as thought_in@3 or layers.1:out@3, got {text!r}")
        return cls(found["hook"], None if found["thought"] is None else int(found["thought"]))

    def __str__(self) -> str:
        return self.hook_name if self.thought is None else f"{self.hook_name}@{self.thought}"

    @property
    def site(self) -> str:
        """thought_in, resid, thought_out, kv, keys, values, attn, mlp, head.2; else the hook's own name."""
        block = BLOCK.fullmatch(self.hook_name)
        return self.hook_name if block is None else "resid" if block[2] == "out" else block[2] or block[3]

    @property
    def layer(self) -> int | None:
        """The block, 0-based."""
        block = BLOCK.fullmatch(self.hook_name)
        return None if block is None else int(block[1])

    @property
    def collected(self) -> Place:
        """The place that the model itself has: keys and values are halves of kv, a head is one of heads."""
        if self.head is not None:
            return Place.at("heads", self.layer, self.thought)
        return Place.at("kv", self.layer, self.thought) if self.site in PARTS else self

    @property
    def head(self) -> int | None:
        """The head, of a place that is one."""
        name, _, number = self.site.partition(".")
        return int(number) if name == "head" and number.isdigit() else None


def named_positions(text: str, n_thoughts: int, n_cue: int, longest: int) -> tuple[int, int]:
    """First and last position of a name (`NAMED`), of one position (`-1`), or of a range (`-5..-1`).

    Args:
        text: The name.
        n_thoughts: Thoughts of the model.
        n_cue: Tokens of its answer's cue.
        longest: Tokens of the longest question.

    Raises:
        ValueError: no such text, or a range that ends before it begins.
    """
    found = POSITIONS.fullmatch(text)
    if found is None and text not in NAMED:
        raise ValueError(f"expected {', '.join(NAMED)}, a position such as -1, or -5..-1, got {text!r}")
    if found is None:
        parts = (-longest, -1), (0, 0), (1, n_thoughts), (n_thoughts + 1, n_thoughts + n_cue)
        return parts[NAMED.index(text)]
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise ValueError(f"{text}: a range goes from its first to its last position, such as -5..-1")
    return first, last


def block_outputs(hook_names: Sequence[str] | None, n_layers: int) -> list[Place]:
    """Places of any thought by their hooks, as stores have them; without names, every block's output.

    Raises:
        HookError: a name that a thought model of `n_layers` blocks does not have; says which there are.
    """
    if hook_names is None:
        return [Place.at("resid", layer) for layer in range(n_layers)]
    found = [Place(name) for name in hook_names]
    for place in found:
        part = place.site in ("resid", "attn", "mlp") or place.head is not None
        block = part and place.layer in range(n_layers)
        if not block and place.hook_name not in ("thought_in", "thought_out"):
            raise HookError(
                f"hook_names: expected layers.0:out .. layers.{n_layers - 1}:out, thought_in or "
                f"thought_out of this thought model, or of a block layers.0.attn:out, layers.0.mlp:out or "
                f"layers.0.head.0:out, got {place.hook_name!r}"
            )
    return found
