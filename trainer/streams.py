"""Random numbers for rows that belong to shards: each shard draws from its own stream, on whichever rank it lives."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.types import State


class Streams:
    """`types.Draws` over one generator per owned shard.

    The rows asked for are shared out evenly, shard after shard, so that the numbers of a shard's rows do not depend on
    which other shards live on this rank.
    """

    def __init__(self, generators: Mapping[int, torch.Generator], device: torch.device, dtype: torch.dtype) -> None:
        self.generators, self.device, self.dtype = generators, device, dtype

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return numbers in [0, 1), [rows, *shape]."""
        return self._share(rows, shape, torch.Tensor.uniform_)

    def normal(self, rows: int, *shape: int) -> Tensor:
        """Return standard normal numbers, [rows, *shape]."""
        return self._share(rows, shape, torch.Tensor.normal_)

    def _share(self, rows: int, shape: tuple[int, ...], fill: object) -> Tensor:
        out = torch.empty(rows, *shape, dtype=self.dtype, device=self.device)
        assert rows % len(self.generators) == 0, "every shard draws for as many rows"
        each = rows // len(self.generators)
        for i, generator in enumerate(self.generators.values()):
            part = out[i * each : (i + 1) * each]
            fill(part, generator=generator)  # type: ignore[operator]
        return out

    def state_dict(self) -> State:
        return {str(shard): {"generator": g.get_state()} for shard, g in self.generators.items()}

    def load_state_dict(self, state: State) -> None:
        for shard, generator in self.generators.items():
            generator.set_state(state[str(shard)]["generator"])
