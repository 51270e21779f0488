"""What recovery found: where each variable is read, and which latents speak for its values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from thoughtlens.core import Number, Record, read_parquet, read_result
from thoughtlens.evals import RecoveryOutcome
from thoughtlens.show.explorer.rows import Located, Spoken
from thoughtlens.show.pages.run import Run

KMEANS = "kmeans"


@dataclass(frozen=True, kw_only=True)
class Variable(Record):
    """A variable where it is read best, all problems or those of a condition."""

    name: str
    condition: str
    """Such as n_steps=3; empty: all problems."""
    hook: str
    thought: int | None
    n_values: int
    found: Number
    found_by_two: Number
    probe: Number
    variance_share: Number
    kmeans: Number | None
    """Share of the values that two of k-means' codes together tell."""
    verdict: str | None
    """Of the SAE's share against that of k-means."""


@dataclass(frozen=True, kw_only=True)
class Followed(Record):
    """A number with too many values to be listed, and the latent that follows it best."""

    name: str
    hook: str
    thought: int | None
    latent: int
    rank_correlation: Number


@dataclass(frozen=True, kw_only=True)
class Variables(Record):
    """All variables of a run, of the SAE `member`."""

    member: str
    split: str
    found_at: float
    definitions: dict[str, str]
    conclusion: str
    """Whether the SAE finds more than k-means, in a sentence; empty: that was not asked."""
    variables: list[Variable]
    numbers: list[Followed]
    left_out: list[str]


def variables(run: Run) -> Variables | None:
    """What a run's recovery stage found; None where it has none."""
    folder = run.folder("recovery")
    if not (folder / "result.json").is_file():
        return None
    outcome = RecoveryOutcome.from_json(read_result(folder))
    return Variables(
        member=outcome.member,
        split=outcome.split,
        found_at=outcome.found_at,
        definitions=outcome.definitions,
        conclusion=outcome.conclusion,
        variables=list(_each(outcome)),
        numbers=[
            Followed(
                name=name,
                hook=found.place.hook_name,
                thought=found.place.thought_idx,
                latent=found.latent,
                rank_correlation=found.rank_correlation,
            )
            for name, found in outcome.numbers.items()
        ],
        left_out=outcome.left_out,
    )


def _each(outcome: RecoveryOutcome) -> Iterator[Variable]:
    """Every variable, and after it the same by condition."""
    for name, whole in outcome.variables.items():
        parts = {f"{column}={value}": one for column, own in whole.by.items() for value, one in own.items()}
        for condition, found in {"": whole, **parts}.items():
            rival = found.baselines.get(KMEANS)
            yield Variable(
                name=name,
                condition=condition,
                hook=found.place.hook_name,
                thought=found.place.thought_idx,
                n_values=found.n_values,
                found=found.found,
                found_by_two=found.found_by_two,
                probe=found.probe,
                variance_share=found.variance_share,
                kmeans=rival and rival.found_by_two,
                verdict=found.more_than_kmeans and found.more_than_kmeans.verdict,
            )


def variable_tables(run: Run) -> dict[str, Any]:
    """Shards `recovery/values` and `recovery/places`: who speaks for each value, and every place."""
    views = {"values": Spoken, "places": Located}
    files = {name: run.folder("recovery") / f"{name}.parquet" for name in views}
    return {
        f"recovery/{name}": views[name].lines(read_parquet(file))
        for name, file in files.items()
        if file.is_file()
    }
