"""MinAtar's games as a vector environment (Young and Tian 2019), without the package's plotting dependencies."""

from __future__ import annotations

import colorsys
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.envs.base import CPU, StackPad, choose_autoreset, opening, refuse_unknown, stepped, take_limit
from trainer.envs.minatar_state import game_state, load_game_state, load_random_state, random_state
from trainer.types import State, Timestep

GAMES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}
IDS = tuple(f"MinAtar/{name}-{version}" for name in GAMES for version in ("v0", "v1"))
STICKY = 0.1


class MinAtarBackend:
    """A `Backend` of MinAtar games; env i is seeded with seeds[i], SAME_STEP autoreset.

    `-v1` has the actions that the game uses and `-v0` all six, as in MinAtar's own registration. The sticky action
    persists across episodes, as there. Games have no time limit unless kwargs sets max_episode_steps (Freeway ends
    itself, by termination, after 2500 steps); `difficulty_ramping` is the other argument.
    """

    device = CPU
    obs_dtype = torch.bool
    stack = 1
    stack_pad: StackPad = "repeat"
    saves_state = True

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        seeds: Sequence[int],
        *,
        autoreset: str,
        kwargs: Mapping[str, Any],
        sticky: float | None,
        full_action_space: bool,
    ) -> None:
        choose_autoreset(autoreset, ("same_step",), "minatar")
        rest = dict(kwargs)
        self._limit = take_limit(rest, None)
        ramping = rest.pop("difficulty_ramping", True)
        refuse_unknown(rest, env_id, ("max_episode_steps", "difficulty_ramping"))
        game = load_game(env_id)
        self._games: list[Any] = [game(ramping=ramping) for _ in range(num_envs)]
        self._randoms = [np.random.RandomState(seed % 2**32) for seed in seeds]
        for env, random in zip(self._games, self._randoms, strict=True):
            env.random = random
        self._sticky = STICKY if sticky is None else sticky
        full = full_action_space or env_id.endswith("-v0")
        self._actions: list[int] = list(range(6)) if full else self._games[0].minimal_action_set()
        height, width, channels = self._games[0].state_shape()
        self._board = np.zeros((num_envs, height, width, channels), dtype=np.bool_)
        self._last_action = [0] * num_envs
        self._elapsed = [0] * num_envs
        self._reward = np.zeros(num_envs, dtype=np.float32)
        self._terminated = np.zeros(num_envs, dtype=np.bool_)
        self._truncated = np.zeros(num_envs, dtype=np.bool_)
        self._action: list[int] | None = None
        self.num_envs, self.num_actions = num_envs, len(self._actions)
        self.obs_shape: tuple[int, ...] = (channels, height, width)

    def reset(self) -> Timestep:
        for i in range(self.num_envs):
            self._begin(i)
        return opening(self._obs())

    def send(self, action: Tensor) -> None:
        self._action = action.tolist()

    def recv(self) -> Timestep:
        assert self._action is not None, "recv without send"
        done: list[int] = []
        for i, (game, random, action) in enumerate(zip(self._games, self._randoms, self._action, strict=True)):
            if random.rand() >= self._sticky:
                self._last_action[i] = self._actions[action]
            self._reward[i], terminated = game.act(self._last_action[i])
            self._board[i] = game.state()
            self._elapsed[i] += 1
            truncated = self._limit is not None and self._elapsed[i] >= self._limit
            self._terminated[i], self._truncated[i] = terminated, truncated
            if terminated or truncated:
                done.append(i)
        self._action = None
        obs = final_obs = self._obs()
        if done:
            for i in done:
                self._begin(i)
            obs = self._obs()
        return stepped(obs, self._reward, self._terminated, self._truncated, final_obs=final_obs)

    def _begin(self, i: int) -> None:
        self._games[i].reset()
        self._board[i] = self._games[i].state()
        self._elapsed[i] = 0

    def _obs(self) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self._board.transpose(0, 3, 1, 2)))

    def state_dict(self) -> State:
        assert self._action is None
        return {
            "games": [game_state(game) for game in self._games],
            "randoms": [random_state(random) for random in self._randoms],
            "last_action": list(self._last_action),
            "elapsed": list(self._elapsed),
        }

    def load_state_dict(self, state: State) -> None:
        for i in range(self.num_envs):
            load_game_state(self._games[i], state["games"][i])
            load_random_state(self._randoms[i], state["randoms"][i])
            self._board[i] = self._games[i].state()
        self._last_action, self._elapsed = list(state["last_action"]), list(state["elapsed"])

    def render(self) -> NDArray[np.uint8] | None:
        """Return env 0 as a picture."""
        return picture(self._board[0])

    def close(self) -> None:
        pass


def picture(board: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a board [H, W, C] with one hue per channel, the last channel on top, 24 pixels per cell."""
    channels = board.shape[2]
    hues = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(c / channels, 0.7, 1.0) for c in range(channels))]
    top = (board * np.arange(1, channels + 1)).max(axis=2)
    cells: NDArray[np.uint8] = (255 * np.array(hues)[top]).astype(np.uint8)
    return cells.repeat(24, axis=0).repeat(24, axis=1)


def load_game(env_id: str) -> Any:
    """Return the class of a game, e.g. of MinAtar/Breakout-v1.

    The game's file is loaded by itself: importing the package would import seaborn, or warn that it is missing.

    Raises:
        ValueError: MinAtar is not installed.
    """
    name = GAMES[env_id.removeprefix("MinAtar/")[:-3]]
    package = importlib.util.find_spec("minatar")
    if package is None or package.origin is None:
        raise ValueError(f"{env_id} needs MinAtar: pip install 'lockstep[minatar]'")
    file = Path(package.origin).parent / "environments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"minatar_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Env
