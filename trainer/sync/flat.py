"""One flat buffer for all parameters of a network and one for all gradients; the parameters become views of them.

Exchange, clip, optimizer and target update are then one operation each, whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_ALIGN = 16
"""Parts are rounded up to this many elements, a vector register's, so that each rounds like the whole does there."""


class FlatParameters:
    """The parameters of `module` in one buffer.

    data: [P] all weights, an optimizer's only parameter, whose .grad is the flat gradient buffer. The module keeps
    working as before: its parameters and their gradients are views. Gradients must be zeroed in place.
    level_of: parameter name -> number; parameters of a level are adjacent, levels in the order of their numbers.
    parts: number of equal stretches of `whole` and `whole_grad`, which are data and gradient, padded at the end.
    """

    def __init__(self, module: nn.Module, level_of: Callable[[str], int] = lambda name: 0, parts: int = 1) -> None:
        named = sorted(module.named_parameters(), key=lambda item: level_of(item[0]))
        assert len({p.dtype for _, p in named}) == 1, "one buffer, one precision"
        first = named[0][1]
        total = sum(p.numel() for _, p in named)
        self.each = total if parts == 1 else -(-total // (parts * _ALIGN)) * _ALIGN
        self.whole = torch.zeros(parts * self.each, dtype=first.dtype, device=first.device)
        self.whole_grad = torch.zeros_like(self.whole)
        weights, gradient = self.whole[:total], self.whole_grad[:total]
        self.names: list[tuple[str, int, int]] = []  # name, begin, end
        self.shapes = [parameter.shape for _, parameter in named]
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

    @property
    def parts(self) -> list[slice]:
        return [self.part(number) for number in range(len(self.whole) // self.each)]

    def part(self, number: int) -> slice:
        """Return the stretch of the buffer that is part `number`; the last ones may be short or empty."""
        total = self.data.numel()
        return slice(min(number * self.each, total), min((number + 1) * self.each, total))

    def name_at(self, position: int) -> str:
        """Return the parameter that element `position` of the buffer belongs to."""
        return next(name for name, begin, end in self.names if begin <= position < end)
