"""Recipes, overrides, and what is said when they are wrong."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from thoughtlens.core import (
    BY_NAME,
    Config,
    ConfigError,
    NotThereError,
    apply_overrides,
    differences,
    field_paths,
    identity,
    load_config,
    to_toml,
)


class TopK(Config):
    kind: Literal["topk"] = "topk"
    k: int = 32
    """Latents kept."""
    width: int = 8
    """Shared by both kinds."""


class Penalty(Config):
    kind: Literal["l1"] = "l1"
    l1: float = 1e-3
    """Penalty."""
    width: int = 8
    """Shared by both kinds."""


class Model(Config):
    name: str = "tiny"
    """Which model."""
    dtype: str = "float32"
    """Its number type."""


class Recipe(Config):
    seed: int = 0
    """Seed of everything."""
    acts: Path | None = None
    """Input."""
    model: Model = Model()
    """The model."""
    sae: Annotated[TopK | Penalty, Field(discriminator="kind")] = TopK()
    """The SAE."""


def test_overrides_reach_tables_and_keep_types():
    cfg = load_config(Recipe, {}, ["seed=3", "model.dtype=bfloat16", "sae.k=8", "model=gpt2"])
    assert (cfg.seed, cfg.model.dtype, cfg.sae.k, cfg.model.name) == (3, "bfloat16", 8, "gpt2")


def test_changing_the_kind_drops_only_what_the_new_kind_lacks():
    cfg = load_config(Recipe, {"sae": {"kind": "topk", "k": 4, "width": 16}}, ["sae.kind=l1", "sae.l1=0.5"])
    assert cfg.sae == Penalty(l1=0.5, width=16)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeed=1", "unknown key 'seeed'; did you mean 'seed'"),
        ("circuit.text=a", "a run does not make this graph; ask it once the run is there: thoughtlens"),
        ("sae.kk=1", "did you mean 'sae.k'"),
        ("dtype=bfloat16", "did you mean 'model.dtype'"),
        ("sae.k=many", "sae.k: Input should be a valid integer"),
        ("sae.kind=relu", "sae"),
        ("seed", "Expected an override like"),
    ],
)
def test_bad_overrides_are_refused_in_one_line(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(Recipe, {}, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_keys_in_a_file_are_refused(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text("[sae]\nkind = 'topk'\nkk = 3\n")
    with pytest.raises(ConfigError, match=r"unknown key 'sae.kk'; did you mean 'sae.k'"):
        load_config(Recipe, file)


def test_files_that_are_not_recipes(tmp_path):
    with pytest.raises(NotThereError, match="Expected a recipe name"):
        load_config(Recipe, tmp_path / "missing.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("seed = = 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(Recipe, bad)
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a readable TOML"):
        load_config(Recipe, bad)


def test_what_is_written_can_be_run_again(tmp_path):
    cfg = load_config(Recipe, {}, ["sae.kind=l1", "seed=7", "acts=some/where"])
    for comments in (False, True):
        file = tmp_path / "again.toml"
        file.write_text(to_toml(cfg, comments=comments))
        assert load_config(Recipe, file) == cfg
    assert "# Seed of everything." in to_toml(cfg, comments=True)


@given(seed=st.integers(0, 2**31), name=st.text(max_size=30), l1=st.floats(0, 1e6))
def test_any_value_survives_the_file(seed, name, l1):
    cfg = Recipe(seed=seed, model=Model(name=name), sae=Penalty(l1=l1))
    assert Recipe.model_validate(tomllib.loads(to_toml(cfg))) == cfg


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_numbers_are_finite(value):
    with pytest.raises(ConfigError, match=r"sae\.l1.*finite number"):
        load_config(Recipe, {}, ["sae.kind=l1", f"sae.l1={value}"])


def test_identity_ignores_paths_only():
    a, b = Recipe(acts=Path("x")), Recipe(acts=Path("y"))
    assert identity(a) == identity(b) != identity(Recipe(seed=1))


def test_differences_are_named_with_both_values():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == ["a.b (3 there, 1 here)"]


def test_overrides_do_not_touch_the_given_table():
    table = {"model": {"name": "x"}}
    apply_overrides(Recipe, table, ["model.name=y"])
    assert table == {"model": {"name": "x"}}


def test_a_value_that_a_file_gives_for_a_table_can_be_replaced():
    table = {"model": "x"}  # a mistake in a file, which the command line mends
    assert apply_overrides(Recipe, table, ["model=y"]) == {"model": {"name": "y"}}


class Lists(Config):
    """Fields that take several values, and fields that can be unset."""

    hooks: tuple[str, ...] | None = None
    """Any number of names, or unset."""
    parts: tuple[int, ...] = (1, 2)
    """Any number of numbers."""
    pair: tuple[int, int] = (3, 4)
    """Exactly two."""
    most: int | None = 64
    """Unset: all."""
    words: str | tuple[str, ...] = "a"
    """One word stands alone here."""
    inner: Model | None = Model()
    """A table that may be missing."""


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("hooks=layers.1:out", "hooks", ("layers.1:out",)),
        ('hooks="layers.1:out"', "hooks", ("layers.1:out",)),
        ("hooks=layers.1:out,layers.2:out", "hooks", ("layers.1:out", "layers.2:out")),
        ("hooks=[layers.1:out, embed:out]", "hooks", ("layers.1:out", "embed:out")),
        ('hooks=["layers.1:out"]', "hooks", ("layers.1:out",)),
        ("hooks=[]", "hooks", ()),
        ("parts=7", "parts", (7,)),
        ("parts=7,8", "parts", (7, 8)),
        ("words=b,c", "words", "b,c"),
        ("most=null", "most", None),
        ("hooks=null", "hooks", None),
        ("inner=null", "inner", None),
    ],
)
def test_one_value_is_a_list_of_one_and_null_unsets(override, name, value, tmp_path):
    cfg = load_config(Lists, {"hooks": ["x"]}, [override])
    assert getattr(cfg, name) == value
    file = tmp_path / "again.toml"
    file.write_text(to_toml(cfg, comments=True))
    assert load_config(Lists, file) == cfg


@pytest.mark.parametrize(
    ("override", "message"), [("parts=null", "parts"), ("pair=5", "pair"), ("parts=a,b", "valid integer")]
)
def test_what_cannot_be_unset_or_is_no_list_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Lists, {}, [override])


def test_an_unknown_key_names_the_keys_of_its_own_table():
    with pytest.raises(ConfigError, match=r"known keys: model\.name, model\.dtype$"):
        load_config(Recipe, {}, ["model.quite_other_word=1"])


def every_config(cls=Config):
    return [one for sub in cls.__subclasses__() for one in (sub, *every_config(sub))]


@pytest.mark.parametrize("way", ["override", "table"])
def test_errors_name_settings_as_they_were_written(way):
    for stage in BY_NAME.values():
        assert stage.config
    classes = {cls for cls in every_config() if cls.aliases and cls.__module__.startswith("thoughtlens.")}
    seen = set()
    for cls in classes:
        for alias, target in cls.aliases.items():
            if target not in (cls.model_fields if way == "table" else field_paths(cls)):
                continue
            wrong = {"strange": ["strange"]}
            with pytest.raises(ConfigError) as caught:
                if way == "table":
                    load_config(cls, {alias: [wrong]})
                else:
                    load_config(cls, {}, [f"{alias}=[{{strange=1}}]"])
            said = str(caught.value)
            assert re.search(rf"(^|; ){alias}\b|table; set one", said), (cls, alias, said)
            assert alias == target or not re.search(rf"(^|; ){re.escape(target)}\b", said), (cls, alias, said)
            seen.add(alias)
    assert {"from", "token", "n_steps", "steps"} <= seen


def test_another_name_of_a_setting_is_taken_from_a_file_and_told_where_it_is_near(tmp_path):
    cls = BY_NAME["directions"].config
    file = tmp_path / "some.toml"
    file.write_text('acts = "x"\nfrom = "pca"\n')
    assert load_config(cls, file).made == "pca"
    with pytest.raises(ConfigError, match="did you mean 'from'"):
        load_config(cls, {"acts": "x", "fromm": "pca"})
    with pytest.raises(ConfigError, match="unknown key 'from'"):
        load_config(cls, {"acts": "x", "from": "pca", "made": "pca"})
