"""The picture of README and docs shows what the tool finds, drawn by the tool."""

from __future__ import annotations

import re

import pytest

from tests.docs.repository import ROOT
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.show import freeze, plots, save
from thoughtlens.tracing import think

pytestmark = pytest.mark.slow

FILE = ROOT / "docs" / "readings.svg"
WORDS = ("op1", "v1", "op2", "v2", "op3", "<ans>")
"""Columns of the problems, and the token before an answer."""


def draw(file):
    """Share of problems in which a thought of codi-tiny reads as each of the problem's words."""
    table = arithmetic.problems(200, seed=0, split="test", n_steps=(3,))
    read = think("codi-tiny", table["question"].to_pylist(), top=1, others=0)
    said = [[row.reading for row in one.thoughts] for one in read]
    cells = []
    for word in WORDS:
        known = table[word].to_pylist() if word in table.column_names else [word] * len(said)
        wanted = [str(value) for value in known]
        for thought in range(len(said[0])):
            hits = sum(one[thought] == w for one, w in zip(said, wanted, strict=True))
            cells.append((word, thought, hits / len(said)))
    figure = plots.cell_map({"what each thought of codi-tiny writes": cells}, "share of 200 test problems")
    freeze(figure)
    save(figure, file, format="svg", metadata={"Date": None})
    return cells


def test_the_picture_is_what_the_tool_draws(tmp_path):
    cells = draw(tmp_path / "again.svg")
    best = {word: max((c for c in cells if c[0] == word), key=lambda c: c[2]) for word in WORDS}
    found = {word: thought for word, (_, thought, _) in best.items()}
    assert found == dict(zip(WORDS, range(1, 7), strict=True))
    assert min(share for _, _, share in best.values()) > 0.9

    def shape(svg):
        return re.sub(r'"[^"]*"', "", svg.read_text("utf-8"))

    assert len(shape(FILE)) == pytest.approx(len(shape(tmp_path / "again.svg")), rel=0.01)
