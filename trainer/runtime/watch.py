"""A rank that makes no progress is named and ended, so that a launcher can restart the run.

A thread reads the loop's spans. A rank that stands still while waiting for no other reports it itself, with the stack
of every thread; one that is completely silent (stopped, swapped out, cut off) is reported by its neighbour, which kills
it where it can. Waiting for others is no fault: their own threads report. The launcher is watched as well.

Time is counted in looks, not read off a clock: a run that was suspended as a whole and resumed has not hung.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from trainer.runtime.failure import EXIT_FAILED, FailureWatch, tell_launcher
from trainer.runtime.orphan import parent_is_gone

_LOOK = 0.5  # s
_JOIN = 10.0  # s
ORPHAN_GRACE = 8.0  # s in which a rank without a launcher may still save
_DONE = "done"


class Standing(Protocol):
    """Knows which spans a rank is in, the innermost last, and since when."""

    def standing(self) -> tuple[tuple[str, ...], float]: ...


class HungError(RuntimeError):
    """A rank stands still, or is silent; the text names it."""


class Progress:
    """How long something has looked the same; a look counts for at most twice the usual time."""

    def __init__(self) -> None:
        self.still = 0.0
        self._last: object = None

    def look(self, now: object, passed: float) -> float:
        """Return for how long `now` has been what it is [s]."""
        self.still = self.still + min(passed, 2 * _LOOK) if now == self._last else 0.0
        self._last = now
        return self.still


class Place(NamedTuple):
    """Where a rank's process is."""

    machine: str
    parent: int
    pid: int


def whereabouts() -> Place:
    """Return the place of this process."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return Place(boot.read_text().strip() if boot.exists() else "", os.getppid(), os.getpid())


class Watch:
    """Watches this rank, the next ones and the launcher while a run lasts.

    position: whole steps so far; places: of all ranks; timeout: how long a rank may stand still [s]; longer: the same
    within some spans. Ranks with the same parent are checked directly. The next one is also checked through the store,
    in a separate thread: the store is silent as well if its own process has been stopped.
    """

    def __init__(
        self,
        failure: FailureWatch,
        spans: Standing,
        position: Callable[[], int],
        places: Sequence[Place],
        timeout: float,
        longer: Mapping[str, float],
    ) -> None:
        self.failure, self.spans, self.position = failure, spans, position
        self.timeout, self.longer = timeout, longer
        rank, here = failure.rank, places[failure.rank]
        near = [other for other, place in enumerate(places) if place[:2] == here[:2]]
        self._sibling = near[(near.index(rank) + 1) % len(near)]
        self._next = (rank + 1) % len(places)
        self._places = places
        self._own, self._stopped, self._silent, self._orphaned = Progress(), Progress(), Progress(), 0.0
        self._done = threading.Event()
        loops = [self._near, self._far] if len(places) > 1 else [self._near]
        self._threads = [threading.Thread(target=self._loop, args=(look,), daemon=True, name="watch") for look in loops]

    def __enter__(self) -> Watch:
        store = self.failure.store
        # a client of its own: the main thread may sit in a blocking call on the other one
        self._store = store.clone() if len(self._places) > 1 and hasattr(store, "clone") else store
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(_JOIN)
        if len(self._places) > 1:
            with contextlib.suppress(Exception):
                self._store.set(f"beat/{self.failure.rank}", json.dumps([_DONE, "", 0]))

    def _loop(self, look: Callable[[float], None]) -> None:
        last = time.monotonic()
        while not self._done.wait(_LOOK):
            now = time.monotonic()
            passed, last = min(now - last, 2 * _LOOK), now
            look(passed)

    def _near(self, passed: float) -> None:
        """Look at what is on this machine."""
        if parent_is_gone():
            self._orphaned += passed
            if self._orphaned > ORPHAN_GRACE:
                self._end(f"rank {self.failure.rank}: the launcher is gone")
        standing, since = self.spans.standing()
        waits = self.failure.waiting > 0 or standing[-1] == "sync"
        still = self._own.look(object() if waits else (standing, since), passed)  # waiting restarts the count
        if still >= max([self.timeout, *(self.longer.get(name, 0.0) for name in standing)]):
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            where = f"{standing[-1]} at step {self.position()}"
            self._end(f"rank {self.failure.rank} hangs: nothing happened for {still:.0f} s in {where}")
        if self._sibling != self.failure.rank:
            pid = self._places[self._sibling].pid
            stopped = _is_stopped(pid)
            if self._stopped.look("stopped" if stopped else object(), passed) >= self.timeout:
                self._end(f"rank {self._sibling} hangs: stopped for {self.timeout:.0f} s", pid)

    def _far(self, passed: float) -> None:
        """Report that this rank is there, and check whether the next one is."""
        standing, _ = self.spans.standing()
        with contextlib.suppress(Exception):  # no launcher, no store: its death is seen elsewhere
            beat = [time.monotonic(), standing[-1], self.position()]
            self._store.set(f"beat/{self.failure.rank}", json.dumps(beat))
            key = f"beat/{self._next}"
            if not self._store.check([key]):
                return
            beat = json.loads(self._store.get(key))
            if beat[0] == _DONE or self._silent.look(beat[0], passed) < self.timeout:
                return
            here, there = self._places[self.failure.rank], self._places[self._next]
            cause = (
                f"rank {self._next} hangs: silent for {self.timeout:.0f} s, last seen in {beat[1]} at step {beat[2]}"
            )
            self._end(cause, there.pid if there[:2] == here[:2] else None)

    def _end(self, cause: str, culprit: int | None = None) -> None:
        """Report the cause to all ranks and end this process, whatever its main thread is doing.

        culprit: a process that is killed as well, once the launcher has been told why.
        """
        error = HungError(cause)
        self.failure.last_words("watch", cause, None)
        if culprit is not None:
            with contextlib.suppress(Exception):
                tell_launcher(error)
            with contextlib.suppress(OSError):
                os.kill(culprit, signal.SIGKILL)
        if self.failure.report(cause).endswith(cause):
            print(f"lockstep: {cause}", file=sys.stderr, flush=True)
            with contextlib.suppress(Exception):
                tell_launcher(error)
        os._exit(EXIT_FAILED)


def _is_stopped(pid: int) -> bool:
    """Whether a process of this machine has been stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False
