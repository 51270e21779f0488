"""Inputs that no machine could work off, and half of torchrun's variables, are one line at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from thoughtlens.core import ConfigError, load_config, read_recipe, validate_config
from thoughtlens.core.machine.ranks import world
from thoughtlens.latents.explain.config import ExplainConfig
from thoughtlens.models.hf.locate import weights_digest


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 1500 + "]" * 1500, "a = " + "7" * 4301], ids=["deep", "long"]
)
def test_deep_and_long_toml(text, tmp_path):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_recipe(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="seed") as caught:
        load_config(ExplainConfig, {"acts": "a", "sae": "b"}, [f"seed{text[1:]}"])
    assert len(str(caught.value)) < 500


ABSURD = [{"n_resamples": 10**18}, {"seed": 10**21}, {"fit_vectors": 10**13}, {"latents": [10**15]}]


@pytest.mark.parametrize("table", ABSURD)
def test_absurd_numbers(table):
    with pytest.raises(ConfigError, match="expected at most"):
        validate_config(ExplainConfig, {"acts": "a", "sae": "b", **table})


def test_a_part_of_torchrun_s_variables(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"WORLD_SIZE=2 .* without RANK, MASTER_ADDR, MASTER_PORT: start it with"
    ):
        world()
    for name, value in (("RANK", "x"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="Expected RANK below WORLD_SIZE, got RANK='x'"):
        world()
    monkeypatch.setenv("RANK", "1")
    assert world() == (1, 2)


def test_what_lies_beside_a_model_does_not_say_its_digest(tiny_lm_dir, tmp_path):
    for file in tiny_lm_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "thoughtlens.json").write_text('{"weights_digest": "spoofed"}')
    assert weights_digest(tmp_path) == weights_digest(tiny_lm_dir) != "spoofed"


@pytest.mark.slow
@pytest.mark.parametrize(("shell", "status"), [(">&-", 0), ("2>&-", 0), ("> /dev/full", 1)])
def test_closed_and_full_streams(shell, status):
    command = f"{sys.executable} -m thoughtlens.cli recipes {shell}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == status and "Traceback" not in done.stderr and "unforeseen" not in done.stderr
