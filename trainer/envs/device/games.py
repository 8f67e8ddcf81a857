"""From an environment id to the rules of a game."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer.envs.base import refuse_unknown, take_limit
from trainer.envs.device.acrobot import Acrobot
from trainer.envs.device.asterix import Asterix
from trainer.envs.device.breakout import Breakout
from trainer.envs.device.cartpole import CartPole
from trainer.envs.device.freeway import Freeway
from trainer.envs.device.game import Game
from trainer.envs.device.mountain_car import MountainCar
from trainer.envs.device.seaquest import Seaquest
from trainer.envs.device.space_invaders import SpaceInvaders

CONTROL = ("CartPole-v0", "CartPole-v1", "Acrobot-v1", "MountainCar-v0")
GAMES: dict[str, Callable[[bool], Game[Any]]] = {  # MinAtar's, given whether difficulty ramps
    "Asterix": Asterix,
    "Breakout": lambda ramping: Breakout(),  # in which it never does
    "Freeway": lambda ramping: Freeway(),
    "Seaquest": Seaquest,
    "SpaceInvaders": SpaceInvaders,
}
IDS = (*CONTROL, *(f"MinAtar/{name}-{version}" for name in GAMES for version in ("v0", "v1")))


def make_game(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Game[Any], int | None]:
    """Return the rules of one of IDS and the step limit of its episodes; kwargs as for the original.

    Raises:
        ValueError: an unknown argument, or a bad value of one.
    """
    rest = dict(kwargs)
    limit = take_limit(rest, None)
    game: Game[Any]
    known: tuple[str, ...] = ("max_episode_steps",)
    if env_id.startswith("CartPole-"):
        game = CartPole(500 if env_id.endswith("-v1") else 200, _flag(rest, "sutton_barto_reward", False))
        known += ("sutton_barto_reward",)
    elif env_id == "Acrobot-v1":
        game = Acrobot()
    elif env_id == "MountainCar-v0":
        game = MountainCar(_number(rest, "goal_velocity", 0.0))
        known += ("goal_velocity",)
    else:
        ramping = _flag(rest, "difficulty_ramping", True)
        known += ("difficulty_ramping",)
        game = GAMES[env_id.removeprefix("MinAtar/")[:-3]](ramping)
    refuse_unknown(rest, env_id, known)
    return game, limit or game.limit


def _flag(kwargs: dict[str, Any], name: str, default: bool) -> bool:
    """Pop a bool from kwargs. Raises ValueError if it is not one."""
    value = kwargs.pop(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} {value}: must be true or false")
    return value


def _number(kwargs: dict[str, Any], name: str, default: float) -> float:
    """Pop a number from kwargs. Raises ValueError if it is not one."""
    value = kwargs.pop(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} {value}: must be a number")
    return float(value)
