"""A page of memory that the other ranks of a machine can read: what a rank did last, even after it is gone.

It has no name and no file: nothing is left over, and no disk can fail under it. Needs no torch.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import Any, NamedTuple

from trainer.runtime import machine
from trainer.runtime.spans import NAMES


class Neighbour(NamedTuple):
    """Another rank of this machine."""

    pid: int
    began: str | None
    page: memoryview[float] | None  # of its spans

    def is_gone(self) -> bool:
        return machine.began(self.pid) != self.began

    def last(self) -> dict[str, Any]:
        """Return what it did last, to the step."""
        return {} if self.page is None else {"step": int(self.page[0]), "phase": NAMES[int(self.page[1])]}


def memory_without_a_name() -> int:
    """Make a page; return its file descriptor, -1 where there cannot be one."""
    try:
        handle = os.memfd_create("lockstep-page", os.MFD_CLOEXEC)
        os.ftruncate(handle, mmap.PAGESIZE)
    except (OSError, AttributeError):  # not Linux
        return -1
    return handle


def meet(pid: int, page: int) -> Neighbour:
    """Return another process of this machine as it is now, with its page; page: its file descriptor there."""
    return Neighbour(pid, machine.began(pid), _map_of(pid, page))


def write_into(page: int) -> memoryview[float]:
    """Return our own page, by its file descriptor, for writing."""
    return memoryview(mmap.mmap(page, mmap.PAGESIZE)).cast("d")


def _map_of(pid: int, page: int) -> memoryview[float] | None:
    """Return the page of another process, for reading."""
    with contextlib.suppress(OSError, ValueError):
        handle = os.open(f"/proc/{pid}/fd/{page}", os.O_RDONLY)
        try:
            return memoryview(mmap.mmap(handle, mmap.PAGESIZE, prot=mmap.PROT_READ)).cast("d")
        finally:
            os.close(handle)
    return None
