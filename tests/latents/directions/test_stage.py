"""Directions on planted rows: what is read out, fitted, and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.sae.stores import write_store
from thoughtlens.core import ConfigError, DataError, HookError, MismatchError, Result, validate_config
from thoughtlens.latents.directions.config import DirectionsConfig
from thoughtlens.latents.directions.stage import directions
from thoughtlens.sae import load_members, read_directions

N, D, HOOK = 100, 8, "layers.1:out"


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    """Of 100 problems with ten rows each every fourth is red, which adds 6 to coordinate 2; blue ones lack
    nothing. Coordinate 5 varies most, coordinate 7 not at all; the number `size` is coordinate 3."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 10, D))
    red = np.arange(N) % 4 == 0
    x[red, :, 2] += 6
    x[..., 5] *= 9
    x[..., 7] = 3
    size = rng.normal(size=N)
    x[..., 3] = 2 * size[:, None]
    labels = {"colour": np.where(red, "red", "blue").tolist(), "one": ["same"] * N, "size": size.tolist()}
    rows = torch.from_numpy(x.reshape(-1, D)).float()
    return write_store(
        tmp_path_factory.mktemp("acts") / "acts", {HOOK: rows, "narrow": rows[:, :4]}, labels=labels
    )


def read(acts, out, **settings) -> Result:
    return directions(validate_config(DirectionsConfig, {"acts": str(acts), "hook": HOOK, **settings}), out)


@pytest.mark.parametrize("way", ["diffmean", "probe"])
def test_a_label_is_found_along_its_coordinate(acts, tmp_path, way):
    result = read(acts, tmp_path / "d", label="colour", made=way)
    assert [one["name"] for one in result["directions"]] == ["colour=blue", "colour=red"]
    found = read_directions(tmp_path / "d" / "directions.safetensors")
    assert found.units[1, 2] > 0.95 and found.hook_name == HOOK
    np.testing.assert_allclose(found.units[0], -found.units[1], atol=1e-6)
    assert found.offset[1] == pytest.approx(3, abs=0.3)  # half-way between 0 and 6


def test_components_come_by_their_variance(acts, tmp_path):
    result = read(acts, tmp_path / "d", k=3, made="pca")
    found = read_directions(tmp_path / "d" / "directions.safetensors")
    assert found.names == ("pc1", "pc2", "pc3") and abs(found.units[0, 5]) > 0.99
    assert "pc1" in result["source"] and "%" in result["source"]


def test_a_number_has_one_probe(acts, tmp_path):
    read(acts, tmp_path / "d", label="size", made="probe")
    found = read_directions(tmp_path / "d" / "directions.safetensors")
    assert found.names == ("size",) and found.units[0, 3] > 0.95
    with pytest.raises(ConfigError, match="a number with many values"):
        read(acts, tmp_path / "e", label="size", made="diffmean")


def test_both_ends_are_read_out_as_is_said(acts, tmp_path):
    np.save(tmp_path / "v.npy", 5 * np.eye(D)[[5]])
    result = read(acts, tmp_path / "d", file=str(tmp_path / "v.npy"), names=["five"], share=0.1)
    (row,) = result["directions"]
    assert row["offset_is"] == "mean over the rows" and result["split"] == "train" and result["n"] == 800
    assert row["share_high"] == pytest.approx(0.1, abs=0.01) == row["share_low"]
    assert sum(row["counts"]) == 800 and len(row["edges"]) == len(row["counts"]) + 1
    sae = load_members(tmp_path / "d")["directions"]
    z = np.array([row["threshold_high"] + 1, -row["threshold_low"] - 1, 0.0])
    x = torch.zeros(3, D)
    x[:, 5] = torch.from_numpy(z + row["offset"]).float()
    # 2 ends: z where z > threshold_high, and -z where -z > threshold_low.
    expected = torch.tensor([[z[0], 0], [0, -z[1]], [0, 0]]).float()
    torch.testing.assert_close(sae.encode(x), expected, atol=1e-3, rtol=1e-4)
    assert sae.provenance["directions"]["names"] == ["five"]


def test_offset_and_threshold_can_be_given(acts, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(D)[[2]])
    result = read(acts, tmp_path / "d", file=str(tmp_path / "v.npy"), offset=3.0, threshold=1.0)
    (row,) = result["directions"]
    assert (row["offset"], row["threshold_high"], row["threshold_low"]) == (3.0, 1.0, 1.0)
    assert row["share_high"] == pytest.approx(0.25, abs=0.03)  # red ones


def test_a_direction_along_which_nothing_varies_is_never_active(acts, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(D)[[7]])
    result = read(acts, tmp_path / "d", file=str(tmp_path / "v.npy"))
    assert result["warnings"] == ["direction_0: hardly varies over these rows, so it is never active"]
    assert result["directions"][0]["share_high"] == 0 == result["directions"][0]["share_low"]


REFUSED = [
    ({"made": "probe"}, ConfigError, "needs the label"),
    ({"made": "lens"}, ConfigError, "needs words"),
    ({}, ConfigError, "Expected a file of directions"),
    (
        {"made": "probe", "label": "colour", "classes": ["green"]},
        ConfigError,
        "has no value 'green'; it has blue, red",
    ),
    ({"made": "probe", "label": "nothing"}, ConfigError, "expected some of colour, one, size, got 'nothing'"),
    ({"made": "diffmean", "label": "one"}, DataError, "have, or have not, the value 'same'"),
    ({"made": "pca", "hook": "layers.9:out"}, HookError, "not 'layers.9:out'"),
    ({"made": "pca", "hook": None}, HookError, "say at which the directions are"),
    ({"made": "pca", "k": 2, "names": ["a"]}, DataError, "2 directions; the names that were given are 1"),
    (
        {"made": "pca", "label": "colour"},
        ConfigError,
        "from=pca has no setting label: it is of from=diffmean",
    ),
    ({"made": "probe", "label": "colour", "k": 3}, ConfigError, "has no setting k: it is of from=pca"),
    ({"file": "v.npy", "tokens": ["7"]}, ConfigError, "file of directions has no setting tokens"),
]


@pytest.mark.parametrize(("settings", "error", "says"), REFUSED)
def test_what_cannot_be_is_said_in_a_line(acts, tmp_path, settings, error, says):
    with pytest.raises(error, match=says) as caught:
        read(acts, tmp_path / "d", **settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "d").exists()


def test_directions_of_another_width_are_refused(acts, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(D))
    with pytest.raises(MismatchError, match=r"directions of width 8, narrow in .* has 4"):
        read(acts, tmp_path / "d", file=str(tmp_path / "v.npy"), hook="narrow")
    np.save(tmp_path / "turned.npy", np.ones((D, 3)))
    with pytest.raises(MismatchError, match="its columns have that one: save it the other way"):
        read(acts, tmp_path / "d", file=str(tmp_path / "turned.npy"))
