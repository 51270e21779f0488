"""Effects in three architectures against forward passes that are written out, and slopes against theory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.tracing.text_graph.plain import (
    LAYERS,
    VOCAB,
    D,
    T,
    dictionary,
    forward,
    language_model,
    residual,
    transcoders,
)
from thoughtlens import sae as saes
from thoughtlens.core import HookError
from thoughtlens.tracing.text_graph.runs import Frozen, Spot, Text, in_order, require_floats
from thoughtlens.tracing.text_graph.sites import sites_of, uncovered
from thoughtlens.tracing.text_graph.trials import Way, answer_of, probability_with, taken

IDS = torch.randint(0, VOCAB, (1, T), generator=torch.Generator().manual_seed(3))
NAMES = ("llama", "neox", "gpt2")


def text_of(name, members, known=None):
    lm = language_model(name)
    sites = in_order(lm, sites_of(dict(reversed(members.items()))), IDS)
    known = torch.ones(T, dtype=torch.bool) if known is None else known
    return Text.of(lm, sites, IDS[0], known, None)


def strongest(text, site, nth=0):
    """An active latent of a site, not of the first words."""
    acts = text.acts[site].clone()
    acts[:2] = 0
    at = acts.flatten().argsort(descending=True)[nth]
    return Spot("latent", site, int(at) // acts.shape[1], int(at) % acts.shape[1])


def effects(text, source, targets):
    """Straight and free shares, by target."""
    ((found, asked),) = taken(text, [Way(source, target) for target in targets], 2, 100, 0)
    at = [asked.index(target) for target in targets]
    return torch.tensor(found.own[at]), torch.tensor(found.whole[at])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_transcoders_effects_are_those_of_a_written_out_pass(name):
    text, members = text_of(name, transcoders()), [*transcoders().values()]
    assert [site.member for site in text.sites] == ["mlp0", "mlp1", "mlp2"]
    plain = forward(name, text.lm.model, IDS)
    later, answer = strongest(text, 2), answer_of(text)
    sources = [strongest(text, 0), Spot("token", -1, 3), Spot("error", 0, 4)]
    for source in sources:
        change, where = torch.zeros(1, T, D), source.position
        if source.kind == "latent":
            acts = members[0].encode(plain.mlp_in[0])[0, where]
            change[0, where] = -acts[source.latent] * members[0].W_dec[source.latent]
        elif source.kind == "error":
            change[0, where] = (members[0](plain.mlp_in[0]) - plain.mlp_out[0])[0, where]
        else:
            table = text.lm.model.get_input_embeddings().weight
            change[0, where] = table.mean(0) - table[IDS[0, where]]
        given = {"words": change} if source.kind == "token" else {"added": {0: change}}
        held = forward(name, text.lm.model, IDS, mlps=plain.mlp_out, **given)
        free = forward(name, text.lm.model, IDS, **given)

        def reads(run):
            pre = run.mlp_in[2] @ members[2].W_enc + members[2].b_enc
            return torch.stack([pre[0, later.position, later.latent], run.logits[text.target]])

        straight, whole = effects(text, source, [later, answer])
        own = reads(plain)
        assert own[0] > 0 and text.target == int(plain.logits.argmax())
        torch.testing.assert_close(straight.float(), (own - reads(held)) / own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole.float(), (own - reads(free)) / own, rtol=1e-4, atol=1e-5)
        assert (straight - whole).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_between_saes_on_the_stream_nothing_passes_but_through_them(name):
    text, sae = text_of(name, residual()), [*residual().values()]
    plain = forward(name, text.lm.model, IDS)
    source, later, answer = strongest(text, 0), strongest(text, 1), answer_of(text)
    acts = sae[0].encode(plain.out[0])[0, source.position, source.latent]
    changed = plain.out[0].clone()
    changed[0, source.position] -= acts * sae[0].W_dec[source.latent]
    run = forward(name, text.lm.model, IDS, blocks={0: changed})
    pre = [sae[1].pre_acts(one.out[1][0])[later.position, later.latent] for one in (plain, run)]
    straight, whole = effects(text, source, [later, answer])
    at_answer = float((plain.logits - run.logits)[text.target] / plain.logits[text.target])
    assert straight.tolist() == pytest.approx([float((pre[0] - pre[1]) / pre[0]), 0.0], rel=1e-4, abs=1e-5)
    assert whole.tolist() == pytest.approx([straight[0].item(), at_answer], rel=1e-4, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_block_without_a_dictionary_is_skipped_to_see_what_it_gives(name):
    text = text_of(name, residual())
    assert uncovered(text.sites, LAYERS) == [2]
    plain = forward(name, text.lm.model, IDS)
    run = forward(name, text.lm.model, IDS, blocks={2: plain.out[1]})
    share = float((plain.logits - run.logits)[text.target] / plain.logits[text.target])
    assert text.skipped([2]) == pytest.approx(share, abs=1e-5) and abs(share) > 1e-3
    assert text.skipped([0]) == pytest.approx(0, abs=1e-5)  # a dictionary after it is held


def test_slopes_add_up_to_all_that_a_target_reads():
    # without biases, and with patterns and scales frozen, a pre-activation is linear in words and MLPs
    text = text_of("llama", transcoders())
    targets = [strongest(text, 2), strongest(text, 1, 1), answer_of(text)]
    slopes, reads = text.slopes(targets), text.readings(text.untouched, targets)[0]
    for i, target in enumerate(targets):
        total = sum(float((y * slope[i]).sum()) for y, slope in zip(text.written, slopes, strict=True))
        bias = 0.0 if target.kind == "answer" else float(text.sites[target.site].sae.b_enc[target.latent])
        assert total + bias == pytest.approx(float(reads[i]), rel=1e-4)
        parts = dict(text.foretold(target, [slope[i] for slope in slopes], False))
        merged = dict(text.foretold(target, [slope[i] for slope in slopes], True))
        assert sum(parts.values()) == pytest.approx(sum(merged.values()), rel=1e-4)
        assert len(merged) < len(parts)


def test_frozen_norms_keep_their_scale_and_frozen_attention_its_pattern():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    g = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    with Frozen():
        (given,) = torch.autograd.grad((F.layer_norm(x, (8,)) * g).sum(), x)
        (root,) = torch.autograd.grad((F.rms_norm(x, (8,)) * g).sum(), x)
        weights = F.softmax(x, -1)
    std = x.detach().var(-1, correction=0, keepdim=True).add(1e-5).sqrt()
    assert torch.allclose(given, (g - g.mean(-1, keepdim=True)) / std, atol=1e-6)
    assert torch.allclose(root, g / x.detach().square().mean(-1, keepdim=True).sqrt(), atol=1e-5)
    assert not weights.requires_grad


@torch.no_grad()
def test_a_crosscoders_sites_read_parts_and_write_parts():
    hooks = [f"layers.{i}:out" for i in range(LAYERS)]
    cfg = saes.CrosscoderConfig(sites=hooks, d_sae=24, sparsity="l1", normalization="none")
    sae = dictionary(cfg, hooks)
    text = text_of("gpt2", {"pooled": sae})
    stacked = torch.stack(text.read, -2)
    parts = sum(site.pre(x, range(24)) for site, x in zip(text.sites, text.read, strict=True))
    assert torch.allclose(parts + sae.b_enc, sae.pre_acts(stacked), atol=1e-5)
    assert all(torch.equal(acts, sae.encode(stacked)) for acts in text.acts)
    spot = strongest(text, 1)
    change = text.removal(spot)[spot.position]
    own = text.acts[1][spot.position, spot.latent]
    assert torch.allclose(change, -own * sae.W_dec[spot.latent, 1], atol=1e-5)
    assert float(text.has([spot])) == pytest.approx(float(own))


@torch.no_grad()
def test_latents_set_to_zero_one_by_one_and_all_but_some():
    known = torch.arange(T) > 0
    text, members = text_of("llama", transcoders(), known), [*transcoders().values()]
    assert not text.acts[0][0].any()
    spots = {strongest(text, 0), strongest(text, 1), strongest(text, 2)}

    def expected(keep, errors=True):
        added = {}
        for i, sae in enumerate(members):  # each layer behind those before it
            run = forward("llama", text.lm.model, IDS, added=added)
            x, acts = run.mlp_in[i][0], sae.encode(run.mlp_in[i])[0] * known[:, None]
            left = torch.zeros_like(acts) if keep else acts.clone()
            for spot in (one for one in spots if one.site == i):
                left[spot.position, spot.latent] = acts[spot.position, spot.latent] if keep else 0
            lost = sae.decode(left, x=x) - (sae.decode(acts, x=x) if errors else run.mlp_out[i][0])
            added[i] = lost[None] if errors else torch.where(known[:, None], lost, 0)[None]
        return float(forward("llama", text.lm.model, IDS, added=added).logits.softmax(-1)[text.target])

    assert probability_with(text, spots, kept=False) == pytest.approx(expected(False), rel=1e-4)
    assert probability_with(text, spots, kept=True) == pytest.approx(expected(True), rel=1e-4)
    spots = set()
    own = probability_with(text, spots, kept=False, errors=False)
    assert own == pytest.approx(expected(False, errors=False), rel=1e-4)


def test_a_text_on_which_nothing_makes_the_answer_is_refused():
    text = text_of("llama", transcoders())
    require_floats(text)
    with pytest.raises(HookError, match="mean of all logits"):
        require_floats(replace(text, logits=torch.zeros_like(text.logits)))
    with pytest.raises(HookError, match="not finite"):
        require_floats(replace(text, logits=text.logits * torch.nan))
