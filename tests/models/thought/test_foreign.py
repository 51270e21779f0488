"""Families that stand outside the package: loaded where they are named, and only there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import thoughtlens as tl
from tests.models.thought import own_model
from thoughtlens import cli
from thoughtlens.acts import ActivationStore, ExtractConfig, thought_model
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import BY_NAME, ConfigError, MismatchError, NotThereError, load_config
from thoughtlens.models.thought import foreign, thoughts
from thoughtlens.models.thought.check import check_thought_model
from thoughtlens.models.thought.open import load_model
from thoughtlens.studies import pipeline

QUESTIONS = ["What is 7 + 8?", "Anna has 3 hens."]


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    monkeypatch.setattr(foreign, "_named", set())
    monkeypatch.delenv(foreign.ALLOWED, raising=False)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(own_model.write(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["depth.py:load", "rounds.py:load"])
def test_the_families_of_the_page_pass(here, name):
    assert check_thought_model(load_model(name)) == []


def test_a_family_takes_at_most_60_lines_of_code():
    for code in own_model.codes().values():
        assert len([line for line in code.splitlines() if line.strip()]) <= 60
    assert len(own_model.codes()["depth.py"].splitlines()) <= 60


def test_depth_moves_towards_a_fixed_point_or_says_how_far(here):
    model = load_model("depth.py:load", n_thoughts=3)
    states = thoughts.collect(model, QUESTIONS, sites=("thought_out",)).thought_out
    assert states.shape == (2, 4, 1, 16)
    again = load_model("depth.py:load", n_thoughts=9)
    more = thoughts.collect(again, QUESTIONS, sites=("thought_out",)).thought_out
    assert torch.allclose(states, more[:, :4], atol=1e-6)


def test_options_reach_the_function_and_unknown_ones_are_refused(here):
    model = load_model("depth.py:load", options=["d=32", "seed=3"], n_thoughts=2)
    assert (model.spec.d, model.spec.n_thoughts) == (32, 2)
    assert model.settings == {"family": "depth.py:load", "n_thoughts": 2, "d": 32, "seed": 3}
    with pytest.raises(ConfigError, match="has no option size; it has n_thoughts"):
        load_model("depth.py:load", size=3)
    with pytest.raises(ConfigError, match="expected name=value, got 'seed'"):
        load_model("depth.py:load", options=["seed"])
    with pytest.raises(ConfigError, match="takes no dtype, and its model is in float32, not bfloat16"):
        load_model("rounds.py:load", dtype="bfloat16")


def test_a_digest_is_that_of_the_tensors_and_a_hash_that_of_settings_and_code(here):
    one, same, other = (load_model("depth.py:load", seed=seed) for seed in (0, 0, 1))
    assert one.digest == same.digest != other.digest
    assert one.config_hash == same.config_hash != load_model("depth.py:load", n_thoughts=5).config_hash


def test_a_function_can_take_a_checkpoint(here):
    code = "from depth import load as made\n\ndef load(name, seed=0):\n    return made(seed=int(name))\n"
    (here / "numbered.py").write_text(code)
    model = load_model("7", family="numbered:load")
    assert model.name == "7" and model.digest == load_model("depth:load", seed=7).digest


def test_what_a_file_names_is_not_run(here):
    (here / "evil.py").write_text("raise SystemExit('it ran')\n")
    (here / "config.toml").write_text('[model]\nname = "evil:load"\n\n[problems]\nkind = "problems"\n')
    cfg = load_config(ExtractConfig, here / "config.toml")
    with pytest.raises(ConfigError, match=r"evil:load is code from outside.*--allow=evil:load"):
        extract(cfg, here / "acts")
    with pytest.raises(ConfigError, match="runs only where you name it yourself"):
        thoughts.load(here / "missing", family="evil.py:load")


def test_a_stores_model_is_opened_only_where_it_is_named_again(here):
    foreign.allow("depth.py:load")
    table = {
        "model": {"name": "depth.py:load", "dtype": "float32"}, "options": ["d=8"],
        "problems": {"kind": "problems", "source": "arithmetic", "n": 12},
    }  # fmt: skip
    extract(load_config(ExtractConfig, table), here / "acts")
    store = ActivationStore.open(here / "acts")
    assert store.meta.model == "depth.py:load" and set(store.meta.d_in.values()) == {8}
    foreign._named.clear()
    with pytest.raises(ConfigError, match=r"--allow=depth\.py:load"):
        thought_model(store)
    foreign.allow("depth.py:load")
    assert thought_model(store).digest == store.meta.model_digest
    file = here / "depth.py"
    file.write_text(file.read_text("utf-8").replace("seed=0", "seed=1"), "utf-8")
    with pytest.raises(MismatchError, match="other weights of depth"):
        thought_model(store)


def test_the_environment_can_name_code(here, monkeypatch):
    monkeypatch.setenv(foreign.ALLOWED, "a:b,depth.py:load")
    assert thoughts.load("depth.py:load").spec.axis == "depth"


def test_an_installed_package_registers_a_family(here, monkeypatch):
    info = here / "deep_thoughts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deep-thoughts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{foreign.GROUP}]\ndeep = depth:load\n")
    monkeypatch.syspath_prepend(str(here))
    with pytest.raises(ConfigError, match="deep is code from outside"):
        thoughts.load("deep")
    assert load_model("deep").spec.axis == "depth"
    with pytest.raises(ConfigError, match="tiny, codi, coconut, soft, deep or my_module:load, got 'deeper'"):
        thoughts.load("x", family="deeper")


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("", NotThereError, "has no function load"),
        ("load = 3", NotThereError, "has no function load"),
        ("def load():\n    return 3", ConfigError, "must return a ThoughtModel, got int"),
        ("def load():\n    return 1 / 0", ConfigError, "failed: ZeroDivisionError"),
        ("def load(:", ConfigError, "cannot be imported: SyntaxError"),
        ("import nowhere_at_all", ConfigError, "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_code_that_does_not_work_is_one_line(tmp_path, code, error, says):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(error, match=says):
        load_model(f"{tmp_path / 'mine.py'}:load")


def test_code_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotThereError, match="No module no_such_module is installed or in"):
        load_model("no_such_module:load")
    with pytest.raises(NotThereError, match="found no file"):
        load_model("nothing.py:load")


def test_doctor_tests_a_model_and_ends_with_1_where_something_is_wrong(here, monkeypatch, capsys):
    shown, kept = "tap(site, x[:, -1:], layer)", "(tap(site, x[:, -1:], layer), x[:, -1:])[layer == 0]"
    code = (here / "depth.py").read_text("utf-8")
    assert shown in code
    (here / "deaf.py").write_text(code.replace(shown, kept), "utf-8")
    for name, wrong in (("depth.py:load", False), ("deaf.py:load", True)):
        monkeypatch.setattr("sys.argv", ["thoughtlens", "doctor", name, "--option", "d=8"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert bool(end.value.code) == wrong
        said = capsys.readouterr()
        assert bool(re.search(r"WRONG hooks +layers\.0:out@1: an edit changes nothing", said.err)) == wrong


@pytest.mark.parametrize("word", [["--allow", "depth.py:load"], ["--allow=depth.py:load"]])
def test_a_command_can_allow_what_it_does_not_name(here, monkeypatch, word):
    monkeypatch.setattr("sys.argv", ["thoughtlens", "doctor", "--quick", *word])
    with pytest.raises(SystemExit):
        cli.main()
    assert "depth.py:load" in foreign._named


def test_the_pages_own_lines_run(here, capsys):
    """What the page shows beside its two families, on the run that it makes."""
    page = own_model.PAGE.read_text("utf-8")
    lines = dict(re.findall(r"^thoughtlens (run|orbits) (.*)$", page, re.M))
    foreign.allow("depth.py:load")
    words = [one.strip("'") for one in lines["run"].split()]
    overrides = [one for one in words[1 : words.index("--out")] if "=" in one]
    pipeline.run(pipeline.load("pilot", [*overrides, 'stages=["extract"]']), words[-1])
    beyond = [one for one in lines["orbits"].split() if one.startswith("beyond=")]
    stage = BY_NAME["orbits"]
    cfg = load_config(stage.config, stage.table(Path("runs/depth")), beyond)
    stage.run(cfg, "runs/depth/orbits")
    capsys.readouterr()
    session = {}
    for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        if code not in own_model.codes().values():
            exec(compile(code, "page", "exec"), session)
    printed = capsys.readouterr().out
    assert printed.startswith("the state after 32 further rounds") and f"```\n{printed}```" in page


def test_readings_of_a_model_without_a_tokenizer(here):
    thoughts = tl.think(tl.load_model("depth.py:load"), ["What is 7 + 8?"])
    assert "token " in str(thoughts.says(1))
