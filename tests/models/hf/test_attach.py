"""An SAE inside a model's own forward pass."""

from __future__ import annotations

import pytest
import torch

from tests.sae.toy import random_sae
from thoughtlens import sae as saes
from thoughtlens.core import HookError, MismatchError
from thoughtlens.models.hf.attach import attach
from thoughtlens.models.hf.capture import capture, replace
from thoughtlens.models.hf.load import load

HOOK = "layers.1:out"
IDS = torch.tensor([[5, 9, 70, 31], [8, 8, 90, 44]])


@pytest.fixture(scope="module")
def lm(tiny_lm_dir):
    return load(str(tiny_lm_dir), dtype="float32")


@pytest.fixture
def sae():
    sae = random_sae(saes.TopKConfig(d_sae=40, k=4), d_in=32).float()
    sae.hook_names = [HOOK]
    return sae


@torch.no_grad()
def test_the_model_goes_on_with_the_reconstruction(lm, sae):
    with attach(lm.model, sae) as seen:
        logits = lm.model(IDS).logits
    x = capture(lm.model, IDS, None, [HOOK])[HOOK]
    with replace(lm.model, HOOK, lambda x: sae(x)):
        expected = lm.model(IDS).logits
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(seen.acts, sae.encode(x), atol=1e-5)
    assert torch.allclose(seen.error, x - sae(x), atol=1e-5)
    assert not torch.allclose(logits, lm.model(IDS).logits, atol=1e-3)


@torch.no_grad()
def test_reading_changes_nothing(lm, sae):
    with attach(lm.model, sae, output="x") as seen:
        assert torch.equal(lm.model(IDS).logits, lm.model(IDS).logits)
        inside = lm.model(IDS).logits
    assert torch.equal(inside, lm.model(IDS).logits)
    assert seen.acts.shape == (2, 4, 40)


def test_gradients_reach_the_latents(lm, sae):
    with attach(lm.model, sae) as seen:
        loss = lm.model(IDS, labels=IDS).loss
    (gradient,) = torch.autograd.grad(loss, seen.acts)
    assert gradient.shape == seen.acts.shape and gradient.abs().sum() > 0


def test_it_is_gone_after_the_block_even_after_an_error(lm, sae):
    with torch.no_grad():
        plain = lm.model(IDS).logits
    with pytest.raises(ZeroDivisionError), attach(lm.model, sae):
        _ = 1 / 0
    with torch.no_grad():
        assert torch.equal(lm.model(IDS).logits, plain)


def test_refusals(lm, sae):
    with pytest.raises(HookError, match="Nothing was replaced"), attach(lm.model, sae):
        pass
    sae.hook_names = [HOOK, "layers.2:out"]
    with pytest.raises(HookError, match=r"one of layers\.1:out, layers\.2:out"), attach(lm.model, sae):
        pass
    wide = random_sae(saes.TopKConfig(d_sae=40, k=4), d_in=31).float()
    with pytest.raises(MismatchError, match="width 31"), attach(lm.model, wide, hook_name=HOOK):
        lm.model(IDS)
    other = saes.create(saes.TranscoderConfig(d_sae=8, k=2, hook_in=HOOK), 32, seed=0)
    with pytest.raises(MismatchError, match="predicts another"), attach(lm.model, other, hook_name=HOOK):
        pass
