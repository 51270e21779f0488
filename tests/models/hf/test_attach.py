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


@torch.no_grad()
def test_special_tokens_are_left_alone(lm, sae):
    ids = torch.tensor([[1, 9, 70, 31], [0, 1, 90, 44]])
    with attach(lm.model, sae, untouched=lm.special_ids):
        after = capture(lm.model, ids, None, [HOOK])[HOOK]
    x = capture(lm.model, ids, None, [HOOK])[HOOK]
    special = torch.isin(ids, torch.tensor(lm.special_ids))
    assert special.tolist() == [[True, False, False, False], [True, True, False, False]]
    assert torch.equal(after[special], x[special])
    assert torch.allclose(after[~special], sae(x)[~special], atol=1e-5)
    with attach(lm.model, sae, untouched=lm.special_ids):  # token by token, as text is continued
        past = lm.model(ids[:1, :2], use_cache=True).past_key_values
        step = lm.model(input_ids=ids[:1, 2:], past_key_values=past).logits[:, -1]
        whole = lm.model(ids[:1]).logits[:, -1]
    assert torch.allclose(step, whole, atol=1e-4)
    with pytest.raises(HookError, match="not given token ids"), attach(lm.model, sae, untouched=[1]):
        lm.model(inputs_embeds=lm.model.get_input_embeddings()(ids))
    assert not lm.model._forward_pre_hooks


def test_the_error_term_leaves_the_pass_as_it_was_and_has_its_share(lm, sae):
    plain = lm.model(IDS).logits
    with attach(lm.model, sae, output="x_hat+error") as seen:
        logits = lm.model(IDS).logits
    assert torch.allclose(logits, plain, atol=1e-4)
    acts, error = torch.autograd.grad(logits[0, -1, 7], [seen.acts, seen.error])
    assert acts.abs().sum() > 0 and error.abs().sum() > 0
    # By the chain rule: the error's gradient, through the decoder.
    x = capture(lm.model, IDS, None, [HOOK])[HOOK]
    alone = seen.acts.detach().requires_grad_()
    (expected,) = torch.autograd.grad((sae.decode(alone, x=x) * error).sum(), alone)
    assert torch.allclose(acts, expected, atol=1e-6)


@torch.no_grad()
def test_latents_are_edited_and_the_rest_of_the_state_stays(lm, sae):
    x = capture(lm.model, IDS, None, [HOOK])[HOOK]
    latent = int((sae.encode(x) != 0).flatten(0, 1).sum(0).argmax())

    def without(acts):
        return acts.index_fill(-1, torch.tensor([latent]), 0.0)

    with attach(lm.model, sae, output="x_hat+error", edit=without):
        after = capture(lm.model, IDS, None, [HOOK])[HOOK]
    expected = x + sae.decode(without(sae.encode(x)), x=x) - sae.decode(sae.encode(x), x=x)
    assert torch.allclose(after, expected, atol=1e-5) and not torch.allclose(after, x, atol=1e-3)
    with attach(lm.model, sae, output="x_hat+error", edit=lambda acts: acts):
        assert torch.allclose(capture(lm.model, IDS, None, [HOOK])[HOOK], x, atol=1e-5)
    with (
        pytest.raises(HookError, match="nothing is changed"),
        attach(lm.model, sae, output="x", edit=without),
    ):
        pass
