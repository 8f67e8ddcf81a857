"""Garbage collection that leaves the training loop alone.

Reference counting frees nearly everything. The cycle collector goes through every object that the imports have made, a
tenth of a second each time, and when one rank collects, all others wait.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 50_000
"""Objects created and not yet freed that trigger a collection; Python's own threshold is 700."""


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Within it, existing objects are left alone, and new ones are collected rarely."""
    thresholds = gc.get_threshold()
    gc.collect()  # else current garbage would stay
    gc.freeze()
    gc.set_threshold(YOUNG, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
