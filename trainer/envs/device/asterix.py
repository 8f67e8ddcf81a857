"""MinAtar's Asterix (Young and Tian 2019): the same rules, cell by cell.

Each of the eight things has its own row, so the player meets at most one of them, and their order does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.envs.device.game import DOWN, LEFT, NONE, RIGHT, SIDE, UP, below, flag, inside, number, paint, steered, way

PLAYER, ENEMY, TRAIL, GOLD = range(4)  # channels
SLOTS = 8  # things, in rows 1 to 8
RAMP_INTERVAL, SPAWN_SPEED, MOVE_INTERVAL = 100, 10, 5


class State(NamedTuple):
    player_x: Tensor  # [N] int32
    player_y: Tensor
    x: Tensor  # [N, 8] int32, of the thing in row i + 1
    right: Tensor  # [N, 8] bool, its direction
    gold: Tensor  # [N, 8] bool: gold; else an enemy
    there: Tensor  # [N, 8] bool
    spawn_speed: Tensor  # [N] int32, like all below
    spawn_timer: Tensor
    move_speed: Tensor
    move_timer: Tensor
    ramp_timer: Tensor
    ramp_index: Tensor


class Asterix:
    """Asterix's rules, as a `Game`."""

    actions: tuple[int, ...] = (NONE, LEFT, UP, RIGHT, DOWN)
    obs_shape: tuple[int, ...] = (4, SIDE, SIDE)
    obs_dtype = torch.bool
    limit: int | None = None
    sticky = 0.1
    reset_draws, step_draws = 0, 3

    def __init__(self, ramping: bool = True) -> None:
        self.ramping = ramping

    def reset(self, draws: Tensor) -> State:
        middle, nothing = number(draws, 5), flag(draws, False, SLOTS)
        spawn, move = number(draws, SPAWN_SPEED), number(draws, MOVE_INTERVAL)
        timers = spawn, spawn, move, move, number(draws, RAMP_INTERVAL), number(draws, 0)
        return State(middle, middle, number(draws, 0, SLOTS), nothing, nothing, nothing, *timers)

    def step(self, state: State, action: Tensor, draws: Tensor) -> tuple[State, Tensor, Tensor]:
        spawns = state.spawn_timer == 0
        spawn_timer = torch.where(spawns, state.spawn_speed, state.spawn_timer) - 1
        new = spawns[:, None] & self._free_slot(state.there, draws[:, 2])
        from_left = (draws[:, 0] < 1 / 2)[:, None]
        there, right = state.there | new, torch.where(new, from_left, state.right)
        gold = torch.where(new, (draws[:, 1] < 1 / 3)[:, None], state.gold)
        x = torch.where(new, (SIDE - 1) * (~from_left).int(), state.x)

        player_x = steered(state.player_x, action == LEFT, action == RIGHT, 0, SIDE - 1)
        player_y = steered(state.player_y, action == UP, action == DOWN, 1, SLOTS)
        row = torch.arange(1, SLOTS + 1, device=x.device, dtype=torch.int32)
        beside = row == player_y[:, None]
        met = there & beside & (x == player_x[:, None])
        reward, caught = (met & gold).any(1), (met & ~gold).any(1)
        there = there & ~(met & gold)

        moves = state.move_timer == 0
        move_timer = torch.where(moves, state.move_speed, state.move_timer) - 1
        x = torch.where(there & moves[:, None], x + way(right), x)
        there = there & inside(x)
        met = there & beside & (x == player_x[:, None]) & moves[:, None]
        reward, caught = reward.int() + (met & gold).any(1), caught | (met & ~gold).any(1)
        there = there & ~(met & gold)

        ramp = self._ramped(state)
        after = State(player_x, player_y, x, right, gold, there, ramp[0], spawn_timer, ramp[1], move_timer, *ramp[2:])
        return after, reward.float(), caught

    def _free_slot(self, there: Tensor, draw: Tensor) -> Tensor:
        """Return one of the free rows, [N, 8] with at most one set, all equally likely."""
        free = ~there
        rank = free.cumsum(1, dtype=torch.int32)
        return free & (rank - 1 == below(draw, rank[:, -1])[:, None])

    def _ramped(self, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return spawn speed, move speed, ramp timer and index after this step."""
        spawn_speed, move_speed, timer, index = state.spawn_speed, state.move_speed, state.ramp_timer, state.ramp_index
        if not self.ramping:
            return spawn_speed, move_speed, timer, index
        counts = (spawn_speed > 1) | (move_speed > 1)
        due = counts & (timer < 0)
        faster = due & (move_speed > 1) & (index % 2 == 1)
        timer = torch.where(due, RAMP_INTERVAL, timer - counts.int())
        more = due & (spawn_speed > 1)
        return spawn_speed - more.int(), move_speed - faster.int(), timer, index + due.int()

    def observe(self, state: State) -> Tensor:
        row = SIDE * torch.arange(1, SLOTS + 1, device=state.x.device, dtype=torch.int32)
        back = state.x - way(state.right)
        return paint(
            4,
            (PLAYER, SIDE * state.player_y + state.player_x, None),
            (ENEMY, row + state.x, state.there & ~state.gold),
            (TRAIL, row + back, state.there & inside(back)),
            (GOLD, row + state.x, state.there & state.gold),
        )
