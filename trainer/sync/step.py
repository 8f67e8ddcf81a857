"""What every strategy does once the gradients have met: clip, then step; by one optimizer or by one for each level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.sync.flat import FlatParameters
from trainer.types import State


class Level(NamedTuple):
    """Parameters that share an optimizer: a stretch of the flat buffer."""

    name: str
    begin: int
    end: int
    make: Callable[[nn.Parameter], torch.optim.Optimizer]


class ClippedOptimizer:
    """Optimizers on a flat buffer, with a clip of the global norm in front of them.

    part: the stretch of the buffer that is stepped here; None: all of it.
    """

    def __init__(self, flat: FlatParameters, levels: Sequence[Level], part: slice | None = None) -> None:
        self.flat = flat
        self.part = part or slice(0, flat.data.numel())
        self._optimizers: dict[str, tuple[nn.Parameter, torch.optim.Optimizer]] = {}
        for level in levels:
            begin, end = max(level.begin, self.part.start), min(level.end, self.part.stop)
            if begin < end:
                stretch = nn.Parameter(flat.data.data[begin:end])
                stretch.grad = flat.grad[begin:end]
                self._optimizers[level.name] = (stretch, level.make(stretch))

    def zero_grad(self) -> None:
        self.flat.grad.zero_()

    def set_lr(self, lr: float) -> None:
        for _, optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr

    def step(self, max_norm: float, norm: Tensor | None = None) -> Tensor:
        """Scale the gradient to at most `max_norm`, step, and return the norm before the clip, [].

        norm: of the whole gradient, where only a part of it is here; None: that of the buffer.
        """
        grad = self.flat.grad[self.part]
        if norm is None:
            norm = torch.linalg.vector_norm(grad)
        if max_norm != math.inf:
            grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        for _, optimizer in self._optimizers.values():
            optimizer.step()
        return norm

    def state_dict(self) -> State:
        """Return the moments of each level, flat, under the optimizer's own names."""
        return {name: dict(optimizer.state.get(held, {})) for name, (held, optimizer) in self._optimizers.items()}

    def load_state_dict(self, state: State) -> None:
        """Restore the moments; before the first step there are none."""
        for name, (held, optimizer) in self._optimizers.items():
            moments = {k: v.to(held.device) if k != "step" else v for k, v in state[name].items()}
            if moments:
                optimizer.state[held] = moments
