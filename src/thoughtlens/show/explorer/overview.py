"""What the explorer's first page says about the runs as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from thoughtlens.core import Json, Record, column, digest, read_recipe, read_result
from thoughtlens.evals import ValidateOutcome
from thoughtlens.latents import DirectionRow, ExplainOutcome
from thoughtlens.show.explorer.build import rounded
from thoughtlens.show.explorer.cells import Cells
from thoughtlens.show.explorer.graphs import ListedGraph
from thoughtlens.show.explorer.rows import columns
from thoughtlens.show.explorer.sources import Source, commands, interpreted
from thoughtlens.show.explorer.strips import Strip, strips
from thoughtlens.show.explorer.summary import Columns
from thoughtlens.show.explorer.variables import Variables, variables
from thoughtlens.show.pages.moves import Moves, moves, moves_of
from thoughtlens.show.pages.run import Run


@dataclass(frozen=True, kw_only=True)
class Quality(Record):
    """How well an SAE reconstructs, where the run was validated."""

    fvu: float | None = None
    explained_variance: float | None = None
    n: int | None = None
    split: str | None = column(default=None, null=True)


@dataclass(frozen=True, kw_only=True)
class MemberPage(Record):
    """An SAE on the first page."""

    key: str
    member: str
    hook_names: list[str]
    thoughts: list[int] | None
    d_sae: int
    n: int
    n_problems: int
    l0: float
    n_alive: int
    n_everywhere: int
    label: str
    kind: str
    run: str
    model: str | None
    split: str
    quality: Quality
    histogram_edges: list[float] | None
    have: dict[str, bool]
    unexplained: str | None
    """Why a latent has no explanation where others have one."""
    strips: list[Strip]
    directions: list[Direction] | None = None
    """Where these are directions and no latents: 2i and 2i + 1 are the two ends of number i."""
    source: str | None = None
    """What the directions are."""


@dataclass(frozen=True, kw_only=True)
class Direction(Record):
    """A direction, how it is read out, and where the rows lie along it."""

    name: str
    offset: float | None
    offset_is: str
    high: float | None
    """Thresholds of both ends, counted from the offset."""
    low: float | None
    edges: list[float | None]
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class Listed(Record):
    """A problem in the list of those that have a page."""

    id: str
    split: str
    text: str
    right: bool | None
    shard: int


@dataclass(frozen=True, kw_only=True)
class Problems:
    """The problems that have a page, in order, and which they are."""

    listed: list[Listed]
    are: str
    read_by: str | None
    """The lens and the layer by which the thoughts of their chains are read."""


@dataclass(frozen=True, kw_only=True)
class Overview(Record):
    """Runs, members, definitions, the list of problems, and the command for each table that is missing."""

    name: str
    id: str
    """Of the SAEs: what a reader's notes are kept under."""
    kind: str
    model: str | None
    hooks: list[str]
    split: str
    definitions: dict[str, str]
    columns: dict[str, list[str]]
    """Names of the columns of every kind of row that pages get as a list."""
    members: list[MemberPage]
    problems: list[Listed]
    problems_are: str
    """Which problems these are, and of how many."""
    read_by: str | None
    variables: Variables | None
    moves: Moves | None
    """Which thought moves which."""
    graphs: list[ListedGraph]
    commands: dict[str, str]
    thoughts_are: str | None
    """What a thought's number counts."""
    fed_back: bool
    warnings: list[str]
    version: str


def overview(
    found: Sequence[Source], cells: Sequence[Cells | None], problems: Problems, graphs: Sequence[ListedGraph]
) -> Json:
    """The first page's table."""
    run = found[0].run
    outcome = interpreted(run)
    titles = dict(zip((one.name for one in fields(Columns)), Columns.heads(), strict=True))
    return Overview(
        name=run.root.resolve().name,
        id=digest(run.folder("train"))[:16],
        kind=run.kind,
        model=run.model,
        hooks=run.hook_names,
        split=outcome.split,
        definitions={**outcome.definitions, **titles},
        columns=columns(),
        members=[_member(*pair) for pair in zip(found, cells, strict=True)],
        problems=problems.listed,
        problems_are=problems.are,
        read_by=problems.read_by,
        variables=variables(run),
        moves=_moves(run),
        graphs=list(graphs),
        commands=commands(run, [source.run for source in found if source.run is not run]),
        thoughts_are=run.thoughts_are,
        fed_back=run.fed_back,
        warnings=outcome.warnings,
        version=run.made["interpret"].versions["thoughtlens"],
    ).to_json()


def _moves(run: Run) -> Moves | None:
    """Rounded for the page; None where the run has no such stage."""
    outcome = moves_of(run)
    if outcome is None:
        return None
    found = moves(outcome)
    return replace(
        found, matrices=[replace(m, values=[rounded(row) for row in m.values]) for m in found.matrices]
    )


def _direction(row: DirectionRow) -> Direction:
    offset, high, low = rounded((row.offset, row.threshold_high, row.threshold_low), 4)
    return Direction(
        name=row.name, offset=offset, offset_is=row.offset_is, high=high, low=low,
        edges=rounded(row.edges, 4), counts=row.counts,
    )  # fmt: skip


def _member(source: Source, cells: Cells | None) -> MemberPage:
    about, run = source.about, source.run
    outcome, of = interpreted(run), run.directions
    return MemberPage(
        key=source.key,
        member=about.member,
        hook_names=about.hook_names,
        thoughts=about.thoughts,
        d_sae=about.d_sae,
        n=about.n,
        n_problems=about.n_problems,
        l0=about.l0,
        n_alive=about.n_alive,
        n_everywhere=about.n_everywhere,
        label=source.label,
        kind="directions" if of else about.kind,
        run=run.root.resolve().name,
        model=run.model,
        split=outcome.split,
        quality=_quality(source),
        histogram_edges=outcome.histogram_edges,
        have=source.have(),
        unexplained=unexplained(source),
        strips=strips(source, cells),
        directions=None if of is None else [_direction(row) for row in of.directions],
        source=None if of is None else of.source,
    )


def unexplained(source: Source) -> str | None:
    """Which latents the explain stage took; None where the run has none."""
    folder = source.run.folder("explain")
    if not (folder / "result.json").is_file():
        return None
    members = ExplainOutcome.from_json(read_result(folder)).members
    member = next((m for m in members if m.member == source.name), None)
    if member is None:
        return "The explain stage did not read this SAE."
    recipe = read_recipe(folder)
    units = "documents" if source.run.kind == "text" else "problems"
    enough = f"fire in enough {units} to fit an explanation and score it on others, and not everywhere"
    if recipe.get("latents"):
        return f"Only latents that were asked for are explained: {member.n_explained:,} of this SAE."
    if member.n_explained < member.n_eligible:
        return (
            f"Not explained: {member.n_explained:,} were drawn of the {member.n_eligible:,} latents that "
            f"{enough}; this is not one of them."
        )
    return (
        f"Not explained: of {member.d_sae:,} latents {member.n_eligible:,} {enough}; this is not one of them."
    )


def _quality(source: Source) -> Quality:
    outcome = source.run.outcome("validate", ValidateOutcome)
    if outcome is None:
        return Quality()
    found = next((m.reconstruction["sae"] for m in outcome.members if m.member == source.name), None)
    if found is None:
        return Quality(split=outcome.split)
    return Quality(fvu=found.fvu, explained_variance=found.explained_variance, n=found.n, split=outcome.split)
