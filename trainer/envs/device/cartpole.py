"""CartPole (Barto, Sutton and Anderson 1983) as Gymnasium has it: Euler steps of 0.02 s in double precision."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

GRAVITY, FORCE, TAU = 9.8, 10.0, 0.02
POLE_MASS, TOTAL_MASS, LENGTH = 0.1, 1.1, 0.5  # the length is half the pole's
POLE_MOMENT = POLE_MASS * LENGTH
MAX_ANGLE, MAX_X = 12 * 2 * math.pi / 360, 2.4


class State(NamedTuple):
    physics: Tensor  # [N, 4] float64: x, its velocity, angle, its velocity


class CartPole:
    """CartPole's rules, as a `Game`; sutton_barto_reward: 0 per step and -1 for the fall, instead of 1."""

    actions: tuple[int, ...] = (0, 1)
    obs_shape: tuple[int, ...] = (4,)
    obs_dtype = torch.float32
    sticky = 0.0
    reset_draws, step_draws = 4, 0

    def __init__(self, limit: int, sutton_barto_reward: bool = False) -> None:
        self.limit: int | None = limit
        self.sutton_barto_reward = sutton_barto_reward

    def reset(self, draws: Tensor) -> State:
        return State(draws.double() * 0.1 - 0.05)

    def step(self, state: State, action: Tensor, draws: Tensor) -> tuple[State, Tensor, Tensor]:
        x, x_dot, theta, theta_dot = state.physics.unbind(1)
        force = (2 * action - 1) * FORCE
        cosine, sine = theta.cos(), theta.sin()
        temp = (force + POLE_MOMENT * theta_dot.square() * sine) / TOTAL_MASS
        theta_acc = (GRAVITY * sine - cosine * temp) / (LENGTH * (4.0 / 3.0 - POLE_MASS * cosine.square() / TOTAL_MASS))
        x_acc = temp - POLE_MOMENT * theta_acc * cosine / TOTAL_MASS
        x, x_dot = x + TAU * x_dot, x_dot + TAU * x_acc
        theta, theta_dot = theta + TAU * theta_dot, theta_dot + TAU * theta_acc
        fell = (x.abs() > MAX_X) | (theta.abs() > MAX_ANGLE)
        reward = -fell.float() if self.sutton_barto_reward else torch.ones_like(fell, dtype=torch.float32)
        return State(torch.stack((x, x_dot, theta, theta_dot), 1)), reward, fell

    def observe(self, state: State) -> Tensor:
        return state.physics.float()
