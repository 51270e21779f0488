"""The finished stages of a run directory, as pages and notebooks read them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from thoughtlens.acts import META, StoreMeta, load_meta
from thoughtlens.core import (
    BY_NAME,
    NotThereError,
    Outcome,
    Record,
    Result,
    StoreError,
    of_table,
    read_parquet,
    read_result,
    require_made_from,
    require_run,
    require_sound,
)
from thoughtlens.latents import DirectionsOutcome, LatentRow
from thoughtlens.sae import CurvePoint

if TYPE_CHECKING:
    from thoughtlens.sae import SAE

OTHER_WAYS = {"extract": ("import",)}
"""Stages that make what another one makes."""
STAGES = (
    "extract",
    "train",
    "validate",
    "finetune",
    "interpret",
    "classify",
    "influence",
    "trace",
    "circuit",
    "program",
    "monitor",
    "orbits",
    "replay",
)
"""Stages that a report tells of."""
OPTIONAL = ("finetune", "influence", "trace", "circuit", "program", "monitor", "orbits", "replay")
"""Stages that are not missed where they are not there."""
SHIPPED = {"thoughts": "pilot", "text": "text-demo"}
"""The recipe that stands for that of a run which has none."""
OUT = TypeVar("OUT", bound=Outcome)
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class ProblemRow(Record):
    """What pages show of a problem of the store; all other columns are labels."""

    problem_id: str
    group_id: str = ""
    split: str
    question: str = ""
    answer: str = ""
    cot: str = ""
    model_answer: str | None = None
    correct: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Machine(Record):
    """Where a stage was done."""

    system: str
    cpus: int | None


@dataclass(frozen=True, kw_only=True)
class Made(Record):
    """What every `result.json` says: when and with what it was made, what its numbers mean, its warnings."""

    digest: str
    config_identity: str
    seconds: float
    versions: dict[str, str]
    git_commit: str | None
    machine: Machine
    definitions: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory; stages that are not there are None."""

    root: Path
    explained: Path | None = None
    """An explain stage elsewhere, in the place of the run's own."""

    @classmethod
    def open(cls, root: str | Path, explained: Path | None = None) -> Run:
        """The run at `root`.

        Raises:
            NotThereError: no directory, none of the stages in it, or no finished explain where one is given.
        """
        run = cls(Path(root), explained)
        if explained and read_result(explained).get("stage") != "explain":
            raise NotThereError(
                f"Expected a finished explain in {explained}, found another stage; one is made by: "
                f"thoughtlens explain {shlex.quote(str(root))} --out DIR"
            )
        require_run(root)
        if not run.results:
            folders = ", ".join(BY_NAME[stage].directory for stage in STAGES)
            raise NotThereError(f"Expected a finished stage ({folders}) in {root}, found none; run one first")
        return run

    @cached_property
    def results(self) -> dict[str, Result]:
        """`result.json` of every finished stage that a report tells of, in order."""
        there = {stage: self.folder(stage) for stage in STAGES}
        found = {stage: read_result(at) for stage, at in there.items() if (at / "result.json").is_file()}
        named = {stage: result.get("stage", stage) for stage, result in found.items()}
        return {s: result for s, result in found.items() if named[s] in (s, *OTHER_WAYS.get(s, ()))}

    def require_one_sae(self) -> None:
        """See that every stage was made from the SAEs and the store that are there now; pages leave out
        interventions with others.

        Raises:
            MismatchError: one was not, as after training again.
        """
        now = {"acts": self.folder("extract"), "sae": self.folder("train")}
        for stage in BY_NAME:
            if stage != "intervene" and (self.folder(stage) / "result.json").is_file():
                require_made_from(self.folder(stage), now)

    def folder(self, stage: str) -> Path:
        """Where a stage writes, or lies."""
        if stage == "explain" and self.explained:
            return self.explained
        return self.root / BY_NAME[stage].directory

    @property
    def recipe(self) -> str:
        """The run's own recipe; where it has none, the shipped one of its kind."""
        own = self.root / "config.toml"
        return str(own) if own.is_file() else SHIPPED[self.kind]

    def command(self, stage: str) -> str:
        """What makes a stage of the recipe in this run, to be pasted into a shell."""
        return f"thoughtlens {stage} {shlex.quote(self.recipe)} --out {shlex.quote(str(self.root))}"

    def result(self, stage: str) -> Result:
        """What a stage returned.

        Raises:
            NotThereError: it is not finished.
        """
        return read_result(self.folder(stage))

    def outcome(self, stage: str, cls: type[OUT]) -> OUT | None:
        """What a stage measured; None where it is not there."""
        return cls.from_json(self.results[stage]) if stage in self.results else None

    @cached_property
    def made(self) -> dict[str, Made]:
        """What every stage says of itself, by the name that it gave itself."""
        return {str(r.get("stage") or stage): Made.from_json(r) for stage, r in self.results.items()}

    def table(self, stage: str, name: str, cls: type[R], filters: Any = None) -> list[R]:
        """A stage's Parquet table as records, those that pyarrow's `filters` let pass; empty where the stage
        or the table is not there.

        Raises:
            StoreError: it is damaged.
        """
        file = self.folder(stage) / name
        return of_table(cls, read_table(file, stage, filters=filters)) if file.is_file() else []

    def latents(self, member: str | None = None) -> list[LatentRow]:
        """What interpret counted of every latent, of all SAEs or of one."""
        rows = self.table("interpret", "latents.parquet", LatentRow)
        return [row for row in rows if member in (None, row.member)]

    @cached_property
    def directions(self) -> DirectionsOutcome | None:
        """Directions in the place of an SAE; None where it is one."""
        folder = self.folder("train")
        result = read_result(folder) if (folder / "result.json").is_file() else {}
        return DirectionsOutcome.from_json(result) if result.get("stage") == "directions" else None

    def curves(self) -> list[CurvePoint]:
        """The training curves of all SAEs."""
        return self.table("train", "metrics.parquet", CurvePoint)

    def saes(self) -> dict[str, SAE]:
        """The SAEs by name."""
        from thoughtlens.sae import load_members  # here: it loads torch

        return load_members(self.folder("train"))

    @cached_property
    def meta(self) -> StoreMeta | None:
        """What the activation store says of itself; None without one."""
        folder = self.folder("extract")
        return load_meta(folder) if (folder / META).is_file() else None

    @property
    def kind(self) -> str:
        """text or thoughts."""
        if self.meta:
            return self.meta.kind
        told = next((r["kind"] for r in self.results.values() if r.get("kind") in ("text", "thoughts")), None)
        of_thoughts = any(m.get("thoughts") for r in self.results.values() for m in r.get("members") or ())
        return told or ("thoughts" if of_thoughts else "text")

    @property
    def imported(self) -> bool:
        """Whether the activations came from files, and no model made them here."""
        return self.results.get("extract", {}).get("stage") == "import"

    @property
    def placed(self) -> bool:
        """Whether somebody said which model its hooks are in, and where."""
        return bool(self.meta and self.meta.model and not self.meta.unresolved)

    @property
    def fed_back(self) -> bool:
        """Whether a thought is what the pass before it wrote; not so in a control of pause tokens."""
        told = "fed back" in ((self.meta and self.meta.thought_convention) or "")
        return told and "pause" not in (self.results.get("extract", {}).get("control") or "")

    @property
    def thoughts_are(self) -> str | None:
        """What a thought's number counts, the same on every page; None for text."""
        convention = self.meta and self.meta.thought_convention
        if not convention:
            return None
        if not self.fed_back:
            convention = convention.replace("the thoughts fed back", "pause positions: nothing is fed back")
        wrote = ", which is what the thought before it wrote" if self.fed_back else ""
        return (
            f"{convention.replace('thought_idx 0', 'Thought 0')}. A layer is read in the thought of its "
            f"number; thought_in is what enters that thought{wrote}."
        )

    @property
    def model(self) -> str | None:
        """Name of the model."""
        return (self.meta.model or None) if self.meta else None

    @property
    def hook_names(self) -> list[str]:
        """Hooks of the activation store."""
        return self.meta.hook_names if self.meta else []


def read_table(file: Path, stage: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """A Parquet file that a stage wrote: some of its columns, and rows that pyarrow's `filters` let pass.

    Raises:
        StoreError: it is damaged.
    """
    try:
        require_sound([file])
        return read_parquet(file, columns, filters)
    except StoreError as error:
        raise StoreError(f"{error}; run {stage} again") from None
