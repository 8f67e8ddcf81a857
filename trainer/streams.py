"""Random numbers for rows that belong to shards: each shard draws from its own stream, on whichever rank it lives.

Numbers common to all rows come from a stream that is the same on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.types import State


class Common:
    """Random numbers that are the same on every rank, as long as all ranks draw the same."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> State:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.generator.set_state(state["generator"])


class Streams:
    """`types.Draws` over one generator per owned shard.

    Rows are shared out evenly, shard after shard, so that the numbers of a shard's rows do not depend on which other
    shards live on this rank. common: source of noise shared by all rows; it is stored separately, since it belongs
    to no shard.
    """

    def __init__(
        self,
        generators: Mapping[int, torch.Generator],
        device: torch.device,
        dtype: torch.dtype,
        common: Common | None = None,
    ) -> None:
        self.generators, self.device, self.dtype, self.common = generators, device, dtype, common
        self.one_noise = common is not None

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return numbers in [0, 1), [rows, *shape]."""
        return self._share(rows, shape, torch.Tensor.uniform_)

    def noise(self, rows: int, *shape: int) -> Tensor:
        """Return standard normal numbers, [rows, *shape], or [1, *shape] where all rows have the same noise."""
        if self.common is not None:
            return torch.empty(1, *shape, dtype=self.dtype, device=self.device).normal_(generator=self.common.generator)
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
