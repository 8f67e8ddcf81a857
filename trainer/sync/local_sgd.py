"""Local SGD: each replica steps on its own gradients, and every `period` updates the weights are averaged.

Stich 2019; post-local SGD: Lin et al. 2020; an outer optimizer on the averaged change: DiLoCo, Douillard et al. 2023.
"""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.sync.differing import Differing
from trainer.sync.flat import FlatParameters
from trainer.sync.lean import lean
from trainer.sync.step import ClippedOptimizer
from trainer.sync.wire import Wire
from trainer.types import State


class Outer:
    """SGD with Nesterov momentum on the change made by a round of local updates, theta - mean (DiLoCo, algorithm 1).

    The anchor (the weights when a round began) and the momentum are the same on every rank.
    """

    def __init__(self, like: Tensor, lr: float, momentum: float) -> None:
        self._anchor = nn.Parameter(torch.empty_like(like))
        self._optimizer = lean(torch.optim.SGD)([self._anchor], lr=lr, momentum=momentum, nesterov=momentum > 0)
        self._began = False

    def begin(self, weights: Tensor) -> None:
        """Record the weights when a round begins."""
        self._anchor.data.copy_(weights)
        self._began = True

    def end(self, mean: Tensor) -> Tensor:
        """Return the weights after a round whose replicas have mean `mean`; `mean` itself if the anchor is unknown."""
        if not self._began:  # resumed in the middle of a round that had no outer step
            return mean
        self._anchor.grad = self._anchor.detach() - mean
        self._optimizer.step()
        return self._anchor.detach()

    def state_dict(self) -> State:
        momentum = self._optimizer.state.get(self._anchor, {}).get("momentum_buffer")
        state = {"anchor": self._anchor.detach()} if self._began else {}
        return state if momentum is None else state | {"momentum": momentum}

    def load_state_dict(self, state: State) -> None:
        self._began = "anchor" in state
        if self._began:
            self._anchor.data.copy_(state["anchor"])
        if "momentum" in state:
            self._optimizer.state[self._anchor] = {"momentum_buffer": state["momentum"].to(self._anchor.device)}


class LocalSGD(Differing):
    """`local_after` updates with averaged gradients, then rounds of `period` local ones with the weights averaged.

    node: the ranks that average their gradients at every update anyway; None: every rank is on its own.
    outer: makes the new weights from the averaged ones; None: they are the new weights.
    """

    def __init__(
        self,
        flat: FlatParameters,
        target: FlatParameters,
        clipped: ClippedOptimizer,
        wire: Wire,
        *,
        period: int,
        local_after: int = 0,
        outer: Outer | None = None,
        node: Wire | None = None,
    ) -> None:
        super().__init__(flat, target, clipped, wire)
        self.period, self.local_after, self.outer, self.node = period, local_after, outer, node
        self._updates = 0
        self._local = 0  # updates of this round so far
        self._reported_node = 0.0

    @property
    def _together(self) -> bool:
        return self._updates < self.local_after

    @property
    def _gradients(self) -> Wire | None:
        """The ranks to average gradients with now; within such a group replicas are the same, bit for bit."""
        return self.wire if self._together else self.node

    def gather(self, values: Tensor) -> Tensor:
        """Return the numbers of those whose gradients will be averaged, [K] -> [ranks, K]. A collective."""
        return super().gather(values) if self._gradients is None else self._gradients.gather(values)

    def step(self, max_norm: float) -> Tensor:
        """Average gradients if due, clip, step, average weights if due. A collective."""
        if self._gradients is not None:
            self._gradients.mean_(self.flat.grad)
        if not self._together:
            if self._local == 0 and self.outer is not None:
                self.outer.begin(self.flat.data.detach())
            self._local += 1
        norm = self.clipped.step(max_norm)
        self._updates += 1
        if self._local >= self.period:
            self._average()
        return norm

    def _average(self) -> None:
        mean = self.consensus()
        self.note_drift(mean)
        self.flat.data.data.copy_(mean if self.outer is None else self.outer.end(mean))
        self._local = 0

    def report(self) -> dict[str, float]:
        """Count the traffic within a node separately: it is cheaper."""
        if self.node is None:
            return super().report()
        sent, self._reported_node = self.node.sent - self._reported_node, self.node.sent
        return super().report() | {"megabytes_sent_in_node": sent / 1e6}

    def state_dict(self) -> State:
        outer = {} if self.outer is None else self.outer.state_dict()
        return super().state_dict() | {"local_sgd": {"updates": self._updates, "local": self._local, "outer": outer}}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        if (mine := state.get("local_sgd")) is None:  # of a run with another sync kind
            return
        self._updates = mine["updates"]
        self._local = 0 if self._together else mine["local"]
        if self.outer is not None:
            self.outer.load_state_dict(mine["outer"])

    def own_state(self) -> State:
        return super().own_state() | {"equal": self._equal}

    def load_own_state(self, state: State) -> None:
        """Restore what this rank alone had, unless ranks must be equal now that were not then."""
        if state["equal"] == self._equal:
            super().load_own_state(state)

    @property
    def _equal(self) -> list[int]:
        """For how many updates all ranks are equal, and how many neighbours always are."""
        return [self.local_after, 1 if self.node is None else self.node.world_size]


def node_wire(wire: Wire, ranks_per_node: int, timeout: float) -> Wire:
    """Return the exchanges among the ranks of this node, with ranks numbered node by node. A collective.

    timeout: limit of a collective [s].
    """
    assert wire.world_size % ranks_per_node == 0
    limit = timedelta(seconds=timeout)
    firsts = range(0, wire.world_size, ranks_per_node)  # every rank makes every group, in this order
    groups = [dist.new_group(list(range(first, first + ranks_per_node)), timeout=limit) for first in firsts]
    node, place = divmod(wire.rank, ranks_per_node)
    return Wire(place, ranks_per_node, wire.spans, groups[node])
