"""Norm, clip and step of the flat buffer as one compiled graph, for the optimizers whose formulas stand here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.sync.flat import FlatParameters
from trainer.sync.step import ClippedOptimizer, Level
from trainer.types import State

Function = Callable[..., Sequence[Tensor]]
Compiler = Callable[[Function, Sequence[Tensor]], Function]
"""(function of tensors, an example of these) -> the same function, compiled for such tensors."""
Formula = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor], dict[str, Any]], tuple[Tensor, dict[str, Tensor]]]
"""(weights, gradient, lr, moments, settings) -> (new weights, new moments), of which none changes in place."""


class FusedOptimizer(ClippedOptimizer):
    """The same steps on the same moments, but for rounding, in two passes over the buffer: the norm, and all else.

    It is the plain one where there are several levels or another optimizer, and until the first update, which makes
    the moments. max_norm: what `step` will be told.
    """

    def __init__(self, flat: FlatParameters, levels: Sequence[Level], *, max_norm: float, compiler: Compiler) -> None:
        super().__init__(flat, levels)
        self.max_norm = max_norm
        self._lr = torch.zeros((), dtype=torch.float64)
        self._run: Function | None = None
        (first, *others) = self.stretches
        formula = FORMULAS.get(type(first._optimizer))
        if formula is None or others or first.level.every > 1:
            return
        self._optimizer, self._held = first._optimizer, first._held
        example = nn.Parameter(torch.zeros_like(self._held))
        example.grad = torch.zeros_like(example)
        trial = first.level.make(example)
        trial.step()
        moments: dict[str, Tensor] = trial.state[example]
        self._names = list(moments)
        function = graph(formula, self._names, self._optimizer.param_groups[0], max_norm)
        self._run = compiler(function, [example.data, example.grad, self._lr, *moments.values()])

    def set_lr(self, lr: float) -> None:
        super().set_lr(lr)
        self._lr.fill_(lr * self.stretches[0].level.lr)

    def step(self, max_norm: float, norm: Tensor | None = None) -> Tensor:
        """Clip and step, or skip what is not finite; return the norm before the clip, []."""
        if self._run is None or norm is not None or not (moments := self._optimizer.state.get(self._held)):
            return super().step(max_norm, norm)
        assert max_norm == self.max_norm
        held = [moments[name] for name in self._names]
        return self._run(self._held.data, self._grad, self._lr, *held)[0]


def graph(formula: Formula, names: Sequence[str], settings: dict[str, Any], max_norm: float) -> Function:
    """Return norm, clip and step as a function of tensors, which changes weights and moments in place."""

    def step(weights: Tensor, grad: Tensor, lr: Tensor, *held: Tensor) -> list[Tensor]:
        norm = torch.linalg.vector_norm(grad)
        fine = norm.isfinite()
        clipped = grad if max_norm == math.inf else grad * (max_norm / (norm + 1e-6)).clamp(max=1.0)
        moments = dict(zip(names, held, strict=True))
        new, after = formula(weights, clipped, lr, moments, settings)
        weights.copy_(torch.where(fine, new, weights))
        for name, value in moments.items():
            value.copy_(torch.where(fine, after[name], value))
        return [norm]

    return step


def adam(weights: Tensor, grad: Tensor, lr: Tensor, moments: State, settings: State) -> tuple[Tensor, State]:
    """Kingma & Ba 2015, algorithm 1, as torch writes it."""
    first_decay, second_decay = settings["betas"]
    step = moments["step"] + 1
    mean = moments["exp_avg"].lerp(grad, 1 - first_decay)
    square = moments["exp_avg_sq"] * second_decay + grad * grad * (1 - second_decay)
    count = step.double()
    size = lr / (1 - first_decay**count)
    root = (square.sqrt() / (1 - second_decay**count).sqrt()).add(settings["eps"])
    return weights - size * (mean / root), {"step": step, "exp_avg": mean, "exp_avg_sq": square}


def rmsprop(weights: Tensor, grad: Tensor, lr: Tensor, moments: State, settings: State) -> tuple[Tensor, State]:
    """The centred form of Mnih et al. 2015, as torch writes it."""
    decay, momentum = settings["alpha"], settings["momentum"]
    square = moments["square_avg"] * decay + grad * grad * (1 - decay)
    mean = moments["grad_avg"].lerp(grad, 1 - decay)
    after = {"step": moments["step"] + 1, "square_avg": square, "grad_avg": mean}
    change = grad / ((square - mean * mean).sqrt() + settings["eps"])
    if momentum > 0:
        change = moments["momentum_buffer"] * momentum + change
        after["momentum_buffer"] = change
    return weights - lr * change, after


FORMULAS: dict[type[torch.optim.Optimizer], Formula] = {torch.optim.Adam: adam, torch.optim.RMSprop: rmsprop}
