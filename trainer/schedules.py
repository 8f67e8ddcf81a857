"""Everything that is a function of the step alone: annealing, periods and the number of updates.

Pure integer and float arithmetic on replicated values, so every rank decides the same without communication.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Rates(NamedTuple):
    """What changes along a run; a function of the step alone, so the same on every rank."""

    lr: float = 0.0
    epsilon: float = 0.0  # exploration of the behaviour policy
    beta: float = 1.0  # exponent of the importance weights
    teaching: float = 0.0  # what is left of the teacher's influence, 1 at the start [0-1]


def linear(at: int, start: float, end: float, *, wait: int, length: int) -> float:
    """Return the value at `at` of a line from `start` to `end` over `length`, starting after `wait`."""
    done = min(max(at - wait, 0) / length, 1.0) if length > 0 else float(at >= wait)
    return start + done * (end - start)


def ladder(env: int, num_envs: int, base: float, alpha: float) -> float:
    """Return the fixed epsilon of environment `env` of all environments (Horgan et al. 2018, section 4.1)."""
    return float(base ** (1 + alpha * env / max(num_envs - 1, 1)))


def multiples(step: int, num_envs: int, every: float, start: int = 0) -> int:
    """Return how many multiples of `every`, counted in env steps from `start`, lie in step `step`.

    One step is `num_envs` env steps; a period that is not a multiple of it is exact on average.
    """
    if every == 0:
        return 0

    upto = step * num_envs - start
    if upto < every:
        return 0
    return math.floor(upto / every) - math.floor(max(upto - num_envs, 0) / every)
