"""What every strategy does after the exchange: clip, then step, with one optimizer or one per level.

A gradient that is not finite is skipped: weights, moments and counts stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.sync.finite import refuses, step_if
from trainer.sync.flat import FlatParameters
from trainer.types import State


class Level(NamedTuple):
    """Parameters that share an optimizer: a stretch of the flat buffer.

    lr: multiple of the learning rate; every: updates per step, which is then on the mean of their clipped gradients.
    """

    name: str
    begin: int
    end: int
    make: Callable[[nn.Parameter], torch.optim.Optimizer]
    lr: float = 1.0
    every: int = 1


class Stretch:
    """The part of a level that is stepped here (all, some or nothing), with its optimizer."""

    def __init__(self, level: Level, weights: Tensor, grad: Tensor, part: slice) -> None:
        self.level = level
        self.begin = max(level.begin, part.start)
        self.end = max(self.begin, min(level.end, part.stop))
        self._fresh = grad[self.begin : self.end]
        self._held = nn.Parameter(weights[self.begin : self.end])
        self._mean = self._fresh if level.every == 1 else torch.zeros_like(self._fresh)  # what is stepped on
        self._held.grad = self._mean
        self._updates = 0  # counted only where it matters
        self._optimizer = level.make(self._held)

    def set_lr(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr * self.level.lr

    def step(self, fine: Tensor | None = None) -> None:
        """Take in the gradient of one update; step the weights where it is due.

        fine: whether to, [], if not known on the host; the gradient is zero if it is not set.
        """
        every = self.level.every
        if every > 1:
            self._mean.add_(self._fresh, alpha=1 / every)
            self._updates += 1
            if self._updates % every:
                return
        if fine is None or every > 1:
            self._optimizer.step()
        else:
            step_if(fine, self._optimizer)
        if every > 1:
            self._mean.zero_()

    def state_dict(self) -> State:
        """Return the moments under the optimizer's own names, and the gradients waiting for a step."""
        state = dict(self._optimizer.state.get(self._held, {}))
        return state if self.level.every == 1 else state | {"waiting": self._mean, "updates": self._updates}

    def load_state_dict(self, state: State) -> None:
        """Load this stretch's elements from the state of the whole level; before the first step there are none."""
        here = slice(self.begin - self.level.begin, self.end - self.level.begin)
        moments = {name: _cut(value, here) for name, value in state.items()}
        if self.level.every > 1:
            self._mean.copy_(moments.pop("waiting"))
            self._updates = moments.pop("updates")
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": groups})


class ClippedOptimizer:
    """Optimizers on a flat buffer, preceded by a clip of the global norm.

    part: the stretch of the buffer that is stepped here; None: all of it. grad: [P] the gradient that is stepped on;
    None: the network's own.
    """

    def __init__(
        self, flat: FlatParameters, levels: Sequence[Level], part: slice | None = None, grad: Tensor | None = None
    ) -> None:
        self.flat = flat
        self.part = part or slice(0, flat.data.numel())
        self._grad = flat.grad if grad is None else grad
        self.stretches = [Stretch(level, flat.data.data, self._grad, self.part) for level in levels]

    def zero_grad(self) -> None:
        self.flat.grad.zero_()

    def set_lr(self, lr: float) -> None:
        for stretch in self.stretches:
            stretch.set_lr(lr)

    def step(self, max_norm: float, norm: Tensor | None = None) -> Tensor:
        """Scale the gradient to at most `max_norm`, step, and return the norm before clipping, [].

        Nothing is stepped if that norm is not finite. norm: of the whole gradient, if only a part of it is here;
        None: that of the buffer.
        """
        grad = self._grad[self.part]
        if norm is None:
            norm = torch.linalg.vector_norm(grad)
        if refuses(norm):
            return norm
        if max_norm != math.inf:
            grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        fine = None
        if norm.device.type != "cpu":
            fine = norm.isfinite()
            grad.masked_fill_(~fine, 0.0)
        for stretch in self.stretches:
            stretch.step(fine)
        return norm

    def state_dict(self) -> State:
        """Return the moments of each level, flat, under the optimizer's own names."""
        return {stretch.level.name: stretch.state_dict() for stretch in self.stretches}

    def load_state_dict(self, state: State) -> None:
        """Restore the moments from those of the whole buffer, whichever part is stepped here."""
        for stretch in self.stretches:
            stretch.load_state_dict(state[stretch.level.name])


def _cut(value: Any, here: slice) -> Any:
    """Return the elements `here` of a moment. Raises ValueError if it has another number of weights."""
    if isinstance(value, Tensor):
        part = value[here] if value.dim() else value
        if value.dim() and part.shape != (here.stop - here.start,):
            raise ValueError(f"a moment of {list(value.shape)} weights, where {here.stop} or more are needed")
        return part.clone()
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"a moment is a {type(value).__name__}")
    return value


def long_names(state: State) -> list[str]:
    """Return the names of what has a number per weight, in the state of a stretch."""
    return sorted(name for name, value in state.items() if isinstance(value, Tensor) and value.dim())
