"""How far states move from thought to thought: planted orbits, whose steps and ends are known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.planted import D, thought_store
from thoughtlens.acts import ExtractConfig, import_activations
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ConfigError, DataError, StoreError, read_rows, validate_config
from thoughtlens.latents import OrbitRow
from thoughtlens.latents.orbits.config import OrbitsConfig
from thoughtlens.latents.orbits.stage import orbits
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.stage import report

N, THOUGHTS = 8, 12


@pytest.fixture
def run(tmp_path):
    """Problem i walks from 0 towards its own point 3 e_i, half of the way at every thought."""
    strengths = np.zeros((N, THOUGHTS, 1, D))
    for i in range(N):
        strengths[i, :, 0, i] = 3 * (1 - 0.5 ** np.arange(THOUGHTS))
    thought_store(tmp_path / "acts", strengths, {})
    return tmp_path


def followed(run, **settings):
    return orbits(validate_config(OrbitsConfig, {"acts": run / "acts", **settings}), run / "orbits")


def test_steps_distances_and_spread_are_those_that_were_planted(run):
    rows = followed(run)["rounds"]
    assert [row["thought_idx"] for row in rows] == list(range(THOUGHTS))
    for t, row in enumerate(rows):
        # s_t = 3 (1 - 2^-t): the step is 3 / 2^t, to the last one 3 (2^-t - 2^-11), to another sqrt(2) s_t
        assert row["step_norm"] == (None if t == 0 else pytest.approx(3 / 2**t, rel=1e-3))
        assert row["distance"] == pytest.approx(3 * (2.0**-t - 2.0**-11), abs=1e-5)
        assert row["spread"] == pytest.approx(3 * (1 - 0.5**t) * 2**0.5, abs=1e-5)
        assert t < 2 or (row["step_ratio"], row["turn"]) == (
            pytest.approx(0.5, rel=1e-2), pytest.approx(1, abs=1e-3),
        )  # fmt: skip


@pytest.mark.parametrize(("rest", "share"), [(0.01, 1.0), (1e-4, 0.0)])
def test_at_rest_is_who_hardly_moved_at_last(run, rest, share):
    made = followed(run, rest=rest)  # the last step is 3 / 2^11 of 3: 0.0005
    assert made.at_rest.value == share and made.at_rest.n == N
    assert bool(made["warnings"]) == (share == 0)


@pytest.mark.slow
def test_orbits_are_kept_on_two_components_and_shown(run):
    followed(run, drawn=3)
    rows = read_rows(run / "orbits" / "orbits.parquet", OrbitRow)
    assert len(rows) == 3 * THOUGHTS and len({row.problem_id for row in rows}) == 3
    report(ReportConfig(run=run), run / "report")
    assert "How states move from thought to thought" in (run / "report" / "report.md").read_text("utf-8")
    assert (run / "report" / "figures" / "orbits.png").is_file()


def test_what_was_not_thought_moves_nothing(tmp_path):
    """Problems that stop early end at their own last thought."""
    x = np.zeros((4, 5, 3), np.float32)
    x[:, :, 0] = np.arange(5)  # every step is 1
    rows = np.array([(i, t) for i in range(4) for t in range(5) if t <= i + 1])
    arrays = {"x": x[rows[:, 0], rows[:, 1]], "problem": rows[:, 0], "thought": rows[:, 1]}
    import_activations(arrays | {"split": ["test"] * len(rows)}, tmp_path / "acts", first_thought=1)
    found = followed(tmp_path)["rounds"]
    assert [row["n"] for row in found] == [4, 4, 3, 2, 1]
    assert [row["step_norm"] for row in found[1:]] == [1.0] * 4
    assert found[0]["distance"] == 2.5 and found[-1]["distance"] == 0  # 1, 2, 3, 4 steps from thought 0


def test_further_rounds_need_the_model_and_room(tmp_path):
    table = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"n": 20},
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    made = followed(tmp_path, beyond=3, split="train")
    assert made["end"] == "the state after 3 further rounds" and made["rounds"][6]["distance"] > 0
    cfg = validate_config(OrbitsConfig, {"acts": tmp_path / "acts", "beyond": 400, "split": "train"})
    with pytest.raises(ConfigError, match="has no room for 400 further thoughts"):
        orbits(cfg, tmp_path / "other")


def test_texts_and_single_states_have_no_orbits(tmp_path, run):
    with pytest.raises(DataError, match="found none in"):
        followed(run, split="train")
    rng = np.random.default_rng(0)
    tokens = {"document": np.repeat(range(4), 3), "position": np.tile(range(3), 4), "token_id": range(12)}
    x = rng.normal(size=(12, 3)).astype(np.float32)
    for name, columns, error, says in (
        ("texts", {k: list(v) for k, v in tokens.items()}, StoreError, "a store of texts"),
        ("single", {"split": ["test"] * 12}, DataError, "two thoughts or more"),
    ):
        import_activations({"x": x, **columns}, tmp_path / name / "acts")
        with pytest.raises(error, match=says):
            followed(tmp_path / name, split="test" if name == "single" else "train")
