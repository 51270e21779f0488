"""The report's section on an SAE that was trained further says what was measured, whatever the verdict."""

from __future__ import annotations

import pytest

from thoughtlens.core import Number, Result
from thoughtlens.evals import FinetuneArm, FinetuneCost, FinetuneGain, FinetuneOutcome
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.finetuned import finetuned
from thoughtlens.show.report.sections import at_a_glance


def outcome(measure: str, verdict: str, low: float, high: float) -> FinetuneOutcome:
    number = Number(value=0.25, low=0.2, high=0.3, n=900, split="test")
    gain = Number(
        value=(low + high) / 2, low=low, high=high, n=900, split="test", verdict=verdict, p_holm=0.01
    )
    return FinetuneOutcome(
        member="pooled", kind="topk", hook_names=["layers.1:out"], thoughts=None, d_sae=64, split="test",
        train_split="train", steps=20, lr=1e-3, mse=1.0, kl_first=0.5, kl_last=0.25,
        arms=[
            FinetuneArm(arm=arm, kl=number, fvu=0.3, l0=6.0, n_dead=2, **{measure: number})
            for arm in ("before", "finetuned", "squared_error")
        ],
        gains=[
            FinetuneGain(rival=rival, measure=name, difference=gain, delta=0.01)
            for name in ("kl", measure) for rival in ("before", "squared_error")
        ],
        costs=[
            FinetuneCost(arm=arm, steps=20, rows=1000, tokens=9, seconds=3.0, microseconds_per_row=3000.0)
            for arm in ("finetuned", "squared_error")
        ],
        conclusion="It is so.", headline={f"finetune_{measure}_before": gain},
    )  # fmt: skip


def of(found: FinetuneOutcome | None, tmp_path) -> Run:
    run = Run(tmp_path, None)
    run.__dict__["results"] = {} if found is None else {"finetune": Result(found.to_json())}
    return run


@pytest.mark.parametrize(
    ("measure", "verdict", "low", "high", "shown"),
    [
        ("delta_ce", "better", 0.1, 0.2, "0.150"),
        ("delta_ce", "worse", -0.2, -0.1, "-0.150"),
        ("accuracy", "inconclusive", -0.02, 0.04, "+1.0"),
    ],
)
def test_the_section_has_the_numbers_of_the_result(measure, verdict, low, high, shown, tmp_path):
    run = of(outcome(measure, verdict, low, high), tmp_path)
    section = finetuned(run)
    assert section is not None
    text, arms, gains, costs = section.blocks
    assert "It is so." in text.text and "finetune/pooled" in text.text and "0.500 to 0.250" in text.text
    assert arms.rows[0][0] == "as it was" and len(arms.rows) == 3
    last = gains.rows[-1]
    assert last[-1] == verdict and shown in last[2]
    assert costs.rows[0][-1] == "3,000"
    glance = at_a_glance(run)
    assert glance is not None and "further training on the divergence" in glance.blocks[0].rows[0][1]


def test_a_run_without_it_has_no_section(tmp_path):
    assert finetuned(of(None, tmp_path)) is None
