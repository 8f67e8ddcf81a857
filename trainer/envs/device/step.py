"""A step of N environments as one pure function of tensors: sticky actions, the game, the time limit, the autoreset."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.envs.device.game import Game
from trainer.types import Function


class Lanes(NamedTuple):
    """The state of N environments; never changed in place."""

    last_action: Tensor  # [N] int32, as the game calls it; persists across episodes, as MinAtar's does
    elapsed: Tensor  # [N] int32 steps of the running episodes
    game: tuple[Tensor, ...]  # the game's state


def columns(game: Game[Any], sticky: float) -> int:
    """Return how many random numbers a step draws per environment."""
    return (sticky > 0) + game.step_draws + game.reset_draws


def opened(game: Game[Any], last_action: Tensor, draws: Tensor) -> Lanes:
    """Return the state of environments that all begin an episode; draws [N, reset_draws]."""
    return Lanes(last_action, torch.zeros_like(last_action), game.reset(draws))


def make_step(game: Game[Any], sticky: float, limit: int | None) -> Function:
    """Return the step: (action [N] int64, the game's names of actions [A], draws [N, columns], last_action, elapsed,
    *state) -> [obs, reward, terminated, truncated, final_obs, last_action, elapsed, *state].

    Environments whose episode ended have begun another (SAME_STEP); final_obs is the observation before that. The
    columns of draws are for the sticky action, the game's step, and the reset.
    """

    def step(
        action: Tensor, names: Tensor, draws: Tensor, last_action: Tensor, elapsed: Tensor, *state: Tensor
    ) -> list[Tensor]:
        chance, played, begun = torch.split(draws, [int(sticky > 0), game.step_draws, game.reset_draws], 1)
        taken = names.index_select(0, action)
        if sticky > 0:
            taken = torch.where(chance[:, 0] >= sticky, taken, last_action)
        fresh = game.reset(begun)
        made: Any = type(fresh)
        after, reward, terminated = game.step(made(*state), taken, played)
        elapsed = elapsed + 1
        truncated = torch.zeros_like(terminated) if limit is None else elapsed >= limit
        done = terminated | truncated
        pairs = zip(fresh, after, strict=True)
        following = made(*(torch.where(_over(done, old), new, old) for new, old in pairs))
        said = [game.observe(following), reward, terminated, truncated, game.observe(after)]
        stands = [taken, torch.where(done, 0, elapsed), *following]
        return [tensor.contiguous() for tensor in (*said, *stands)]

    return step


def _over(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows [N] in a shape that broadcasts with [N, ...]."""
    return rows.view(-1, *(1,) * (like.dim() - 1))
