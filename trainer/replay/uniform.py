"""Uniform sampling over the living transitions of each shard."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

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

    def sample(self, updates: int, batch_size: int) -> Tensor:
        """Return flat ring indices, [updates, batch_size], shard after shard within a batch."""
        ring, shards = self.ring, len(self.generators)
        alive = (ring.mature - ring.tail).view(shards, self.lanes_per_shard)
        upto = alive.cumsum(1)  # [S, lanes per shard]
        each = updates * batch_size // shards
        draws = torch.empty(shards, each, dtype=torch.float64, device=ring.device)
        for row, generator in zip(draws, self.generators.values(), strict=True):
            row.uniform_(generator=generator)
        pick = (draws * upto[:, -1:]).long()  # [S, K] counts through the shard's living transitions
        lane = torch.searchsorted(upto, pick, right=True)
        offset = pick - (upto - alive).gather(1, lane)
        lane += self._first_lane
        index = ring.locate(ring.tail[lane] + offset, lane)
        return index.view(shards, updates, each // updates).transpose(0, 1).reshape(updates, batch_size)

    def state_dict(self) -> State:
        return {str(shard): {"generator": g.get_state()} for shard, g in self.generators.items()}

    def load_state_dict(self, state: State) -> None:
        for shard, generator in self.generators.items():
            generator.set_state(state[str(shard)]["generator"])
