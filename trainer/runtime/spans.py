"""Where the wall time of a rank goes: nested spans, each charged only with its own time; and what it did last."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import MutableSequence
from time import perf_counter

NAMES = ("other", "act", "env", "learn", "sync", "replay", "poll", "eval", "save")
"""The spans of a run; others count as the first, on a page."""
LAST = 32
"""Steps whose times are remembered."""


Exchange = tuple[str, int, float]
"""An exchange in progress: its kind, the bytes of this rank's values, its start by time.perf_counter."""


class _Codes(dict[str, float]):
    def __missing__(self, name: str) -> float:
        return 0.0


_CODES = _Codes({name: float(code) for code, name in enumerate(NAMES)})


class Spans:
    """Accumulates host wall time [s] per name; a span inside another pauses the outer one.

    On a GPU this is the time the host spent, launching or waiting, not the device's. Other threads may read what is
    public, and call `standing`. page: the last whole step, and the index of the innermost span in NAMES; placed in
    shared memory, it can be read by others whatever happens to this process.
    """

    def __init__(self) -> None:
        self.page: MutableSequence[float] | memoryview[float] = array("d", (0.0, 0.0))
        self.seconds: dict[str, float] = defaultdict(float)  # since the beginning
        self.exchange: Exchange | None = None  # under way
        self.last: deque[tuple[int, float, dict[str, float]]] = deque(maxlen=LAST)  # step, when, seconds by then
        self._drained: dict[str, float] = {}
        self._open = ["other"]
        self._next = "other"
        self._thrown: tuple[int, tuple[str, ...]] = (0, ())  # the last exception, and where it came from
        self._since = self._began = perf_counter()

    def __call__(self, name: str) -> Spans:
        """Return the context of a span; entered at once by `with`, and cheaper than a generator's."""
        self._next = name
        return self

    def exchanging(self, kind: str, nbytes: int) -> Spans:
        """Return the context of a span `sync` in which ranks meet."""
        self.exchange = (kind, nbytes, perf_counter())
        self._next = "sync"
        return self

    def __enter__(self) -> None:
        now = perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now
        self._open.append(self._next)
        self.page[1] = _CODES[self._next]

    def __exit__(self, kind: object, error: object, _: object) -> None:
        now = perf_counter()
        name = self._open[-1]
        self.seconds[name] += now - self._since
        self._since = now
        if error is not None:  # what was under way stays known
            if self._thrown[0] != id(error):
                self._thrown = id(error), tuple(self._open)
        elif name == "sync":
            self.exchange = None
        self._open.pop()
        self.page[1] = _CODES[self._open[-1]]

    def mark(self, step: int) -> None:
        """Remember where the time has gone by the end of this step."""
        self.page[0] = step
        self.last.append((step, perf_counter(), self.seconds.copy()))

    def standing(self) -> tuple[tuple[str, ...], float]:
        """Return the open spans, the innermost last, and when the last one was opened or closed; for other threads."""
        return tuple(self._open), self._since

    def source(self, error: BaseException) -> tuple[str, ...]:
        """Return the spans that were open where an exception came from, the innermost last."""
        return self._thrown[1] if self._thrown[0] == id(error) else tuple(self._open)

    def drain(self) -> tuple[float, dict[str, float]]:
        """Return (seconds, share of each name in them) since the last drain."""
        now = perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now
        total = max(self._since - self._began, 1e-9)
        spent = {name: seconds - self._drained.get(name, 0.0) for name, seconds in self.seconds.items()}
        self._drained, self._began = self.seconds.copy(), self._since
        return total, {name: seconds / total for name, seconds in spent.items() if seconds > 0}
