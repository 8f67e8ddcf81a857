"""An environment's own vector version (Gymnasium's vector_entry_point), such as the NumPy CartPole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from trainer.envs.autoreset import NormalForm
from trainer.envs.base import CPU, Autoreset, StackPad, choose_autoreset
from trainer.envs.spaces import ObsCodec, discrete_actions
from trainer.types import State, Timestep

MODES: dict[AutoresetMode, Autoreset] = {
    AutoresetMode.SAME_STEP: "same_step",
    AutoresetMode.NEXT_STEP: "next_step",
}


class NativeBackend:
    """A `Backend` over a vector environment that has one random stream, seeded with seeds[0].

    It saves its state for CartPole.
    """

    device = CPU
    stack = 1
    stack_pad: StackPad = "repeat"

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        seeds: Sequence[int],
        *,
        autoreset: str,
        kwargs: Mapping[str, Any],
        render: bool,
    ) -> None:
        mode: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
        self._env: Any = gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **mode, **kwargs)
        native = MODES.get(self._env.metadata["autoreset_mode"])
        if native is None:
            raise ValueError(f"{env_id}'s own vector env does not reset its environments; use the sync backend")
        choose_autoreset(autoreset, (native,), "native")
        codec = ObsCodec(self._env.single_observation_space, env_id)
        self.num_envs = num_envs
        self.obs_shape, self.obs_dtype = codec.shape, codec.dtype
        self.num_actions, self._first_action = discrete_actions(self._env.single_action_space, env_id)
        self.saves_state = type(self._env) is CartPoleVectorEnv
        self._normal = NormalForm(codec, native, num_envs)
        self._seed: int | None = seeds[0]
        self._render = render
        self._action: NDArray[np.int64] | None = None

    def reset(self) -> Timestep:
        seed, self._seed = self._seed, None
        obs, _ = self._env.reset(seed=seed)
        return self._normal.reset(obs)

    def send(self, action: Tensor) -> None:
        self._action = action.numpy() + self._first_action

    def recv(self) -> Timestep:
        assert self._action is not None, "recv without send"
        out = self._env.step(self._action)
        self._action = None
        return self._normal.step(*out)

    def state_dict(self) -> State:
        assert self.saves_state
        assert self._action is None
        env = self._env
        return {
            "state": torch.from_numpy(env.state.copy()),
            "steps": torch.from_numpy(env.steps.copy()),
            "pending": torch.from_numpy(self._normal.pending.copy()),
            "random": env.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        assert self.saves_state
        self.reset()
        env = self._env
        env.state = state["state"].numpy().copy()
        env.steps = state["steps"].numpy().copy()
        env.prev_done = state["pending"].numpy().copy()
        self._normal.pending = state["pending"].numpy().copy()
        env.np_random.bit_generator.state = state["random"]

    def render(self) -> NDArray[np.uint8] | None:
        if not self._render:
            return None
        return np.asarray(self._env.render()[0], dtype=np.uint8)

    def close(self) -> None:
        self._env.close()
