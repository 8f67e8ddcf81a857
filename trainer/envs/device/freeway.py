"""MinAtar's Freeway (Young and Tian 2019): the same rules, cell by cell.

Each car has its own row, so the chicken meets at most one of them, and their order does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.envs.device.game import DOWN, NONE, SIDE, UP, below, number, paint, steered, way

CHICKEN, CAR, SPEED = 0, 1, 2  # channels; SPEED + n - 1: trails of cars that move every n-th step
CARS, SPEEDS, COLUMN = 8, 5, 4
COOL_DOWN, TIME_LIMIT = 3, 2500


class State(NamedTuple):
    pos: Tensor  # [N] int32, the chicken's row
    move_timer: Tensor  # [N] int32
    terminate_timer: Tensor  # [N] int32
    x: Tensor  # [N, 8] int32, of the car in row i + 1
    timer: Tensor  # [N, 8] int32
    speed: Tensor  # [N, 8] int32, signed: steps per move


class Freeway:
    """Freeway's rules, as a `Game`; difficulty does not ramp here."""

    actions: tuple[int, ...] = (NONE, UP, DOWN)
    obs_shape: tuple[int, ...] = (7, SIDE, SIDE)
    obs_dtype = torch.bool
    limit: int | None = None  # the game ends itself, by termination
    sticky = 0.1
    reset_draws = step_draws = CARS

    def reset(self, draws: Tensor) -> State:
        speed = speeds(draws)
        timers = number(draws, COOL_DOWN), number(draws, TIME_LIMIT)
        return State(number(draws, SIDE - 1), *timers, number(draws, 0, CARS), speed.abs(), speed)

    def step(self, state: State, action: Tensor, draws: Tensor) -> tuple[State, Tensor, Tensor]:
        ready = state.move_timer == 0
        up, down = ready & (action == UP), ready & (action == DOWN)
        pos = steered(state.pos, up, down, 0, SIDE - 1)
        move_timer = torch.where(up | down, COOL_DOWN, state.move_timer)
        won = pos == 0
        speed = torch.where(won[:, None], speeds(draws), state.speed)
        timer = torch.where(won[:, None], speed.abs(), state.timer)
        pos = torch.where(won, SIDE - 1, pos)
        moves = timer == 0
        x = (state.x + way(speed > 0) * moves) % SIDE
        timer = torch.where(moves, speed.abs(), timer - 1)
        row = torch.arange(1, CARS + 1, device=pos.device, dtype=torch.int32)
        hit = ((row == pos[:, None]) & ((state.x == COLUMN) | (x == COLUMN))).any(1)
        pos = torch.where(hit, SIDE - 1, pos)
        left = state.terminate_timer - 1
        after = State(pos, (move_timer - 1).clamp(min=0), left, x, timer, speed)
        return after, won.float(), left < 0

    def observe(self, state: State) -> Tensor:
        row = SIDE * torch.arange(1, CARS + 1, device=state.x.device, dtype=torch.int32)
        back = (state.x - way(state.speed > 0)) % SIDE
        trail = (state.speed.abs() - 1) * SIDE * SIDE + row + back  # its channel is part of the cell
        chicken = SIDE * state.pos + COLUMN
        return paint(7, (CHICKEN, chicken, None), (CAR, row + state.x, None), (SPEED, trail, None))


def speeds(draws: Tensor) -> Tensor:
    """Return -5, ..., -1 or 1, ..., 5 for each car, all equally likely."""
    which = below(draws, 2 * SPEEDS)
    return torch.where(which < SPEEDS, -which - 1, which - SPEEDS + 1)
