"""A replica spread over several ranks, each with some layers; gradients averaged over the replicas."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from trainer.sync.flat import FlatParameters
from trainer.sync.handoff import Handoff
from trainer.sync.step import ClippedOptimizer, long_names
from trainer.sync.strategy import Strategy
from trainer.sync.wire import Wire
from trainer.types import State


class Meeting(NamedTuple):
    """The groups of a rank whose replica is spread over several."""

    handoff: Handoff  # the ranks of its replica
    peers: Wire  # the ranks with the same layers, one of each replica
    everyone: Wire


def meet(everyone: Wire, stages: int, timeout: float) -> Meeting:
    """Make groups of `stages` neighbours, a replica each, and of ranks with the same layers. A collective.

    timeout: limit of a collective [s].
    """
    ranks = range(everyone.world_size)
    replica, stage = divmod(everyone.rank, stages)
    within = _wires(everyone, [ranks[first : first + stages] for first in ranks[::stages]], timeout)
    across = _wires(everyone, [ranks[each::stages] for each in range(stages)], timeout)
    return Meeting(Handoff(within[replica]), across[stage], everyone)


def _wires(everyone: Wire, groups: list[range], timeout: float) -> list[Wire]:
    """Return the exchanges within each group; every rank makes every group, in this order. A collective."""
    limit = timedelta(seconds=timeout)
    made = [dist.new_group(list(group), timeout=limit) if len(group) > 1 else None for group in groups]
    place = {rank: i for group in groups for i, rank in enumerate(group)}[everyone.rank]
    return [Wire(place, len(group), everyone.spans, one) for group, one in zip(groups, made, strict=True)]


class Staged(Strategy):
    """All-reduce among the ranks with the same layers, clip by the norm over all layers, step this rank's own.

    begin: how many parameters come before this rank's in the whole network.
    """

    def __init__(
        self,
        flat: FlatParameters,
        target: FlatParameters,
        clipped: ClippedOptimizer,
        meeting: Meeting,
        begin: int,
    ) -> None:
        super().__init__(flat, target, clipped, meeting.peers)
        self.handoff, self.everyone, self.begin = meeting.handoff, meeting.everyone, begin
        self._reported_within = 0.0

    def step(self, max_norm: float) -> Tensor:
        """Average over replicas, clip, step; return the norm of the whole averaged gradient, []. A collective."""
        self.wire.mean_(self.flat.grad)
        return self.clipped.step(max_norm, self.handoff.norm(self.flat.grad))

    def diverged(self) -> Tensor:
        """Return how many elements differ from replica 0's, plus updates on unequal batches in a replica, [] int64."""
        strange = self.handoff.strange
        return super().diverged() if strange is None else super().diverged() + strange.sum()

    def blame(self) -> str:
        """Name the ranks that differ from replica 0's, or that learned from another batch. A collective."""
        stages, stage = self.handoff.stages, self.handoff.stage
        notes = [
            f"rank {replica * stages + stage} differs from rank {stage} in {where}"
            for replica, where in self.replicas.differences()
        ]
        if (strange := self.handoff.strange) is not None and (updates := int(strange[stage])):
            last = (self.wire.rank + 1) * stages - 1
            notes.append(
                f"rank {self.everyone.rank} learned from other batches than rank {last} in {updates} update(s), "
                "though --sync.stages gave both the same environments: these are not reproducible"
            )
        told = self.everyone.gather_objects(notes)
        return "; ".join(dict.fromkeys(note for theirs in told for note in theirs))

    def report(self) -> dict[str, float]:
        """Count the traffic between layers separately: it has to be fast."""
        sent, self._reported_within = self.handoff.wire.sent - self._reported_within, self.handoff.wire.sent
        return super().report() | {"megabytes_sent_in_replica": sent / 1e6}

    def state_dict(self) -> State:
        """Return the moments of the whole network on stage 0, nothing on the others. A collective."""
        levels: State = {}
        for level, moments in self.clipped.state_dict().items():
            joined = {name: self.handoff.join(moments[name]) for name in long_names(moments)}
            levels[level] = {name: joined.get(name, value) for name, value in moments.items()}
        return {"optimizer": levels} if self.handoff.stage == 0 else {}

    def load_state_dict(self, state: State) -> None:
        """Load this rank's share of the moments of the whole network."""
        mine = slice(self.begin, self.begin + self.flat.data.numel())
        levels: State = {}
        for level, moments in state["optimizer"].items():
            every = long_names(moments)
            levels[level] = {name: value[mine] if name in every else value for name, value in moments.items()}
        self.clipped.load_state_dict(levels)
