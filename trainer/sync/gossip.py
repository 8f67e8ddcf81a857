"""Gossip: no global exchange; each update sends half of what a rank has to one neighbour, and gets half of another's.

Lian et al. 2017 on a ring; stochastic gradient push on the one-peer exponential graph: Assran et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.sync.differing import Differing
from trainer.sync.flat import FlatParameters
from trainer.sync.step import ClippedOptimizer
from trainer.sync.wire import Wire
from trainer.types import State


class Gossip(Differing):
    """Push-sum of weights x and a mass w: networks hold x / w, where gradients are taken (Assran et al., algorithm 1).

    Exchanges never change the sums of x and of w over the ranks, whichever ranks meet, so networks converge to
    sum x / sum w. distances: how far ahead the partner is, in turn; all ranks use the same one, so none is left out.
    """

    def __init__(
        self,
        flat: FlatParameters,
        target: FlatParameters,
        clipped: ClippedOptimizer,
        wire: Wire,
        distances: Sequence[int],
    ) -> None:
        super().__init__(flat, target, clipped, wire)
        self.distances = distances
        weights = flat.data.detach()
        self._mass = torch.ones_like(weights[:1])
        self._half = torch.empty(len(weights) + 1, dtype=weights.dtype, device=weights.device)  # of x, then of w
        self._received = torch.empty_like(self._half)
        self._turn = 0

    def step(self, max_norm: float) -> Tensor:
        """Clip, step x by the gradient at x / w, exchange with neighbours; return this rank's gradient norm, []."""
        self.flat.data.data.mul_(self._mass)
        norm = self.clipped.step(max_norm)
        self._exchange()
        self.flat.data.data.div_(self._mass)
        return norm

    def _exchange(self) -> None:
        """Replace x and w by half of this rank's and half of the neighbour's. A collective of two neighbours."""
        x, ranks = self.flat.data.data, self.wire.world_size
        if ranks == 1:
            return
        distance = self.distances[self._turn % len(self.distances)]
        self._turn += 1
        torch.cat((x, self._mass), out=self._half)
        self._half.mul_(0.5)
        ahead, behind = (self.wire.rank + distance) % ranks, (self.wire.rank - distance) % ranks
        self._half += self.wire.pass_on(self._half, ahead, behind, self._received)
        x.copy_(self._half[:-1])
        self._mass.copy_(self._half[-1:])

    def consensus(self) -> Tensor:
        """Return sum x / sum w, [P], the same bits on every rank. A collective."""
        both = self.wire.mean_(torch.cat((self.flat.data.detach() * self._mass, self._mass)))
        return both[:-1] / both[-1:]

    def state_dict(self) -> State:
        return super().state_dict() | {"gossip": {"turn": self._turn}}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._turn = state["gossip"]["turn"] if "gossip" in state else 0

    def own_state(self) -> State:
        return super().own_state() | {"mass": self._mass.clone()}

    def load_own_state(self, state: State) -> None:
        super().load_own_state(state)
        self._mass.copy_(state["mass"])


def ring() -> Sequence[int]:
    """Return the distances of a ring: the next rank and the one before, in turn."""
    return (1, -1)


def exponential(ranks: int) -> Sequence[int]:
    """Return the distances of the one-peer exponential graph: 1, 2, 4, ... below the number of ranks.

    With a power of two, one exchange per distance gives the exact mean of values that do not change meanwhile.
    """
    return [2**k for k in range((ranks - 1).bit_length())]
