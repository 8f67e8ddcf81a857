"""For tests: several ranks as threads of one process, whose wire is a table in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from trainer.runtime.spans import Spans
from trainer.sync import Wire

T = TypeVar("T")
DEADLINE = 20.0  # s


class Meeting:
    """Where the threads deposit what they have, and take what they need once all did."""

    def __init__(self, ranks: int) -> None:
        self.table: list[Tensor | None] = [None] * ranks
        self.gate = threading.Barrier(ranks, timeout=DEADLINE)

    def everyones(self, rank: int, values: Tensor) -> Tensor:
        self.table[rank] = values.clone()
        self.gate.wait()
        found = torch.stack([laid for laid in self.table if laid is not None])
        self.gate.wait()
        return found


class Peer(Wire):
    """The wire of one thread."""

    def __init__(self, rank: int, ranks: int, meeting: Meeting) -> None:
        super().__init__(rank, ranks, Spans())
        self.meeting = meeting

    def mean_(self, values: Tensor) -> Tensor:
        return values.copy_(self.meeting.everyones(self.rank, values).mean(0))

    def gather(self, values: Tensor) -> Tensor:
        return self.meeting.everyones(self.rank, values)

    def exchange(self, values: Tensor) -> Tensor:
        assert len(values) == self.world_size
        return self.meeting.everyones(self.rank, values)[:, self.rank].clone()


def meet(ranks: int, act: Callable[[Peer], T]) -> list[T]:
    """Let every rank `act` with its wire, at once; return what they found."""
    meeting = Meeting(ranks)

    def one(rank: int) -> T:
        try:
            return act(Peer(rank, ranks, meeting))
        except BaseException:
            meeting.gate.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(ranks)]]
