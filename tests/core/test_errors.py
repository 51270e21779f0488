"""Messages repeat little of what came, and what the system refuses is one line."""

from __future__ import annotations

import errno
import shlex

import pytest

from thoughtlens.core import (
    ConfigError,
    NotThereError,
    ResourceError,
    ThoughtlensError,
    of_system,
    require_run,
    system_errors,
)

LONG = "x" * 10_000


@pytest.mark.parametrize(
    "value",
    [
        repr(LONG),
        repr("two words " * 1000),
        repr('it\'s "so" ' * 1000),
        LONG,
        "x/" * 5000,
        str(list(range(5000))),
        str([[1, 2]] * 3000),
        str({"a": {"b": "c" * 500}}),
        str(tuple(range(5000))),
        ", ".join(f"frontier2_has_{i}" for i in range(90)),
        "[" * 5000,
        "7" * 4301,
        "words " * 5000,
    ],
    ids=lambda value: value[:12],
)
def test_a_value_is_repeated_at_its_beginning_only(value):
    text = str(ConfigError(f"sae.k: Expected a number, got {value}"))
    assert text.startswith("sae.k: Expected a number, got " + value[:100])
    assert len(text) < (300 if " words " not in text else 4100) and "characters)" in text


def test_prose_and_paths_stay_whole():
    path = "/" + "/".join(["a-long-folder" * 6] * 8)
    said = f"It is the stage's own {'word ' * 60}. Run: thoughtlens explain {shlex.quote(path)}, or the run's"
    assert str(ThoughtlensError(said)) == said
    assert str(ThoughtlensError(f"Expected something at {path}: nothing (or it's gone)")).count(path) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOSPC, errno.EACCES, errno.ENAMETOOLONG])
def test_the_system_s_refusals_say_what_to_do(number):
    found = of_system(OSError(number, "refused", "/there/file"))
    assert isinstance(found, ResourceError) and "/there/file" in str(found) and ": " in str(found)
    with (
        pytest.raises(ResourceError, match=r"^[^\n]*runs/pilot.*; then go on$"),
        system_errors("runs/pilot", "; then go on"),
    ):
        raise OSError(number, "refused")


def test_what_is_no_refusal_stays_what_it_is():
    assert of_system(FileNotFoundError(errno.ENOENT, "none", "x")) is None
    assert of_system(OSError("no number")) is None
    rust = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(ResourceError, match=r"disk is full while writing here"), system_errors("here"):
        raise rust
    with pytest.raises(RuntimeError, match="another"), system_errors("here"):
        raise RuntimeError("another (os error of a kind)")
    with pytest.raises(FileNotFoundError), system_errors("x"):
        raise FileNotFoundError(errno.ENOENT, "none", "x")


@pytest.mark.parametrize("name", ["codi-tiny", "codi-secret/honest"])
def test_a_model_where_a_run_is_wanted_gets_the_command_that_makes_one(name):
    out = f"runs/{name.rpartition('/')[2]}"
    with pytest.raises(
        NotThereError, match=f"got the model {name}; .*: thoughtlens run pilot model={name} --out {out}$"
    ):
        require_run(name)


def test_a_directory_of_a_model_where_a_run_is_wanted(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        NotThereError, match=r"run pilot model=.* \(thoughts\), or: thoughtlens run text-demo model="
    ):
        require_run(tmp_path)
