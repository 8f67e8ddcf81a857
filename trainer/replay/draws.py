"""The random numbers of samplers: each shard has a stream of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor

from trainer.replay.ring import Ring
from trainer.types import State


class Uniform:
    """Numbers in [0, 1) for every shard, [S, *shape]; double precision keeps the last transition reachable.

    Draws of the same shape share memory: use them before the next are drawn.
    """

    def __init__(self, generators: Mapping[int, torch.Generator], device: torch.device) -> None:
        self._generators, self._device = list(generators.values()), device
        self._made: dict[tuple[int, ...], tuple[Tensor, tuple[Tensor, ...]]] = {}  # all, and each shard's part of it

    def __call__(self, *shape: int) -> Tensor:
        if shape not in self._made:
            draws = torch.empty(len(self._generators), *shape, dtype=torch.float64, device=self._device)
            self._made[shape] = draws, draws.unbind()
        draws, parts = self._made[shape]
        for part, generator in zip(parts, self._generators, strict=True):
            part.uniform_(generator=generator)
        return draws


class StreamSampler:
    """Base of the samplers of a ring: one random stream per shard, and no other state.

    generators: in the order of the shards' lanes, on the ring's device.
    """

    def __init__(self, ring: Ring, generators: Mapping[int, torch.Generator]) -> None:
        self.ring, self.generators = ring, generators
        self._uniform = Uniform(generators, ring.device)

    def draw(self, updates: int, batch_size: int) -> Tensor:
        """Return the random numbers for `updates` batches, [S, updates, batch_size / S], as `Uniform` does."""
        return self._uniform(updates, batch_size // len(self.generators))

    def buffers(self) -> list[Tensor]:
        """Return every tensor that ever changes, except the ring's."""
        return []

    def over(self, ring: Ring, buffers: Iterator[Tensor]) -> Self:
        """Return the same sampler over another ring and other buffers, taking as many as it needs."""
        other = copy.copy(self)
        other.ring = ring
        return other

    def state_dict(self) -> State:
        return {str(shard): {"generator": g.get_state()} for shard, g in self.generators.items()}

    def load_state_dict(self, state: State) -> None:
        for shard, generator in self.generators.items():
            generator.set_state(state[str(shard)]["generator"])
