"""Files of directions: ours, anybody's, and those that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from thoughtlens.core import DataError, NotThereError
from thoughtlens.sae import Directions, read_directions, write_directions


def test_what_is_written_is_read_again(tmp_path):
    own = Directions(
        np.eye(2, 3) * 4, ("a", "b"), np.array([1.0, -2.0]), "layers.1:out", (1, 2), "two vectors of mine"
    )
    write_directions(own, tmp_path / "d.safetensors")
    found = read_directions(tmp_path / "d.safetensors")
    np.testing.assert_array_equal(found.vectors, own.vectors)
    np.testing.assert_array_equal(found.units, np.eye(2, 3))
    assert found.offset is not None and found.offset.tolist() == [1.0, -2.0]
    assert found.names == ("a", "b") and found.source == "two vectors of mine"
    assert (found.hook_name, found.thoughts) == ("layers.1:out", (1, 2))


def test_a_numpy_array_holds_rows(tmp_path):
    np.save(tmp_path / "one.npy", np.array([3, 0, 4]))
    np.save(tmp_path / "two.npy", np.eye(2, dtype=np.float16))
    assert read_directions(tmp_path / "one.npy").names == ("direction_0",)
    assert read_directions(tmp_path / "two.npy", ["x", "y"]).names == ("x", "y")


def test_tensors_of_others_keep_their_names(tmp_path):
    save_file(
        {"truth": torch.ones(3, dtype=torch.bfloat16), "many": torch.eye(2, 3)}, tmp_path / "d.safetensors"
    )
    found = read_directions(tmp_path / "d.safetensors")
    assert sorted(found.names) == ["many_0", "many_1", "truth"] and found.offset is None
    save_file({"anything": torch.eye(2)}, tmp_path / "e.safetensors")
    assert read_directions(tmp_path / "e.safetensors").names == ("direction_0", "direction_1")


@pytest.mark.parametrize(
    ("array", "names", "says"),
    [
        (np.array([[1.0, 0], [0, 0]]), None, "'direction_1' is all zeros"),
        (np.array([1.0, np.nan]), None, "holds NaN or Inf"),
        (np.eye(2), ["a"], "holds 2 directions; the names that were given are 1: a"),
        (np.eye(2), ["a", "a"], "got 'a' twice"),
        (np.eye(2), ["a", ""], "an empty one"),
        (np.zeros((0, 3)), None, "not a file of directions"),
        (np.ones((2, 2, 2)), None, "not a file of directions"),
        (np.array(["x"]), None, "not a file of directions"),
        (np.ones(2, complex), None, "not a file of directions"),
        (np.array([1e-35, 0]), None, "too short to be measured"),
        (np.array([1e35, 0]), None, "too long to be measured"),
    ],
)
def test_what_is_no_direction_is_said_in_a_line(tmp_path, array, names, says):
    np.save(tmp_path / "d.npy", array)
    with pytest.raises(DataError, match=says) as caught:
        read_directions(tmp_path / "d.npy", names)
    assert "\n" not in str(caught.value)


def test_a_probe_has_its_zero_where_its_bias_says(tmp_path):
    # w . x + b = 0 at x . w / |w| = -b / |w|: -10 / 5 = -2 and 3 / 1 = 3
    save_file(
        {"weight": torch.tensor([[3.0, 4], [0, 1]]), "bias": torch.tensor([10.0, -3])},
        tmp_path / "p.safetensors",
    )
    found = read_directions(tmp_path / "p.safetensors")
    assert found.names == ("direction_0", "direction_1")
    assert found.offset is not None and found.offset.tolist() == [-2, 3]
    save_file(
        {"a.coef_": torch.ones(1, 4), "a.intercept_": torch.ones(1), "b": torch.ones(4)},
        tmp_path / "q.safetensors",
    )
    found = read_directions(tmp_path / "q.safetensors")
    assert sorted(found.names) == ["a.coef_", "b"] and found.offset is None
    save_file({"weight": torch.eye(2), "bias": torch.ones(3)}, tmp_path / "r.safetensors")
    with pytest.raises(DataError, match="weight has 2 rows, and its bias 3 numbers"):
        read_directions(tmp_path / "r.safetensors")


def test_files_that_are_none(tmp_path):
    for name, there in (("gone.npy", "none"), ("", "a folder")):
        with pytest.raises(NotThereError, match=rf"expected a \.npy or \.safetensors .* found {there}"):
            read_directions(tmp_path / name)
    (tmp_path / "d.pt").write_text("1 2 3")
    with pytest.raises(DataError, match=r"d\.pt is no \.npy or \.safetensors file; save"):
        read_directions(tmp_path / "d.pt")
    for name in ("d.npy", "d.safetensors"):
        (tmp_path / name).write_bytes(b"not this")
        with pytest.raises(DataError, match="not a file of directions") as caught:
            read_directions(tmp_path / name)
        assert "pickle" not in str(caught.value)
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="widths 2, 3"):
        read_directions(tmp_path / "w.safetensors")
