"""The random numbers of samplers: each shard has a stream of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def uniform(generators: Mapping[int, torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return numbers in [0, 1) for every shard, [S, *shape]; double precision keeps the last transition reachable."""
    draws = torch.empty(len(generators), *shape, dtype=torch.float64, device=device)
    for row, generator in zip(draws, generators.values(), strict=True):
        row.uniform_(generator=generator)
    return draws
