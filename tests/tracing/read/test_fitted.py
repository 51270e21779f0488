"""A value that the model's output side does not show is read by what can read it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tracing.chains.thinker import RULE, WORDS, P, Thinker, runs
from thoughtlens import sae as saes
from thoughtlens.latents import of_thoughts
from thoughtlens.problems import arithmetic
from thoughtlens.tracing.chains.tried import UNREAD, VERIFIED, trace
from thoughtlens.tracing.read.fitted import LATENTS, PROBE, TUNED, Material, choose, discriminant, keep, kept
from thoughtlens.tracing.read.lenses import LOGIT, logit_lens

FIT, CHOOSE = (arithmetic.problems(n, seed=s, split="train") for n, s in ((400, 1), (80, 2)))
QUESTIONS = arithmetic.problems(25, seed=3, split="test")["question"].to_pylist()
D = len(WORDS) + P


def material(kind, **options):
    model = Thinker(kind)
    told = {"fit": FIT, "choose": CHOOSE, "probe": False} | options
    return Material(model=model, readout=of_thoughts(model), rule=RULE, **told)


def translators(folder):
    """Numbers become words, and what the lens would read goes."""
    weight = torch.zeros(D, D)
    weight[range(len(WORDS), D), [WORDS.index(str(v)) for v in range(P)]] = 1
    weight[len(WORDS) - 1, len(WORDS) - 1] = -1
    tensors = {}
    for p in range(7):
        own = weight if p % 2 == 0 else torch.zeros(D, D)
        tensors |= {f"layers.0:out/{p}/weight": own.clone(), f"layers.0:out/{p}/bias": torch.zeros(D)}
    save_file(tensors, folder / "translators.safetensors")
    return folder / "translators.safetensors"


def dictionary():
    """A latent for each coordinate."""
    sae = saes.create(saes.TopKConfig(d_sae=D, k=2), D, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D))
        sae.W_dec.copy_(torch.eye(D))
    sae.hook_names = ["thought_out"]
    return sae


@pytest.mark.parametrize("kind", [TUNED, LATENTS, PROBE])
def test_a_value_beside_the_output_side_is_read_and_verified_by_each_kind(kind, tmp_path):
    options = {
        TUNED: {"translators": translators(tmp_path)},
        LATENTS: {"sae": dictionary()},
        PROBE: {"probe": True},
    }[kind]
    given = material("hidden", **options)
    lenses, told = choose(given)
    assert [lenses.at[p].kind for p in range(1, 5)] == [LOGIT, kind, LOGIT, kind]
    assert all(one.makes_sense > one.null + 0.5 for one in told if one.is_chosen and one.lens == kind)
    model = given.model
    found = trace(model, runs(model, lenses), RULE, QUESTIONS)
    counted = Counter(one.label for own in found.steps for one in own)
    assert counted[VERIFIED] >= 0.95 * counted.total()
    plain = trace(model, runs(model), RULE, QUESTIONS)
    counted = Counter(one.label for own in plain.steps for one in own[:-1])
    assert counted[UNREAD] >= 0.95 * counted.total()
    keep(lenses, tmp_path / "readers.safetensors")
    again = kept(tmp_path / "readers.safetensors", given.readout, model.spec.thoughts, dictionary)
    own, other = (runs(model, one)(QUESTIONS, (), False) for one in (lenses, again))
    assert [own.said(i) for i in range(25)] == [other.said(i) for i in range(25)]
    assert np.allclose(own.probability, other.probability) and np.allclose(own.null, other.null)


def test_nothing_is_kept_of_the_plain_lens(tmp_path):
    keep(logit_lens(of_thoughts(Thinker("used")), range(7)), tmp_path / "readers.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_plain_lens_reads_where_nothing_reads_better():
    lenses, told = choose(material("used", sae=dictionary(), probe=True))
    assert {lens.kind for lens in lenses.at.values()} == {LOGIT}
    assert {one.lens for one in told} == {LOGIT, LATENTS, PROBE}


def test_labels_of_other_problems_choose_no_probe():
    order, mixed = np.random.default_rng(0).permutation(len(FIT)), FIT
    for name in ("op1", "op2", "op3", "v1", "v2", "v3"):
        mixed = mixed.set_column(mixed.column_names.index(name), name, FIT[name].take(order))
    lenses, _ = choose(material("hidden", probe=True, fit=mixed))
    assert {lens.kind for lens in lenses.at.values()} == {LOGIT}


def test_the_discriminant_is_bayes_for_two_gaussians():
    # means -1 and 1, variance 1: log odds 2 x
    x = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0))
    y = np.arange(40_000) % 2
    shares = discriminant(x + torch.from_numpy(2.0 * y - 1)[:, None].float(), y, 2).shares
    odds = shares(torch.tensor([[0.0], [0.5], [1.0]])).log().diff(dim=1)[:, 0]
    assert odds.tolist() == pytest.approx([0, 1, 2], abs=0.08)
