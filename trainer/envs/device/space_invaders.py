"""MinAtar's Space Invaders (Young and Tian 2019): the same rules, cell by cell."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.envs.device.game import FIRE, LEFT, NONE, RIGHT, SIDE, flag, lookup, number, steered

SHOT_COOL_DOWN, MOVE_INTERVAL, SHOT_INTERVAL = 5, 12, 10
FASTEST = 6  # least move interval of a new wave


class State(NamedTuple):
    pos: Tensor  # [N] int32, of the cannon
    shots: Tensor  # [N, 10, 10] bool, of the player
    bombs: Tensor  # [N, 10, 10] bool, of the aliens
    aliens: Tensor  # [N, 10, 10] bool
    right: Tensor  # [N] bool, the aliens' direction
    interval: Tensor  # [N] int32, of this wave's moves
    move_timer: Tensor  # [N] int32, of the aliens
    bomb_timer: Tensor
    ramp_index: Tensor
    shot_timer: Tensor


class SpaceInvaders:
    """Space Invaders' rules, as a `Game`."""

    actions: tuple[int, ...] = (NONE, LEFT, RIGHT, FIRE)
    obs_shape: tuple[int, ...] = (6, SIDE, SIDE)
    obs_dtype = torch.bool
    limit: int | None = None
    sticky = 0.1
    reset_draws = step_draws = 0

    def __init__(self, ramping: bool = True) -> None:
        self.ramping = ramping

    def reset(self, draws: Tensor) -> State:
        nothing, interval, zero = flag(draws, False, SIDE, SIDE), number(draws, MOVE_INTERVAL), number(draws, 0)
        aliens = nothing | wave(draws.device)
        timers = interval, interval, number(draws, SHOT_INTERVAL), zero, zero
        return State(number(draws, 5), nothing, nothing, aliens, flag(draws, False), *timers)

    def step(self, state: State, action: Tensor, draws: Tensor) -> tuple[State, Tensor, Tensor]:
        fires = (action == FIRE) & (state.shot_timer == 0)
        column = torch.arange(SIDE, device=action.device, dtype=torch.int32)
        shot = fires[:, None] & (column == state.pos[:, None])
        row = column[:, None]
        shots = state.shots | (shot[:, None] & (row == SIDE - 1))
        shots = shots.roll(-1, 1) & (row < SIDE - 1)
        pos = steered(state.pos, action == LEFT, action == RIGHT, 0, SIDE - 1)
        ground = torch.full_like(pos, SIDE - 1)
        bombs = state.bombs.roll(1, 1) & (row > 0)
        aliens, right, move_timer, touch_down = self._moved(state)
        lost = lookup(bombs, ground, pos) | lookup(state.aliens, ground, pos)
        lost = lost | touch_down | lookup(aliens, ground, pos)

        bombed = state.bomb_timer == 0
        bombs = bombs | (bombed[:, None, None] & nearest(aliens, pos))
        killed = aliens & shots
        aliens, shots = aliens & ~killed, shots & ~killed
        reward = killed.sum((1, 2), dtype=torch.int32)

        cleared = ~aliens.any(2).any(1)
        faster = (cleared & (state.interval > FASTEST)).int() if self.ramping else torch.zeros_like(pos)
        after = State(
            pos,
            shots,
            bombs,
            aliens | (cleared[:, None, None] & wave(pos.device)),
            right,
            state.interval - faster,
            move_timer - 1,
            torch.where(bombed, SHOT_INTERVAL, state.bomb_timer) - 1,
            state.ramp_index + faster,
            (torch.where(fires, SHOT_COOL_DOWN, state.shot_timer) - 1).clamp(min=0),
        )
        return after, reward.float(), lost

    def _moved(self, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return aliens, direction and timer after the aliens' move, and whether they came down from the last row."""
        aliens, right = state.aliens, state.right
        moves = state.move_timer == 0
        left_edge, right_edge = aliens[:, :, 0].any(1), aliens[:, :, -1].any(1)
        turns = moves & torch.where(right, right_edge, left_edge)
        aside = torch.where(right[:, None, None], aliens.roll(1, 2), aliens.roll(-1, 2))
        moved = torch.where(turns[:, None, None], aliens.roll(1, 1), aside)
        count = aliens.sum((1, 2), dtype=torch.int32)
        timer = torch.where(moves, torch.minimum(count, state.interval), state.move_timer)
        down = turns & aliens[:, -1].any(1)
        return torch.where(moves[:, None, None], moved, aliens), right ^ turns, timer, down

    def observe(self, state: State) -> Tensor:
        pos, right = state.pos[:, None, None], state.right[:, None, None]
        place = torch.arange(SIDE, device=pos.device, dtype=torch.int32)
        cannon = (place[:, None] == SIDE - 1) & (place == pos)
        aliens = state.aliens
        return torch.stack((cannon, aliens, aliens & ~right, aliens & right, state.shots, state.bombs), 1)


def wave(device: torch.device) -> Tensor:
    """Return the aliens of a new wave, [10, 10]."""
    place = torch.arange(SIDE, device=device, dtype=torch.int32)
    return (place[:, None] < 4) & (place >= 2) & (place < 8)


def nearest(aliens: Tensor, pos: Tensor) -> Tensor:
    """Return the lowest alien of the non-empty column nearest to the cannon, [N, 10, 10]; of two, the left one."""
    place = torch.arange(SIDE, device=pos.device, dtype=torch.int32)
    key = SIDE * (place - pos[:, None]).abs() + place
    key = torch.where(aliens.any(1), key, SIDE * SIDE)
    column = key == key.amin(1, keepdim=True)
    depth = torch.where(aliens, place[:, None], -1).amax(1, keepdim=True)  # [N, 1, 10]
    return aliens & (place[:, None] == depth) & column[:, None]
