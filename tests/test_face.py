"""The face for notebooks: few words, each with a docstring and an example that runs."""

from __future__ import annotations

import re
import textwrap

import pytest
import torch

import thoughtlens as tl
from thoughtlens.core import DataError, HookError

VERBS = ("load_model", "think", "read", "fit", "run", "open_run", "load_sae")
QUESTION = "dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"


def example(verb: str) -> str:
    """The code of a verb's example; a smaller run than the one it shows."""
    found = re.search(r"```python\n(.*?)```", getattr(tl, verb).__doc__, re.S)
    assert found, f"{verb} has no example"
    small = '"problems.n=1000", \'stages=["extract", "train", "interpret"]\', "train.batch_size=256"'
    return textwrap.dedent(found[1]).replace('"problems.n=1000"', small)


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"tl": tl, "torch": torch}
    for verb in VERBS:
        exec(compile(example(verb), verb, "exec"), names)
    assert "torch.Size([3, 32])" in capsys.readouterr().out


def test_words_are_few_and_explained():
    words = [name for name in tl.__all__ if name not in ("metrics",)]
    assert 8 <= len(words) <= 12
    assert all(getattr(tl, word).__doc__ for word in words)


def test_thoughts_are_read_in_order():
    thoughts = tl.think(tl.load_model("codi-tiny"), [QUESTION])
    said = [thoughts.says(i)[0][0][0] for i in range(1, 6)]
    assert said == ["*5", "9", "+10", "19", "*16"] and thoughts.answers == ["5"]
    assert thoughts.at("layers.1:out@2").shape == (1, 96) and thoughts.at("layers.1:out").shape == (1, 7, 96)
    with pytest.raises(HookError, match=r"layers\.9:out@2"):
        thoughts.at("layers.9:out@2")


def test_an_edit_acts():
    model = tl.load_model("codi-tiny")
    plain = tl.think(model, [QUESTION])
    edited = tl.think(model, [QUESTION], edits={"thought_in@3": lambda x: torch.zeros_like(x)})
    assert not edited.at("thought_in@3").any() and plain.at("thought_in@3").any()
    with pytest.raises(HookError):
        tl.think(model, [QUESTION], edits={"thought_in@9": lambda x: x})


def test_rows_are_the_tokens_of_the_texts(tiny_lm_dir):
    lm = tl.load_model(tiny_lm_dir, dtype="float32")
    acts = tl.read(lm, ["a dog", "cat"], ["layers.1:out", "layers.3:out"])
    alone = tl.read(lm, ["cat"], "layers.3:out")
    torch.testing.assert_close(acts.at["layers.3:out"][acts.text_idx == 1], alone.x)
    assert len(acts.tokens) == len(acts.text_idx) == len(acts.at["layers.1:out"])
    with pytest.raises(DataError, match="at least one text"):
        tl.read(lm, "a dog", "layers.1:out")


def test_fit_finds_planted_directions():
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(12, 32, generator=generator), dim=1)
    codes = (torch.rand(4000, 12, generator=generator) < 0.1) * torch.rand(4000, 12, generator=generator)
    sae = tl.fit(
        tl.sae.TopKConfig(d_sae=24, k=3), codes @ atoms, place="layers.1:out@3", epochs=40, batch_size=256
    )
    assert tl.metrics.mmcs(sae.W_dec, atoms).recall > 0.9
    assert sae.hook_names == ["layers.1:out"]
