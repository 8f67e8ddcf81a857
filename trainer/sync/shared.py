"""Exchanges between ranks of one machine through shared memory, for tensors on CPUs.

Over loopback sockets the cost of an all-reduce is wake-ups, a dozen for two ranks, whatever its size. Here each rank
polls the others' marks itself, so that a small gradient takes as long as its copies. Everything is added
in the order of the ranks: the sum has the same bits on every rank.
"""

from __future__ import annotations

import mmap
import os
import platform
import select
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

FOLDER = Path("/dev/shm")
SMALL = 4096
"""Bytes of the largest gather."""
_LINE = 64  # bytes of a cache line: marks of two ranks in one would slow both down
_EAGER, _YIELDING = 100, 1e-3  # polls, s
_NAPS = 0.02  # of the time waited so far: keeps the cost of polling small, and of oversleeping
_LONG_NAP = 0.001  # s; longer naps also end when the awaited process ends
_ORDERED = ("x86_64", "AMD64")  # processors whose stores are seen in the order they were made


class SharedMemory:
    """A slot for each rank's values and one for their sum.

    memory: [bytes] the same on all ranks; capacity: bytes of a slot; timeout: how long a rank waits for another [s];
    lives: rank -> a descriptor that becomes readable when its process has ended, where there is one.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        rank: int,
        world_size: int,
        capacity: int,
        timeout: float,
        lives: Mapping[int, int] | None = None,
    ) -> None:
        self.rank, self.world_size, self.capacity, self.timeout = rank, world_size, capacity, timeout
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        head = world_size * _LINE
        small = whole[head : head + 2 * world_size * SMALL].view(2, world_size, SMALL)
        slots = whole[head + small.numel() :].view(world_size + 1, capacity)
        self._notes, self._slots, self._sum = small, slots[:-1], slots[-1]
        self._marks = memoryview(memory)[:head].cast("q")[:: _LINE // 8]  # how often each rank was here
        self._turn, self._noted = 0, 0
        self._others = [i for i in range(world_size) if i != rank]
        self._ends = {other: select.poll() for other in lives or ()}
        for other, descriptor in (lives or {}).items():
            self._ends[other].register(descriptor, select.POLLIN)
        self._eager = _EAGER if len(os.sched_getaffinity(0)) >= world_size else 0

    def fits(self, values: Tensor) -> bool:
        return values.device.type == "cpu" and values.is_contiguous() and values.nbytes <= self.capacity

    def sum_(self, values: Tensor) -> None:
        """Replace `values` by their sum over the ranks. A collective.

        Each rank sums its part of the elements. A slot is rewritten only by a rank that has left `_meet` a second
        time, when everyone has read it; the sum only after the next `_meet`, when everyone has copied it.
        """
        flat = values.view(-1)
        count = len(flat)
        slots = self._slots[:, : values.nbytes].view(values.dtype)
        total = self._sum[: values.nbytes].view(values.dtype)
        slots[self.rank].copy_(flat)
        self._meet()
        part = slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)
        torch.add(slots[0][part], slots[1][part], out=total[part])
        for other in range(2, self.world_size):
            total[part] += slots[other][part]
        self._meet()
        flat.copy_(total)

    def join_(self, values: Tensor) -> None:
        """Replace every equal part of `values` by that of the rank which owns it. A collective."""
        parts = values.view(self.world_size, -1)
        slots = self._slots[:, : parts[0].nbytes].view(values.dtype)
        slots[self.rank].copy_(parts[self.rank])
        self._meet()
        parts.copy_(slots)
        self._meet()

    def spread_(self, values: Tensor, root: int) -> None:
        """Replace `values` by those of rank `root`. A collective."""
        flat = values.view(-1)
        slot = self._slots[root, : values.nbytes].view(values.dtype)
        if self.rank == root:
            slot.copy_(flat)
        self._meet()
        if self.rank != root:
            flat.copy_(slot)
        self._meet()

    def notes(self, values: Tensor) -> bool:
        """Whether `gather` takes these values."""
        return values.device.type == "cpu" and values.nbytes <= SMALL

    def gather(self, values: Tensor) -> Tensor:
        """Return every rank's few values, [K] -> [ranks, K]. A collective.

        Two sets of slots alternate: a rank that is here a second time knows that all have read those of the first.
        """
        self._noted += 1
        notes = self._notes[self._noted % 2, :, : values.nbytes].view(values.dtype)
        notes[self.rank].copy_(values)
        self._meet()
        return notes.clone()

    def _meet(self) -> None:
        """Wait until every rank has come here as often as this one."""
        self._turn += 1
        self._marks[self.rank] = self._turn
        for other in self._others:
            if self._marks[other] < self._turn:
                self._wait(other)

    def _wait(self, other: int) -> None:
        """Poll without a pause, then yield the core, then nap: a rank that computes for long needs it."""
        for _ in range(self._eager):
            if self._marks[other] >= self._turn:
                return
        began = time.monotonic()
        while self._marks[other] < self._turn:
            waited = time.monotonic() - began
            if waited < _YIELDING:
                os.sched_yield()
            elif waited < self.timeout:
                self._nap(min(_NAPS * waited, 0.05), other)
            else:
                raise RuntimeError(f"rank {other} did not join an exchange within {self.timeout:g} s")

    def _nap(self, seconds: float, other: int) -> None:
        """Sleep. Raises RuntimeError as soon as the process of the awaited rank has ended without coming."""
        if seconds < _LONG_NAP or other not in self._ends:
            time.sleep(seconds)
        elif self._ends[other].poll(1e3 * seconds) and self._marks[other] < self._turn:
            raise RuntimeError(f"rank {other} did not join an exchange: its process has ended")


def share(capacity: int, timeout: float, group: dist.ProcessGroup | None = None) -> SharedMemory | None:
    """Return memory that the ranks of `group` share; None on all of them if any cannot have it. A collective.

    They cannot if they are on several machines, or in separate containers, or if there is too little of it.
    The name is removed as soon as all have opened it: nothing is left over, however they end.
    """
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    capacity = -(-capacity // _LINE) * _LINE
    size = world_size * (_LINE + 2 * SMALL) + (world_size + 1) * capacity
    offered: list[tuple[str, bytes] | None] = [None]
    mine: Path | None = None
    if rank == 0 and platform.machine() in _ORDERED and FOLDER.is_dir():
        mine, secret = _offer(size)
        offered = [(mine.name, secret)] if mine else [None]
    try:
        dist.broadcast_object_list(offered, group=group, group_src=0)
        memory = _open(*offered[0], size) if offered[0] else None
        places: list[tuple[str, int] | None] = [None] * world_size
        dist.all_gather_object(places, None if memory is None else _place(), group=group)
    finally:
        if mine is not None:
            mine.unlink(missing_ok=True)
    if memory is None or None in places:
        return None
    return SharedMemory(memory, rank, world_size, capacity, timeout, _lives(places, rank))


def _place() -> tuple[str, int]:
    """Return the PID namespace of this process, and its PID."""
    space = Path("/proc/self/ns/pid")
    return os.readlink(space) if space.is_symlink() else "", os.getpid()


def _lives(places: Sequence[tuple[str, int] | None], rank: int) -> dict[int, int]:
    """Return descriptors (Linux's pidfd) of the other ranks' processes, as far as they are visible from here."""
    found: dict[int, int] = {}
    for other, place in enumerate(places):
        if other != rank and place is not None and place[0] == _place()[0] != "" and hasattr(os, "pidfd_open"):
            with suppress(OSError):
                found[other] = os.pidfd_open(place[1])
    return found


def _offer(size: int) -> tuple[Path | None, bytes]:
    """Reserve that many zeroed bytes, followed by a secret by which others recognise the memory."""
    secret = os.urandom(_LINE)
    try:
        handle, name = tempfile.mkstemp(prefix="lockstep-", dir=FOLDER)
    except OSError:
        return None, secret
    try:
        os.posix_fallocate(handle, 0, size + _LINE)  # touching a page that is not there would kill the process
        os.pwrite(handle, secret, size)
    except OSError:
        os.unlink(name)
        return None, secret
    finally:
        os.close(handle)
    return Path(name), secret


def _open(name: str, secret: bytes, size: int) -> mmap.mmap | None:
    try:
        handle = os.open(FOLDER / name, os.O_RDWR)
    except OSError:
        return None
    try:
        same = os.pread(handle, _LINE, size) == secret
        return mmap.mmap(handle, size) if same and platform.machine() in _ORDERED else None
    except OSError:
        return None
    finally:
        os.close(handle)
