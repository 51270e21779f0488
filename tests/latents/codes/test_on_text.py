"""Which latents fire on a text: a run on a tiny model, and one on thoughts."""

from __future__ import annotations

import json

import pytest
import torch

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ConfigError, DataError, NotThereError, validate_config
from thoughtlens.latents.codes import on_text as fire
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret
from thoughtlens.models.hf.capture import capture
from thoughtlens.models.hf.load import load
from thoughtlens.sae import TopKConfig, create
from thoughtlens.sae.formats.io import load as load_sae
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

TEXTS = ["Dogs are man's best friend.", "Neural networks process information.", "London is a major city."]
HOOK = "layers.1:out"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_lm_dir):
    root = tmp_path_factory.mktemp("fire")
    words = ["cat", "dog", "tree", "house", "river", "stone"]
    texts = [f"This is document {i} about a {words[i % 6]} and more." for i in range(120)]
    (root / "t.txt").write_text("\n\n".join(texts))
    table = {
        "model": {"name": str(tiny_lm_dir), "dtype": "float32"},
        "problems": {"source": str(root / "t.txt")},
        "hook_names": [HOOK],
        "context_length": 64,
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    sae = {"kind": "topk", "d_sae": 64, "k": 4}
    train(
        validate_config(
            TrainConfig, {"acts": root / "acts", "sae": sae, "batch_size": 128, "epochs": 1, "evaluations": 1}
        ),
        root / "sae",
    )
    interpret(InterpretConfig(acts=root / "acts", sae=root / "sae"), root / "interpret")
    return root


def test_fire_equals_the_model_and_the_sae_by_hand(run, tiny_lm_dir):
    result = fire.fire(run, TEXTS)
    json.dumps(result.to_json(), allow_nan=False)
    lm, sae = load(str(tiny_lm_dir), dtype="float32"), load_sae(run / "sae")
    for text, one in zip(TEXTS, result.texts, strict=True):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        x = capture(lm.model, ids, None, [HOOK])[HOOK][0, 1:]  # without <s>
        with torch.no_grad():
            acts = sae.encode(x)
        best, at = acts.max(0)
        order = best.argsort(descending=True)[:10].tolist()
        assert one.text == text and one.n_positions == len(x)
        assert [row.latent for row in one.latents] == order
        for row in one.latents:
            assert row.max == pytest.approx(best[row.latent].item(), rel=1e-4)
            assert row.position_idx == at[row.latent]
            assert row.position == one.positions[row.position_idx]
        assert one.l0 == pytest.approx((acts != 0).sum(1).float().mean().item())
        assert one.share_active == pytest.approx((acts != 0).any(0).float().mean().item())
        assert one.share_active_per_position == pytest.approx(one.l0 / 64)
        assert all(row.position_idx > 0 for row in one.latents_past_first)


def test_shared_latents_and_rendering(run):
    result = fire.fire(run, TEXTS)
    top = [{row.latent for row in one.latents} for one in result.texts]
    assert set(result.shared_latents) == top[0] & top[1] & top[2]
    text = fire.render(result)
    for one in result.texts:
        assert repr(one.text) in text
    assert "Among the strongest of every text" in text and "L0 4.0 latents per token" in text


def test_everywhere_flags_come_from_interpret(run):
    result = fire.fire(run, TEXTS[:1])
    assert result.everywhere_known and result.shared_latents == []
    assert {row.everywhere for row in result.texts[0].latents} <= {None, "dense", "first_position"}


def test_refusals(run, tmp_path):
    with pytest.raises(NotThereError, match="run directory"):
        fire.fire(tmp_path / "no", TEXTS)
    with pytest.raises(ConfigError, match="got 'x'"):
        fire.fire(run, TEXTS, member="x")
    with pytest.raises(DataError, match="at least one token"):
        fire.fire(run, [""])


def test_of_several_saes_the_pooled_one_or_the_first_is_taken():
    a, b = (create(TopKConfig(d_sae=8, k=k), 4, seed=0) for k in (1, 2))
    assert fire.pick({"layers.0": a, "pooled": b}, None) == ("pooled", b)
    assert fire.pick({"layers.0": a, "layers.1": b}, None) == ("layers.0", a)
    assert fire.pick({"layers.0": a, "pooled": b}, "layers.0") == ("layers.0", a)


def test_fire_on_the_thoughts_of_a_problem(tmp_path):
    table = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"kind": "problems", "n": 60},
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    sae = {"kind": "topk", "d_sae": 96, "k": 4}
    options = {"acts": tmp_path / "acts", "sae": sae, "batch_size": 64, "epochs": 1, "evaluations": 1}
    train(validate_config(TrainConfig, options), tmp_path / "sae")
    question = "dan *2 *14 *18 hal +5 +4 +8 fay -5 *22 *3 fay 8 thrice"
    result = fire.fire(tmp_path, [question])
    one = result.texts[0]
    assert one.positions == [f"thought {i}" for i in range(7)]
    assert one.l0 == pytest.approx(4.0) and one.answer == "14"
    assert {row.hook_name for row in one.latents} <= {"layers.0:out", "layers.1:out"}
    assert "answer: '14'" in fire.render(result)
    assert not result.everywhere_known
