"""What each thought reads as, on a shipped model and on a run of it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch

import thoughtlens as tl
from thoughtlens import sae as saes
from thoughtlens.acts import ActivationStore
from thoughtlens.core import ConfigError, DataError
from thoughtlens.latents.codes.on_text import fire
from thoughtlens.problems import arithmetic
from thoughtlens.tracing import render, think

QUESTION = "dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"


def test_readings_are_the_chain_of_the_problem():
    table = arithmetic.problems(6, seed=5, n_steps=(3,))
    for one, row in zip(think("codi-tiny", table["question"].to_pylist()), table.to_pylist(), strict=True):
        chain = [row["op1"], str(row["v1"]), row["op2"], str(row["v2"]), row["op3"]]
        assert [reading.reading for reading in one.thoughts[1:6]] == chain
        assert one.answer == row["answer"] and [r.thought for r in one.thoughts] == list(range(7))
        assert all(r.probability > 0.5 and len(r.others) == 2 for r in one.thoughts[1:6])


def test_readings_equal_those_of_the_notebook():
    (one,) = think("codi-tiny", [QUESTION])
    thoughts = tl.think(tl.load_model("codi-tiny"), [QUESTION])
    for reading in one.thoughts:
        ((word, share),) = thoughts.says(reading.thought)[0]
        assert reading.reading == word and reading.probability == pytest.approx(share, abs=1e-6)
    json.dumps(one.to_json(), allow_nan=False)
    shown = render(one)
    assert "thought 4  19" in shown and shown.endswith("answer     5")


def test_a_control_is_named():
    pause = Path(tl.__file__).parent / "models" / "weights" / "codi-tiny" / "seed1" / "pause"
    (one,) = think(pause, [QUESTION])
    assert "feeds nothing back" in one.warnings[0] and "WARNING" in render(one)
    (sound,) = think("codi-tiny", [QUESTION])
    assert not sound.warnings


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("think")
    with tarfile.open(Path(__file__).parents[1] / "fixtures" / "run_schema_1" / "runs.tar.xz") as packed:
        packed.extractall(root, filter="data")
    return root


def test_a_run_adds_its_latents_in_words(runs, monkeypatch):
    monkeypatch.chdir(runs)
    run = tl.open_run("thoughts")
    (one,) = think("thoughts", [QUESTION], member="pooled", top=4)
    assert one.member == "pooled" and all(reading.latents for reading in one.thoughts)
    for reading in one.thoughts:
        activations = [latent.activation for latent in reading.latents]
        assert activations == sorted(activations, reverse=True) and len(activations) <= 4
        assert {latent.hook_name for latent in reading.latents} <= set(run.saes()["pooled"].hook_names)
    said = [latent for reading in one.thoughts for latent in reading.latents if latent.says]
    assert said and all(0 <= latent.auprc <= 1 for latent in said)
    assert said[0].says in render(one)


def test_what_cannot_be_thought_about_is_said_in_one_line(runs, monkeypatch):
    monkeypatch.chdir(runs)
    with pytest.raises(ConfigError, match="thoughtlens fire text 'dan"):
        think("text", [QUESTION])
    with pytest.raises(ConfigError, match="language model, which thinks in words"):
        think("smollm2-135m", [QUESTION])
    with pytest.raises(ConfigError, match="has no SAEs"):
        think("codi-tiny", [QUESTION], member="pooled")
    with pytest.raises(DataError, match="zebra"):
        think("codi-tiny", ["zebra crossing"])


@pytest.mark.parametrize("over", ["layers", "thoughts"])
def test_a_crosscoder_is_read_at_all_its_sites(runs, tmp_path, monkeypatch, over):
    monkeypatch.chdir(tmp_path)
    store = ActivationStore.open(runs / "thoughts" / "acts")
    hooks = store.hook_names if over == "layers" else store.hook_names[:1]
    sites = hooks if over == "layers" else [f"{hooks[0]} thought {t}" for t in store.thoughts]
    sae = saes.create(saes.CrosscoderConfig(d_sae=12, k=2, sites=tuple(sites), over=over), 96, seed=0)
    sae.hook_names = list(hooks)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "acts").symlink_to(store.root)
    saes.save(sae, tmp_path / "run" / "sae")
    (one,), (fired,) = think("run", [QUESTION], top=12), fire("run", [QUESTION], top=12).texts
    x = torch.stack([tl.think(tl.load_model("codi-tiny"), [QUESTION]).at(hook)[0] for hook in hooks], 1)
    with torch.no_grad():
        acts = sae.encode(x if over == "layers" else x.transpose(0, 1))
    found = {row.latent: row.max for row in fired.latents}
    assert found == pytest.approx({j: v for j, v in enumerate(acts.amax(0).tolist()) if v > 0}, rel=1e-4)
    if over == "layers":
        assert not one.warnings
        shown = [{latent.latent: latent.activation for latent in row.latents} for row in one.thoughts]
        by_hand = [{j: v for j, v in enumerate(row) if v > 0} for row in acts.tolist()]
        assert [set(row) for row in shown] == [set(row) for row in by_hand]
        assert {latent.hook_name for row in one.thoughts for latent in row.latents} == {"+".join(hooks)}
    else:
        assert fired.positions == ["thought 0 to thought 6"] and not any(row.latents for row in one.thoughts)
        assert f"thoughtlens fire run '{QUESTION}'" in one.warnings[0]
