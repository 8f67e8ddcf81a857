"""How the failure of one rank ends all of them, with the first cause reported by all.

The first rank to fail writes its cause into the launcher's store. A thread on every rank looks there once a second: a
rank that is blocked in a collective, which no exception can reach, exits as soon as a cause appears.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from trainer.runtime.spans import Exchange

_POLL = 1.0  # s
_GRACE = 2.0  # s in which a rank that noticed by itself may report more than the thread would
_JOIN = 10.0  # s
_TELLING = 3.0  # s
EXIT_FAILED = 1
LAST_WORDS = 1.5  # s that a rank waits for the peer it lost, or the launcher, to say what happened first
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_telling_launcher = threading.Lock()
LastWords = Callable[[str, str, BaseException | None], None]
"""(kind of end, cause, what was raised): called once a process knows that it will end, in any thread."""
_PEER_WORDS = ("gloo", "NCCL", "losed by peer", "did not join an exchange")


def _nothing(kind: str, cause: str, error: BaseException | None) -> None:
    """Say nothing."""


class FailureWatch:
    """The first cause of failure, shared by all ranks through `store`; watches in a thread if there are peers."""

    def __init__(self, store: Any, rank: int, has_peers: bool) -> None:
        self.store, self.rank, self.has_peers = store, rank, has_peers
        self.waiting = 0  # whether this rank is in an exchange of flags or objects, where it depends on others
        self.meeting: Exchange | None = None  # which one that is
        self.last_words: LastWords = _nothing  # what a process does before it exits
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="failure-watch", daemon=True)

    def __enter__(self) -> FailureWatch:
        if self.has_peers:
            # a client of its own: the main thread may sit in a blocking call on the other one
            self._own = self.store.clone() if hasattr(self.store, "clone") else self.store
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.has_peers:  # an interpreter that ends while the thread is in a store call aborts
            self._thread.join(_JOIN)

    def report(self, cause: str) -> str:
        """Record `cause` unless a peer was first; return the first cause, with the rank it came from."""
        told = [f"rank {self.rank}: {cause}"]

        def tell() -> None:
            with contextlib.suppress(Exception):  # the store lives in the launcher or in rank 0, which may be gone
                first: bytes = self.store.compare_set("failure", "", told[0])
                told.append(first.decode())

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        telling.join(_TELLING)  # if the store's process is stopped, no answer ever comes
        return told[-1]

    def _look(self) -> None:
        while not self._stop.wait(_POLL):
            try:
                if not self._own.check(["failure"]):
                    continue
                self._own.wait(["failure"], timedelta(seconds=_POLL))
                cause = self._own.get("failure").decode()
            except Exception:
                return  # no launcher, no store: the launcher's death ends the ranks by signal
            if cause and not self._stop.wait(_GRACE):
                self.last_words("peer", cause, None)
                if not cause.startswith(f"rank {self.rank}:"):
                    print(f"lockstep: rank {self.rank} stops because of {cause}", file=sys.stderr, flush=True)
                os._exit(EXIT_FAILED)


def lost_peer(error: BaseException) -> bool:
    """Whether `error` only says that another rank is gone, which is never the first cause."""
    if isinstance(error, DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _PEER_WORDS)


def condense(text: str) -> str:
    """Return the cause in one line: the first one, and if a traceback follows, the exception in its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return f"{lines[0]}: {lines[-1]}" if "Traceback" in text and lines[-1] != lines[0] else lines[0]


def tell_launcher(error: BaseException) -> None:
    """Leave `error` where torchrun looks for the cause, if it asked for that.

    By rename: this process may be killed at any moment, and half a file would end torchrun itself.
    """
    path = os.environ.get(_ERROR_FILE)
    if path is None:
        return
    with _telling_launcher:
        part = f"{path}.part"
        os.environ[_ERROR_FILE] = part
        try:
            get_error_handler().record_exception(error)
            os.replace(part, path)
        finally:
            os.environ[_ERROR_FILE] = path
