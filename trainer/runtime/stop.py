"""Requests to stop: a signal or a file sets a flag on one rank, and the ranks agree on it at the next poll."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)

heard: list[int] = []
"""Signals received since a `StopRequest` was installed; for code that ends this process by itself."""

_SECOND_THOUGHT = 2.0  # s; a terminal and a launcher may both deliver the same Ctrl-C


class StopRequest:
    """Holds what asked to stop; a second Ctrl-C, some time after the first, interrupts at once.

    A batch script asks by a file, named by LOCKSTEP_STOP_FILE: a signal to a job step would hit torchrun as well.
    """

    def __init__(self) -> None:
        self._signal: str | None = None
        self._since = 0.0
        path = os.environ.get("LOCKSTEP_STOP_FILE")
        self._file = Path(path) if path else None

    @property
    def signal(self) -> str | None:
        """Name of the signal, or of the file; None: go on. Checks the disk, so ask at polls only."""
        if self._signal is None and self._file is not None and self._file.exists():
            return self._file.name
        return self._signal

    def install(self) -> StopRequest:
        for sig in SIGNALS:
            signal.signal(sig, self._note)
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        heard.append(number)
        now = time.monotonic()
        if self._signal == "SIGINT" and number == signal.SIGINT and now - self._since > _SECOND_THOUGHT:
            raise KeyboardInterrupt
        if self._signal is None:
            self._signal, self._since = signal.Signals(number).name, now
