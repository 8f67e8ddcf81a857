"""Uniform sampling over the living transitions of each shard."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor

from trainer.replay.draws import uniform
from trainer.replay.ring import Ring
from trainer.types import State


class UniformSampler:
    """Draws equally from every shard, and within a shard every living transition with the same probability.

    generators: one random stream per shard, in the order of the shards' lanes, on the ring's device.
    """

    def __init__(self, ring: Ring, generators: Mapping[int, torch.Generator]) -> None:
        self.ring, self.generators = ring, generators
        self.lanes_per_shard = ring.lanes // len(generators)
        self._first_lane = torch.arange(0, ring.lanes, self.lanes_per_shard, device=ring.device)[:, None]

    def draw(self, updates: int, batch_size: int) -> Tensor:
        """Return the random numbers of so many batches, [S, updates, batch_size / S]."""
        return uniform(self.generators, (updates, batch_size // len(self.generators)), self.ring.device)

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

    def buffers(self) -> list[Tensor]:
        """Return all that ever changes, besides the ring."""
        return []

    def over(self, ring: Ring, buffers: Iterator[Tensor]) -> Self:
        """Return the same sampler over another ring, and over other buffers, as many as it needs."""
        other = copy.copy(self)
        other.ring = ring
        return other

    def state_dict(self) -> State:
        return {str(shard): {"generator": g.get_state()} for shard, g in self.generators.items()}

    def load_state_dict(self, state: State) -> None:
        for shard, generator in self.generators.items():
            generator.set_state(state[str(shard)]["generator"])
