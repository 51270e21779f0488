"""The finetune stage on a tiny language model and on codi-tiny."""

from __future__ import annotations

import copy

import pytest
import torch

from thoughtlens import sae as saes
from thoughtlens.acts import ActivationStore
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ConfigError, DataError, MismatchError, digest, load_config
from thoughtlens.evals.finetune.config import FinetuneConfig
from thoughtlens.evals.finetune.records import FinetuneOutcome
from thoughtlens.evals.finetune.stage import finetune, plan
from thoughtlens.evals.reconstruction.config import ValidateConfig
from thoughtlens.evals.reconstruction.stage import validate

HOOK = "layers.1:out"


def dictionary(root, cfg, hooks, thoughts=None):
    """An SAE that fits the rows of a store a little: random directions, its bias and gain fitted."""
    store = ActivationStore.open(root / "acts")
    sample = store.view(hooks, "train", thoughts).sample(2000, 0)
    sae = saes.create(cfg, sample.x.shape[1], seed=0)
    cells = [(hook, thought) for hook in hooks for thought in (thoughts or [None])]
    sae.initialize(sample.x, torch.from_numpy(sample.cell) if len(cells) > 1 else None, cells)
    sae.hook_names = list(hooks)
    sae.provenance = {"split": "train", "acts_digest": digest(root / "acts"), "rows_seen": 5000}
    if thoughts is not None:
        sae.provenance["thoughts"] = list(thoughts)
    saes.save(sae, root / "sae" / "pooled")
    return root


@pytest.fixture(scope="module")
def text_run(tiny_lm_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    words = "the cat sat on a mat and the dog ran to some far hill with its old red ball"
    words = words.split(" ")
    texts = [" ".join(words[(7 * i + j * (i % 5 + 1)) % len(words)] for j in range(24)) for i in range(60)]
    (root / "texts.txt").write_text("\n\n".join(texts))
    table = {
        "model": {"name": str(tiny_lm_dir), "dtype": "float32"}, "hook_names": [HOOK],
        "problems": {"source": str(root / "texts.txt")}, "context_length": 64, "store_dtype": "float32",
    }  # fmt: skip
    extract(load_config(ExtractConfig, table), root / "acts")
    return dictionary(root, saes.TopKConfig(d_sae=64, k=6), [HOOK])


@pytest.fixture(scope="module")
def thought_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("thoughts")
    table = {"model": {"name": "codi-tiny", "dtype": "float32"}, "store_dtype": "float32"}
    table["problems"] = {"source": "generated", "n": 500}
    extract(load_config(ExtractConfig, table), root / "acts")
    return dictionary(root, saes.TopKConfig(d_sae=192, k=8), ["layers.0:out"], list(range(7)))


def settings(root, **changed) -> FinetuneConfig:
    return FinetuneConfig(acts=root / "acts", sae=root / "sae", **({"lr": 2e-3, "steps": 20} | changed))


def test_on_text_the_model_loses_less_and_the_numbers_are_those_of_validate(text_run, tmp_path):
    result = finetune(settings(text_run, ce_tokens=1000), tmp_path / "finetune")
    found = FinetuneOutcome.from_json(result)
    before, mine, rival = found.arms
    assert (before.arm, mine.arm, rival.arm) == ("before", "finetuned", "squared_error")
    assert mine.kl.value < before.kl.value and found.kl_last < found.kl_first
    kl = {g.rival: g.difference for g in found.gains if g.measure == "kl"}
    assert kl["before"].value == pytest.approx(before.kl.value - mine.kl.value)
    assert kl["squared_error"].value == pytest.approx(rival.kl.value - mine.kl.value)
    assert kl["before"].verdict == "better" and kl["before"].low > 0
    assert found.costs[0].seconds > found.costs[1].seconds > 0 and found.costs[1].tokens == 0
    for sae, arm in ((text_run / "sae", before), (tmp_path / "finetune", mine)):
        cfg = ValidateConfig(acts=text_run / "acts", sae=sae, ce_tokens=1000, baselines=(), force=True)
        member = validate(cfg, tmp_path / f"validate-{arm.arm}")["members"][0]
        row = next(row for row in member["fidelity"] if row["arm"] == "sae")
        assert (row["kl"], row["delta_ce"]) == pytest.approx((arm.kl.value, arm.delta_ce.value), rel=1e-3)
        assert member["reconstruction"]["sae"]["fvu"] == pytest.approx(arm.fvu, rel=1e-3)
        assert (
            member["sparsity"]["l0"] == pytest.approx(arm.l0) and member["sparsity"]["n_dead"] == arm.n_dead
        )
    kept = saes.load(tmp_path / "finetune" / "pooled").provenance
    assert kept["finetune"]["steps"] == 20 and kept["rows_seen"] == 5000 + found.costs[0].rows
    again = finetune(settings(text_run, ce_tokens=1000), tmp_path / "again")
    assert again["digest"] == result["digest"] and again["arms"] == result["arms"]


def test_on_thoughts_the_answers_are_nearer_with_all_places_replaced(thought_run, tmp_path):
    cfg = settings(thought_run, steps=25, batch_problems=32, answer_problems=60)
    found = FinetuneOutcome.from_json(finetune(cfg, tmp_path / "finetune"))
    before, mine, _ = found.arms
    assert mine.kl.value < before.kl.value and mine.accuracy.n == 45
    assert {g.measure for g in found.gains} == {"kl", "accuracy"}
    sae = ValidateConfig(
        acts=thought_run / "acts", sae=tmp_path / "finetune", answer_problems=60, baselines=(), force=True
    )
    rows = validate(sae, tmp_path / "validate")["members"][0]["fidelity"]
    everywhere = next(row for row in rows if row["scope"] == "all")
    assert everywhere["kl"] == pytest.approx(mine.kl.value, rel=1e-3)
    assert everywhere["accuracy"] == mine.accuracy.value


def test_what_cannot_be_trained_further_is_refused_in_one_line(text_run, thought_run, tmp_path):
    def refused(root, error, words, sae=None, **changed):
        cfg = settings(root, **changed)
        cfg = cfg if sae is None else cfg.model_copy(update={"sae": sae})
        with pytest.raises(error, match=words) as told:
            finetune(cfg, tmp_path / "out")
        assert "\n" not in str(told.value) and not (tmp_path / "out").exists()

    refused(text_run, ConfigError, "split=train is what pooled was trained on", split="train")
    refused(text_run, ConfigError, "expected one of pooled, got 'none'", member="none")
    refused(text_run, DataError, "no problem|No document|split", split="nowhere")
    refused(text_run, MismatchError, "hook|width|model", sae=thought_run / "sae")
    own = saes.load(text_run / "sae" / "pooled")
    two = copy.deepcopy(own)
    two.hook_names = [HOOK, "layers.2:out"]
    saes.save(two, tmp_path / "two" / "pooled")
    refused(text_run, ConfigError, "reads several hooks", sae=tmp_path / "two")
    across = saes.create(
        saes.TranscoderConfig(d_sae=64, k=4, hook_in=HOOK, hook_out="layers.2:out"), 32, seed=0
    )
    across.hook_names = [HOOK]
    saes.save(across, tmp_path / "across" / "pooled")
    refused(text_run, ConfigError, "does not stand for the one vector", sae=tmp_path / "across")


def test_the_plan_grows_with_the_steps(text_run, tmp_path):
    few, many = (plan(settings(text_run, steps=n)) for n in (10, 1000))
    assert many.rows == 100 * few.rows and many.seconds > few.seconds and many.memory_bytes > 0
    assert plan(FinetuneConfig(acts=tmp_path / "none", sae=tmp_path / "none")).rows == 0
