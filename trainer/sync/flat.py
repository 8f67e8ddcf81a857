"""One flat buffer for all parameters of a network and one for all gradients; the parameters become views of them.

Then exchange, clip, optimizer and target update are one operation each, whatever the number of layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatParameters:
    """The parameters of `module` in one buffer.

    data: [P] all weights, an optimizer's only parameter, whose .grad is the flat gradient buffer. The module keeps
    working as before: its parameters and their gradients are views. Gradients must be zeroed in place.
    """

    def __init__(self, module: nn.Module) -> None:
        named = list(module.named_parameters())
        assert len({p.dtype for _, p in named}) == 1, "one buffer, one precision"
        first = named[0][1]
        total = sum(p.numel() for _, p in named)
        weights = torch.empty(total, dtype=first.dtype, device=first.device)
        gradient = torch.zeros_like(weights)
        self.names: list[tuple[str, int, int]] = []  # name, begin, end
        begin = 0
        for name, parameter in named:
            end = begin + parameter.numel()
            weights[begin:end].copy_(parameter.data.flatten())
            parameter.data = weights[begin:end].view_as(parameter)
            parameter.grad = gradient[begin:end].view_as(parameter)
            self.names.append((name, begin, end))
            begin = end
        self.data = nn.Parameter(weights)
        self.data.grad = gradient

    @property
    def grad(self) -> Tensor:
        assert self.data.grad is not None
        return self.data.grad

    def name_at(self, position: int) -> str:
        """Return the parameter that element `position` of the buffer belongs to."""
        return next(name for name, begin, end in self.names if begin <= position < end)
