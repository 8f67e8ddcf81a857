"""What all ways to keep replicas in sync share. A strategy overrides what it does differently."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from trainer.sync.flat import FlatParameters
from trainer.sync.replicas import Replicas
from trainer.sync.step import ClippedOptimizer
from trainer.sync.wire import Wire
from trainer.types import State


class Strategy:
    """A `types.Sync` whose replicas are equal bit for bit at every moment; `step` is left to the subclass.

    flat: the online network's weights and gradients; target: the target network's; clipped: what steps them.
    alone: whether `step` is that of `clipped` and nothing else, as there is no other rank.
    """

    capturable = False
    alone = False

    def __init__(self, flat: FlatParameters, target: FlatParameters, clipped: ClippedOptimizer, wire: Wire) -> None:
        self.flat, self.target, self.clipped, self.wire = flat, target, clipped, wire
        self.replicas = Replicas(flat, target, wire)
        self._reported = 0.0

    def prepare(self, net: nn.Module) -> nn.Module:
        """Start from rank 0's weights everywhere; return the module that losses must call. A collective."""
        self.replicas.start_equal()
        return net

    def zero_grad(self) -> None:
        self.clipped.zero_grad()

    def set_lr(self, lr: float) -> None:
        self.clipped.set_lr(lr)

    def step(self, max_norm: float) -> Tensor:
        """Exchange, clip, step; return the norm of the gradient that was applied, []. A collective."""
        raise NotImplementedError

    def gather(self, values: Tensor) -> Tensor:
        """Gather every rank's few `values`, [K] -> [ranks, K]. A collective."""
        return self.wire.gather(values)

    def refresh(self, tau: float) -> None:
        """Move the target weights towards the agreed online weights. A collective."""
        self.replicas.refresh(tau)

    def diverged(self) -> Tensor:
        """Return how many elements differed from rank 0's so far, [] int64."""
        return self.replicas.diverged()

    def blame(self) -> str:
        """Name the ranks and parameters that differ. A collective."""
        return self.replicas.blame()

    def agreed(self) -> AbstractContextManager[None]:
        """Within it, the online network holds what the ranks agree on: here, what it holds anyway. A collective."""
        return nullcontext()

    def report(self) -> dict[str, float]:
        """Return numbers for the log since the last report."""
        sent, self._reported = self.wire.sent - self._reported, self.wire.sent
        return {"megabytes_sent": sent / 1e6}

    def state_dict(self) -> State:
        """Return what is the same on every rank. A collective."""
        return {"optimizer": self.clipped.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.clipped.load_state_dict(state["optimizer"])

    def own_state(self) -> State:
        """Return copies of what this rank alone has; restored if the number of ranks is the same."""
        return {}

    def load_own_state(self, state: State) -> None:
        """Restore what this rank alone had, after all else; without a call the strategy starts from what is agreed."""
