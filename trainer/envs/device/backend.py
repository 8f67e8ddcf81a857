"""Games of tensors as a backend: everything, chance included, happens on the device without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.envs.base import StackPad, choose_autoreset, opening
from trainer.envs.device.games import make_game
from trainer.envs.device.step import Lanes, columns, make_step, opened
from trainer.envs.minatar import picture
from trainer.types import State, Timestep


class DeviceBackend:
    """A `Backend` of games whose step is one function of tensors, with one random stream, seeded with seeds[0].

    A GPU's stream yields other numbers than a CPU's. `step` may be replaced by an equivalent graph.
    """

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
        device: torch.device,
    ) -> None:
        choose_autoreset(autoreset, ("same_step",), "torch")
        self._game, limit = make_game(env_id, kwargs)
        board = env_id.startswith("MinAtar/")
        full = board and (full_action_space or env_id.endswith("-v0"))
        actions = tuple(range(6)) if full else self._game.actions
        stick = self._game.sticky if sticky is None or not board else sticky
        self.device, self.num_envs, self.num_actions = device, num_envs, len(actions)
        self.obs_shape, self.obs_dtype = self._game.obs_shape, self._game.obs_dtype
        self.env_id, self.step = env_id, make_step(self._game, stick, limit)
        self._columns = columns(self._game, stick)
        self._names = torch.tensor(actions, dtype=torch.int32, device=device)
        self._random = torch.Generator(device=device).manual_seed(seeds[0])
        self._no = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._lanes = opened(self._game, self._no.int(), torch.zeros(num_envs, self._game.reset_draws, device=device))
        self._draws = torch.empty(num_envs, self._columns, device=device)  # of one step, which keeps none of them
        self._action: Tensor | None = None

    def reset(self) -> Timestep:
        draws = torch.rand(self.num_envs, self._game.reset_draws, generator=self._random, device=self.device)
        self._lanes = opened(self._game, self._lanes.last_action, draws)
        return opening(self._game.observe(self._lanes.game).contiguous())

    def send(self, action: Tensor) -> None:
        self._action = action

    def recv(self) -> Timestep:
        assert self._action is not None, "recv without send"
        action, self._action = self._action, None
        out = self.step(*self._given(action, self._draws.uniform_(generator=self._random)))
        obs, reward, terminated, truncated, final_obs, last_action, elapsed, *game = out
        self._lanes = Lanes(last_action, elapsed, self._state(game))
        return Timestep(obs, reward, terminated, truncated, self._no, self._no, final_obs)

    def example(self) -> tuple[Tensor, ...]:
        """Return arguments like those of a step, all distinct tensors: a tracer would merge equal ones."""
        draws = torch.zeros(self.num_envs, self._columns, device=self.device)
        return tuple(tensor.clone() for tensor in self._given(self._no.long(), draws))

    def _given(self, action: Tensor, draws: Tensor) -> tuple[Tensor, ...]:
        """Return the arguments of a step."""
        last_action, elapsed, game = self._lanes
        return (action, self._names, draws, last_action, elapsed, *game)

    def _state(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        made: Any = type(self._lanes.game)
        state: tuple[Tensor, ...] = made(*tensors)
        return state

    def state_dict(self) -> State:
        assert self._action is None
        last_action, elapsed, game = self._lanes
        fields: Any = type(game)
        return {
            "last_action": last_action,
            "elapsed": elapsed,
            "game": dict(zip(fields._fields, game, strict=True)),
            "generator": self._random.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        def mine(saved: Tensor) -> Tensor:
            return saved.to(self.device, copy=True)

        fields: Any = type(self._lanes.game)
        game = self._state([mine(state["game"][name]) for name in fields._fields])
        self._lanes = Lanes(mine(state["last_action"]), mine(state["elapsed"]), game)
        self._random.set_state(state["generator"])

    def render(self) -> NDArray[Any] | None:
        """Return a picture of env 0 of a board game, drawn as MinAtar's are; None for the others."""
        if len(self.obs_shape) != 3:
            return None
        return picture(self._game.observe(self._lanes.game)[0].permute(1, 2, 0).cpu().numpy())

    def close(self) -> None:
        pass
