"""MinAtar's Seaquest (Young and Tian 2019): the same rules, cell by cell, in the order of the original's lists.

The original's lists are slots here, oldest first; a new entry pushes out the oldest slot, which is empty by then:
- The player shoots at most every 5th step, and a bullet is off the board in its 10th: 2 slots.
- Divers come every 30th step and leave in their 60th: 2 slots.
- Enemies come at most once a step. At that rate they move every 3rd step, and leave in their 30th: 30 slots, fish and
  submarines together, which keeps the order of both.
- Enemy bullets are not counted, they only hit: where two would share a cell, one is enough. They are two boards.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.envs.device.game import (
    CELLS,
    DOWN,
    FIRE,
    LEFT,
    NONE,
    RIGHT,
    SIDE,
    UP,
    below,
    flag,
    inside,
    lookup,
    number,
    paint,
    steered,
    way,
)
from trainer.envs.device.seaquest_hits import FISH, SUB, shoot, swim_into

FRONT, BACK, BULLET, TRAIL, ENEMY_BULLET, ENEMY_FISH, ENEMY_SUB, OXYGEN_GAUGE, DIVER_GAUGE, DIVER = range(10)
MAX_OXYGEN, MAX_DIVERS, ENEMIES = 200, 6, 30
SPAWN_SPEED, MOVE_INTERVAL, FASTEST = 20, 5, 2  # of enemies
DIVER_SPAWN, DIVER_MOVE, SHOT_COOL_DOWN, ENEMY_SHOT = 30, 5, 5, 10
DEEPEST = 8


class State(NamedTuple):
    x: Tensor  # [N] int32, of the submarine's front
    y: Tensor
    way: Tensor  # [N] int32, 1: right, -1: left
    oxygen: Tensor  # [N] int32
    aboard: Tensor  # [N] int32 divers; negative after a full rescue, as in the original
    surfaced: Tensor  # [N] bool
    shot_timer: Tensor  # [N] int32
    spawn_speed: Tensor
    spawn_timer: Tensor
    diver_timer: Tensor
    move_speed: Tensor
    ramp_index: Tensor
    bullets: Tensor  # [N, 4, 2] int32: there, x, y, way
    divers: Tensor  # [N, 5, 2] int32: there, x, y, way, move timer
    enemies: Tensor  # [N, 6, 30] int32: kind (0: none), x, y, way, move timer, shot timer
    enemy_bullets: Tensor  # [N, 2, 10, 10] bool, moving right and left


class Seaquest:
    """Seaquest's rules, as a `Game`."""

    actions: tuple[int, ...] = (NONE, LEFT, UP, RIGHT, DOWN, FIRE)
    obs_shape: tuple[int, ...] = (10, SIDE, SIDE)
    obs_dtype = torch.bool
    limit: int | None = None
    sticky = 0.1
    reset_draws, step_draws = 0, 5

    def __init__(self, ramping: bool = True) -> None:
        self.ramping = ramping

    def reset(self, draws: Tensor) -> State:
        zero, spawn = number(draws, 0), number(draws, SPAWN_SPEED)
        player = number(draws, 5), zero, number(draws, -1), number(draws, MAX_OXYGEN), zero, flag(draws, True)
        clocks = zero, spawn, spawn, number(draws, DIVER_SPAWN), number(draws, MOVE_INTERVAL), zero
        things = number(draws, 0, 4, 2), number(draws, 0, 5, 2), number(draws, 0, 6, ENEMIES)
        return State(*player, *clocks, *things, flag(draws, False, 2, SIDE, SIDE))

    def step(self, state: State, action: Tensor, draws: Tensor) -> tuple[State, Tensor, Tensor]:
        enemies, spawns = self._enemy(state, draws)
        divers, arrives = self._diver(state, draws)
        fires = (action == FIRE) & (state.shot_timer == 0)
        one = torch.ones_like(state.x)
        bullets = pushed(state.bullets, fires, torch.stack((one, state.x, state.y, state.way), 1))
        left, right = action == LEFT, action == RIGHT
        x = steered(state.x, left, right, 0, SIDE - 1)
        y = steered(state.y, action == UP, action == DOWN, 0, DEEPEST)
        facing = torch.where(left, -1, torch.where(right, 1, state.way))

        bullets, enemies, reward = shoot(bullets, enemies)
        divers, count = picked_up(divers, state.aboard, x, y)
        met = swim_into(bullets, enemies, x, y, state.move_speed)
        bullets, enemies, reward = met.bullets, met.enemies, reward + met.reward
        enemy_bullets, fired, caught = self._enemy_fire(state.enemy_bullets, met.enemies_seen, x, y)
        enemies = torch.cat((enemies[:, :5], fired[:, None]), 1)

        deep = y > 0
        rises = ~deep & ~state.surfaced
        up, full = rises & (count != 0), rises & (count == MAX_DIVERS)
        lost = met.caught | caught | (state.oxygen <= 0) | (rises & (count == 0))
        reward = reward + torch.where(full, state.oxygen // 20, 0)
        spawn_speed, move_speed, ramp_index = self._ramped(state, up)
        after = State(
            x,
            y,
            facing,
            torch.where(up, MAX_OXYGEN, state.oxygen - deep.int()),
            torch.where(full, -1, count - up.int()),
            ~deep & (state.surfaced | up),
            (torch.where(fires, SHOT_COOL_DOWN, state.shot_timer) - 1).clamp(min=0),
            spawn_speed,
            (torch.where(spawns, state.spawn_speed, state.spawn_timer) - 1).clamp(min=0),
            (torch.where(arrives, DIVER_SPAWN, state.diver_timer) - 1).clamp(min=0),
            move_speed,
            ramp_index,
            bullets,
            divers,
            enemies,
            enemy_bullets,
        )
        return after, reward.float(), lost

    def _enemy(self, state: State, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return enemies with a new one, unless one in its row swims the other way, and whether one was due."""
        spawns = state.spawn_timer == 0
        from_left, kind = draws[:, 0] < 1 / 2, torch.where(draws[:, 1] < 1 / 3, SUB, FISH).int()
        x, y, forward = (SIDE - 1) * (~from_left).int(), 1 + below(draws[:, 2], DEEPEST), way(from_left)
        kinds, _, ys, ways, _, _ = state.enemies.unbind(1)
        blocked = ((kinds > 0) & (ys == y[:, None]) & (ways != forward[:, None])).any(1)
        new = torch.stack((kind, x, y, forward, state.move_speed, torch.full_like(x, ENEMY_SHOT)), 1)
        return pushed(state.enemies, spawns & ~blocked, new), spawns

    def _diver(self, state: State, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return divers with a new one if one was due, and whether it was."""
        arrives = state.diver_timer == 0
        from_left = draws[:, 3] < 1 / 2
        x, y = (SIDE - 1) * (~from_left).int(), 1 + below(draws[:, 4], DEEPEST)
        new = torch.stack((torch.ones_like(x), x, y, way(from_left), torch.full_like(x, DIVER_MOVE)), 1)
        return pushed(state.divers, arrives, new), arrives

    def _enemy_fire(self, boards: Tensor, subs: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the enemies' bullets after their step, the shot timers, and whether one has hit the player.

        subs: enemies after swimming, including those lost to it in this step: they still shoot.
        """
        kind, xs, ys, ways, _, timer = subs.unbind(1)
        fires = (kind == SUB) & (timer == 0)
        cell = torch.where(ways > 0, 0, CELLS) + SIDE * ys + xs
        boards = boards | paint(2, (0, cell, fires & inside(xs)))
        hit = lookup(boards.any(1), y, x)
        right, left = boards.unbind(1)
        column = torch.arange(SIDE, device=xs.device, dtype=torch.int32)
        boards = torch.stack((right.roll(1, 2) & (column > 0), left.roll(-1, 2) & (column < SIDE - 1)), 1)
        timer = torch.where(fires, ENEMY_SHOT, timer - (kind == SUB).int())
        return boards, timer, hit | lookup(boards.any(1), y, x)

    def _ramped(self, state: State, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return spawn speed, move speed and ramp index after this step."""
        spawn_speed, move_speed, index = state.spawn_speed, state.move_speed, state.ramp_index
        if not self.ramping:
            return spawn_speed, move_speed, index
        due = up & ((spawn_speed > 1) | (move_speed > FASTEST))
        faster = due & (move_speed > FASTEST) & (index % 2 == 1)
        more = due & (spawn_speed > 1)
        return spawn_speed - more.int(), move_speed - faster.int(), index + due.int()

    def observe(self, state: State) -> Tensor:
        kind, x, y, forward, _, _ = state.enemies.unbind(1)
        diver, diver_x, diver_y, diver_way, _ = state.divers.unbind(1)
        bullet, bullet_x, bullet_y, _ = state.bullets.unbind(1)
        back, diver_back, row = x - forward, diver_x - diver_way, SIDE * state.y
        points = paint(
            10,
            (FRONT, row + state.x, None),
            (BACK, row + state.x - state.way, None),
            (BULLET, SIDE * bullet_y + bullet_x, bullet > 0),
            (TRAIL, SIDE * y + back, (kind > 0) & inside(back)),
            (TRAIL, SIDE * diver_y + diver_back, (diver > 0) & inside(diver_back)),
            (ENEMY_FISH, SIDE * y + x, kind == FISH),
            (ENEMY_SUB, SIDE * y + x, kind == SUB),
            (DIVER, SIDE * diver_y + diver_x, diver > 0),
        )
        place = torch.arange(SIDE, device=x.device, dtype=torch.int32)
        floor = (place == SIDE - 1)[:, None]
        oxygen = place < (state.oxygen.clamp(min=0) // 20)[:, None]
        aboard = (place >= SIDE - 1 - state.aboard[:, None]) & (place < SIDE - 1)
        gauges = floor & torch.stack((oxygen, aboard), 1)[:, :, None]  # [N, 2, 10, 10]
        bullets = state.enemy_bullets.any(1, keepdim=True)
        parts = points[:, :ENEMY_BULLET], bullets, points[:, ENEMY_FISH:OXYGEN_GAUGE], gauges, points[:, DIVER:]
        return torch.cat(parts, 1)


def pushed(slots: Tensor, where: Tensor, new: Tensor) -> Tensor:
    """Return slots [N, F, K] with `new` [N, F] appended and the first slot dropped, where `where` [N] is set."""
    return torch.where(where[:, None, None], torch.cat((slots[:, :, 1:], new[:, :, None]), 2), slots)


def picked_up(divers: Tensor, count: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return divers after their step, and how many are aboard; the newest one moves first."""
    moved: list[Tensor] = []
    for slot in divers.flip(2).unbind(2):
        there, diver_x, diver_y, forward, timer = slot.unbind(1)
        beside = (there > 0) & (diver_y == y)
        early = beside & (diver_x == x) & (count < MAX_DIVERS)
        moves = (there > 0) & ~early & (timer == 0)
        diver_x = diver_x + forward * moves
        late = moves & beside & (diver_x == x) & (count < MAX_DIVERS)
        count = count + (early | late)
        there = there * (inside(diver_x) & ~early & ~late)
        timer = torch.where(moves, DIVER_MOVE, timer - there)
        moved.append(torch.stack((there, diver_x, diver_y, forward, timer), 1))
    return torch.stack(moved[::-1], 2), count
