"""Adam on torch's fused kernel.

Not `torch.optim.Adam`: to construct one imports torch's compiler, which takes seconds and is not used.
"""

from __future__ import annotations

import torch
from torch import nn

from thoughtlens.sae.base import SAE

EPS = 1e-8


class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980), bit for bit `torch.optim.Adam(fused=True)`.

    Parameters without a gradient are left alone, their moments too. `state` holds, by parameter, `step`
    (a float32 scalar), `exp_avg` and `exp_avg_sq`.
    """

    def __init__(self, sae: SAE, betas: tuple[float, float]):
        self.betas = betas
        self.parameters = dict(sae.named_parameters())
        self.lr_factor = sae.lr_factor
        self.state = {p: _zeros(p) for p in self.parameters.values()}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update with learning rate `lr`, times `SAE.lr_factor` where a parameter has one."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                groups.setdefault(self.lr_factor.get(name, 1.0), []).append(parameter)
        for factor, parameters in groups.items():
            self._update(parameters, lr * factor)

    def _update(self, parameters: list[nn.Parameter], lr: float) -> None:
        states = [self.state[p] for p in parameters]
        steps = [s["step"] for s in states]
        for step in steps:
            step += 1
        torch.ops.aten._fused_adam_(
            parameters,
            [p.grad for p in parameters],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            steps,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )


def _zeros(parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
