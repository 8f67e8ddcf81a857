"""Counts a rank's environments that failed and were restarted; too many end the run with the first cause."""

from __future__ import annotations

import sys


class EnvError(RuntimeError):
    """An environment failed; the text holds its traceback, which may have come from another process."""


class Restarts:
    """Counts them. limit: how many are tolerated."""

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.count = limit, 0
        self._first = ""

    def note(self, cause: str) -> None:
        """Count one; `cause` is what happened, perhaps with a traceback. Raises EnvError beyond the limit."""
        self._first = self._first or cause
        self.count += 1
        if self.count > self.limit:
            raise EnvError(self._first)
        if self.count & (self.count - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
            lines = [line.strip() for line in cause.splitlines() if line.strip()]
            what = ": ".join(dict.fromkeys((lines[0], lines[-1])))
            said = (
                f"lockstep: {what}; it was restarted and its episode truncated ({self.count} of {self.limit} allowed)"
            )
            print(said, file=sys.stderr, flush=True)
