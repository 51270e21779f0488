"""Single figures of a report, as a paper's column takes them."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from thoughtlens.core import ConfigError, NotThereError, OccupiedError
from thoughtlens.show import write_figure
from thoughtlens.show.report import page, paper
from thoughtlens.show.report.blocks import Picture, Section


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run whose report draws one wide figure."""
    figure = Figure(figsize=(9.0, 2.7), layout="constrained")
    figure.subplots().plot([0, 1], [1, 0])
    drawn = [Section("s", "S", [Picture("curves", figure, "")])]
    monkeypatch.setattr(page, "sections_of", lambda *_: drawn)
    monkeypatch.setattr(paper.Run, "open", lambda path: path)
    return tmp_path


@pytest.mark.parametrize(("kind", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure_is_one_column_wide(run, kind, begins):
    file = write_figure(run, "curves", run / "new" / f"c.{kind}")
    made = file.read_bytes()
    assert made.startswith(begins)
    if kind == "svg":
        assert b'width="234pt"' in made  # 3.25 in


def test_what_is_no_figure_is_refused_with_those_there_are(run):
    with pytest.raises(NotThereError, match="has no figure 'curve', but curves"):
        write_figure(run, "curve", run / "c.pdf")
    with pytest.raises(ConfigError, match=r"ends in \.pdf, \.svg, \.png, got .*c\.gif"):
        write_figure(run, "curves", run / "c.gif")
    with pytest.raises(ConfigError, match="--figure: expected a figure's name"):
        write_figure(run, "")
    (run / "c.pdf").touch()
    with pytest.raises(OccupiedError, match="exists already"):
        write_figure(run, "curves", run / "c.pdf")


def test_panels_of_a_row_are_put_under_each_other_with_the_labels_of_the_rows(run, monkeypatch):
    figure = Figure(figsize=(9.0, 2.7), layout="constrained")
    for i, panel in enumerate(figure.subplots(1, 2, squeeze=False)[0]):
        panel.imshow([[0.0], [1.0]])
        panel.set_yticks([0, 1], ["upper", "lower"] if i == 0 else ["", ""])
    monkeypatch.setattr(page, "sections_of", lambda *_: [Section("s", "S", [Picture("two", figure, "")])])
    write_figure(run, "two", run / "two.svg")
    first, second = figure.axes
    assert [label.get_text() for label in second.get_yticklabels()] == ["upper", "lower"]
    assert first.get_position().y0 > second.get_position().y1
    assert figure.get_size_inches()[0] == paper.COLUMN
