"""A control is named one wherever its states go."""

from __future__ import annotations

from pathlib import Path

import pytest

import thoughtlens
from tests.models.thought.fake import make_codi
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.behind import thought_model
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import MismatchError, Result, validate_config
from thoughtlens.core.records.result import headline
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.stage import lens
from thoughtlens.models.thought import codi

WEIGHTS = Path(thoughtlens.__file__).parent / "models" / "weights" / "codi-tiny" / "seed7"


def extracted(root: Path, name: str, **options: object) -> Result:
    table = {
        "model": {"name": name, "dtype": "float32"},
        "problems": {"kind": "problems", "source": "arithmetic", "n": 60},
        "hook_names": ["layers.1:out"],
        "max_new_tokens": 1,
        **options,
    }
    return extract(validate_config(ExtractConfig, table), root / "acts")


@pytest.mark.parametrize(("variant", "says"), [("pause", "pause tokens"), ("no_cot", "no thoughts")])
def test_a_control_is_named_in_every_result_made_of_it(tmp_path, variant, says):
    made = extracted(tmp_path, str(WEIGHTS / variant))
    cfg = LensConfig(acts=tmp_path / "acts", lenses=("logit",), n_problems=20, n_permutations=20)
    for result in (made, lens(cfg, tmp_path / "lens")):
        assert says in result["control"] and any("those of a control" in line for line in result["warnings"])
        first = headline(result)[0]
        assert first.name == "control" and says in first.value
        assert says in result._repr_html_()


def test_a_model_that_thinks_is_no_control(tmp_path):
    made = extracted(tmp_path, str(WEIGHTS / "thoughts"))
    assert made.get("control") is None and not any("control" in line for line in made["warnings"])


def test_assumed_settings_stand_in_the_result_and_given_ones_do_not(tmp_path):
    fake = make_codi(tmp_path / "codi", "gpt2")
    given = {"base": str(fake.base), "n_thoughts": 2, "lora_alpha": 8.0}
    made = extracted(tmp_path, str(fake.file), **given)
    assert made["model_settings"]["n_thoughts"] == 2 and made["n_rows"] == 60 * 3
    assert made["model_settings_assumed"] == ["eos_before", "eos_after"]
    assert any("assumed: eos_before = False, eos_after = False" in line for line in made["warnings"])
    again = extracted(tmp_path / "all", str(fake.file), **given, eos_before=False, eos_after=False)
    assert "model_settings_assumed" not in again and not any("assumed" in x for x in again["warnings"])


def test_a_base_that_changed_meanwhile_is_refused(tmp_path):
    """Its weights are the checkpoint's; what its config says of them is not."""
    from transformers import GPT2Config

    fake = make_codi(tmp_path / "codi", "gpt2")
    extracted(tmp_path, str(fake.file), base=str(fake.base), n_thoughts=1)
    store = ActivationStore.open(tmp_path / "acts")
    assert thought_model(store).config_hash == store.meta.config_hash
    config = GPT2Config.from_pretrained(fake.base)
    config.scale_attn_weights = False
    config.save_pretrained(fake.base)
    with pytest.raises(MismatchError, match="come from other settings"):
        thought_model(store)


def test_what_was_assumed_once_is_not_assumed_again(tmp_path, monkeypatch):
    fake = make_codi(tmp_path / "codi", "gpt2")
    extracted(tmp_path, str(fake.file), base=str(fake.base))
    monkeypatch.setitem(codi.OTHERWISE, "n_thoughts", 2)  # as another version might assume
    model = thought_model(ActivationStore.open(tmp_path / "acts"))
    assert model.spec.n_thoughts == 6 and model.assumed == ()
