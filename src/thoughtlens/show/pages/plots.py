"""Result tables -> matplotlib figures. Nothing here shows, saves or reads files.

Colours are Okabe and Ito's (2008), which stay apart for colour-blind readers; what a colour says is also
said by position or a label. Ink is one colour, so that a page can put its own in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from thoughtlens.evals import ClassPoint, ClassRow, ValuePoint, ValueRow
from thoughtlens.interventions import EffectRow, RankRow
from thoughtlens.latents import LatentRow, OrbitRow, RoundRow
from thoughtlens.sae import CurvePoint
from thoughtlens.show.pages.moves import Matrix
from thoughtlens.show.pages.text import shorten, visible
from thoughtlens.tracing import EdgeRow, Node

INK, GREY = "#1b1c20", "#8a8d93"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
ARM_COLOURS = {"sae": BLUE, "raw": VERMILION, "sae_reconstruction": SKY, "pca": GREEN, "text": ORANGE}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "figure.dpi": 150,
}

FEW = 3
"""SAEs that fit into one panel each in their own colour."""


class Bar(NamedTuple):
    """Explained variance of an SAE or baseline, with its 95 % interval."""

    member: str
    reconstructor: str
    n: int
    explained_variance: float | None
    low: float | None
    high: float | None


class Preference(NamedTuple):
    """How often a latent fires, by factor and level."""

    title: str
    factors: Mapping[str, Sequence[tuple[str, float]]]
    """(level, rate): the mean over problems of the share of vectors on which the latent fires."""


def styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the house style, whatever the caller's settings are; dollar signs in names make no formulas."""

    @wraps(plot)
    def inner(*args: Any, **kwargs: Any) -> Figure:
        with rc_context(STYLE):
            figure = plot(*args, **kwargs)
        powers = {text for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in _powers(axis)}
        for text in figure.findobj():
            if isinstance(text, Text):
                text.set_parse_math(text in powers)
        return figure

    return inner


def _powers(axis: Axis) -> list[Text]:
    """Labels that a logarithmic axis gives its own ticks, as formulas."""
    return axis.get_ticklabels(which="both") if axis.get_scale() == "log" else []


@styled
def training_curves(rows: Sequence[CurvePoint]) -> Figure:
    """FVU, L0 and dead latents over the vectors seen; one line per member, held-out solid, training dashed.

    Args:
        rows: Lines of `sae/metrics.parquet`.
    """
    members = list(dict.fromkeys(row.member for row in rows))
    few = len(members) <= len(_CYCLE)
    figure, axes = _axes(1, 3, (9.0, 2.7))
    panels = (("fvu", "FVU (0 = perfect)"), ("l0", "L0 (latents a vector)"), ("n_dead", "Dead latents"))
    for axis, (name, title) in zip(axes[0], panels, strict=True):
        for i, member in enumerate(members):
            own = [row for row in rows if row.member == member]
            colour = _CYCLE[i] if few else GREY
            for suffix, dash in (("_validation", "-"), ("_train", (0, (3, 2)))):
                key = name if name == "n_dead" else name + suffix
                points = [(row.rows_seen, getattr(row, key)) for row in own if getattr(row, key) is not None]
                if points and not (name == "n_dead" and suffix == "_train"):
                    axis.plot(*zip(*points, strict=True), color=colour, ls=dash, lw=1.5 if few else 0.7)
        axis.set(
            title=title,
            xlabel="vectors seen",
            ylim=(0, max(1.05 * axis.get_ylim()[1], 0.1 if name == "fvu" else 1)),
        )
        axis.grid(axis="y")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    _key(axes[0][0], [("held out", INK, "-"), ("training", INK, (0, (3, 2)))])
    if 1 < len(members) <= len(_CYCLE):
        _key(axes[0][2], [(m, _CYCLE[i], "-") for i, m in enumerate(members)])
    return figure


@styled
def firing_rates(density: Mapping[str, Float[np.ndarray, " d_sae"]], n: Mapping[str, int]) -> Figure:
    """How log10 density spreads over the latents that fired, and how many never did.

    A histogram for up to three SAEs, else one box for each (quartiles, whiskers to the extremes).

    Args:
        density: Per member, each latent's share of held-out vectors on which it fires.
        n: Per member, the number of those vectors.
    """
    silent = {m: int((values == 0).sum()) for m, values in density.items()}
    labels = {
        m: f"{m}: {silent[m]:,} of {len(v):,} never fired on {n[m]:,} vectors" for m, v in density.items()
    }
    logs = {m: np.log10(values[values > 0]) for m, values in density.items()}
    if len(density) > FEW:
        figure, axes = _axes(1, 1, (6.0, 0.9 + 0.27 * len(density)))
        axis = axes[0][0]
        drawn = axis.boxplot(list(logs.values()), orientation="horizontal", whis=(0, 100), widths=0.6)
        for part in ("boxes", "whiskers", "caps", "medians"):
            for line in drawn[part]:
                line.set_color(INK if part == "medians" else BLUE)
        axis.set_yticks(range(1, len(labels) + 1), list(labels.values()))
        axis.invert_yaxis()
        axis.set(title="Firing rates", xlabel="log10 density (share of vectors)", xlim=(None, 0.05))
        axis.grid(axis="x")
        return figure
    figure, axes = _axes(1, 1, (6.0, 2.7))
    axis = axes[0][0]
    bins = np.linspace(min(-2.0, *(-float(np.log10(max(n[m], 1))) for m in density)), 0, 41)
    for i, (member, values) in enumerate(logs.items()):
        colour = _CYCLE[i]
        axis.hist(values, bins=bins, histtype="stepfilled", color=colour, alpha=0.25)
        axis.hist(values, bins=bins, histtype="step", color=colour, label=labels[member], lw=1.2)
    axis.set(title="Firing rates", xlabel="log10 density (share of vectors)", ylabel="latents")
    axis.grid(axis="y")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.12), ncols=1)
    return figure


@styled
def reconstruction(rows: Sequence[Bar], split: str) -> Figure:
    """Explained variance of the SAE and its baselines on held-out vectors, with 95 % intervals.

    Args:
        rows: One for each member and reconstructor.
        split: Name of the split they were measured on.

    Bars for one SAE, else a line of marks for each.
    """
    names = list(dict.fromkeys(row.reconstructor for row in rows))
    members = list(dict.fromkeys(row.member for row in rows))
    if len(members) > 1:
        return _reconstruction_dots(rows, names, members, split)
    figure, axes = _axes(1, 1, (6.0, 0.9 + 0.33 * len(names)))
    axis = axes[0][0]
    for y, row in enumerate(rows):
        value = row.explained_variance
        if value is None:
            continue
        axis.barh(
            y, max(value, 0.0), height=0.6, color=BLUE if row.reconstructor == "sae" else GREY, alpha=0.85
        )
        if row.low is not None and row.high is not None:
            axis.plot([row.low, row.high], [y, y], color=INK, lw=1.2)
        end = max(value, 0.0) if row.high is None else max(row.high, 0.0)
        axis.text(end + 0.015, y, f"{round(value, 3) + 0.0:.3f}", va="center", fontsize=8)
    axis.set(xlim=(0, 1.12), title=f"Explained variance, split {split}, n = {rows[0].n:,} vectors")
    axis.set_yticks(range(len(names)), [_WORDS.get(name, name) for name in names])
    axis.invert_yaxis()
    axis.grid(axis="x")
    return figure


def _reconstruction_dots(
    rows: Sequence[Bar], names: Sequence[str], members: Sequence[str], split: str
) -> Figure:
    """One line a SAE, one mark a reconstructor; what lies below 0 is drawn at 0."""
    figure, axes = _axes(1, 1, (7.0, 1.2 + 0.3 * len(members)))
    axis = axes[0][0]
    baselines = [name for name in names if name != "sae"]
    # Not strict: baselines beyond the colours are drawn in grey, and a page may have fewer.
    colours = dict(zip(baselines, (GREEN, ORANGE, GREY, PURPLE, SKY), strict=False))
    for i, name in enumerate(names):
        own = [row for row in rows if row.reconstructor == name and row.explained_variance is not None]
        x = [max(row.explained_variance or 0.0, 0.0) for row in own]
        y = [members.index(row.member) for row in own]
        colour, size = (BLUE, 42) if name == "sae" else (colours.get(name, GREY), 26)
        axis.scatter(
            x, y, s=size, color=colour, marker="oDs^vP"[i % 6], label=_WORDS.get(name, name), zorder=3 - i
        )
        for row, height in zip(own, y, strict=True):
            if row.low is not None and row.high is not None:
                axis.plot([max(row.low, 0), max(row.high, 0)], [height] * 2, color=colour, lw=1.2)
    n = sorted({row.n for row in rows})
    size = f"{n[0]:,}" if len(n) == 1 else f"{n[0]:,} to {n[-1]:,}"
    axis.set(xlim=(-0.02, 1.02), title=f"Explained variance, split {split}, n = {size} vectors")
    axis.set_yticks(range(len(members)), members)
    axis.set_ylim(len(members) - 0.5, -0.5)
    axis.grid()
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


LEAST_SHOWN = -1.0
"""Least value with a colour of its own: an explained variance of -50 would leave one to all others."""


@styled
def cell_map(values: Mapping[str, Sequence[tuple[str, int, float]]], label: str) -> Figure:
    """One number for each (hook, thought), as heat maps on one scale, two in a row.

    Args:
        values: By title, `(hook_name, thought_idx, value)` of every cell.
        label: What the numbers are.
    """
    cells = [cell for column in values.values() for cell in column]
    hooks = {title: list(dict.fromkeys(hook for hook, _, _ in column)) for title, column in values.items()}
    alike = len({tuple(own) for own in hooks.values()}) == 1
    thoughts = sorted({thought for _, thought, _ in cells})
    finite = [v for _, _, v in cells if np.isfinite(v)]
    scale = Normalize(max(min(finite), LEAST_SHOWN), max(finite))
    rows, width = -(-len(values) // 2), 1.0 + min(len(values), 2) * (0.62 * len(thoughts) + 0.5)
    height = 0.7 + 0.42 * max(len(own) for own in hooks.values())
    figure, axes = _axes(rows, min(len(values), 2), (width, 0.4 + rows * height))
    for axis in axes.flat[len(values) :]:
        axis.set_axis_off()
    for axis, (title, column) in zip(axes.flat[: len(values)], values.items(), strict=True):
        own = hooks[title]
        grid = np.full((len(own), len(thoughts)), np.nan)
        for hook, thought, value in column:
            grid[own.index(hook), thoughts.index(thought)] = value
        _matrix(axis, grid, scale, lambda v: f"{v:.2f}")
        axis.set(title=title, xlabel="thought")
        axis.set_xticks(range(len(thoughts)), [str(t) for t in thoughts])
        named = not alike or axis in axes[:, 0]
        axis.set_yticks(range(len(own)), own if named else [""] * len(own))
    figure.suptitle(label, fontsize=9, x=0.01, ha="left")
    return figure


@styled
def move_map(matrices: Sequence[Matrix]) -> Figure:
    """What each edited thought does to each later one: a heat map per chain and part, on one scale."""
    finite = [v for one in matrices for row in one.values for v in row if v is not None]
    scale = Normalize(max(min(finite, default=0.0), LEAST_SHOWN), max(finite, default=0.0) or 1.0)
    columns = min(len(matrices), 3)
    rows = -(-len(matrices) // columns)
    wide, high = max(len(one.moved) for one in matrices), max(len(one.edited) for one in matrices)
    figure, axes = _axes(rows, columns, (0.6 + columns * (0.45 * wide + 0.5), rows * (0.36 * high + 0.9)))
    for axis in axes.flat[len(matrices) :]:
        axis.set_axis_off()
    for axis, one in zip(axes.flat[: len(matrices)], matrices, strict=True):
        grid = np.array([[np.nan if v is None else v for v in row] for row in one.values], dtype=float)
        _matrix(axis, grid, scale, lambda v: f"{round(v, 2) + 0.0:.2f}")
        axis.set(title=one.title, xlabel="moved", ylabel="edited")
        axis.set_xticks(range(len(one.moved)), one.moved)
        axis.set_yticks(range(len(one.edited)), one.edited)
    return figure


@styled
def circuit_map(nodes: Sequence[Node], edges: Sequence[EdgeRow]) -> Figure:
    """The question's words one below another, the thoughts in a line, the answer; an arrow per edge."""
    words = [node.name for node in nodes if node.name.startswith("question")]
    at = {name: (0.0, (len(words) - 1) / 2 - i) for i, name in enumerate(words)}
    thoughts = [node for node in nodes if node.thought_idx is not None]
    at |= {node.name: (2.0 + float(node.thought_idx or 0), 0.0) for node in thoughts}
    last = max((x for x, _ in at.values()), default=0.0) + 1
    at["answer"] = (last, 0.0)
    figure, axes = _axes(1, 1, (1.0 + 0.95 * last, 3.2))
    axis = axes.flat[0]
    routes = sorted({edge.route for edge in edges} - {"state"})
    palette = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
    colours = {route: palette[i % len(palette)] for i, route in enumerate(routes)}
    flows: dict[tuple[str, str, str], float] = {}
    for edge in edges:
        key = edge.source, edge.target, edge.route
        flows[key] = max(flows.get(key, 0.0), edge.flow)
    for (source, target, route), flow in sorted(flows.items(), key=lambda one: one[1]):
        bend = 0.0 if route == "state" else -0.35 - 0.08 * routes.index(route)
        line = FancyArrowPatch(
            at[source],
            at[target],
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=9,
            shrinkA=13,
            shrinkB=13,
            linewidth=0.6 + 3 * min(flow, 1.0),
            color=colours.get(route, INK),
            alpha=0.85,
        )
        axis.add_patch(line)
    for name, (x, y) in at.items():
        label = name.removeprefix("question: ").removeprefix("thought ")
        box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": GREY}
        axis.text(x, y, label, ha="center", va="center", bbox=box, zorder=3)
    for route in routes:
        axis.plot([], [], color=colours[route], label=f"keys and values, {route.removesuffix(':kv')}")
    axis.plot([], [], color=INK, label="state")
    axis.legend(loc="lower right", ncols=3, frameon=False)
    tall = max(len(words) / 2, 1.5) + 0.6
    axis.set(xlim=(-0.8, last + 0.6), ylim=(-tall - 0.5, tall))
    axis.set_axis_off()
    return figure


@styled
def rank_curves(rows: Sequence[RankRow]) -> Figure:
    """Share of an effect that k directions hold alone (solid), and that is lost without them (dashed).

    Args:
        rows: Lines of `ranks.parquet`; a panel per place, at most six, first those whose mean costs most.
    """
    places: dict[str, list[RankRow]] = {}
    for row in sorted(rows, key=lambda row: -row.cost_of_mean):
        at = [str(one) for one in (row.layer, row.thought_idx) if one is not None]
        places.setdefault(f"{row.site or row.scope}[{', '.join(at) or 'all'}]", []).append(row)
    shown = list(places.items())[:6]
    columns = min(len(shown), 3)
    figure, axes = _axes(
        -(-len(shown) // columns), columns, (0.5 + 2.7 * columns, 2.6 * -(-len(shown) // columns))
    )
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    colours = {"pca": GREEN, "latents": BLUE, "probe": ORANGE, "random": GREY}
    for axis, (title, own) in zip(axes.flat[: len(shown)], shown, strict=True):
        for row in own:
            colour = colours.get(row.arm, INK)
            for name, dash in (("kept", "-"), ("removed", (0, (3, 2)))):
                points = [
                    (k, *ends)
                    for k, *ends in zip(
                        row.ks, getattr(row, name), getattr(row, f"{name}_low"), getattr(row, f"{name}_high"),
                        strict=True,
                    )
                    if ends[0] is not None
                ]  # fmt: skip
                ks, share, low, high = (np.array(one, dtype=float) for one in zip(*points, strict=True))
                axis.plot(ks, share, color=colour, ls=dash, marker="o", ms=3)
                axis.fill_between(ks, low, high, color=colour, alpha=0.12, lw=0)
        axis.axhline(0.9, color=GREY, lw=0.8, ls=":")
        axis.set(title=title, xlabel="directions", xscale="log", ylim=(-0.1, 1.1))
        axis.set_xticks(own[0].ks, [str(k) for k in own[0].ks])
        axis.minorticks_off()
    _key(axes[0][0], [(arm, colours.get(arm, INK), "-") for arm in dict.fromkeys(row.arm for row in rows)])
    return figure


@styled
def dose_response(rows: Sequence[EffectRow]) -> Figure:
    """Change of accuracy by dose, one line a direction and place; controls in grey.

    Args:
        rows: Lines of `intervene/effects.parquet` that have a dose.
    """
    figure, axes = _axes(1, 1, (6.0, 3.0))
    axis = axes[0][0]
    lines: dict[tuple[str, str, bool], list[EffectRow]] = {}
    for row in rows:
        at = [str(at) for at in (row.layer, row.thought_idx) if at is not None]
        place = f"{row.site}[{', '.join(at)}]"
        lines.setdefault((row.direction or "", place, row.control is not None), []).append(row)
    own = [key for key in lines if not key[2]]
    for key, line in lines.items():
        line = sorted(line, key=lambda row: row.dose or 0.0)
        colour = GREY if key[2] else _CYCLE[own.index(key) % len(_CYCLE)]
        x, y = [row.dose for row in line], [row.difference for row in line]
        bars = [[v - row.low for v, row in zip(y, line, strict=True)],
                [row.high - v for v, row in zip(y, line, strict=True)]]  # fmt: skip
        label = f"{key[0]} at {key[1]}" if not key[2] and len(own) <= len(_CYCLE) else None
        axis.errorbar(x, y, yerr=bars, color=colour, lw=0.7 if key[2] else 1.5, marker="o", ms=3, label=label)
    axis.axhline(0, color=INK, lw=0.8, ls=(0, (3, 2)))
    axis.set(xlabel="dose (standard deviations of the states)", ylabel="change of accuracy")
    axis.set_title("Steering; controls grey")
    axis.grid(axis="y")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def steps(rows: Sequence[RoundRow]) -> Figure:
    """Step norm and distance to the end by thought, a panel per hook."""
    hooks = list(dict.fromkeys(row.hook_name for row in rows))
    across = min(len(hooks), FEW)
    down = -(-len(hooks) // across)
    figure, axes = _axes(down, across, (1.0 + 2.6 * across, 0.5 + 2.1 * down))
    for axis in axes.flat[len(hooks) :]:
        axis.set_axis_off()
    for axis, hook in zip(axes.flat, hooks, strict=False):
        own = [row for row in rows if row.hook_name == hook]
        thoughts = [row.thought_idx for row in own]
        columns = {
            name: np.array([getattr(row, name) for row in own], dtype=float)
            for name in ("step_norm", "step_low", "step_high", "distance", "spread")
        }
        shown = {name: np.where(x > 0, x, np.nan) for name, x in columns.items()}  # a logarithmic axis
        axis.fill_between(thoughts, shown["step_low"], shown["step_high"], color=BLUE, alpha=0.2, lw=0)
        axis.plot(thoughts, shown["step_norm"], color=BLUE, marker="o", ms=3)
        axis.plot(thoughts, shown["distance"], color=VERMILION, ls="--", marker="o", ms=3)
        axis.plot(thoughts, shown["spread"], color=GREY)
        axis.set(
            title=_short(hook), xlabel="thought", yscale="log" if np.nansum(shown["step_norm"]) else "linear"
        )
        axis.xaxis.get_major_locator().set_params(integer=True)
    _key(axes[0, 0], [("step", BLUE, "-"), ("to the end", VERMILION, "--"), ("other problem", GREY, "-")])
    return figure


@styled
def orbits(rows: Sequence[OrbitRow]) -> Figure:
    """States of some problems on two components, a line per problem, a panel per hook."""
    hooks = list(dict.fromkeys(row.hook_name for row in rows))
    across = min(len(hooks), FEW)
    down = -(-len(hooks) // across)
    figure, axes = _axes(down, across, (0.6 + 2.6 * across, 0.5 + 2.4 * down))
    for axis in axes.flat[len(hooks) :]:
        axis.set_axis_off()
    colours = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
    for axis, hook in zip(axes.flat, hooks, strict=False):
        paths: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row.hook_name == hook:
                paths.setdefault(row.problem_id, []).append((row.x, row.y))
        for i, path in enumerate(paths.values()):
            x, y = zip(*path, strict=True)
            axis.plot(x, y, color=colours[i % len(colours)], lw=0.9)
            axis.plot(x[:1], y[:1], color=colours[i % len(colours)], marker="o", ms=5, mfc="none")
            axis.plot(x[-1:], y[-1:], color=colours[i % len(colours)], marker="o", ms=3)
        axis.set(title=_short(hook), xlabel="component 1", ylabel="component 2")
    return figure


@styled
def latent_map(rows: Sequence[LatentRow]) -> Figure:
    """Every live latent by density and mean activation; those that fire everywhere stand out.

    Args:
        rows: Lines of `interpret/latents.parquet`.
    """
    figure, axes = _axes(1, 1, (6.0, 3.0))
    axis = axes[0][0]
    for flag, colour, label in ((False, BLUE, "latents"), (True, VERMILION, "everywhere-latents")):
        own = [row for row in rows if row.n_fires and row.everywhere == flag]
        if own:
            axis.scatter(
                [row.density for row in own], [row.mean_active for row in own],
                s=8 if not flag else 22, color=colour, alpha=0.5 if not flag else 0.9, lw=0,
                marker="o" if not flag else "D", label=f"{len(own):,} {label}",
            )  # fmt: skip
    axis.set(
        xscale="log", yscale="log", xlabel="density (share of vectors)", ylabel="mean activation where active"
    )
    axis.set_title("Live latents")
    narrow = np.ptp(np.log10(axis.get_ylim())) < 1
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if narrow else NullFormatter())
    axis.grid()
    if axis.collections:
        axis.legend(loc="lower left", bbox_to_anchor=(0.3, 1.0), ncols=2)
    return figure


@styled
def preferences(latents: Sequence[Preference]) -> Figure:
    """How often each of some latents fires by label, layer and thought.

    Args:
        latents: The same factors for all.
    """
    factors = list(latents[0].factors)
    widths = [max(1.2, 0.42 * len(latents[0].factors[f])) for f in factors]
    figure = Figure(figsize=(1.2 + 1.15 * sum(widths), 0.5 + 0.78 * len(latents)), layout="constrained")
    grid = figure.subplots(len(latents), len(factors), squeeze=False, sharex="col", width_ratios=widths)
    for i, latent in enumerate(latents):
        for j, factor in enumerate(factors):
            axis, levels = grid[i][j], latent.factors[factor]
            rates = [rate for _, rate in levels]
            top = max(rates, default=0.0)
            axis.bar(range(len(levels)), rates, color=[BLUE if r == top else GREY for r in rates], width=0.75)
            axis.set_ylim(0, max(top * 1.15, 1e-6))
            axis.set_xticks(range(len(levels)), [_short(name) for name, _ in levels])
            axis.set_yticks([0, top], ["0", f"{top:.0%}"])
            axis.tick_params(axis="x", labelrotation=0 if max(len(n) for n, _ in levels) < 5 else 20)
            if i == 0:
                axis.set_title(factor.removeprefix("label:"))
            if j == 0:
                axis.set_ylabel(latent.title, rotation=0, ha="right", va="center")
    return figure


@styled
def classification(rows: Sequence[ClassRow | ValueRow], title: str, metric: str = "accuracy") -> Figure:
    """Score of every arm with its 95 % interval; the dashed line is the arm that looks at nothing.

    Args:
        rows: Lines of the classify table at one pooling, and those that have none.
        title: What is classified, on how many units.
        metric: accuracy or r2.
    """
    figure, axes = _axes(1, 1, (6.0, 1.0 + 0.33 * len(rows)))
    axis = axes[0][0]
    for i, row in enumerate(rows):
        colour = ARM_COLOURS.get(row.arm, GREY)
        axis.barh(i, getattr(row, metric), height=0.62, color=colour, alpha=0.85)
        axis.plot([row.low, row.high], [i, i], color=INK, lw=1.2)
        text = f"{getattr(row, metric):.1%}  [{row.low:.1%}, {row.high:.1%}]"
        axis.text(max(row.high, getattr(row, metric), 0) + 0.015, i, text, va="center", fontsize=8)
    majority = [getattr(row, metric) for row in rows if row.arm == "majority"]
    if majority:
        axis.axvline(majority[0], color=INK, lw=0.8, ls=(0, (3, 2)))
    axis.set_yticks(range(len(rows)), [_WORDS.get(row.arm, row.arm) for row in rows])
    low = min(0.0, *(max(row.low, -1.0) for row in rows))
    axis.set(xlim=(low, 1.42), title=title, xlabel=f"{words(metric)}, out of fold")
    axis.set_xticks([0, 0.5, 1])
    axis.invert_yaxis()
    axis.grid(axis="x")
    return figure


@styled
def at_k(rows: Sequence[ClassPoint | ValuePoint], metric: str = "accuracy") -> Figure:
    """Score against the number of features that a probe may use, one line an arm, with 95 % intervals.

    Args:
        rows: `arm, k`, the score, `low, high`.
        metric: accuracy or r2.
    """
    figure, axes = _axes(1, 1, (5.6, 3.2))
    axis = axes[0][0]
    for i, arm in enumerate(dict.fromkeys(row.arm for row in rows)):
        colour = _CYCLE[i % len(_CYCLE)]
        own = sorted((row for row in rows if row.arm == arm), key=lambda row: row.k)
        k = [row.k for row in own]
        axis.plot(k, [getattr(row, metric) for row in own], color=colour, marker="o", ms=3, label=words(arm))
        axis.fill_between(k, [row.low for row in own], [row.high for row in own], color=colour, alpha=0.15)
    ticks = sorted({row.k for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.set(xlabel="features, k", ylabel=f"{words(metric)}, out of fold")
    axis.grid(axis="y")
    axis.legend()
    return figure


@styled
def confusion(matrices: Mapping[str, Int[np.ndarray, "c c"]], classes: Sequence[str]) -> Figure:
    """Confusion matrices side by side: counts, coloured by the share of the true class.

    Args:
        matrices: By arm; rows are true classes, columns predictions.
        classes: Names in the order of the codes.
    """
    n = len(classes)
    figure, axes = _axes(1, len(matrices), (1.0 + len(matrices) * (0.62 * n + 0.9), 1.5 + 0.45 * n))
    for axis, (arm, counts) in zip(axes[0], matrices.items(), strict=True):
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        _matrix(axis, share, Normalize(0, 1), lambda v, c=counts: f"{c[v]:,}", by_index=True)
        axis.set(title=_WORDS.get(arm, arm), xlabel="predicted")
        axis.set_xticks(range(n), [_short(c) for c in classes], rotation=20 if n > 2 else 0)
        axis.set_yticks(range(n), list(map(visible, classes)) if axis is axes[0][0] else [""] * n)
    axes[0][0].set_ylabel("true")
    return figure


_CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_WORDS = {
    "ablate": "ablation",
    "edit_latents": "edited latents",
    "exit": "early exit",
    "patch": "patching from twins",
    "route": "state route and key-value route",
    "splice": "spliced reconstructions",
    "steer": "steering",
    "swap": "swaps between problems",
    "sae": "SAE",
    "raw": "raw activations",
    "pca": "PCA, k = L0",
    "pca_l0": "PCA, k = L0",
    "random": "random SAE",
    "mean": "mean",
    "cell_mean": "mean of the cell",
    "sae_reconstruction": "SAE reconstruction",
    "begin_of_thought": "begin of thought only",
    "text": "bag of words",
    "majority": "majority class",
    "pca_live": "PCA, k = live latents",
    "random_projection": "random directions, k = L0",
    "random_sae": "random SAE",
    "frozen_decoder": "SAE, decoder frozen at random",
    "top_latents": "top k latents",
    "top_neurons": "top k neurons",
    "top_pcs": "top k components",
    "text_counts": "lengths, numbers, steps",
    "r2": "R squared",
    "permuted": "permuted labels",
}


def words(name: str) -> str:
    """An arm or reconstructor as people say it."""
    return _WORDS.get(name, name)


def _axes(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _matrix(
    axis: Axes, values: np.ndarray, scale: Normalize, text: Callable[..., str], by_index: bool = False
) -> None:
    image = axis.imshow(values, cmap="cividis", norm=scale, aspect="auto")
    for at in np.ndindex(values.shape):
        if np.isfinite(values[at]):
            dark = sum(image.cmap(scale(values[at]))[:3]) < 1.5
            label = text(at) if by_index else text(values[at])
            colour = "#ffffff" if dark else "#000000"
            axis.text(at[1], at[0], label, ha="center", va="center", fontsize=8, color=colour)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _key(axis: Axes, entries: Sequence[tuple[str, str, Any]]) -> None:
    handles = [axis.plot([], [], color=colour, ls=dash)[0] for _, colour, dash in entries]
    axis.legend(handles, [name for name, _, _ in entries])


def _short(name: str) -> str:
    return shorten(visible(name), 14)
