"""One optimizer over a stack does what its members' do, each with its own rate, factor and step."""

from __future__ import annotations

import copy

import pytest
import torch

from thoughtlens import sae as saes
from thoughtlens.sae.fit.adam import MOST, Adam, StackAdam
from thoughtlens.sae.kinds.stack import Stack

N, D_IN, D_SAE = 4, 5, 20


def members(norm: str) -> list[Adam]:
    """Optimizers of SAEs, the last one at another step than the others."""
    cfg = saes.TopKConfig(d_sae=D_SAE, k=2, decoder_norm=norm)
    optimizers = [Adam(saes.create(cfg, D_IN, seed=i), (0.9, 0.99)) for i in range(N)]
    for parameter in optimizers[-1].parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizers[-1].step([1e-3], [1.0])
    return optimizers


@pytest.mark.parametrize("norm", ["unit", "free"])
@pytest.mark.parametrize("most", [1, MOST])  # 1: every member by itself
def test_a_step_is_each_members_own(norm, most):
    alone, together = members(norm), members(norm)
    start = copy.deepcopy(alone[2].sae)
    stack = Stack([one.sae for one in together])
    joint = StackAdam(stack, together, most)
    lrs, factors = [1e-2, 1e-2, None, 3e-3], [1.0, 0.25, 1.0, 1.0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        idle = torch.rand(N, D_SAE, generator=generator) < 0.3
        for name, whole in stack.parameters.items():
            grad = torch.randn(whole.shape, generator=generator)
            if name == "W_enc":
                grad = torch.where(idle[:, None], 0, grad)
            elif name != "b_dec":
                grad = torch.where(idle.view(N, D_SAE, *[1] * (grad.ndim - 2)), 0, grad)
            whole.grad = grad.mT.contiguous().mT if name == "W_enc" else grad
            for one, part in zip(alone, grad, strict=True):
                one.parameters[name].grad = part.clone()
        norms = [one.norms(own[None]) for one, own in zip(alone, idle, strict=True)]
        torch.testing.assert_close(joint.norms(idle), torch.cat(norms))
        joint.step(lrs, factors, idle)
        for one, lr, factor, own in zip(alone, lrs, factors, idle, strict=True):
            if lr is not None:
                one.step([lr], [factor], own[None])
    for mine, theirs in zip(together, alone, strict=True):
        for name, parameter in theirs.parameters.items():
            torch.testing.assert_close(mine.parameters[name], parameter, rtol=1e-5, atol=1e-6)
            for (key, mine_of), (_, theirs_of) in zip(
                mine.state[name].items(), theirs.state[name].items(), strict=True
            ):
                torch.testing.assert_close(mine_of, theirs_of, rtol=1e-5, atol=1e-7, msg=key)
    assert torch.equal(together[2].sae.W_dec, start.W_dec)
