"""The original environments, given the numbers that the games written in PyTorch draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trainer.envs.minatar import load_game

Row = NDArray[np.float32]

DRAWN: dict[str, dict[str, slice]] = {  # game -> method of the original that draws -> which columns it gets
    "Asterix": {"_spawn_entity": slice(0, 3)},
    "Freeway": {"_randomize_cars": slice(0, 8)},
    "Seaquest": {"_spawn_enemy": slice(0, 3), "_spawn_diver": slice(3, 5)},
}
SAME: dict[str, dict[str, str]] = {  # game -> field of ours -> attribute of the original
    "Asterix": {
        name: name
        for name in ("player_x", "player_y", "spawn_speed", "spawn_timer", "move_speed", "move_timer", "ramp_timer")
    }
    | {"ramp_index": "ramp_index"},
    "Breakout": {name: name for name in ("pos", "ball_x", "ball_y", "last_x", "last_y", "strike")},
    "Freeway": {name: name for name in ("pos", "move_timer", "terminate_timer")},
    "SpaceInvaders": {
        "pos": "pos",
        "interval": "enemy_move_interval",
        "move_timer": "alien_move_timer",
        "bomb_timer": "alien_shot_timer",
        "ramp_index": "ramp_index",
        "shot_timer": "shot_timer",
    },
    "Seaquest": {
        "x": "sub_x",
        "y": "sub_y",
        "oxygen": "oxygen",
        "aboard": "diver_count",
        "surfaced": "surface",
        "shot_timer": "shot_timer",
        "spawn_speed": "e_spawn_speed",
        "spawn_timer": "e_spawn_timer",
        "diver_timer": "d_spawn_timer",
        "move_speed": "move_speed",
        "ramp_index": "ramp_index",
    },
}


class Handed:
    """Stands in for a random stream: gives out `numbers`, in single precision as ours are."""

    def __init__(self) -> None:
        self.numbers: list[np.float32] = []

    def rand(self, count: int = 0) -> Any:
        if not count:
            return float(self.numbers.pop(0))
        return np.array([0.25 if car < 5 else 0.75 for car in self._cars()])

    def randint(self, low: int, high: int | None = None, size: int = 0) -> Any:
        if size:
            return np.array([car + 1 if car < 5 else car - 4 for car in self._cars()])
        low, high = (0, low) if high is None else (low, high)
        return low + int(self.numbers.pop(0) * np.float32(high - low))

    def _cars(self) -> list[int]:
        """Freeway: speed and direction of a car are one number."""
        return [int(number * np.float32(10)) for number in self.numbers]

    def uniform(self, low: float, high: float, size: tuple[int, ...] = ()) -> Any:
        drawn = [low + (high - low) * float(self.numbers.pop(0)) for _ in range(size[0] if size else 1)]
        return np.array(drawn) if size else drawn[0]


class Board:
    """One game of MinAtar's own."""

    def __init__(self, env_id: str, ramping: bool = True) -> None:
        self.name = env_id.removeprefix("MinAtar/")[:-3]
        self.game = load_game(env_id)(ramping=ramping)
        self.random = self.game.random = Handed()
        self._row: Row = np.zeros(0, dtype=np.float32)
        for method, columns in DRAWN.get(self.name, {}).items():
            setattr(self.game, method, self._handed(getattr(self.game, method), columns))

    def _handed(self, method: Callable[..., Any], columns: slice) -> Callable[..., Any]:
        def drawn(*args: Any, **kwargs: Any) -> Any:
            self.random.numbers = list(self._row[columns])
            return method(*args, **kwargs)

        return drawn

    def reset(self, row: Row) -> None:
        self._row, self.random.numbers = row, list(row)
        self.game.reset()

    def step(self, action: int, row: Row) -> tuple[float, bool]:
        self._row = row
        reward, terminated = self.game.act(action)
        return float(reward), bool(terminated)

    def obs(self) -> NDArray[np.bool_]:
        return np.asarray(self.game.state().transpose(2, 0, 1), dtype=np.bool_)


class Physics:
    """One environment of Gymnasium's classic control, without its wrappers."""

    def __init__(self, env_id: str, kwargs: dict[str, Any]) -> None:
        self.env: Any = gym.make(env_id, **kwargs).unwrapped
        self.random = Handed()
        self.env._np_random = self.random

    def reset(self, row: Row) -> NDArray[np.float32]:
        self.random.numbers = list(row)
        return np.asarray(self.env.reset()[0])

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool]:
        obs, reward, terminated, _, _ = self.env.step(action)
        return obs, float(reward), terminated
