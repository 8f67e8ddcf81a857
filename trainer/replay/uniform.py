"""Uniform sampling over the living transitions of each shard."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.replay.draws import StreamSampler
from trainer.replay.ring import Ring


class UniformSampler(StreamSampler):
    """Draws equally from every shard, and within a shard every living transition with the same probability."""

    def __init__(self, ring: Ring, generators: Mapping[int, torch.Generator]) -> None:
        super().__init__(ring, generators)
        self.lanes_per_shard = ring.lanes // len(generators)
        self._first_lane = torch.arange(0, ring.lanes, self.lanes_per_shard, device=ring.device)[:, None]

    def index(self, draws: Tensor) -> Tensor:
        """Return flat ring indices, [updates, batch_size], shard after shard within a batch."""
        ring, (shards, updates, each) = self.ring, draws.shape
        alive = (ring.mature - ring.tail).view(shards, self.lanes_per_shard)
        upto = alive.cumsum(1)  # [S, lanes per shard]
        pick = (draws.view(shards, -1) * upto[:, -1:]).long()  # counts through the shard's living transitions
        lane = torch.searchsorted(upto, pick, right=True)
        offset = pick - (upto - alive).gather(1, lane)
        lane += self._first_lane
        index = ring.locate(ring.tail[lane] + offset, lane)
        return index.view(shards, updates, each).transpose(0, 1).reshape(updates, shards * each)
