"""What strategies share whose replicas differ between exchanges: the consensus, the drift from it, and each rank's
own state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainer.sync.flat import FlatParameters
from trainer.sync.step import ClippedOptimizer, long_names
from trainer.sync.strategy import Strategy
from trainer.sync.wire import Wire
from trainer.types import State


class Differing(Strategy):
    """A strategy whose ranks each have weights and moments of their own; `consensus` is what they jointly represent.

    The target network follows the consensus, so it is the same on every rank, bit for bit.
    """

    def __init__(self, flat: FlatParameters, target: FlatParameters, clipped: ClippedOptimizer, wire: Wire) -> None:
        super().__init__(flat, target, clipped, wire)
        self._drift: Tensor | None = None  # [] the largest since the last report

    def consensus(self) -> Tensor:
        """Return the mean of the replicas, [P], the same bits on every rank. A collective."""
        return self.wire.mean_(self.flat.data.detach().clone())

    def note_drift(self, consensus: Tensor) -> None:
        """Record how far this replica is from the consensus, relative to the latter's norm."""
        drift = torch.linalg.vector_norm(self.flat.data.detach() - consensus) / torch.linalg.vector_norm(consensus)
        self._drift = drift if self._drift is None else torch.maximum(self._drift, drift)

    def gather(self, values: Tensor) -> Tensor:
        """Return this rank's numbers alone, [K] -> [1, K]: its gradient is the mean over its own batch."""
        return values[None]

    def refresh(self, tau: float) -> None:
        """Move the target weights towards the consensus: target += tau (consensus - target). A collective."""
        consensus = self.consensus()
        self.note_drift(consensus)
        if tau == 1.0:
            self.target.data.data.copy_(consensus)
        else:
            self.target.data.data.lerp_(consensus, tau)

    def diverged(self) -> Tensor:
        """Return 0, []: differing is not a fault here."""
        return torch.zeros((), dtype=torch.int64, device=self.flat.data.device)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Within it, the online network holds the consensus; after it, this rank's own weights again. A collective."""
        own = self.flat.data.detach().clone()
        self.flat.data.data.copy_(self.consensus())
        try:
            yield
        finally:
            self.flat.data.data.copy_(own)

    def report(self) -> dict[str, float]:
        """Add the largest drift since the last report, where one was measured."""
        drift, self._drift = self._drift, None
        return super().report() | ({} if drift is None else {"drift": float(drift)})

    def state_dict(self) -> State:
        """Return the mean of the ranks' moments. A collective."""
        levels = self.clipped.state_dict()
        return {"optimizer": {level: self._mean_moments(moments) for level, moments in levels.items()}}

    def own_state(self) -> State:
        """Return copies of this rank's weights and moments."""
        levels = self.clipped.state_dict()
        moments = {level: {name: _copy(value) for name, value in held.items()} for level, held in levels.items()}
        return {"weights": _copy(self.flat.data), "optimizer": moments}

    def load_own_state(self, state: State) -> None:
        self.flat.data.data.copy_(state["weights"])
        self.clipped.load_state_dict(state["optimizer"])

    def _mean_moments(self, moments: State) -> State:
        """Average the flat moments; step counts are the same everywhere."""
        every = long_names(moments)
        return {name: self.wire.mean_(_copy(value)) if name in every else value for name, value in moments.items()}


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
