"""Norm, clip and step of the flat buffer as one compiled graph, for the optimizers with a formula here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.sync.flat import FlatParameters
from trainer.sync.step import ClippedOptimizer, Level
from trainer.types import Compiler, Function, State


class Formula(NamedTuple):
    """The step of one optimizer."""

    scalars: Callable[[float, float, State], list[float]]
    """(lr, step number, settings) -> scalars of this step, which a graph would recompute for every few weights"""
    step: Callable[[Tensor, Tensor, Tensor, dict[str, Tensor], State], tuple[Tensor, dict[str, Tensor]]]
    """(weights, gradient, scalars, moments, settings) -> (new weights, new moments); nothing changes in place."""


class FusedOptimizer(ClippedOptimizer):
    """The same steps on the same moments, up to rounding, in two passes over the buffer: the norm, then all else.

    It falls back to the plain one with several levels or another optimizer, before `compile`, and for the first
    update, which makes the moments. max_norm: what `step` will be called with; fits: whether there is a formula.
    It may also end the graph that finds the gradient (`compiled.Ending`).
    """

    steps = True

    def __init__(self, flat: FlatParameters, levels: Sequence[Level], *, max_norm: float) -> None:
        super().__init__(flat, levels)
        self.max_norm = max_norm
        self.example: list[Tensor] = []
        self._stated: float | None = None  # what `set_lr` was last given
        self._lr = 0.0
        self._run: Function | None = None
        self._moments: State = {}
        self._arguments: list[Tensor] = []  # those moments after the scalars
        (first, *others) = self.stretches
        formula = next((one for kind, one in FORMULAS.items() if isinstance(first._optimizer, kind)), None)
        self.fits = formula is not None and not others and first.level.every == 1
        if formula is None or not self.fits:
            return
        self._optimizer, self._held, self._formula = first._optimizer, first._held, formula
        settings = self._optimizer.param_groups[0]
        # of the next step, passed to the graph without making a tensor each time
        self._scalars = torch.tensor(formula.scalars(1.0, 1.0, settings), dtype=self._held.dtype)
        self._scalars_in = self._scalars.numpy()
        weights = nn.Parameter(torch.zeros_like(self._held))
        weights.grad = torch.zeros_like(weights)
        trial = first.level.make(weights)
        trial.step()
        moments: dict[str, Tensor] = trial.state[weights]
        self._names = list(moments)
        self._function = graph(formula, self._names, settings, max_norm)
        self.example = [self._scalars.clone(), *moments.values()]

    def compile(self, compiler: Compiler) -> None:
        """Make a graph of the step alone."""
        if self.fits:
            weights = self._held.detach()
            self._run = compiler(self._function, [torch.zeros_like(weights), torch.zeros_like(weights), *self.example])

    def set_lr(self, lr: float) -> None:
        if lr != self._stated:
            super().set_lr(lr)
            self._stated, self._lr = lr, lr * self.stretches[0].level.lr

    def step(self, max_norm: float, norm: Tensor | None = None) -> Tensor:
        """Clip and step, or skip what is not finite; return the norm before clipping, []."""
        if self._run is None or norm is not None or (given := self.given()) is None:
            return super().step(max_norm, norm)
        assert max_norm == self.max_norm
        return self._run(self._held.data, self._grad, *given)[0]

    def given(self) -> list[Tensor] | None:
        """Return scalars and moments for the next step; None before the first one."""
        if not (moments := self._optimizer.state.get(self._held)):
            return None
        if moments is not self._moments:  # at first, and after a load
            self._moments = moments
            self._arguments = [self._scalars, *(moments[name] for name in self._names)]
        number = moments["step"].item() + 1
        for place, scalar in enumerate(self._formula.scalars(self._lr, number, self._optimizer.param_groups[0])):
            self._scalars_in[place] = scalar
        return self._arguments

    def finish(self, weights: Tensor, gradients: list[Tensor], *given: Tensor) -> list[Tensor]:
        """Clip and step, given the gradient of each parameter, as a pure function; return the norm before clipping."""
        return list(self._function(weights, torch.cat([part.flatten() for part in gradients]), *given))


def graph(formula: Formula, names: Sequence[str], settings: dict[str, Any], max_norm: float) -> Function:
    """Return norm, clip and step: (weights, gradient, scalars, *moments) -> [norm]; weights and moments in place."""

    def step(weights: Tensor, grad: Tensor, scalars: Tensor, *held: Tensor) -> list[Tensor]:
        norm = torch.linalg.vector_norm(grad)
        fine = norm.isfinite()
        clipped = grad if max_norm == math.inf else grad * (max_norm / (norm + 1e-6)).clamp(max=1.0)
        moments = dict(zip(names, held, strict=True))
        new, after = formula.step(weights, clipped, scalars, moments, settings)
        weights.copy_(torch.where(fine, new, weights))
        for name, value in moments.items():
            value.copy_(torch.where(fine, after[name], value))
        return [norm]

    return step


def adam_scalars(lr: float, step: float, settings: State) -> list[float]:
    """Return the step size and the factor on the root of the second moment."""
    first_decay, second_decay = settings["betas"]
    return [lr / (1 - first_decay**step), 1 / math.sqrt(1 - second_decay**step)]


def adam(weights: Tensor, grad: Tensor, scalars: Tensor, moments: State, settings: State) -> tuple[Tensor, State]:
    """Kingma & Ba 2015, algorithm 1, as torch writes it."""
    first_decay, second_decay = settings["betas"]
    size, scale = scalars.unbind()
    mean = moments["exp_avg"].lerp(grad, 1 - first_decay)
    square = moments["exp_avg_sq"] * second_decay + grad * grad * (1 - second_decay)
    change = mean / (square.sqrt() * scale + settings["eps"])
    return weights - size * change, {"step": moments["step"] + 1, "exp_avg": mean, "exp_avg_sq": square}


def rmsprop(weights: Tensor, grad: Tensor, scalars: Tensor, moments: State, settings: State) -> tuple[Tensor, State]:
    """The centred form of Mnih et al. 2015, as torch writes it."""
    decay, momentum = settings["alpha"], settings["momentum"]
    square = moments["square_avg"] * decay + grad * grad * (1 - decay)
    mean = moments["grad_avg"].lerp(grad, 1 - decay)
    after = {"step": moments["step"] + 1, "square_avg": square, "grad_avg": mean}
    change = grad / ((square - mean * mean).sqrt() + settings["eps"])
    if momentum > 0:
        change = moments["momentum_buffer"] * momentum + change
        after["momentum_buffer"] = change
    return weights - scalars[0] * change, after


FORMULAS: dict[type[torch.optim.Optimizer], Formula] = {
    torch.optim.Adam: Formula(adam_scalars, adam),
    torch.optim.RMSprop: Formula(lambda lr, step, settings: [lr], rmsprop),
}
