"""Three environments that are solved in seconds, stepped in NumPy without looping over environments.

Catch: a ball falls down a board of 10 rows and 5 columns while the paddle on the last row moves left, stays or moves
right; 9 steps, then +1 if it is caught and -1 if not. Chain: 8 states in a row; right moves on, left goes back to the
start for a small reward; the last state pays 1 and ends the episode. Memory: a corridor that shows one of two cues at
its beginning; at its end the action that matches the cue pays +1, the other -1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.envs.base import CPU, Flags, StackPad, choose_autoreset, opening, refuse_unknown, stepped, take_limit
from trainer.types import State, Timestep

CATCH_OPTIMAL_RETURN = 1.0
CHAIN_OPTIMAL_RETURN = 1.0
"""Return of always moving right, which is optimal for every discount up to 0.998."""
MEMORY_OPTIMAL_RETURN = 1.0
"""Return of an agent that remembers the cue; one that does not gets 0 on average."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Game(Protocol):
    """The rules of a toy, for N boards at once; its state is the arrays in `state`, changed in place."""

    num_actions: int
    obs_size: int
    limit: int | None  # steps until an episode is cut
    state: dict[str, Ints]  # name -> [N]

    def begin(self, rows: Flags, random: np.random.Generator) -> None:
        """Start new episodes where rows [N] is set."""

    def step(self, action: Ints) -> tuple[Floats, Flags]:
        """Return reward and terminated, [N] each."""

    def obs(self) -> Floats:
        """Return a new array, [N, obs_size]."""

    def picture(self) -> Floats:
        """Return board 0 as brightness, [rows, columns]."""


class Catch:
    num_actions, obs_size = 3, 50
    rows, columns = 10, 5
    limit: int | None = None

    def __init__(self, num_envs: int) -> None:
        self._each = np.arange(num_envs)
        self.state: dict[str, Ints] = {k: np.zeros(num_envs, dtype=np.int64) for k in ("row", "column", "paddle")}

    def begin(self, rows: Flags, random: np.random.Generator) -> None:
        self.state["row"][rows] = 0
        self.state["column"][rows] = random.integers(self.columns, size=int(rows.sum()))
        self.state["paddle"][rows] = self.columns // 2

    def step(self, action: Ints) -> tuple[Floats, Flags]:
        row, column, paddle = self.state["row"], self.state["column"], self.state["paddle"]
        np.clip(paddle + action - 1, 0, self.columns - 1, out=paddle)
        row += 1
        landed = row == self.rows - 1
        reward = np.where(landed, np.where(column == paddle, 1.0, -1.0), 0.0).astype(np.float32)
        return reward, landed

    def obs(self) -> Floats:
        board = np.zeros((len(self._each), self.obs_size), dtype=np.float32)
        board[self._each, self.state["row"] * self.columns + self.state["column"]] = 1.0
        board[self._each, (self.rows - 1) * self.columns + self.state["paddle"]] = 1.0
        return board

    def picture(self) -> Floats:
        board: Floats = self.obs()[0].reshape(self.rows, self.columns)
        return board


class Chain:
    num_actions = 2
    back_reward = 0.001

    def __init__(self, num_envs: int, length: int = 8) -> None:
        self._each, self.obs_size = np.arange(num_envs), length
        self.limit: int | None = 3 * self.obs_size
        self.state: dict[str, Ints] = {"place": np.zeros(num_envs, dtype=np.int64)}

    def begin(self, rows: Flags, random: np.random.Generator) -> None:
        self.state["place"][rows] = 0

    def step(self, action: Ints) -> tuple[Floats, Flags]:
        place = self.state["place"]
        right = action == 1
        place[:] = np.where(right, place + 1, 0)
        ended = place == self.obs_size - 1
        return np.where(right, ended.astype(np.float32), self.back_reward).astype(np.float32), ended

    def obs(self) -> Floats:
        out = np.zeros((len(self._each), self.obs_size), dtype=np.float32)
        out[self._each, self.state["place"]] = 1.0
        return out

    def picture(self) -> Floats:
        return self.obs()[:1]


class Memory:
    num_actions, obs_size = 2, 4
    corridor = 6  # steps between seeing the cue and acting on it
    limit: int | None = None

    def __init__(self, num_envs: int) -> None:
        self._each = np.arange(num_envs)
        self.state: dict[str, Ints] = {k: np.zeros(num_envs, dtype=np.int64) for k in ("place", "cue")}

    def begin(self, rows: Flags, random: np.random.Generator) -> None:
        self.state["place"][rows] = 0
        self.state["cue"][rows] = random.integers(2, size=int(rows.sum()))

    def step(self, action: Ints) -> tuple[Floats, Flags]:
        ended = self.state["place"] == self.corridor
        self.state["place"] += 1
        reward = np.where(ended, np.where(action == self.state["cue"], 1.0, -1.0), 0.0).astype(np.float32)
        return reward, ended

    def obs(self) -> Floats:
        """One-hot: which cue (at the start), in the corridor, at its end; all zeros after the last step."""
        place = self.state["place"]
        seen = np.select([place == 0, place < self.corridor, place == self.corridor], [self.state["cue"], 2, 3], -1)
        out = np.zeros((len(self._each), self.obs_size), dtype=np.float32)
        out[self._each[seen >= 0], seen[seen >= 0]] = 1.0
        return out

    def picture(self) -> Floats:
        return self.obs()[:1]


GAMES: dict[str, type[Catch] | type[Chain] | type[Memory]] = {
    "toy/Catch": Catch,
    "toy/Chain": Chain,
    "toy/Memory": Memory,
}


def _take_length(kwargs: dict[str, Any]) -> int:
    """Pop the number of states of a chain from its kwargs. Raises ValueError if it is not one."""
    length = kwargs.pop("length", 8)
    if type(length) is not int or length < 2:
        raise ValueError(f"length {length}: must be a number of states, 2 or more")
    return length


class ToyBackend:
    """A `Backend` with one random stream, seeded with seeds[0].

    kwargs may set max_episode_steps, the `length` of a chain, and `image`: observations are then pictures
    [1, rows + 2, columns + 2] of uint8 with an empty border, so that a shift by one pixel loses nothing.
    """

    device = CPU
    stack = 1
    stack_pad: StackPad = "repeat"
    saves_state = True

    def __init__(
        self, env_id: str, num_envs: int, seeds: Sequence[int], *, autoreset: str, kwargs: Mapping[str, Any]
    ) -> None:
        rest = dict(kwargs)
        game = GAMES[env_id]
        self._game: Game = game(num_envs, _take_length(rest)) if game is Chain else game(num_envs)
        self._limit = take_limit(rest, self._game.limit)
        image = rest.pop("image", False)
        refuse_unknown(rest, env_id, ("max_episode_steps", "image", *(("length",) if game is Chain else ())))
        self._same_step = choose_autoreset(autoreset, ("same_step", "next_step"), "toy") == "same_step"
        self.num_envs, self.num_actions = num_envs, self._game.num_actions
        self.obs_shape, self.obs_dtype = self._shape(image), torch.uint8 if image else torch.float32
        self._random = np.random.default_rng(seeds[0])
        self._elapsed: Ints = np.zeros(num_envs, dtype=np.int64)
        self._pending: Flags = np.zeros(num_envs, dtype=np.bool_)
        self._action: Ints | None = None

    def reset(self) -> Timestep:
        self._pending[:] = False
        self._begin(np.ones(self.num_envs, dtype=np.bool_))
        return opening(self._obs())

    def send(self, action: Tensor) -> None:
        self._action = action.numpy()

    def recv(self) -> Timestep:
        assert self._action is not None, "recv without send"
        reset = self._pending
        reward, terminated = self._game.step(self._action)
        self._action = None
        self._elapsed += 1
        truncated = np.zeros_like(terminated) if self._limit is None else self._elapsed >= self._limit
        if reset.any():  # NEXT_STEP: these rows are reset instead of stepped
            self._begin(reset)
            reward[reset], terminated[reset], truncated[reset] = 0.0, False, False
        done = terminated | truncated
        obs = self._obs()
        if not self._same_step:
            self._pending = done
            return stepped(obs, reward, terminated, truncated, reset=reset)
        if not done.any():
            return stepped(obs, reward, terminated, truncated)
        self._begin(done)
        return stepped(self._obs(), reward, terminated, truncated, final_obs=obs)

    def _shape(self, image: object) -> tuple[int, ...]:
        if not isinstance(image, bool):
            raise ValueError(f"image {image}: must be true or false")
        if not image:
            return (self._game.obs_size,)
        rows, columns = self._game.picture().shape
        return (1, rows + 2, columns + 2)

    def _obs(self) -> Tensor:
        """Return the games' observations, [N, *]."""
        obs = torch.from_numpy(self._game.obs())
        if len(self.obs_shape) == 1:
            return obs
        pictures = obs.mul(255).to(torch.uint8).view(self.num_envs, 1, self.obs_shape[1] - 2, -1)
        return F.pad(pictures, (1, 1, 1, 1))

    def _begin(self, rows: Flags) -> None:
        self._game.begin(rows, self._random)
        self._elapsed[rows] = 0

    def state_dict(self) -> State:
        assert self._action is None
        return {
            "game": {name: torch.from_numpy(array.copy()) for name, array in self._game.state.items()},
            "elapsed": torch.from_numpy(self._elapsed.copy()),
            "pending": torch.from_numpy(self._pending.copy()),
            "random": self._random.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        for name, array in self._game.state.items():
            array[:] = state["game"][name].numpy()
        self._elapsed[:] = state["elapsed"].numpy()
        self._pending[:] = state["pending"].numpy()
        self._random.bit_generator.state = state["random"]

    def render(self) -> NDArray[np.uint8] | None:
        grey = (255 * self._game.picture()).astype(np.uint8)
        return grey.repeat(24, axis=0).repeat(24, axis=1)[:, :, None].repeat(3, axis=2)

    def close(self) -> None:
        pass
