"""Where the wall time of a rank goes: nested spans, each charged with its own time alone."""

from __future__ import annotations

import time


class Spans:
    """Accumulates host wall time [s] per name; a span inside another pauses the outer one.

    On a GPU this is the time the host spent, launching or waiting, not the device's.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open = ["other"]
        self._next = "other"
        self._since = self._began = time.perf_counter()

    def __call__(self, name: str) -> Spans:
        """Return the context of a span; entered at once by `with`, and cheaper than a generator's."""
        self._next = name
        return self

    def __enter__(self) -> None:
        self._switch()
        self._open.append(self._next)

    def __exit__(self, *_: object) -> None:
        self._switch()
        self._open.pop()

    def _switch(self) -> None:
        now = time.perf_counter()
        name = self._open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def standing(self) -> tuple[tuple[str, ...], float]:
        """Return the open spans, the innermost last, and when the last one was opened or closed; for other threads."""
        return tuple(self._open), self._since

    def drain(self) -> tuple[float, dict[str, float]]:
        """Return (seconds, share of each name in them) since the last drain."""
        self._switch()
        total = max(self._since - self._began, 1e-9)
        shares = {name: seconds / total for name, seconds in self.seconds.items()}
        self.seconds, self._began = {}, self._since
        return total, shares
