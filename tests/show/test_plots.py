"""Figures from plain tables: what is drawn is what was given, and nothing else in the process changes."""

from __future__ import annotations

import io
import re
from dataclasses import fields, replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from thoughtlens.evals.classify.records import ClassRow
from thoughtlens.interventions.intervene.records import EffectRow
from thoughtlens.latents.interpret.records import LatentRow
from thoughtlens.sae.train.records import CurvePoint
from thoughtlens.show.pages import plots
from thoughtlens.show.report.blocks import Picture
from thoughtlens.show.report.render import svg

CURVES = [
    CurvePoint(
        member=m, rows_seen=100 * i, fvu_train=1 / i, fvu_validation=1.1 / i, l0_train=8.0, l0_validation=7.5,
        n_dead=9 - i,
    )
    for m in ("a", "b") for i in (1, 2, 3)
]  # fmt: skip
RECONSTRUCTION = [
    plots.Bar("pooled", "sae", 50, 0.8, 0.75, 0.85),
    plots.Bar("pooled", "mean", 50, -0.1, -0.2, 0.0),
    plots.Bar("pooled", "random", 50, None, None, None),
]
CELLS = {"SAE": [("layers.0:out", 0, 0.5), ("layers.0:out", 1, 0.7), ("layers.1:out", 0, float("nan"))]}


def filled(cls, **values):
    """A record whose other fields are empty."""
    empty = {"str": "", "int": 0, "float": 0.0, "bool": False}
    rest = {one.name: empty.get(one.type, [] if one.type.startswith("list") else None) for one in fields(cls)}
    return cls(**rest | values)


LATENTS = [
    filled(LatentRow, density=0.1, mean_active=2.0, n_fires=10, everywhere=False),
    filled(LatentRow, density=0.9, mean_active=5.0, n_fires=90, everywhere=True),
    filled(LatentRow, density=0.0, mean_active=0.0, n_fires=0, everywhere=False),
]
FACTORS = plots.Preference("7", {"label:operation": [("add", 0.1), ("mul", 0.4)], "thought": [("0", 0.2)]})
ARMS = [
    filled(ClassRow, arm="sae", accuracy=0.7, low=0.6, high=0.8),
    filled(ClassRow, arm="majority", accuracy=0.4, low=0.3, high=0.5),
]


def all_figures() -> dict[str, Figure]:
    density = {"pooled": np.array([0.0, 0.01, 0.02, 0.5])}
    return {
        "curves": plots.training_curves(CURVES),
        "firing": plots.firing_rates(density, {"pooled": 1000}),
        "reconstruction": plots.reconstruction(RECONSTRUCTION, "test"),
        "cells": plots.cell_map(CELLS, "explained variance"),
        "latents": plots.latent_map(LATENTS),
        "preferences": plots.preferences([FACTORS, FACTORS]),
        "classification": plots.classification(ARMS, "operation"),
        "confusion": plots.confusion({"sae": np.array([[3, 1], [0, 4]])}, ["add", "mul"]),
    }


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for axis in figure.axes for t in axis.texts]


def test_every_figure_can_be_saved_without_a_display():
    for name, figure in all_figures().items():
        for kind in ("png", "pdf", "svg"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind)
            assert len(buffer.getvalue()) > 1000, name


def test_settings_of_the_caller_stay():
    before = dict(matplotlib.rcParams)
    all_figures()
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in plots.__dict__


def test_curves_hold_the_points():
    figure = plots.training_curves(CURVES)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert len(lines) == 4  # two members, held out and training
    assert lines[0].get_xdata().tolist() == [100, 200, 300]
    np.testing.assert_allclose(lines[0].get_ydata(), [1.1, 0.55, 1.1 / 3])


def test_many_members_are_drawn_without_a_legend():
    rows = [replace(row, member=f"m{i}") for i in range(30) for row in CURVES[:3]]
    figure = plots.training_curves(rows)
    assert figure.axes[2].get_legend() is None


def test_bars_are_the_numbers_with_their_n():
    figure = plots.reconstruction(RECONSTRUCTION, "test")
    axis = figure.axes[0]
    assert [bar.get_width() for bar in axis.patches] == [
        0.8,
        0.0,
    ]  # a negative one has no bar, but its number
    assert texts(figure) == ["0.800", "-0.100"]
    assert "n = 50 vectors" in axis.get_title(loc="left") and "split test" in axis.get_title(loc="left")
    figure = plots.classification(ARMS, "operation, n = 10")
    assert "70.0%  [60.0%, 80.0%]" in texts(figure)


def test_maps_print_every_number():
    assert sorted(texts(plots.cell_map(CELLS, "x"))) == ["0.50", "0.70"]
    assert texts(plots.confusion({"sae": np.array([[3, 1], [0, 4000]])}, ["a", "b"])) == [
        "3",
        "1",
        "0",
        "4,000",
    ]


LATEX = "$\\frac$\x1b<i>"
"""A formula that none is, and a control character, which no XML may hold."""


def test_names_are_drawn_as_they_are_and_powers_as_powers():
    figures = {
        "confusion": plots.confusion({"sae": np.array([[3, 1], [0, 4]])}, [LATEX, "$x$"]),
        "preferences": plots.preferences(
            [plots.Preference("7", {"operation": [(LATEX, 0.1), ("$x$", 0.2)]})]
        ),
    }
    for name, figure in figures.items():
        drawn = svg(Picture(name, figure, ""))
        ElementTree.fromstring(drawn.replace("xlink:", ""))
        assert "$x$" in drawn and "<i>" not in drawn and "&lt;U+00" in drawn
    powers = svg(Picture("latents", plots.latent_map(LATENTS), ""))
    assert "<tspan" in powers and ">$" not in powers


def test_several_saes_side_by_side():
    rows = [row._replace(member=m) for m in ("a", "b") for row in RECONSTRUCTION]
    figure = plots.reconstruction(rows, "test")
    axis = figure.axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]
    names = [t.get_text() for t in axis.get_legend().get_texts()]
    assert names == ["SAE", "mean", "random SAE"]
    points = axis.collections[0].get_offsets()
    assert points.tolist() == [[0.8, 0.0], [0.8, 1.0]]
    density = {f"m{i}": np.array([0.0, 0.01, 0.1]) for i in range(5)}
    labels = plots.firing_rates(density, dict.fromkeys(density, 700)).axes[0].get_yticklabels()
    assert labels[4].get_text() == "m4: 1 of 3 never fired on 700 vectors"


def test_dead_latents_are_counted_not_drawn():
    figure = plots.firing_rates({"pooled": np.array([0.0, 0.0, 0.1])}, {"pooled": 500})
    legend = figure.axes[0].get_legend().get_texts()[0].get_text()
    assert legend == "pooled: 2 of 3 never fired on 500 vectors"
    assert sum(len(c.get_offsets()) for c in plots.latent_map(LATENTS).axes[0].collections) == 2


@pytest.mark.parametrize("density", [np.zeros(4), np.ones(4)])
def test_all_dead_and_all_dense(density):
    figure = plots.firing_rates({"pooled": density}, {"pooled": 1000})
    figure.savefig(io.BytesIO(), format="png")


def test_nothing_alive_can_be_drawn():
    plots.latent_map([LATENTS[2]]).savefig(io.BytesIO(), format="png")


def test_losses_of_accuracy_differ_in_colour_and_panels_show_their_own_places():
    found = plots.cell_map({"a": [("kv", 1, -0.9), ("kv", 2, -0.3)], "b": [("keys", 1, 0.0)]}, "change")
    first, second = [axis for axis in found.axes if axis.images]
    shown = first.images[0].norm(first.images[0].get_array())
    assert [round(float(v), 3) for v in shown[0]] == [0.0, round(0.6 / 0.9, 3)]
    assert [label.get_text() for axis in (first, second) for label in axis.get_yticklabels()] == [
        "kv",
        "keys",
    ]


def test_a_dose_response_has_a_line_for_each_direction_and_place():
    rows = [
        filled(
            EffectRow, direction="latent 1", site="thought_in", thought_idx=3, dose=dose, control=control,
            difference=-0.1 * dose, low=-0.1 * dose - 0.05, high=-0.1 * dose + 0.05,
        )
        for dose in (2.0, 1.0) for control in (None, "random")
    ]  # fmt: skip
    axis = plots.dose_response(rows).axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["latent 1 at thought_in[3]"]
    assert [
        line.get_xdata().tolist()
        for line in axis.lines
        if len(line.get_xdata()) == 2 and line.get_marker() == "o"
    ] == [
        [1.0, 2.0],
        [1.0, 2.0],
    ]


def test_names_in_a_figure_do_not_follow_from_the_last_bits_of_its_coordinates():
    def names(shift: float) -> list[str]:
        figure = Figure(figsize=(3, 2))
        axes = figure.add_axes((0.1 + shift, 0.1, 0.8, 0.8))
        axes.plot([0, 1], [0, 1], "o")
        return re.findall(r'(?:id="|href="#|url\(#)([^")]+)', svg(Picture("p", figure, "")))

    assert names(0) == names(1e-12)
    assert any(name == "p-0" for name in names(0))
