"""The explanation shown of each latent, with what it writes and what changing it does, where a run knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from thoughtlens.core import (
    NotThereError,
    Record,
    digest,
    of_table,
    read_parquet,
    read_recipe,
    read_result,
    read_rows,
)
from thoughtlens.latents.codes.tokens import quoted
from thoughtlens.latents.explain.records import ExplanationRow
from thoughtlens.latents.lens.records import LatentTokenRow

N_TOKENS = 4
PLACED = re.compile(r" \([^()]*\)")
"""What an explanation says of places."""


@dataclass(frozen=True, kw_only=True)
class Shown(ExplanationRow):
    """An explanation with what else is known of its latent."""

    output: str = ""
    """The tokens that its decoder row raises and lowers most (`thoughtlens lens`); empty if not known."""
    effect: str = ""
    """What editing it does to the model's answers (`thoughtlens intervene`); empty if not measured."""


@dataclass(frozen=True, kw_only=True)
class Said(Record):
    """Of an explanation, what stands beside a latent's number."""

    member: str
    latent: int
    text: str
    auprc: float
    chosen: bool
    verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class Effect(Record):
    """What is read of an edit in the result of `intervene`."""

    edit: str
    control: str | None
    layer: int | None
    thought_idx: int | None
    latents: str | None = None
    direction: str | None = None
    dose: float | None = None
    difference: float
    low: float | None
    high: float | None
    verdict: str | None
    n: int

    @property
    def latent(self) -> int | None:
        """The one latent that the edit was made with; None for controls and for several at once."""
        named = self.latents or (self.direction or "").removeprefix("latent_")
        return int(named) if self.control is None and named.isdigit() else None

    def text(self, split: str) -> str:
        """The edit and its effect on the answers."""
        at = "everywhere" if self.layer is None else f"at layer {self.layer}, thought {self.thought_idx}"
        dose = f" by {self.dose:g}" if self.dose is not None else ""
        return (
            f"effect: {self.edit.replace('_', ' ')}{dose} {at}: accuracy {self.difference:+.3f} "
            f"({self.low:+.3f} to {self.high:+.3f}), {self.verdict}, n = {self.n:,}, {split}"
        )


def chosen(run: Path, member: str) -> dict[int, Said]:
    """By latent of one SAE, the explanation shown of it; empty where the run has none."""
    file = run / "explain" / "explanations.parquet"
    rows = read_rows(file, Said) if file.is_file() else []
    return {row.latent: row for row in rows if row.chosen and row.member == member}


def placeless(text: str) -> str:
    """An explanation without the places that it speaks of, each clause once."""
    said = PLACED.sub("", text).replace("any problem", "this thought, whatever the problem")
    return "; or ".join(dict.fromkeys(said.split("; or ")))


def about(run: str | Path) -> list[Shown]:
    """The chosen explanation of every explained latent, the best score first.

    Raises:
        NotThereError: the run has no finished explain stage.
    """
    run = Path(run)
    file = run / "explain" / "explanations.parquet"
    if not file.is_file():
        raise NotThereError(
            f"Expected explanations at {file}, found none; make them: thoughtlens explain {quote(str(run))}"
        )
    rows = [row for row in read_rows(file, ExplanationRow) if row.chosen]
    wanted = {(row.member, row.latent) for row in rows}
    output, effect = _outputs(run, wanted), _effects(run, wanted)
    shown = []
    for row in rows:
        key = row.member, row.latent
        shown.append(Shown(**vars(row), output=output.get(key, ""), effect="; ".join(effect.get(key, []))))
    return sorted(shown, key=lambda row: (-row.auprc, row.member, row.latent))


def render(rows: Sequence[Shown], most: int = 10) -> str:
    """The best of them, for people."""
    lines = []
    for row in rows[:most]:
        lookup = "" if row.token_auprc is None else f"token lookup {row.token_auprc:.2f}, "
        lines.append(
            f"{row.member} {row.latent}: {row.text} [{row.method}, {row.verdict or 'no verdict'}: average "
            f"precision {row.auprc:.2f} ({row.auprc_low:.2f} to {row.auprc_high:.2f}), "
            f"{lookup}base rate {row.base_rate:.2g}, "
            f"n = {row.n:,}, {row.split}]"
        )
        lines += [f"    {text}" for text in (row.output, row.effect) if text]
    if len(rows) > most:
        lines.append(f"and {len(rows) - most} more in explanations.parquet")
    return "\n".join(lines)


def _outputs(run: Path, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], str]:
    file = run / "lens" / "latents.parquet"
    if not file.is_file():
        return {}
    tokens: dict[tuple[str, int], dict[int, list[str]]] = {}
    latents = [("latent", "in", sorted({latent for _, latent in wanted}))] if wanted else None
    table = of_table(LatentTokenRow, read_parquet(file, filters=latents))
    for row in sorted(table, key=lambda r: r.rank):
        if (key := (row.member, row.latent)) in wanted:
            tokens.setdefault(key, {}).setdefault(row.sign, []).append(quoted(row.token))
    words = {1: "raises", -1: "lowers"}
    return {
        key: "output: "
        + "; ".join(f"{words[s]} {', '.join(signs[s][:N_TOKENS])}" for s in (1, -1) if s in signs)
        for key, signs in tokens.items()
    }


def _effects(run: Path, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], list[str]]:
    """Of each latent, its edits without controls: those of this run's SAEs only."""
    root = run / "intervene"
    places = [root, *(sorted(root.iterdir()) if root.is_dir() else [])]
    found: dict[tuple[str, int], list[str]] = {}
    for path in places:
        if path.suffix == ".tmp" or not (path / "result.json").is_file():
            continue
        result, cfg = read_result(path), read_recipe(path)
        own = result["inputs"].get("sae", {}).get("digest")
        if not cfg.get("latents") or own != digest(run / "sae"):
            continue
        from thoughtlens.sae import member_names  # here: it loads torch

        names = [cfg["member"]] if cfg.get("member") else member_names(run / "sae")
        for effect in map(Effect.from_json, result["effects"]):
            for name in names:
                if effect.latent is not None and (key := (str(name), effect.latent)) in wanted:
                    found.setdefault(key, []).append(effect.text(result["split"]))
    return found
