"""The storage of one rank: a time-major ring of rows, [T, N], each lane written at its own pace.

An episode of L transitions takes L + 1 consecutive rows of its lane: L rows that start a transition and one final row
that holds only the last observation. So the successor of the transition in row r is always in row r + 1, whether the
episode went on, terminated or was truncated, in every autoreset mode, and no observation is stored twice.

The set of transitions that may be sampled is exact and needs no search: each lane numbers its transitions 0, 1, 2,
..., `slots` holds the row of number k, and numbers [tail, mature) are alive: their rows are not overwritten and their
n-step window is complete. Every operation is a tensor operation without a host read.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from trainer.replay.segments import Room, Segments
from trainer.types import State

START, TERMINAL, STOP = 1, 2, 4
"""Flag bits of a row: it starts a transition; that transition must not bootstrap; no window may reach beyond it."""

_ROWS, _NUMBERS = ("frames", "action", "reward", "flags", "age"), ("slots",)  # by row, by number of the transition
_FIELDS = (*_ROWS, *_NUMBERS)
_LANES = ("written", "head", "mature", "tail", "age_now")
_BUFFERS = (*_FIELDS, *_LANES)


def pick(field: Tensor, index: Tensor) -> Tensor:
    """Return field[index] for rows index [...]; copies whole rows, whereas indexing copies element by element."""
    if index.dim() == 1:
        return field.index_select(0, index)
    return field.index_select(0, index.flatten()).view(*index.shape, *field.shape[1:])


class Ring:
    """Rows of (frame, action, reward, flags, age in the episode) for N lanes.

    rows: rows per lane, T; lanes: N; frame_shape and frame_dtype: what one row keeps of an observation;
    horizon: n of the n-step return; stack: how many frames an observation is made of (a transition dies before the
    oldest of them is overwritten).
    """

    def __init__(
        self,
        rows: int,
        lanes: int,
        frame_shape: tuple[int, ...],
        frame_dtype: torch.dtype,
        *,
        horizon: int,
        stack: int,
        device: torch.device,
        pin: bool = False,
    ) -> None:
        assert rows > horizon + stack + 3, "a ring too small for one window: config should have refused it"
        self.rows, self.lanes, self.horizon, self.stack, self.device = rows, lanes, horizon, stack, device

        def field(dtype: torch.dtype, *shape: int, more: int = 0) -> Tensor:
            return torch.zeros(rows * lanes + more, *shape, dtype=dtype, device=device, pin_memory=pin)

        self.blank = rows * lanes  # index of a frame of zeros, never written
        self.frames = field(frame_dtype, *frame_shape, more=1)  # [T*N + 1, *frame], in the order of `place`
        self.action = field(torch.int32)  # [T*N]
        self.reward = field(torch.float32)
        self.flags = field(torch.uint8)
        self.age = field(torch.int32)
        self.slots = field(torch.int32)  # row of transition k of a lane at [k % T, lane]
        self.lane = torch.arange(lanes, device=device)
        self._two = torch.arange(2, device=device)[:, None]
        self._window = torch.arange(horizon, device=device)[:, None]
        self._ahead = self._two + stack + 1  # rows ahead of a cursor that its next moves forget
        zeros = torch.zeros(lanes, dtype=torch.int64, device=device)
        self.written = zeros.clone()  # [N] rows finished; the next one is written % T
        self.head, self.mature, self.tail = zeros.clone(), zeros.clone(), zeros.clone()
        self.age_now = zeros.clone()  # [N] steps since the running episode began
        self.room = Room()
        self._read: list[Segments] = []  # the snapshots being read

    def buffers(self) -> list[Tensor]:
        """Return every tensor that ever changes."""
        return [getattr(self, name) for name in _BUFFERS]

    def over(self, buffers: Iterator[Tensor]) -> Self:
        """Return the same ring over other buffers, taking as many as it needs."""
        other = copy.copy(self)
        for name in _BUFFERS:
            setattr(other, name, next(buffers))
        return other

    @staticmethod
    def row_bytes(frame_shape: tuple[int, ...], frame_dtype: torch.dtype) -> int:
        """Return the memory of one row [bytes]."""
        return math.prod(frame_shape) * frame_dtype.itemsize + 4 + 4 + 1 + 4 + 4

    def add(
        self,
        frame: Tensor,
        action: Tensor,
        reward: Tensor,
        *,
        terminal: Tensor,
        done: Tensor,
        life_lost: Tensor,
        reset: Tensor,
        next_frame: Tensor,
    ) -> None:
        """Write one transition per lane and, after it, its successor, which the next one overwrites unless `done`.

        Lanes with `reset` set write nothing that survives: their cursor stays. Call `before_step` first.
        frame, next_frame: [N, *frame]; action: [N]; reward: [N]; the rest: [N] bool.
        """
        happened = ~reset
        stop = done | life_lost
        here = self._at(self.written)
        behind = (here + self.lanes) % self.blank
        flags = START + TERMINAL * terminal.to(torch.uint8) + STOP * stop.to(torch.uint8)
        self.frames.index_copy_(0, self.place(here), frame)
        self.frames.index_copy_(0, self.place(behind), next_frame)
        self.action.index_copy_(0, here, action.to(torch.int32))
        self.reward.index_copy_(0, here, reward)
        self.flags.index_copy_(0, here, flags.to(torch.uint8))
        self.flags.index_fill_(0, behind, 0)
        if self.stack > 1:
            age = self.age_now.to(torch.int32)
            self.age.index_copy_(0, here, age)
            self.age.index_copy_(0, behind, age + 1)
            self.age_now.copy_(torch.where(done | reset, 0, self.age_now + 1))
        self.slots.index_copy_(0, self._at(self.head), (self.written % self.rows).to(torch.int32))
        self.head += happened
        self.mature.copy_(torch.where(stop, self.head, torch.maximum(self.mature, self.head - (self.horizon - 1))))
        self._advance(happened.to(torch.int64) + (happened & done))

    def cut(self) -> None:
        """Close every running episode: its last transition becomes the end of a truncated episode."""
        self.before_step()
        last = self._at(self.head - 1)
        row = self.slots[last].long() * self.lanes + self.lane
        running = (self.head > 0) & (self.flags[row] & STOP == 0)
        self.flags[row] = torch.where(running, self.flags[row] | STOP, self.flags[row])
        self.mature.copy_(torch.where(running, self.head, self.mature))
        self.age_now.zero_()
        self._advance(running.to(torch.int64))

    def changes(self, mature: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Return what came to life and what died since the cursors were `mature` and `tail`, an `add` or `cut` ago.

        mature, tail: [N]. Returns flat indices [n + 2, N] and whether it happened [n + 2, N] bool: the first n rows
        are for transitions coming to life, the last two for dying ones. None does both at once.
        """
        number = torch.cat((mature + self._window, tail + self._two))
        upto = torch.cat((self.mature.expand(self.horizon, -1), self.tail.expand(2, -1)))
        return self.locate(number, self.lane), number < upto

    def _advance(self, by: Tensor) -> None:
        """Move the cursors by 0, 1 or 2 rows and forget the transitions whose rows the next `add` may overwrite."""
        rows = self._at(self.written + self._ahead)  # [2, N]
        self.tail += ((pick(self.flags, rows) & START != 0) & (by > self._two)).sum(0)
        self.written += by

    def _at(self, count: Tensor) -> Tensor:
        """Return the flat index of row number `count` of each lane, [N]."""
        return count % self.rows * self.lanes + self.lane

    def shift(self, index: Tensor, by: Tensor | int) -> Tensor:
        """Return the flat index `by` rows later in the same lane (earlier, where negative)."""
        return (index + by * self.lanes) % (self.rows * self.lanes)

    def place(self, index: Tensor) -> Tensor:
        """Return where the frames of rows (flat index) are stored: if stacked, lane by lane, as they are read."""
        return index if self.stack == 1 else index % self.lanes * self.rows + index // self.lanes

    def locate(self, number: Tensor, lane: Tensor) -> Tensor:
        """Return the flat index of transition `number` of `lane`."""
        return self.slots[number % self.rows * self.lanes + lane].long() * self.lanes + lane

    def used_rows(self) -> int:
        """Return how many rows were written so far; waits for the device."""
        return min(self.rows, int(self.written.max()) + 2)

    def state_dict(self, lanes: slice) -> State:
        """Return the rows written so far of some lanes."""
        used = self.used_rows()
        state: State = {name: getattr(self, name)[lanes] for name in _LANES}
        return state | {name: self._by_row(name)[:used, lanes] for name in _FIELDS}

    def snapshot(self, lanes: slice) -> State:
        """Return the same with the rows as `Blocks`, which can be read while the ring is written."""

        def views(names: tuple[str, ...]) -> dict[str, Tensor]:
            return {name: self._by_row(name)[:, lanes] for name in names}

        used = self.used_rows()
        rows = Segments(views(_ROWS), self.written[lanes], used, 2, self.room)
        numbers = Segments(views(_NUMBERS), self.head[lanes], used, 1, self.room)
        self._read += [rows, numbers]
        return {name: getattr(self, name)[lanes] for name in _LANES} | {"rows": rows, "numbers": numbers}

    def load_state_dict(self, lanes: slice, state: State) -> None:
        """Continue with the rows of `state_dict`, or with the stored blocks of `snapshot`."""
        for name in _LANES:
            getattr(self, name)[lanes] = state[name].to(self.device)
        for group, names in (("rows", _ROWS), ("numbers", _NUMBERS)):
            begin = 0
            for block in state.get(group, [state]):
                end = begin + len(block[names[0]])
                for name in names:
                    self._by_row(name)[begin:end, lanes] = block[name].to(self.device)
                begin = end

    def _by_row(self, name: str) -> Tensor:
        """Return a field as [T, N, ...]."""
        field: Tensor = getattr(self, name)[: self.blank]
        if name == "frames" and self.stack > 1:  # see `place`
            return field.view(self.lanes, self.rows, *field.shape[1:]).transpose(0, 1)
        return field.view(self.rows, self.lanes, *field.shape[1:])

    def before_step(self) -> None:
        """Let readers of the ring set aside what the next step may overwrite."""
        if self._read:
            self._read = [segments for segments in self._read if segments.waits]
            for segments in self._read:
                segments.before_step()
