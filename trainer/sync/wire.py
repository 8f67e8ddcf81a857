"""The exchanges of one rank with its peers: timed, counted, and nothing at all where there are no peers."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.runtime.spans import Spans


class Pending(Protocol):
    """An exchange under way."""

    def wait(self) -> object: ...


class Wire:
    """Collectives over `group` (None: all ranks).

    sent: bytes that this rank put on the wire so far, if every collective is the ring algorithm's: an all-reduce of n
    bytes over p ranks sends 2 n (p-1)/p from each, reduce-scatter, all-gather and broadcast half of that.
    """

    def __init__(self, rank: int, world_size: int, spans: Spans, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.world_size, self.spans, self.group = rank, world_size, spans, group
        self.sent = 0.0

    def mean_(self, values: Tensor) -> Tensor:
        """Replace `values` by their mean over the ranks."""
        if self.world_size > 1:  # alone, gloo's own hand-over would cost 10% of an update
            with self.spans("sync"):
                self.start_sum(values).wait()
                values.div_(self.world_size)
        return values

    def start_sum(self, values: Tensor) -> Pending:
        """Begin to replace `values` by their sum over the ranks; they may be touched again behind `wait`."""
        self.note_sum(values.nbytes)
        work: Pending = dist.all_reduce(values, group=self.group, async_op=True)
        return work

    def broadcast_(self, values: Tensor) -> Tensor:
        """Replace `values` by those of the group's first rank."""
        if self.world_size > 1:
            self._count(values.nbytes)
            with self.spans("sync"):
                dist.broadcast(values, group=self.group, group_src=0)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Return every rank's values, [K] -> [ranks, K]."""
        if self.world_size == 1:
            return values[None]
        everyone = [torch.empty_like(values) for _ in range(self.world_size)]
        self._count(self.world_size * values.nbytes)
        with self.spans("sync"):
            dist.all_gather(everyone, values, group=self.group)
        return torch.stack(everyone)

    def note_sum(self, nbytes: int) -> None:
        """Count an all-reduce that someone else (DDP) does."""
        self._count(2 * nbytes)

    def _count(self, nbytes: float) -> None:
        self.sent += nbytes * (self.world_size - 1) / self.world_size
