"""Account of updates skipped because loss or gradient was not finite, read off the polled metrics.

Every update leaves its loss and the gradient norm after the exchange. `sync` stepped nothing where that norm was not
finite, so the host can tell afterwards what the device did, and the device need not count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Bad(NamedTuple):
    """Where a series of bad updates began, as one rank saw it: update numbers, None for what was fine."""

    norm: int
    loss: int | None  # this rank's own


class Skipped:
    """Counts skipped updates, and the longest series of them."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.longest = 0  # since the last look
        self.series: Bad | None = None  # the longest one
        self._count = 0  # since the last drain
        self._began: int | None = None
        self._bad_loss: int | None = None

    def look(self, updates: int, fresh: Mapping[str, Sequence[float]]) -> None:
        """Take in the polled metrics of the last updates, the newest being number `updates`."""
        losses, norms = fresh.get("td_loss", ()), fresh.get("grad_norm", ())
        first = updates - len(norms) + 1
        self.longest = 0
        for update, (loss, norm) in enumerate(zip(losses, norms, strict=True), first):
            if not math.isfinite(loss) and self._bad_loss is None:
                self._bad_loss = update  # before its norm if gradients are applied late
            if math.isfinite(norm):
                if math.isfinite(loss):
                    self._bad_loss = None
                self.in_a_row, self._began = 0, None
                continue
            self._count += 1
            self.in_a_row += 1
            self._began = self._began or update
            if self.in_a_row > self.longest:
                self.longest, self.series = self.in_a_row, Bad(self._began, self._bad_loss)

    def drain(self) -> float:
        """Return how many were skipped since the last drain."""
        count, self._count = self._count, 0
        return float(count)


def finite(values: Sequence[float]) -> list[float]:
    """Return the values that are finite."""
    return [value for value in values if math.isfinite(value)]
