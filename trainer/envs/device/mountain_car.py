"""MountainCar (Moore 1990) as Gymnasium has it, in double precision."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MIN_POSITION, MAX_POSITION, GOAL, MAX_SPEED = -1.2, 0.6, 0.5, 0.07
FORCE, GRAVITY = 0.001, 0.0025


class State(NamedTuple):
    physics: Tensor  # [N, 2] float64: position, velocity


class MountainCar:
    """MountainCar's rules, as a `Game`; goal_velocity: the least velocity at which the goal counts."""

    actions: tuple[int, ...] = (0, 1, 2)
    obs_shape: tuple[int, ...] = (2,)
    obs_dtype = torch.float32
    limit: int | None = 200
    sticky = 0.0
    reset_draws, step_draws = 1, 0

    def __init__(self, goal_velocity: float = 0.0) -> None:
        self.goal_velocity = goal_velocity

    def reset(self, draws: Tensor) -> State:
        position = draws.double() * 0.2 - 0.6
        return State(torch.cat((position, torch.zeros_like(position)), 1))

    def step(self, state: State, action: Tensor, draws: Tensor) -> tuple[State, Tensor, Tensor]:
        position, velocity = state.physics.unbind(1)
        velocity = velocity + ((action - 1).double() * FORCE + (3 * position).cos() * (-GRAVITY))
        velocity = velocity.clamp(-MAX_SPEED, MAX_SPEED)
        position = (position + velocity).clamp(MIN_POSITION, MAX_POSITION)
        velocity = torch.where((position == MIN_POSITION) & (velocity < 0), 0.0, velocity)
        arrived = (position >= GOAL) & (velocity >= self.goal_velocity)
        return State(torch.stack((position, velocity), 1)), -torch.ones_like(arrived, dtype=torch.float32), arrived

    def observe(self, state: State) -> Tensor:
        return state.physics.float()
