"""What it costs to wait for the slowest of many: the expected maximum of random times, by Monte Carlo.

Times are gamma distributed around their mean: a sum of h of them is gamma distributed again, and a spread of 1 is the
exponential distribution, whose expected maximum over p draws is the harmonic number H_p.
"""

from __future__ import annotations

import functools
import random

DRAWS, SEED = 50_000, 1


@functools.cache
def slowest(ranks: int, spread: float, updates: int = 1) -> float:
    """Return the expected maximum over `ranks` of the time of `updates` updates, over its mean; at least 1.

    spread: standard deviation over mean of the time of one update. Ranks that meet only after h updates average their
    luck: the spread shrinks with sqrt(h).
    """
    if ranks == 1 or spread == 0:
        return 1.0
    return expected_maximum(_draws(updates / spread**2), ranks)


def expected_maximum(draws: tuple[float, ...], ranks: int) -> float:
    """Return the expected maximum of `ranks` draws from the distribution that `draws` is a sorted sample of.

    The maximum is at most the i-th of N with probability (i/N)^ranks: one sample answers for any number of ranks.
    """
    n = len(draws)
    reached = [(i / n) ** ranks for i in range(n + 1)]
    return sum(value * (reached[i + 1] - reached[i]) for i, value in enumerate(draws))


@functools.cache
def _draws(shape: float) -> tuple[float, ...]:
    """A sorted sample of the gamma distribution of this shape and mean 1."""
    generator = random.Random(SEED)
    return tuple(sorted(generator.gammavariate(shape, 1 / shape) for _ in range(DRAWS)))
