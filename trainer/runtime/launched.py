"""What the launcher told this process. Needs no torch, and is the sole reader of the variables that torchrun sets."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """What the launcher told this process; a plain `python` is rank 0 of 1."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    by_torchrun: bool
    by_agent: bool = False  # torchrun itself, not a launcher of single processes: its ranks see the same GPUs

    @classmethod
    def read(cls) -> Launch:
        def number(name: str, default: int) -> int:
            return int(os.environ.get(name, default))

        return cls(
            rank=number("RANK", 0),
            local_rank=number("LOCAL_RANK", 0),
            world_size=number("WORLD_SIZE", 1),
            local_world_size=number("LOCAL_WORLD_SIZE", 1),
            by_torchrun="RANK" in os.environ and "MASTER_ADDR" in os.environ,
            by_agent="TORCHELASTIC_RUN_ID" in os.environ,
        )
