"""Who hits whom in Seaquest: friendly bullets that fly into enemies, enemies that swim into bullets or the player.

The original removes entries from lists while iterating over them, newest first, and `list.remove` takes the first
*equal* entry. The consequences are noted at each place where they show.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.envs.device.game import first, inside, last

FISH, SUB = 1, 2


class Met(NamedTuple):
    """The outcome of the enemies' swimming."""

    bullets: Tensor  # [N, 4, 2]
    enemies: Tensor  # [N, 6, 30] those that remain
    enemies_seen: Tensor  # [N, 6, 30] also those that are gone
    reward: Tensor  # [N] int32
    caught: Tensor  # [N] bool: an enemy has met the player


def shoot(bullets: Tensor, enemies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return bullets and enemies after the bullets' step, and the reward; the newest bullet flies first.

    A bullet hits the first fish in its cell, or else the first submarine. On a hit, the original may remove an older
    bullet that is about to fly on from this very cell, and let this one fly on instead: equivalent.
    """
    kind, x, y, *rest = enemies.unbind(1)
    reward = torch.zeros_like(kind[:, 0])
    flown: list[Tensor] = []
    for slot in bullets.flip(2).unbind(2):
        there, bullet_x, bullet_y, forward = slot.unbind(1)
        bullet_x = bullet_x + forward * there
        there = there * inside(bullet_x)
        here = (kind > 0) & (x == bullet_x[:, None]) & (y == bullet_y[:, None]) & (there > 0)[:, None]
        fish = here & (kind == FISH)
        hit = first(torch.where(fish.any(1, keepdim=True), fish, here))
        struck = hit.any(1)
        kind = torch.where(hit, 0, kind)
        reward = reward + struck
        flown.append(torch.stack((there * ~struck, bullet_x, bullet_y, forward), 1))
    return torch.stack(flown[::-1], 2), torch.stack((kind, x, y, *rest), 1), reward


def swim_into(bullets: Tensor, enemies: Tensor, x: Tensor, y: Tensor, move_speed: Tensor) -> Met:
    """Move the enemies, submarines first, newest first: into the player, off the board, or into bullets.

    Each bullet is taken by the newest enemy that has moved into its cell. Enemies at rest share no cell with a bullet,
    which would have hit them just before, so none of them equals the one to be removed.
    x, y: the player's, [N]; move_speed: [N] steps between moves. Shot timers are left alone.
    """
    kind, xs, ys, forward, timer, shot = enemies.unbind(1)
    there = kind > 0
    beside = there & (ys == y[:, None])
    caught = (beside & (xs == x[:, None])).any(1)
    moves = there & (timer == 0)
    timer = torch.where(moves, move_speed[:, None], timer - there.int())
    xs = xs + forward * moves
    caught = caught | (beside & moves & (xs == x[:, None])).any(1)
    seen = torch.stack((kind, xs, ys, forward, timer, shot), 1)
    there = there & inside(xs)
    free = moves & there & ~(beside & (xs == x[:, None]))  # can be hit
    reward = torch.zeros_like(x)
    left = list(bullets[:, 0].unbind(1))
    for wanted in (SUB, FISH):
        for i in range(len(left)):
            _, bullet_x, bullet_y, _ = bullets[:, :, i].unbind(1)
            here = (xs == bullet_x[:, None]) & (ys == bullet_y[:, None]) & (left[i] > 0)[:, None]
            hit = last(free & here & (kind == wanted))
            free, there = free & ~hit, there & ~hit
            struck = hit.any(1)
            left[i] = left[i] * ~struck
            reward = reward + struck
    bullets = torch.cat((torch.stack(left, 1)[:, None], bullets[:, 1:]), 1)
    return Met(bullets, torch.stack((kind * there, xs, ys, forward, timer, shot), 1), seen, reward, caught)
