from __future__ import annotations

import subprocess
import sys

import pytest

from thoughtlens.core import ConfigError, load_config
from thoughtlens.interventions.intervene.config import InterveneConfig, LatentsConfig, SwapConfig, of_run
from thoughtlens.interventions.intervene.records import About

OLD = {
    "n": 40, "edit": "edit_latents", "site": "thought_in", "steps": [3, 4], "scope": ["cell", "all"],
    "method": "mean", "column": "v1", "change": "start", "latents": [3, 5], "scale": 0.0, "arms": ["sae"],
    "doses": [1.0], "n_fit": 2000, "n_control_latents": 2, "controls": True, "sae": "sae", "seed": 1,
}  # fmt: skip


def test_settings_of_the_version_before(tmp_path):
    import tomli_w

    (tmp_path / "config.toml").write_text(tomli_w.dumps(OLD))
    cfg = load_config(InterveneConfig, tmp_path)
    assert cfg.edit == LatentsConfig(latents=(3, 5), scale=0.0, n_control_latents=2)
    assert cfg.thoughts == (3, 4) and cfg.n == 40 and str(cfg.sae) == "sae"


def test_settings_of_an_edit_are_named_alone_on_the_command_line():
    line = ["edit=edit_latents", "latents=[3,5]", "scale=0", "steps=[2]", "n=40"]
    cfg = load_config(InterveneConfig, {}, line)
    assert cfg.edit == LatentsConfig(latents=(3, 5), scale=0) and cfg.thoughts == (2,)
    for line in (
        ["column=v2", "edit=swap"],
        ["edit=swap", "edit.column=v2"],
        ["edit.kind=swap", "column=v2"],
    ):
        assert load_config(InterveneConfig, {}, line).edit == SwapConfig(column="v2")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["edit=swap", "columm=v1"], r"did you mean 'edit.column'"),
        (["edit=swap", "edit.columm=v1"], r"did you mean 'edit.column'"),
        (["edit=swap", "method=zero"], "method: swap has no such setting"),
        (["edit=swop"], r"swap"),
        (["thought=[3]"], r"did you mean 'thoughts'"),
    ],
)
def test_a_wrong_key_names_the_right_one(line, says):
    with pytest.raises(ConfigError, match=says):
        load_config(InterveneConfig, {}, line)


def test_settings_cost_no_torch():
    heavy = "{'torch', 'numpy', 'pyarrow'}"
    code = f"import sys, thoughtlens.interventions.intervene.config; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_which_latents_an_edit_was_made_with():
    assert About(edit="edit_latents", latents="3 17").edited_latents == [3, 17]
    assert About(edit="steer_latent_5", direction="latent_5").edited_latents == [5]
    assert About(edit="steer_latent_7_for_5", direction="latent_7_for_5").edited_latents == [7]
    assert About(edit="steer_direction_0", direction="direction_0").edited_latents == []
    assert (
        About(edit="ablate_mean", site="resid", layer=1, thought_idx=3).where() == "ablate_mean resid[1, 3]"
    )


def test_a_run_of_texts_is_told_where_its_latents_are_changed(tmp_path):
    acts = tmp_path / "my run" / "acts"
    acts.mkdir(parents=True)
    (acts / "config.toml").write_text('[model]\nname = "smollm2-135m"\n[problems]\nsource = "t.txt"\n')
    with pytest.raises(ConfigError, match=r"a run of texts.*thoughtlens serve '.*my run'"):
        of_run(tmp_path / "my run")
    (acts / "config.toml").write_text('[model]\nname = "codi-tiny"\n[problems]\nkind = "problems"\n')
    assert of_run(tmp_path / "my run")["model"]["name"] == "codi-tiny"
    cfg = 'max_new_tokens = 9\n[model]\nname = "codi-tiny"\n[problems]\nkind = "problems"\n'
    (acts / "config.toml").write_text(cfg)
    assert of_run(tmp_path / "my run")["max_new_tokens"] == 9
