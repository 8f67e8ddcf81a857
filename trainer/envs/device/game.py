"""A game: its rules as pure functions of tensors, for N boards at once.

No branch looks at a value, no shape depends on one and nothing is changed in place, so that a step waits for no device
and can be traced as one graph. Chance comes from outside, as columns of numbers in [0, 1).
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

S = TypeVar("S", bound=tuple[Tensor, ...])
SIDE = 10
CELLS = SIDE * SIDE
"""MinAtar's boards are 10 x 10; a cell is the number 10 y + x."""
NONE, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
"""MinAtar's actions."""


class Game(Protocol[S]):
    """The rules; a state is a NamedTuple of tensors [N, ...]."""

    actions: tuple[int, ...]  # the game's own names for the actions that an agent may take
    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    limit: int | None  # steps until an episode is cut
    sticky: float  # probability that the previous action is repeated, unless the user states one
    reset_draws: int  # number of columns of chance for `reset`
    step_draws: int  # and for `step`

    def reset(self, draws: Tensor) -> S:
        """Return the states in which episodes begin; draws [N, reset_draws]."""

    def step(self, state: S, action: Tensor, draws: Tensor) -> tuple[S, Tensor, Tensor]:
        """Return the next states, reward [N] float32 and terminated [N]; action [N] int32, draws [N, step_draws]."""

    def observe(self, state: S) -> Tensor:
        """Return the observations of the states, [N, *]."""


def number(draws: Tensor, value: int, *shape: int) -> Tensor:
    """Return `value` as int32 for all boards, [N, *shape]."""
    return draws.new_full((len(draws), *shape), value, dtype=torch.int32)


def flag(draws: Tensor, value: bool, *shape: int) -> Tensor:
    """Return `value` as bool for all boards, [N, *shape]."""
    return draws.new_full((len(draws), *shape), value, dtype=torch.bool)


def below(draw: Tensor, count: Tensor | int) -> Tensor:
    """Return a number in 0, ..., count - 1; single precision never rounds up to count."""
    return (draw * count).int()


def way(forward: Tensor) -> Tensor:
    """Return 1 where set and -1 elsewhere, int32."""
    return 2 * forward.int() - 1


def steered(place: Tensor, back: Tensor, on: Tensor, low: int, high: int) -> Tensor:
    """Return a coordinate moved by one, within [low, high]."""
    return (place + on.int() - back.int()).clamp(low, high)


def inside(x: Tensor) -> Tensor:
    """Return whether a column is on the board."""
    return (x >= 0) & (x < SIDE)


def first(which: Tensor) -> Tensor:
    """Return `which` [N, K] with only the first set entry of each row."""
    place = torch.arange(which.shape[1], device=which.device, dtype=torch.int32)
    return which & (place == torch.where(which, place, which.shape[1]).amin(1, keepdim=True))


def last(which: Tensor) -> Tensor:
    """Return `which` [N, K] with only the last set entry of each row."""
    place = torch.arange(which.shape[1], device=which.device, dtype=torch.int32)
    return which & (place == torch.where(which, place, -1).amax(1, keepdim=True))


def lookup(board: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the entries of boards [N, 10, 10] at one cell each, [N]."""
    return board.flatten(1).gather(1, (SIDE * y + x).long()[:, None]).squeeze(1)


def paint(channels: int, *things: tuple[int, Tensor, Tensor | None]) -> Tensor:
    """Return boards [N, channels, 10, 10] with a cell set for each thing that is present.

    A thing is a channel, the cell [N] or [N, K], and whether it is present, of the same shape; None: always.
    """
    nowhere = channels * CELLS
    cells = []
    for channel, cell, there in things:
        index = channel * CELLS + cell
        index = index if there is None else torch.where(there, index, nowhere)
        cells.append(index if index.dim() == 2 else index[:, None])
    index = torch.cat(cells, 1).long()
    board = torch.zeros(len(index), nowhere + 1, dtype=torch.bool, device=index.device).scatter(1, index, True)
    return board[:, :nowhere].reshape(-1, channels, SIDE, SIDE)
