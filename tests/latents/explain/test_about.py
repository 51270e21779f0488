"""What a run knows about a latent beside its explanation."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.planted import planted_sae
from thoughtlens.core import NotThereError, digest, schema
from thoughtlens.latents.explain.about import about, render
from thoughtlens.latents.explain.records import ExplanationRow

NUMBERS = {
    "auprc": 0.5, "precision_at_half_recall": 0.6, "precision": 0.5, "recall": 0.5, "base_rate": 0.01,
    "n": 1000, "n_units": 20, "n_fires": 10, "auprc_low": 0.4, "auprc_high": 0.6,
    "token_auprc": 0.3, "random_auprc": 0.1, "validation_auprc": 0.5,
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    planted_sae(tmp_path / "sae")
    rows = [
        {"latent": 2, "method": "token", "text": "worse", "chosen": False, **NUMBERS},
        {"latent": 2, "method": "rules", "text": "second", "chosen": True, **NUMBERS},
        {"latent": 7, "method": "token", "text": "first", "chosen": True, **NUMBERS, "auprc": 0.9},
    ]
    rows = [{"member": "pooled", "split": "test", **row} for row in rows]
    (tmp_path / "explain").mkdir()
    pq.write_table(
        pa.Table.from_pylist(rows, schema(ExplanationRow)), tmp_path / "explain" / "explanations.parquet"
    )
    return tmp_path


def effect(**columns):
    row = {"edit": "edit_latents", "layer": 1, "thought_idx": 3, "control": None, "latents": "2"}
    row |= {"difference": -0.05, "low": -0.08, "high": -0.02, "verdict": "worse", "n": 400}
    return row | columns


def test_explanations_alone(run):
    rows = about(run)
    assert [row.text for row in rows] == ["first", "second"]
    assert all(row.output == row.effect == "" for row in rows)
    assert "first" in render(rows) and "0.90 (0.40 to 0.60)" in render(rows)
    assert render(rows, most=1).endswith("and 1 more in explanations.parquet")


def test_output_and_effect_are_joined(run):
    (run / "lens").mkdir()
    tokens = ((1, 1, " b"), (1, 0, " a"), (-1, 0, "</script>"))
    common = {"member": "pooled", "latent": 2, "token_id": 0, "logit": 1.0}
    logits = [{**common, "sign": sign, "rank": rank, "token": token} for sign, rank, token in tokens]
    pq.write_table(pa.Table.from_pylist(logits), run / "lens" / "latents.parquet")
    for name, sae, rows in (
        ("ours", digest(run / "sae"), [effect(), effect(control="random"), effect(latents="2 7")]),
        ("theirs", "another", [effect(latents="7")]),
    ):
        (run / "intervene" / name).mkdir(parents=True)
        result = {"effects": rows, "split": "test", "inputs": {"sae": {"digest": sae}}}
        (run / "intervene" / name / "result.json").write_text(json.dumps(result))
        (run / "intervene" / name / "config.toml").write_text("latents = [2]\n")
    first, second = about(run)
    assert (first.output, first.effect) == ("", "")
    assert second.output == 'output: raises " a", " b"; lowers "</script>"'
    assert second.effect == (
        "effect: edit latents at layer 1, thought 3: accuracy -0.050 (-0.080 to -0.020), worse, n = 400, test"
    )
    assert "    output: raises" in render([second])


def test_run_without_explanations(tmp_path):
    with pytest.raises(NotThereError, match="thoughtlens explain"):
        about(tmp_path)
