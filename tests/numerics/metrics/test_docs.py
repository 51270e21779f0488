"""docs/metrics.md holds every metric, and its worked example is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from thoughtlens import metrics
from thoughtlens.evals.reconstruction.stage import DEFINITIONS as IN_RESULT
from thoughtlens.numerics.metrics.reconstruction import DEFINITIONS

TEXT = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")
TABLE = {
    cells[1].strip("`"): cells
    for line in TEXT.splitlines()
    if line.startswith("| `")
    for cells in [[c.strip() for c in re.split(r"(?<!\\)\|", line)]]
}


@pytest.mark.parametrize("cls", DEFINITIONS, ids=lambda cls: cls.name)
def test_the_hand_value_of_every_reconstruction_metric(cls):
    metric = cls()
    metric.update(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
    row = TABLE[cls.name]
    assert row[2] == f"`{cls.__name__}`"
    assert metric.compute() == pytest.approx(float(row[5]), abs=5e-6)


@pytest.mark.parametrize("name", [n for n in IN_RESULT if re.fullmatch(r"\w+", n)])
def test_every_name_in_the_result_is_documented(name):
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize(
    "name", [n for n in metrics.__all__ if n[0].islower() and n not in ("norm_deciles",)]
)
def test_every_function_is_documented(name):
    other_names = {"next_token", "ce_loss_score", "kl_score", "norm_deciles"}
    assert name in TEXT or name in other_names


def test_every_public_name_can_be_imported():
    for name in metrics.__all__:
        assert getattr(metrics, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = metrics.nonsense


def test_the_examples_run():
    for code in re.findall(r"```python\n(.*?)```", TEXT, flags=re.S):
        exec(compile(code, "docs/metrics.md", "exec"), {})
