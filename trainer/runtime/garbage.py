"""Garbage collection that leaves the training loop alone.

Reference counts free nearly everything. What looks for cycles goes through every object that the imports have made, a
tenth of a second each time, and on one rank all others wait for it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 50_000
"""Objects, made and not freed since, that are worth a look; Python's own threshold is 700."""


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Within it the objects of now are left alone, and those made since are looked through rarely."""
    thresholds = gc.get_threshold()
    gc.collect()  # what is garbage now would stay
    gc.freeze()
    gc.set_threshold(YOUNG, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
