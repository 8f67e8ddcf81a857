"""The random numbers of samplers: each shard has a stream of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor

from trainer.replay.ring import Ring
from trainer.types import State


def uniform(generators: Mapping[int, torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return numbers in [0, 1) for every shard, [S, *shape]; double precision keeps the last transition reachable."""
    draws = torch.empty(len(generators), *shape, dtype=torch.float64, device=device)
    for row, generator in zip(draws, generators.values(), strict=True):
        row.uniform_(generator=generator)
    return draws


class StreamSampler:
    """What samplers of a ring share that have a random stream for each shard, and no other state.

    generators: in the order of the shards' lanes, on the ring's device.
    """

    def __init__(self, ring: Ring, generators: Mapping[int, torch.Generator]) -> None:
        self.ring, self.generators = ring, generators

    def draw(self, updates: int, batch_size: int) -> Tensor:
        """Return the random numbers of so many batches, [S, updates, batch_size / S]."""
        return uniform(self.generators, (updates, batch_size // len(self.generators)), self.ring.device)

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
