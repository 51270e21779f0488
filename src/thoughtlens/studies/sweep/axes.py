"""`sae.k=8,16 train.lr=1e-3` -> the settings of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from thoughtlens.core import ConfigError

TUNED = ("sae", "train")
"""Tables of a recipe whose keys a sweep may vary: everything else would need another extraction."""


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    idx: int
    values: tuple[tuple[str, str], ...]
    """(key, value as written) of every axis."""

    @property
    def label(self) -> str:
        """For people: `sae.k=8 sae.d_sae=1024`; `as the recipe` where nothing varies."""
        return " ".join(self.overrides) or "as the recipe"

    @property
    def overrides(self) -> list[str]:
        """What makes this setting of the recipe."""
        return [f"{key}={value}" for key, value in self.values]

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.idx:03d}"


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str], tuple[int, ...] | None]:
    """Overrides of one value, axes of several, and the seeds where `seeds=` is among them.

    Raises:
        ConfigError: an axis outside of `sae.*` and `train.*`, a key or value twice, seeds that are not.
    """
    fixed, axes, seeds = [], [], None
    for item in overrides:
        key, eq, raw = (part.strip() for part in item.partition("="))
        if key == "seeds" and eq:
            seeds = _seeds(raw)
        elif len(values := split_values(raw)) < 2:
            fixed.append(item)
        else:
            _require_axis(key, values)
            axes.append(item)
    keys = [item.partition("=")[0].strip() for item in axes]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ConfigError(f"Expected each axis of the grid once, got {twice[0]} {keys.count(twice[0])} times")
    return fixed, axes, seeds


def settings(axes: Sequence[str]) -> list[Setting]:
    """Every combination of the axes' values, the last axis fastest."""
    keys = [item.partition("=")[0].strip() for item in axes]
    values = [split_values(item.partition("=")[2]) for item in axes]
    return [Setting(i, tuple(zip(keys, point, strict=True))) for i, point in enumerate(product(*values))]


def split_values(raw: str) -> list[str]:
    """Parts of a value between commas that stand outside of brackets, braces and quotes.

    So a value that is itself a list is written as in TOML: `["pooled"],["per_layer"]` are two.
    """
    parts, depth, quote = [""], 0, ""
    for char in raw:
        if char == "," and depth == 0 and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "[{") - (char in "]}")
        parts[-1] += char
    return [part.strip() for part in parts]


def _require_axis(key: str, values: list[str]) -> None:
    if key == "seed":
        raise ConfigError(f"seed={','.join(values)}: for several runs of each setting, say seeds=")
    if key.partition(".")[0] not in TUNED or key == "train":
        raise ConfigError(
            f"{key}: a sweep shares one extraction and may vary sae.* and train.*, got {len(values)} "
            f"values of this key; sweep once for each, or write a value that is a list in brackets"
        )
    if len(set(values)) < len(values) or "" in values:
        raise ConfigError(f"{key}: expected different values between the commas, got {', '.join(values)}")


def _seeds(raw: str) -> tuple[int, ...]:
    values = [part.strip() for part in raw.strip("[]").split(",")]
    if not all(value.isdigit() for value in values) or len(set(values)) < len(values):
        raise ConfigError(f"seeds: expected different whole numbers such as 0,1,2, got {raw!r}")
    return tuple(int(value) for value in values)
