"""Acrobot (Sutton 1996), the book's dynamics as Gymnasium has them: Runge-Kutta steps of 0.2 s in double precision."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

DT, GRAVITY = 0.2, 9.8
MASS, LENGTH, CENTER, INERTIA = 1.0, 1.0, 0.5, 1.0  # of both links
MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi
WRAPS = 3
"""Turns by which an angle may lie beyond [-pi, pi] after a step; speeds and torque add less than two."""


class State(NamedTuple):
    physics: Tensor  # [N, 4] float64: both angles, both angular velocities


class Acrobot:
    """Acrobot's rules, as a `Game`."""

    actions: tuple[int, ...] = (0, 1, 2)
    obs_shape: tuple[int, ...] = (6,)
    obs_dtype = torch.float32
    limit: int | None = 500
    sticky = 0.0
    reset_draws, step_draws = 4, 0

    def reset(self, draws: Tensor) -> State:
        return State((draws.double() * 0.2 - 0.1).float().double())  # Gymnasium starts in single precision

    def step(self, state: State, action: Tensor, draws: Tensor) -> tuple[State, Tensor, Tensor]:
        torque = (action - 1).double()
        y = state.physics
        k1 = derivative(y, torque)
        k2 = derivative(y + DT / 2.0 * k1, torque)
        k3 = derivative(y + DT / 2.0 * k2, torque)
        k4 = derivative(y + DT * k3, torque)
        angle_1, angle_2, speed_1, speed_2 = (y + DT / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)).unbind(1)
        angle_1, angle_2 = wrapped(angle_1), wrapped(angle_2)
        speed_1, speed_2 = speed_1.clamp(-MAX_SPEED_1, MAX_SPEED_1), speed_2.clamp(-MAX_SPEED_2, MAX_SPEED_2)
        high = -angle_1.cos() - (angle_2 + angle_1).cos() > 1.0
        return State(torch.stack((angle_1, angle_2, speed_1, speed_2), 1)), high.float() - 1.0, high

    def observe(self, state: State) -> Tensor:
        angle_1, angle_2, speed_1, speed_2 = state.physics.unbind(1)
        seen = (angle_1.cos(), angle_1.sin(), angle_2.cos(), angle_2.sin(), speed_1, speed_2)
        return torch.stack(seen, 1).float()


def derivative(y: Tensor, torque: Tensor) -> Tensor:
    """Return the time derivatives of angles and velocities, [N, 4]."""
    theta_1, theta_2, dtheta_1, dtheta_2 = y.unbind(1)
    cosine, sine = theta_2.cos(), theta_2.sin()
    d1 = MASS * CENTER**2 + MASS * (LENGTH**2 + CENTER**2 + 2 * LENGTH * CENTER * cosine) + 2 * INERTIA
    d2 = MASS * (CENTER**2 + LENGTH * CENTER * cosine) + INERTIA
    phi2 = MASS * CENTER * GRAVITY * (theta_1 + theta_2 - math.pi / 2.0).cos()
    phi1 = (
        -MASS * LENGTH * CENTER * dtheta_2.square() * sine
        - 2 * MASS * LENGTH * CENTER * dtheta_2 * dtheta_1 * sine
        + (MASS * CENTER + MASS * LENGTH) * GRAVITY * (theta_1 - math.pi / 2).cos()
        + phi2
    )
    ddtheta_2 = (torque + d2 / d1 * phi1 - MASS * LENGTH * CENTER * dtheta_1.square() * sine - phi2) / (
        MASS * CENTER**2 + INERTIA - d2.square() / d1
    )
    ddtheta_1 = -(d2 * ddtheta_2 + phi1) / d1
    return torch.stack((dtheta_1, dtheta_2, ddtheta_1, ddtheta_2), 1)


def wrapped(angle: Tensor) -> Tensor:
    """Return the same angle in [-pi, pi], turn by turn as Gymnasium does."""
    for _ in range(WRAPS):
        angle = torch.where(angle > math.pi, angle - 2 * math.pi, angle)
        angle = torch.where(angle < -math.pi, angle + 2 * math.pi, angle)
    return angle
