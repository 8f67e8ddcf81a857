"""The persistent thread: one task at a time, in one thread, which survives what goes wrong in a task."""

from __future__ import annotations

import threading
import weakref

import pytest

from trainer.checkpoint.worker import Worker


class Held:
    """Something that a task holds."""


def test_tasks_are_done_one_by_one_in_one_thread() -> None:
    worker, seen = Worker("beside"), []
    assert not worker.busy()
    worker.wait()
    for number in range(5):
        worker.begin(lambda number=number: seen.append((number, threading.current_thread())))  # type: ignore[misc]
    worker.wait()
    assert [number for number, _ in seen] == list(range(5))
    (thread,) = {thread for _, thread in seen}
    assert (thread.name, thread.daemon) == ("beside", True)


def test_it_is_busy_until_the_task_is_done() -> None:
    worker, go_on = Worker("beside"), threading.Event()
    worker.begin(lambda: go_on.wait(30) and None)
    assert worker.busy()
    go_on.set()
    worker.wait()
    assert not worker.busy()


def test_what_a_task_held_is_let_go() -> None:
    worker, held = Worker("beside"), Held()
    there = weakref.ref(held)
    worker.begin(lambda held=held: None)  # type: ignore[misc]
    worker.wait()
    del held
    assert there() is None


def test_a_task_that_raises_is_told_and_not_the_last(capfd: pytest.CaptureFixture[str]) -> None:
    worker, seen = Worker("beside"), []

    def fails() -> None:
        raise RuntimeError("so it goes")

    worker.begin(fails)
    worker.wait()
    worker.begin(lambda: seen.append(1))
    worker.wait()
    assert seen == [1]
    assert "RuntimeError: so it goes" in capfd.readouterr().err


def test_the_thread_ends_with_its_worker() -> None:
    worker, own = Worker("beside"), []
    worker.begin(lambda: own.append(threading.current_thread()))
    worker.wait()
    assert own[0].is_alive()
    del worker
    own[0].join(10)
    assert not own[0].is_alive()
