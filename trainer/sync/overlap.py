"""The all-reduce of update k travels while update k + 1 computes: every gradient is applied exactly one update late."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.sync.flat import FlatParameters
from trainer.sync.step import ClippedOptimizer, Level
from trainer.sync.strategy import Strategy
from trainer.sync.wire import Pending, Wire
from trainer.types import State


class Delayed(Strategy):
    """Applies the averaged gradient of the previous update, then sends this one's off (delayed SGD, Langford et
    al. 2009; the same pipeline as Pipe-SGD, Li et al. 2018).

    The optimizer steps on a second gradient buffer, in which they travel, while the network's own fills again. The
    first update applies nothing, and its norm is 0. With a single rank, nothing travels and nothing is late.
    """

    def __init__(self, flat: FlatParameters, target: FlatParameters, levels: Sequence[Level], wire: Wire) -> None:
        self._travelling = torch.zeros_like(flat.grad)
        super().__init__(flat, target, ClippedOptimizer(flat, levels, grad=self._travelling), wire)
        self._pending: Pending | None = None
        self._arrived = False  # the mean of the last update's gradients is in the buffer

    def step(self, max_norm: float) -> Tensor:
        """Step on the previous gradient; return its norm, []. A collective."""
        if self.wire.world_size == 1:
            self._travelling.copy_(self.flat.grad)
            return self.clipped.step(max_norm)
        self._arrive()
        norm = self.clipped.step(max_norm) if self._arrived else self.flat.grad.new_zeros(())
        self._travelling.copy_(self.flat.grad)
        self._pending, self._arrived = self.wire.start_sum(self._travelling), False
        return norm

    def _arrive(self) -> None:
        """Wait for the gradient in flight."""
        if self._pending is not None:
            with self.wire.spans("sync"):
                self._pending.wait()
                self._travelling.div_(self.wire.world_size)
            self._pending, self._arrived = None, True

    def state_dict(self) -> State:
        """Return what is the same on every rank, including the gradient not yet applied. A collective."""
        self._arrive()
        pending = {"pending": self._travelling.clone()} if self._arrived else {}
        return super().state_dict() | pending

    def load_state_dict(self, state: State) -> None:
        """Restore; a checkpoint of a run without delay has no pending gradient, and a single rank applies none."""
        self._arrive()
        super().load_state_dict(state)
        self._arrived = "pending" in state and self.wire.world_size > 1
        if self._arrived:
            self._travelling.copy_(state["pending"])
