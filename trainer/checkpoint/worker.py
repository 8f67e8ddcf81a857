"""A persistent thread, for occasional work in the background of training."""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable
from queue import SimpleQueue

Task = Callable[[], None]


class Worker:
    """Does one task at a time, in a thread that starts with the first and ends when nothing refers to this worker.

    One thread for all tasks, because malloc keeps memory per thread (an arena, of up to eight per core): with a thread
    per task, each arena would in time hold what the largest task needs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        weakref.finalize(self, self._tasks.put, None)
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    def begin(self, task: Task) -> None:
        """Do `task` as soon as the previous one is done; an exception that it raises is only printed."""
        self._idle.wait()
        self._idle.clear()
        if self._thread is None:
            arguments = (self._tasks, self._idle)
            self._thread = threading.Thread(target=_serve, args=arguments, name=self.name, daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def busy(self) -> bool:
        """Return whether a task is not done yet."""
        return not self._idle.is_set()

    def wait(self) -> None:
        """Wait until no task is left."""
        self._idle.wait()


def _serve(tasks: SimpleQueue[Task | None], idle: threading.Event) -> None:
    while (task := tasks.get()) is not None:
        try:
            task()
        except BaseException:
            traceback.print_exc()
        finally:
            del task  # and what it holds
            idle.set()
