"""Somebody's SAE from its files to the explorer, by one recipe that is made of what it says of itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.docs import standins
from thoughtlens.core import ConfigError, DataError, HookError, MismatchError, NotThereError, OccupiedError
from thoughtlens.show import Run
from thoughtlens.studies.look import Ask, look

pytestmark = pytest.mark.slow

D, N = 32, 128
FEW = [one for one in standins.SMALL if not one.startswith(("train.", "classify.", "validate.force"))]


def sae_lens(root, model, *, d_in=D, **said):
    """A TopK SAE in SAELens's layout, of block 1 of a model."""
    known = {"model_name": model and str(model), "hook_name": "blocks.1.hook_resid_post"} | said
    return standins.sae_lens(root, d_in, **known)


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A few dozen short documents."""
    words = ["whales", "crabs", "tides", "boats", "horses", "hills", "roads", "wheat"]
    draw = np.random.default_rng(0)
    lines = [f"Text {i} tells of {' and '.join(draw.choice(words, 8))}." for i in range(90)]
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n\n".join(lines), "utf-8")
    return file


@pytest.fixture(scope="session")
def looked(tmp_path_factory, tiny_lm_dir, texts):
    """A finished look, and what was asked."""
    root = tmp_path_factory.mktemp("look")
    ask = Ask(str(sae_lens(root / "theirs", tiny_lm_dir)), text=texts, n_tokens=3000, overrides=FEW)
    return ask, root / "run", look(ask, root / "run")


def test_it_ends_with_pages_of_the_saes_own_latents(looked):
    _, out, result = looked
    assert list(result["stages"]) == [
        "extract",
        "validate",
        "interpret",
        "lens",
        "explain",
        "explorer",
        "report",
    ]
    assert (out / "explorer" / "index.html").is_file()
    run = Run.open(out)
    (sae,) = run.saes().values()
    assert (sae.d_sae, sae.hook_names) == (N, ["layers.1:out"])
    assert sae.provenance["imported"]["format"] == "sae_lens"


def test_the_models_name_site_context_and_bos_are_the_saes_own(looked):
    _, out, _ = looked
    text = (out / "config.toml").read_text("utf-8")
    for line in ('bos = "always"', "context_length = 64", '"layers.1:out"', "max_tokens = 3000"):
        assert line in text


def test_a_second_look_does_nothing_again(looked):
    ask, out, result = looked
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json") if path.parent != out}
    again = look(ask, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {n: s["digest"] for n, s in again["stages"].items()} == {
        n: s["digest"] for n, s in result["stages"].items()
    }


def test_another_sae_does_not_get_into_its_place(looked, tmp_path, tiny_lm_dir):
    ask, out, _ = looked
    other = sae_lens(tmp_path / "other", tiny_lm_dir, context_size=32)
    with pytest.raises(OccupiedError):
        look(ask._replace(source=str(other)), out)


def refused(match, kind, source, out, **changes):
    with pytest.raises(kind, match=match) as caught:
        look(Ask(str(source), **changes), out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_what_does_not_fit_stops_before_extraction(tmp_path, tiny_lm_dir, texts):
    fits, out = sae_lens(tmp_path / "fits", tiny_lm_dir), tmp_path / "out"
    wide = sae_lens(tmp_path / "wide", tiny_lm_dir, d_in=48)
    deep = sae_lens(tmp_path / "deep", tiny_lm_dir, hook_name="blocks.9.hook_resid_post")
    other = sae_lens(tmp_path / "gpt2", "gpt2")
    silent = sae_lens(tmp_path / "silent", tiny_lm_dir, model_name=None)
    rest = {"text": texts}
    refused("width 48 at layers.1:out, and .* has 32 there", MismatchError, wide, out, **rest)
    refused("has no 'layers.9:out': it has embed and layers.0 to layers.3", HookError, deep, out, **rest)
    bos = {"overrides": ["extract.bos=never"], **rest}
    refused("with a begin-of-sequence token, and extract.bos is never", MismatchError, fits, out, **bos)
    site = {"overrides": ["extract.hook_names=layers.2:out"], **rest}
    refused("it reads layers.1:out, and extract.hook_names is layers.2:out", MismatchError, fits, out, **site)
    long = {"overrides": ["extract.context_length=100"], **rest}
    refused("windows of 64 tokens, and extract.context_length is 100", MismatchError, fits, out, **long)
    model = {"model": str(tiny_lm_dir), **rest}
    refused("trained on gpt2, and the model is .*--force goes on", MismatchError, other, out, **model)
    refused(
        "does not say which model it was trained on; say it with --model", ConfigError, silent, out, **rest
    )


def test_what_is_no_sae(tmp_path, tiny_lm_dir):
    out, folder = tmp_path / "out", tmp_path / "folder"
    folder.mkdir()
    refused("Expected an SAE of .*found none of their files", NotThereError, folder, out)
    refused("found nothing there", NotThereError, tmp_path / "nowhere", out)
    two = sae_lens(tmp_path / "two", tiny_lm_dir)
    np.savez(two / "params.npz", W_enc=np.zeros((2, 2)))
    refused("looks like sae_lens and gemma_scope: say which with --from", ConfigError, two, out)
    several = tmp_path / "several"
    for name in ("a", "b"):
        shutil.copytree(sae_lens(tmp_path / name, tiny_lm_dir), several / name)
    refused(r"found 2 in its folders \(a, b, ..\)", NotThereError, several, out)
    nowhere = sae_lens(tmp_path / "hookless", tiny_lm_dir, hook_name=None)
    refused("does not say where it was trained; say it, as in: --hook", MismatchError, nowhere, out)


def test_a_text_that_is_none_stops_before_anything_is_written(tmp_path, tiny_lm_dir):
    theirs, out = sae_lens(tmp_path / "theirs", tiny_lm_dir), tmp_path / "out"
    for words, content in {
        "Expected text in .*, found none": b"  \n\n",
        "not UTF-8": b"caf\xe9 " * 90,
        "is no text: there are zero bytes in it": b"a\0b c" * 90,
        r"1 document\(s\), of which none falls into the split": b"one line only",
    }.items():
        (text := tmp_path / "text.txt").write_bytes(content)
        refused(words, DataError, theirs, out, text=text)
    refused("found no such file", NotThereError, theirs, out, text=tmp_path / "none.txt")
    refused(r"5 tokens are 1 document\(s\) of bundled, of which none", DataError, theirs, out, n_tokens=5)
    refused(
        "says its hook is 'layers.1:out', not 'layers.2:out'",
        MismatchError,
        theirs,
        out,
        hook_name="layers.2:out",
    )


def test_the_librarys_own_numbers_stand_beside_ours_in_result_and_report(looked):
    _, out, _ = looked
    member = json.loads((out / "validate" / "result.json").read_text("utf-8"))["members"][0]
    sae, (spliced, *_) = member["reconstruction"]["sae"], member["fidelity"]
    found = {one["name"]: one for one in member["elsewhere"]}
    assert found["l0"]["value"] == found["l0"]["our_value"] == 4
    assert found["explained_variance_legacy"]["value"] == sae["legacy_explained_variance"]
    assert found["ce_loss_score"]["value"] == spliced["ce_loss_score_zero"]
    assert found["ce_loss_score"]["our_value"] == spliced["ce_loss_score_mean"]
    assert "zeros" in found["ce_loss_score"]["differs"]
    assert "ce_loss_score" in (out / "report" / "report.html").read_text("utf-8")


def test_few_rows_of_somebody_elses_training_are_no_reason_to_refuse(looked):
    _, out, _ = looked
    result = json.loads((out / "validate" / "result.json").read_text("utf-8"))
    assert result["members"][0]["n_train"] is None
    assert any("does not say which store it was trained on" in line for line in result["warnings"])


def test_few_documents_of_ones_own_are_shown_without_explanations(tmp_path, tiny_lm_dir):
    few = tmp_path / "few.txt"
    few.write_text(
        "\n\n".join(f"Text {i} tells of {i} whales and {i * i} boats." for i in range(20)), "utf-8"
    )
    theirs = sae_lens(tmp_path / "theirs", tiny_lm_dir)
    stages = "stages=['extract','interpret','explain','explorer']"
    result = look(Ask(str(theirs), text=few, overrides=[*FEW, stages]), tmp_path / "run")
    assert list(result["stages"]) == ["extract", "interpret", "explorer"]


def test_somebodys_transcoder_is_judged_on_what_it_predicts(tmp_path, tiny_lm_dir, texts):
    root = sae_lens(tmp_path / "theirs", tiny_lm_dir)
    cfg = json.loads((root / "cfg.json").read_text())
    hooks = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    cfg |= {"architecture": "transcoder", "d_out": D, "metadata": cfg["metadata"] | hooks}
    (root / "cfg.json").write_text(json.dumps(cfg))
    stages = "stages=['extract','validate','interpret','explorer']"
    result = look(Ask(str(root), text=texts, n_tokens=4000, overrides=[*FEW, stages]), tmp_path / "run")
    assert list(result["stages"])[-1] == "explorer"
    found = json.loads((tmp_path / "run" / "validate" / "result.json").read_text("utf-8"))["members"][0]
    assert found["hook_names"] == ["layers.1.mlp:in"] and found["reconstruction"]["sae"]["fvu"] > 0
