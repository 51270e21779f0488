"""A stack of SAEs gives its members the losses, gradients and selections that they have alone."""

from __future__ import annotations

import pytest
import torch

from thoughtlens import sae as saes
from thoughtlens.core import MismatchError
from thoughtlens.sae.kinds.base import counts
from thoughtlens.sae.kinds.stack import Stack, stack_key

D_IN, D_SAE, BATCH = 6, 20, 40
CONFIGS = {
    "topk": [
        saes.TopKConfig(d_sae=D_SAE, k=3, k_aux=2),
        saes.TopKConfig(d_sae=D_SAE, k=5, k_aux=2, auxk=0.5),
    ],
    "topk_free": [
        saes.TopKConfig(d_sae=D_SAE, k=k, decoder_norm="free", pre_bias=False, auxk=0) for k in (2, 2)
    ],
    "relu": [saes.ReLUConfig(d_sae=D_SAE, l1=l1) for l1 in (0.5, 2.0)],
    "relu_means": [
        saes.ReLUConfig(
            d_sae=D_SAE,
            l1=l1,
            l1_warmup=w,
            reconstruction="mean",
            penalty="mean",
            penalty_by_decoder_norm=True,
            decoder_norm="free",
        )
        for l1, w in ((0.5, 0.0), (2.0, 0.5))
    ],
}


def rows(seed: int) -> torch.Tensor:
    return 3 * torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(seed)) + seed


def new(cfg: saes.SAEConfig, seed: int) -> saes.SAE:
    sae = saes.create(cfg, D_IN, seed=seed)
    sae.initialize(rows(seed))
    return sae


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_losses_and_gradients_are_those_of_each_alone(name, dtype):
    alone = [new(cfg, seed) for seed, cfg in enumerate(CONFIGS[name])]
    together = [new(cfg, seed) for seed, cfg in enumerate(CONFIGS[name])]
    dead = torch.zeros(2, D_SAE, dtype=torch.bool)
    dead[0, :6], dead[1, 4:7] = True, True  # more than k_aux, and another number of them
    for sae in (*alone, *together):
        sae.compute_dtype = dtype
    progress = [0.25, 0.75]
    stack = Stack(together)
    x = torch.stack([rows(0), rows(1)])
    terms = stack.loss(x, [None, None], dead, progress)
    terms.total.sum().backward()
    for i, sae in enumerate(alone):
        loss = sae.loss(saes.Batch(x[i], dead=dead[i], progress=progress[i]))
        loss.total.backward()
        assert terms.total[i].item() == pytest.approx(loss.total.item(), rel=1e-5)
        for term, value in loss.terms.items():
            assert terms.terms[term][i].item() == pytest.approx(value.item(), rel=1e-5)
        assert torch.equal(terms.fired[i], counts(loss.acts, D_SAE))
        assert torch.equal(terms.idle[i], loss.idle)
        for parameter_name, parameter in sae.named_parameters():
            grad = stack.parameters[parameter_name].grad[i]
            off = (grad - parameter.grad).abs().max() / parameter.grad.abs().max()
            assert off < (1e-5 if dtype is None else 0.02)


def test_members_stay_ordinary_saes_of_the_same_memory():
    members = [new(cfg, seed) for seed, cfg in enumerate(CONFIGS["topk"])]
    before = members[1](rows(1))
    stack = Stack(members)
    assert torch.equal(members[1](rows(1)), before)
    with torch.no_grad():
        for parameter in stack.parameters.values():
            parameter[1] *= 2
    for name, parameter in members[1].named_parameters():
        assert torch.equal(parameter, stack.parameters[name][1])
    assert members[1].W_enc.T.is_contiguous()


def test_rows_of_several_cells_are_normalised_by_their_own():
    cells = [("a", None), ("b", None)]
    cell = torch.arange(BATCH) % 2
    members = [saes.create(CONFIGS["topk"][0], D_IN, seed=s) for s in range(2)]
    for seed, sae in enumerate(members):
        sae.initialize(rows(seed), cell, cells)
    stack = Stack(members)
    z = stack.normalize(torch.stack([rows(0), rows(1)]), [cell, 1 - cell])
    assert torch.equal(z[0], members[0].normalize(rows(0), cell))
    assert torch.equal(z[1], members[1].normalize(rows(1), 1 - cell))


def test_what_may_differ_and_what_may_not():
    one = saes.TopKConfig(d_sae=16, k=2)
    assert stack_key(one, 8) == stack_key(saes.TopKConfig(expansion=2, k=4, init="xavier"), 8)
    for other in (
        saes.TopKConfig(d_sae=8, k=2),
        saes.TopKConfig(d_sae=16, k=2, k_aux=3),
        saes.TopKConfig(d_sae=16, k=2, auxk=0),
        saes.TopKConfig(d_sae=16, k=2, pre_bias=False),
        saes.ReLUConfig(d_sae=16),
    ):
        assert stack_key(one, 8) != stack_key(other, 8)
    assert stack_key(saes.GatedConfig(d_sae=16), 8) is None
    with pytest.raises(MismatchError, match="topk 8 x 16, relu 8 x 16; stack equal ones"):
        Stack([saes.create(cfg, 8, seed=0) for cfg in (one, saes.ReLUConfig(d_sae=16))])
