"""Activations without a model and without questions, through the stages that need neither."""

from __future__ import annotations

import numpy as np
import pytest

from tests.planted import D, planted_sae
from thoughtlens.acts import ImportConfig, import_activations
from thoughtlens.acts.bring.stage import bring
from thoughtlens.core import ConfigError, OccupiedError, read_rows, validate_config, verify
from thoughtlens.interventions.intervene.config import of_run
from thoughtlens.latents import ExplanationRow
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.latents.explain.stage import explain
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.stage import explorer
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.stage import report
from thoughtlens.studies.sweep import study

pytestmark = pytest.mark.slow

KINDS = ("addition", "division", "mixed", "multiplication", "subtraction")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One of the first neurons is large, by the label; the neurons are the latents of the SAE."""
    root, rng = tmp_path_factory.mktemp("imported") / "run", np.random.default_rng(0)
    label = rng.integers(len(KINDS), size=800)
    x = np.zeros((800, 1, 3, D), np.float32)
    x[..., len(KINDS) :] = rng.random((800, 1, 3, D - len(KINDS))) < 0.2
    x[np.arange(800), :, :, label] += 2
    import_activations({"x": x, "operation": np.array(KINDS)[label]}, root / "acts", first_thought=1)
    planted_sae(root / "sae", ["0"])
    paths = {"acts": root / "acts", "sae": root / "sae"}
    interpret(validate_config(InterpretConfig, {k: str(v) for k, v in paths.items()}), root / "interpret")
    return root


def test_latents_are_explained_by_the_labels_and_shown(run):
    table = {name: str(run / name) for name in ("acts", "sae", "interpret")}
    explain(validate_config(ExplainConfig, table), run / "explain")
    rows = {
        r.latent: r for r in read_rows(run / "explain" / "explanations.parquet", ExplanationRow) if r.chosen
    }
    for latent, kind in enumerate(KINDS):
        assert f"operation is {kind}" in rows[latent].text and rows[latent].auprc == pytest.approx(1)
    explorer(ExplorerConfig(run=run), run / "explorer")
    assert (run / "explorer" / "index.html").is_file()


@pytest.mark.slow
def test_the_report_says_what_is_not_known_and_nothing_else(run):
    report(ReportConfig(run=run), run / "report")
    said = (run / "report" / "report.md").read_text("utf-8")
    assert (
        "States of a model that nobody named came from files: of 800 problems, one for each thought" in said
    )
    assert "What was imported" in said and "without a model no thought can be changed" in said
    for false in ("it was asked", "answers a question", "thoughtlens effects", "It would say", "extracted"):
        assert false not in said


def test_another_file_of_the_same_name_is_not_taken_for_the_first(tmp_path):
    for seed in (0, 1):
        np.save(tmp_path / "x.npy", np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32))
        if not seed:
            bring(ImportConfig(files=(tmp_path / "x.npy",)), tmp_path / "acts")
            verify(tmp_path / "acts")
    with pytest.raises(OccupiedError, match="another file_0"):
        bring(ImportConfig(files=(tmp_path / "x.npy",)), tmp_path / "acts")


def test_what_changes_thoughts_says_that_there_is_no_model(run):
    with pytest.raises(ConfigError, match="imported from files"):
        of_run(run)


def test_a_sweep_of_an_imported_run_trains_on_what_was_imported(run, tmp_path):
    for out, settings in (("a", None), ("b", "name = 'run'\n")):
        if settings is not None:
            (run / "config.toml").write_text(settings)
        planned = study.run("grid", run, ["sae.k=2,3", "sae.d_sae=32"], tmp_path / out, plan_only=True)
        assert list(planned["plan"]) == ["grid"] and not (tmp_path / out).exists()
    (run / "config.toml").unlink()
    made = study.run(
        "grid", run, ["sae.k=2", "sae.d_sae=32", "train.epochs=1", "train.batch_size=64"], tmp_path / "out"
    )
    assert made["inputs"]["acts"]["path"] == str(run / "acts") and not (tmp_path / "out" / "acts").exists()
