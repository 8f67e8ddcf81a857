"""Keeping replicas equal: the first broadcast, the target refresh, and the check that rides on it."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.sync.flat import FlatParameters
from trainer.sync.wire import Wire


class Replicas:
    """The online weights of this rank, its target weights, and rank 0's as the reference for both."""

    def __init__(self, online: FlatParameters, target: FlatParameters, wire: Wire) -> None:
        self.online, self.target, self.wire = online, target, wire
        self._received = torch.empty_like(online.data.data)
        self._mismatches = torch.zeros((), dtype=torch.int64, device=online.data.device)

    def start_equal(self) -> None:
        """Give every rank rank 0's weights, online and target. A collective."""
        for flat in (self.online, self.target):
            self.wire.broadcast_(flat.data.data)

    def refresh(self, tau: float) -> None:
        """Move the target weights towards rank 0's online weights: target += tau (online_0 - target). A collective.

        The same exchange counts, without a host read, the elements in which this replica differs from rank 0's.
        """
        agreed = self.online.data.data
        if self.wire.world_size > 1:
            agreed = self._of_rank_0()
            self._mismatches += _differ(agreed, self.online.data.data).sum()
        if tau == 1.0:
            self.target.data.data.copy_(agreed)
        else:
            self.target.data.data.lerp_(agreed, tau)

    def diverged(self) -> Tensor:
        """Return how many elements differed from rank 0's so far, [] int64."""
        return self._mismatches

    def blame(self) -> str:
        """Name every rank that differs from rank 0 and its first differing parameter. A collective."""
        return "; ".join(f"rank {rank} differs from rank 0 in {where}" for rank, where in self.differences())

    def differences(self) -> list[tuple[int, str]]:
        """Return which ranks differ from rank 0, and where. A collective."""
        differ = _differ(self._of_rank_0(), self.online.data.data)
        count, first = differ.sum(), differ.to(torch.uint8).argmax()
        return [
            (rank, f"{self.online.name_at(where)} ({many} of {differ.numel()} elements)")
            for rank, (many, where) in enumerate(self.wire.gather(torch.stack((count, first))).tolist())
            if many
        ]

    def _of_rank_0(self) -> Tensor:
        return self.wire.broadcast_(self._received.copy_(self.online.data.data))


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """Return where the bits differ, so that NaN equals itself and 0 differs from -0."""
    bits = torch.int32 if a.dtype is torch.float32 else torch.int64
    return a.view(bits) != b.view(bits)
