"""Requests to stop: a signal sets a flag on one rank, and the ranks agree on it at the next poll."""

from __future__ import annotations

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)

_SECOND_THOUGHT = 2.0  # s; a terminal and a launcher may both deliver the same Ctrl-C


class StopRequest:
    """Holds the signal that asked to stop; a second Ctrl-C, some time after the first, interrupts at once."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._since = 0.0

    def install(self) -> StopRequest:
        for sig in SIGNALS:
            signal.signal(sig, self._note)
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal == "SIGINT" and number == signal.SIGINT and now - self._since > _SECOND_THOUGHT:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal, self._since = signal.Signals(number).name, now
