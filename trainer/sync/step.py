"""What every synchronous strategy does once the gradients have met: clip, then step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.sync.flat import FlatParameters
from trainer.types import State


class ClippedOptimizer:
    """An optimizer on one flat parameter, with a clip of the global norm in front of it."""

    def __init__(self, optimizer: torch.optim.Optimizer, flat: FlatParameters) -> None:
        self.optimizer, self.flat = optimizer, flat

    def zero_grad(self) -> None:
        self.flat.grad.zero_()

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def step(self, max_norm: float) -> Tensor:
        """Scale the gradient to at most `max_norm`, step, and return the norm before the clip, []."""
        grad = self.flat.grad
        norm: Tensor = torch.linalg.vector_norm(grad)
        if max_norm != math.inf:
            grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        return norm

    def state_dict(self) -> State:
        """Return the moments, flat, under the optimizer's own names."""
        return dict(self.optimizer.state.get(self.flat.data, {}))

    def load_state_dict(self, state: State) -> None:
        """Restore the moments; before the first step there are none."""
        held = {k: v.to(self.flat.data.device) if k != "step" else v for k, v in state.items()}
        if held:
            self.optimizer.state[self.flat.data] = held
