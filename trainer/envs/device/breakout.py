"""MinAtar's Breakout (Young and Tian 2019): the same rules, cell by cell.

The ball's four directions are two flags, and its three kinds of bounce flip one of them, or both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.envs.device.game import LEFT, NONE, RIGHT, SIDE, below, flag, lookup, number, paint, steered, way

PADDLE, BALL, TRAIL = range(3)  # channels; the fourth is that of the bricks
TOP, ROWS = 1, 3  # rows of a wall of bricks


class State(NamedTuple):
    pos: Tensor  # [N] int32, of the paddle
    ball_x: Tensor  # [N] int32
    ball_y: Tensor
    last_x: Tensor  # [N] int32, where the ball came from
    last_y: Tensor
    right: Tensor  # [N] bool, the ball's direction
    down: Tensor
    strike: Tensor  # [N] bool: the ball has struck a brick and has not left the bricks since
    bricks: Tensor  # [N, 10, 10] bool


class Breakout:
    """Breakout's rules, as a `Game`; difficulty does not ramp here."""

    actions: tuple[int, ...] = (NONE, LEFT, RIGHT)
    obs_shape: tuple[int, ...] = (4, SIDE, SIDE)
    obs_dtype = torch.bool
    limit: int | None = None
    sticky = 0.1
    reset_draws, step_draws = 1, 0

    def reset(self, draws: Tensor) -> State:
        from_right = below(draws[:, 0], 2) == 1
        x, y = (SIDE - 1) * from_right.int(), number(draws, 3)
        bricks = flag(draws, True, SIDE, SIDE) & wall(draws.device)
        return State(number(draws, 4), x, y, x, y, ~from_right, flag(draws, True), flag(draws, False), bricks)

    def step(self, state: State, action: Tensor, draws: Tensor) -> tuple[State, Tensor, Tensor]:
        pos = steered(state.pos, action == LEFT, action == RIGHT, 0, SIDE - 1)
        last_x, last_y = state.ball_x, state.ball_y
        ahead, y = last_x + way(state.right), last_y + way(state.down)
        x = ahead.clamp(0, SIDE - 1)
        right = state.right ^ (ahead != x)
        ceiling = y < 0
        y = y.clamp(min=0)
        struck = ~ceiling & lookup(state.bricks, y, x)
        breaks = struck & ~state.strike
        place = torch.arange(SIDE, device=pos.device, dtype=torch.int32)
        broken = (place == y[:, None])[:, :, None] & (place == x[:, None])[:, None]
        bricks = state.bricks & ~(breaks[:, None, None] & broken)
        floor = y == SIDE - 1
        bricks = bricks | ((floor & ~bricks.any(2).any(1))[:, None, None] & wall(pos.device))
        catches = floor & (last_x == pos)
        edge = floor & ~catches & (x == pos)
        lost = floor & ~catches & ~edge
        y = torch.where(breaks | catches | edge, last_y, y)
        down = state.down ^ (ceiling | breaks | catches | edge)
        strike = struck  # set where it breaks one, kept where it passes through another
        after = State(pos, x, y, last_x, last_y, right ^ edge, down, strike, bricks)
        return after, breaks.float(), lost

    def observe(self, state: State) -> Tensor:
        paddle = (PADDLE, (SIDE - 1) * SIDE + state.pos, None)
        ball = (BALL, SIDE * state.ball_y + state.ball_x, None)
        trail = (TRAIL, SIDE * state.last_y + state.last_x, None)
        return torch.cat((paint(3, paddle, ball, trail), state.bricks[:, None]), 1)


def wall(device: torch.device) -> Tensor:
    """Return where bricks stand at first, [10, 1]."""
    row = torch.arange(SIDE, device=device, dtype=torch.int32)[:, None]
    return (row >= TOP) & (row < TOP + ROWS)
