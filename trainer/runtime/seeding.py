"""Random streams, keyed by (seed, purpose, shard) and never by rank."""

from __future__ import annotations

import numpy as np
import torch

_PURPOSES = {
    "weights": 0,
    "envs": 1,
    "policy": 2,
    "replay": 3,
    "evaluation": 4,
    "learner": 5,
    "demos": 6,
    "teacher": 7,
    "noise": 8,
}
_SEED_SPACE = 2**31
_EVALUATION_OFFSET = 2**30


def stream_seed(seed: int, purpose: str, shard: int = 0) -> int:
    """Return the seed of one stream, below 2^63."""
    state = np.random.SeedSequence(seed, spawn_key=(_PURPOSES[purpose], shard)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(seed: int, purpose: str, shard: int, device: torch.device) -> torch.Generator:
    """Return a fresh generator on `device` for one stream."""
    made = torch.Generator(device=device)
    made.manual_seed(stream_seed(seed, purpose, shard))
    return made


def env_seeds(seed: int, first_env: int, count: int, *, evaluation: bool = False) -> list[int]:
    """Return seeds for environments `first_env`, ..., distinct over the whole run and from those of evaluation.

    Within a run they are consecutive (so they cannot collide, below 2^30 environments) from a base drawn by `seed`.
    """
    base = stream_seed(seed, "envs") + (_EVALUATION_OFFSET if evaluation else 0)
    return [(base + first_env + i) % _SEED_SPACE for i in range(count)]
