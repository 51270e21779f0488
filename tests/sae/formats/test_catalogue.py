"""SAEs that others published, by the names of their releases; the hub is its cache's layout in a folder."""

from __future__ import annotations

import pytest

from tests.docs import standins
from thoughtlens.core import ConfigError, NotThereError
from thoughtlens.sae import hub_model, listed
from thoughtlens.sae.formats.catalogue import find, releases
from thoughtlens.sae.formats.formats import FORMATS
from thoughtlens.sae.formats.open import load_sae, local


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Two SAEs of one layer and width of Gemma Scope in the hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root, commit = tmp_path / "hub" / "models--google--gemma-scope-2b-pt-res", "a" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for l0 in (21, 64, 136):
        standins.gemma_scope(root / "snapshots" / commit / "layer_20" / "width_16k" / f"average_l0_{l0}")


def test_a_model_goes_by_its_name_in_an_saes_files():
    names = {
        "gpt2-small": "gpt2",
        "gemma-2-2b": "google/gemma-2-2b",
        "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
        "smollm2-135m": "smollm2-135m",
        "meta-llama/Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    }
    assert {name: hub_model(name) for name in names} == names


def test_every_release_that_is_read_gives_a_folder_for_its_ids():
    for name, one in releases().items():
        if one.format is None:
            assert one.why, name
            continue
        assert {one.format} <= set(FORMATS) and one.source.startswith("http") | (one.source == "saelens")
        theirs, _ = one.paths[0]
        known = find(f"{name}/{theirs.replace('{id}', 'x').replace('{0}', '3').replace('{1}', '16k')}")
        assert known is not None and "{" not in known.folder and known.release.repo == one.repo
    assert find("gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical").folder == (
        "layer_20/width_16k/average_l0_*"
    )
    assert find("gpt2-small-attn-out-v5-32k/blocks.7.hook_attn_out").folder == "v5_32k_layer_7"
    assert find("owner/name") is None
    for name, folder in {
        "llama_scope_lxr_8x/l3r_8x": "Llama3_1-8B-Base-L3R-8x",
        "llama_scope_r1_distill/l9r_800m_openr1_math": "0-Slimpajama-800M-OpenR1-Math-220k/L9R",
        "qwen-scope-3-8b-base-w64k-l50/layer7": "layer7.sae.pt",
        "goodfire-llama-3.1-8b-instruct/layer_19": "Llama-3.1-8B-Instruct-SAE-l19.pth",
    }.items():
        assert find(name).folder == folder
    with pytest.raises(ConfigError, match="temporal-sae-gemma-2-2b cannot be read here: a temporal SAE"):
        find("temporal-sae-gemma-2-2b/x")
    with pytest.raises(ConfigError, match=r"Expected gpt2-small-res-jb/ID, .* got gpt2-small-res-jb"):
        find("gpt2-small-res-jb")


def test_layer_and_width_mean_the_sae_whose_l0_is_nearest_to_100_of_two_the_larger(cached):
    for name in (
        "gemma-scope-2b-pt-res/layer_20/width_16k",
        "gemma-scope-2b-pt-res-canonical/layer_20/width_16k",
    ):
        name += "/canonical" if "canonical" in name else ""
        assert local(name).name == "average_l0_136"
    assert local("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_21").name == "average_l0_21"
    assert load_sae("gemma-scope-2b-pt-res/layer_20/width_16k").hook_names == ["layers.20:out"]


def test_the_list_says_what_lies_in_the_cache(cached):
    first, *rest = listed("gemma-scope-2b-pt-res")
    assert first.cached == [f"layer_20/width_16k/average_l0_{n}" for n in (136, 21, 64)]
    assert listed("no such word") == [] and all("gemma-scope-2b-pt-res" in one.release for one in rest)


def test_what_the_cache_lacks_and_what_was_misspelt(cached):
    with pytest.raises(ConfigError, match=r"width_65k/average_l0_\* of google/.*, found none on the hub"):
        local("gemma-scope-2b-pt-res/layer_20/width_65k")
    with pytest.raises(NotThereError, match="did you mean the release gpt2-small-res-jb"):
        local("gpt2-smal-res-jb/blocks.3.hook_resid_pre")
