"""Keeping replicas equal: the first broadcast, the target refresh, and the check that rides on it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.runtime.ranks import Ranks
from trainer.sync.flat import FlatParameters


class Replicas:
    """The online weights of this rank, its target weights, and rank 0's as the measure of both."""

    def __init__(self, online: FlatParameters, target: FlatParameters, ranks: Ranks) -> None:
        self.online, self.target, self.ranks = online, target, ranks
        self._received = torch.empty_like(online.data.data)
        self._mismatches = torch.zeros((), dtype=torch.int64, device=ranks.device)

    def start_equal(self) -> None:
        """Give every rank rank 0's weights, online and target. A collective."""
        for flat in (self.online, self.target):
            dist.broadcast(flat.data.data, src=0)

    def refresh(self, tau: float) -> None:
        """Move the target weights towards rank 0's online weights: target += tau (online_0 - target). A collective.

        The same exchange counts, without a host read, the elements in which this replica differs from rank 0's.
        """
        received = self._received.copy_(self.online.data.data)
        dist.broadcast(received, src=0)
        self._mismatches += _differ(received, self.online.data.data).sum()
        if tau == 1.0:
            self.target.data.data.copy_(received)
        else:
            self.target.data.data.lerp_(received, tau)

    def diverged(self) -> Tensor:
        """Return how many elements differed from rank 0's so far, [] int64."""
        return self._mismatches

    def blame(self) -> str:
        """Name every rank that differs from rank 0 and its first differing parameter. A collective."""
        received = self._received.copy_(self.online.data.data)
        dist.broadcast(received, src=0)
        where = _differ(received, self.online.data.data).nonzero().flatten().tolist()
        note = f"{self.online.name_at(where[0])} ({len(where)} of {received.numel()} elements)" if where else ""
        notes = self.ranks.gather(note)
        return "; ".join(f"rank {rank} differs from rank 0 in {note}" for rank, note in enumerate(notes) if note)


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """Return where the bits differ, so that NaN equals itself and 0 differs from -0."""
    bits = torch.int32 if a.dtype is torch.float32 else torch.int64
    return a.view(bits) != b.view(bits)
