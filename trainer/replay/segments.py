"""Rows of a ring as they were at one moment, read block by block while the ring is being written.

A ring is overwritten in order, so the position of a lane's cursor tells which rows later steps may have touched. What
changed since an earlier moment follows from two cursors, and only rows about to be overwritten before they are read
have to be set aside, a few at a time: the ring is never copied as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_BYTES = 8 << 20
"""Rows are handed over in blocks of about this size."""
ROOM_BYTES = 8 << 20
"""When this much is set aside, the ring waits."""
_AT_A_TIME = 32
"""At most this many rows of each lane are set aside at a time."""


@dataclass
class Room:
    """The memory for rows set aside and the one lock, shared by all snapshots of a ring."""

    gate: threading.Condition = field(default_factory=threading.Condition)
    taken: int = 0  # bytes


class _Aside(NamedTuple):
    """Rows of one block as they were."""

    row: Tensor  # [K] on the CPU
    lane: Tensor  # [K]
    data: dict[str, Tensor]  # [K, ...]

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.data.values())


class Segments:
    """`types.Blocks`: some lanes of the fields of a ring, as they are when this is made.

    fields: name -> [T, N, ...], views that the ring keeps writing; cursor: [N] rows that each lane has finished, the
    next one is at cursor % T; used: rows in use so far; pace: how many rows at most a step moves a cursor. A step only
    writes rows from one before a cursor to one after it.
    """

    def __init__(self, fields: Mapping[str, Tensor], cursor: Tensor, used: int, pace: int, room: Room) -> None:
        self.dtypes = {name: field.dtype for name, field in fields.items()}
        self.rows, self.lanes = next(iter(fields.values())).shape[:2]
        self.each = max(1, BLOCK_BYTES // sum(field[0].nbytes for field in fields.values()))  # rows of a block
        self.bounds = [(begin, min(begin + self.each, used)) for begin in range(0, used, self.each)]
        self.used, self.cursor, self.pace = used, cursor.cpu().clone(), pace
        self._fields, self._room = dict(fields), room
        self._pending = torch.zeros(-(-self.rows // self.each), dtype=torch.bool)  # blocks waiting to be taken
        self._count = 0  # of them
        self._steps = 0  # of the ring since
        self._safe = 0  # this many rows of each lane, from one before its cursor on, are free to be overwritten
        self._aside: dict[int, list[_Aside]] = {}  # by block

    @property
    def count(self) -> int:
        return len(self.bounds)

    @property
    def waits(self) -> bool:
        """Whether a wanted block has not been taken yet."""
        return self._count > 0

    def want(self, since: Segments | None) -> list[int]:
        """Return which blocks may differ from those of `since`, an earlier moment of the same lanes; None: all.

        From here on these are kept as they are, until each is taken or all are released. Take them in this order: the
        ones to be overwritten next come first.
        """
        changed = list(range(self.count))
        if since is not None and (since.rows, since.lanes, since.each) == (self.rows, self.lanes, self.each):
            touched = _touched(since.cursor, self.cursor, self.rows)
            same = set(since.bounds)
            changed = [i for i in changed if self.bounds[i] not in same or touched[slice(*self.bounds[i])].any()]
        first = int(self.cursor.min() - 1) % self.rows // self.each
        order = sorted(changed, key=lambda block: (block - first) % len(self._pending))
        with self._room.gate:
            self._pending[order] = True
            self._count = len(order)
        return order

    def before_step(self) -> None:
        """Set aside what the ring's next step may overwrite and nobody has taken; called by the ring's writer."""
        self._steps += 1
        upto = min(self.pace * self._steps + 2, self.rows)
        while self._safe < upto:
            more = min(_AT_A_TIME, max(1, self.each // 8), self.rows - self._safe)
            self._set_aside(torch.arange(self._safe, self._safe + more))
            self._safe += more

    def _set_aside(self, offset: Tensor) -> None:
        row = (self.cursor - 1 + offset[:, None]) % self.rows  # [K, N]
        block = torch.where(row < self.used, row // self.each, -1)
        there = block[block >= 0]
        with self._room.gate:
            # Where the disk is slower than the ring, the ring waits here rather than take more memory.
            self._room.gate.wait_for(lambda: self._room.taken < ROOM_BYTES or not self._pending[there].any())
            for i in set(there[self._pending[there]].tolist()):
                at, lane = (block == i).nonzero(as_tuple=True)
                where = row[at, lane]
                data = {
                    name: values[where.to(values.device), lane.to(values.device)]
                    for name, values in self._fields.items()
                }
                self._aside.setdefault(i, []).append(aside := _Aside(where, lane, data))
                self._room.taken += aside.nbytes

    def take(self, block: int) -> dict[str, Tensor]:
        """Return a copy of a wanted block, on the CPU; for one thread other than the ring's."""
        begin, end = self.bounds[block]
        with self._room.gate:
            assert self._pending[block], "block was not wanted or is already taken"
            copy = {name: values[begin:end].to("cpu", copy=True) for name, values in self._fields.items()}
            for aside in self._aside.pop(block, ()):
                for name, value in aside.data.items():
                    copy[name][aside.row - begin, aside.lane] = value.cpu()
                self._room.taken -= aside.nbytes
            self._pending[block] = False
            self._count -= 1
            self._room.gate.notify_all()
        return copy

    def release(self) -> None:
        """Release everything but what a later `want` compares with."""
        with self._room.gate:
            self._pending[:] = False
            self._count = 0
            self._room.taken -= sum(aside.nbytes for asides in self._aside.values() for aside in asides)
            self._aside, self._fields = {}, {}
            self._room.gate.notify_all()


def _touched(then: Tensor, now: Tensor, rows: int) -> Tensor:
    """Return which rows may have been written while cursors went from `then` to `now`, [T] bool."""
    length = (now - then + 3).clamp(max=rows)  # from one before to one after
    first = (then - 1) % rows
    ends = torch.zeros(2 * rows + 1, dtype=torch.int64)
    ones = torch.ones_like(first)
    ends.index_add_(0, first, ones).index_add_(0, first + length, -ones)
    inside = ends.cumsum(0)[:-1] > 0
    return inside[:rows] | inside[rows:]
