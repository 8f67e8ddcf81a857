"""The bookkeeping of sequences: where each begins, how long it is, and the recurrent state before it.

An episode is cut into one sequence that learns from the first step on, where the state is known, and one that begins
at every multiple of `stride` steps, whose first `burn_in` steps only bring its stored state up to date (without a
burn-in the former is simply the first of the latter). Each lane numbers its sequences 0, 1, 2, ...; number q is in
slot q % S. Those in [entered, opened) are in progress, those in [dead, entered) can be drawn. A sequence enters when
its last window is complete or its episode has ended, and dies before a row that it needs is overwritten.

Every operation is a tensor operation of fixed shape, without a host read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.types import State

_SLOTS = ("number", "offset", "warm", "span", "state")
_LANES = ("opened", "entered", "dead", "age")


class SequenceBook:
    """Records of the sequences of N lanes, S slots per lane.

    rows: rows per lane of the ring; length, burn_in, stride, horizon: learning steps, steps before them, steps between
    beginnings, and n of the n-step return; width: H of a recurrent state [2, H] of type dtype.
    A lane keeps twice as many sequences as rows / stride: if most episodes are shorter than half a stride, the oldest
    sequences leave before their rows do.
    """

    def __init__(
        self,
        rows: int,
        lanes: int,
        *,
        length: int,
        burn_in: int,
        stride: int,
        horizon: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        pin: bool = False,
    ) -> None:
        self.lanes, self.length, self.burn_in, self.stride = lanes, length, burn_in, stride
        self.reach = length + horizon - 1  # transitions from the first learning step to the end of the last window
        ending = math.ceil(self.reach / stride) + 1  # sequences that can enter at once, when an episode ends
        self.most, self.slots = self.sizes(rows, length=length, burn_in=burn_in, stride=stride, horizon=horizon)
        total = lanes * self.slots

        def field(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(total, *shape, dtype=dtype, device=device, pin_memory=pin)

        self.number = field(torch.int64)  # [N*S] the transition a sequence begins with
        self.offset = field(torch.int32)  # steps of the episode before it
        self.warm = field(torch.bool)  # whether it has a burn-in
        self.span = field(torch.int32)  # its length in transitions
        self.state = field(dtype, 2, width)  # before it
        self.lane = torch.arange(lanes, device=device)
        self._openings = torch.arange(2 if burn_in else 1, device=device)[:, None]
        self._entering = torch.arange(ending, device=device)
        self._dying = torch.arange(max(4, ending), device=device)  # a step overwrites at most 2 transitions of a lane
        zeros = torch.zeros(lanes, dtype=torch.int64, device=device)
        self.opened, self.entered, self.dead = zeros.clone(), zeros.clone(), zeros.clone()
        self.age = zeros.clone()  # [N] steps of the running episode

    @staticmethod
    def sizes(rows: int, *, length: int, burn_in: int, stride: int, horizon: int) -> tuple[int, int]:
        """Return how many sequences of a lane can be drawn, and its slots: those, the ones in progress and a margin."""
        most = 2 * math.ceil(rows / stride) + 2
        return most, most + 2 * math.ceil((burn_in + length + horizon) / stride) + 6

    @staticmethod
    def record_bytes(width: int, itemsize: int) -> int:
        """Return the memory of one slot [bytes]; itemsize: of an element of the recurrent state."""
        return 8 + 4 + 1 + 4 + 2 * width * itemsize

    def open(self, number: Tensor, state: Tensor, happened: Tensor) -> None:
        """Open the sequences that begin with the transition about to be stored.

        number: [N] of that transition in its lane; state: [N, 2, H] before it; happened: [N] whether there is one.
        """
        slot = self._slot(self.opened + self._openings)  # [1 or 2, N]; they stay free if not needed
        first = self.age == 0
        self.number[slot] = number
        self.offset[slot] = self.age.to(torch.int32)
        self.state[slot] = state
        if self.burn_in:  # the first step of an episode begins two: one without burn-in, one with
            self.warm[slot] = ~first | (self._openings > 0)
        begun = (self.age % self.stride == 0).long() + (first if self.burn_in else 0)
        self.opened = self.opened + begun * happened

    def advance(self, happened: Tensor, done: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Let sequences enter now that the transition is stored, and old ones die.

        done: [N] whether the episode ended with it; tail: [N] transitions with lower numbers are gone.
        Returns distinct slots [M], which of them enter and which die; most do neither.
        """
        self.age = self.age + happened
        entering, enters = self._enter(done)
        dying, dies = self._forget(tail)
        no = torch.zeros_like
        slot = torch.cat((entering.flatten(), dying.flatten()))
        return (
            slot,
            torch.cat((enters.flatten(), no(dies).flatten())),
            torch.cat((no(enters).flatten(), dies.flatten())),
        )

    def cut(self, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """End every running episode; return what `advance` does."""
        every = torch.ones_like(self.lane, dtype=torch.bool)
        return self.advance(~every, every, tail)

    def _forget(self, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Let sequences die that need transitions before number `tail`, [N]; return slots and which die, [N, D]."""
        number = self.dead[:, None] + self._dying  # [N, D]
        slot = self._slot(number.T).T
        needs = self.number[slot] - self.offset[slot].clamp(max=1)  # its last action and reward are one row earlier
        dies = (needs < tail[:, None]) | (number < self.entered[:, None] - self.most)
        dies &= number < self.entered[:, None]
        self.dead = self.dead + dies.sum(1)
        return slot, dies

    def _enter(self, done: Tensor) -> tuple[Tensor, Tensor]:
        """Let sequences enter that are complete or whose episode is `done`; return slots and which enter, [N, K]."""
        number = self.entered[:, None] + self._entering  # [N, K]
        slot = self._slot(number.T).T
        there = self.age[:, None] - self.offset[slot]  # transitions since its beginning
        skip = self.burn_in * self.warm[slot]
        enters = (there >= skip + self.reach) | (done[:, None] & (there > skip))
        enters &= number < self.opened[:, None]
        self.span[slot] = torch.where(enters, there.clamp(max=skip + self.reach).to(torch.int32), self.span[slot])
        self.entered = self.entered + enters.sum(1)
        self.opened = torch.where(done, self.entered, self.opened)  # some were still in their burn-in
        self.age = self.age.masked_fill(done, 0)
        return slot, enters

    def _slot(self, number: Tensor) -> Tensor:
        """Return the flat slot of sequence number [..., N] of each lane."""
        return self.lane * self.slots + number % self.slots

    def state_dict(self, lanes: slice) -> State:
        state: State = {name: getattr(self, name)[lanes] for name in _LANES}
        for name in _SLOTS:
            state[name] = self._by_lane(name)[lanes]
        return state

    def load_state_dict(self, lanes: slice, state: State) -> None:
        for name in _LANES:
            getattr(self, name)[lanes] = state[name].to(self.lane.device)
        for name in _SLOTS:
            self._by_lane(name)[lanes] = state[name].to(self.lane.device)

    def _by_lane(self, name: str) -> Tensor:
        field: Tensor = getattr(self, name)
        return field.view(self.lanes, self.slots, *field.shape[1:])
