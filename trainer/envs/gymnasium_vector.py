"""Any Gymnasium environment, stepped one after the other in this process (sync) or in one process each (async)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from trainer.envs import workers
from trainer.envs.autoreset import NormalForm
from trainer.envs.base import CPU, Autoreset, StackPad, choose_autoreset
from trainer.envs.restarts import Restarts
from trainer.envs.single import FAILURE, fresh_seed, thunk
from trainer.envs.spaces import ObsCodec, discrete_actions
from trainer.types import State, Timestep

MODES: dict[Autoreset, AutoresetMode] = {
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
}


class GymnasiumBackend:
    """A `Backend` over SyncVectorEnv or AsyncVectorEnv; env i is seeded with seeds[i].

    It saves its state for CartPole, Acrobot and MountainCar. Failed environments are restarted while `restarts`
    tolerates it; after that the backend is closed. timeout: of an async step [s].
    """

    device = CPU
    stack = 1
    stack_pad: StackPad = "repeat"

    def __init__(
        self,
        kind: Literal["sync", "async"],
        env_id: str,
        num_envs: int,
        seeds: Sequence[int],
        *,
        autoreset: str,
        kwargs: Mapping[str, Any],
        render: bool,
        restarts: Restarts,
        timeout: float,
    ) -> None:
        mode = choose_autoreset(autoreset, ("same_step", "next_step"), kind)
        thunks = [thunk(env_id, kwargs, render) for _ in range(num_envs)]
        self._env: SyncVectorEnv[Any, Any] | AsyncVectorEnv[Any, Any]
        if kind == "sync":
            self._env = SyncVectorEnv(thunks, copy=False, autoreset_mode=MODES[mode])
        else:
            self._env = workers.start(thunks, MODES[mode])
        self._render = render
        codec = ObsCodec(self._env.single_observation_space, env_id)
        self.num_envs = num_envs
        self.obs_shape, self.obs_dtype = codec.shape, codec.dtype
        self.num_actions, self._first_action = discrete_actions(self._env.single_action_space, env_id)
        self.saves_state = all(self._env.get_attr("can_save"))
        self._normal = NormalForm(codec, mode, num_envs)
        self._seeds: list[int | None] | None = list(seeds)
        self._restarts, self._timeout = restarts, timeout
        self._replaced = [0] * num_envs

        def again(i: int) -> workers.Again:
            self._replaced[i] += 1
            seed = fresh_seed(seeds[i], self._replaced[i])
            return workers.Again(thunk(env_id, kwargs, render, seed, pending=mode == "next_step"), seed)

        self._again = again
        self._action: NDArray[np.int64] | None = None

    def reset(self) -> Timestep:
        seeds, self._seeds = self._seeds, None
        with workers.closed_on_error(self._env):
            obs, _ = self._env.reset(seed=seeds)
        return self._normal.reset(obs)

    def send(self, action: Tensor) -> None:
        self._action = action.numpy() + self._first_action
        if isinstance(self._env, AsyncVectorEnv):
            workers.send(self._env, self._action)

    def recv(self) -> Timestep:
        assert self._action is not None, "recv without send"
        with workers.closed_on_error(self._env):
            env = self._env
            if isinstance(env, AsyncVectorEnv):
                out = workers.wait(env, self._timeout, self._again)
            else:
                out = env.step(self._action)
            for cause in failures(out[4]):
                self._restarts.note(cause)
        self._action = None
        return self._normal.step(*out)

    def state_dict(self) -> State:
        assert self.saves_state
        assert self._action is None
        envs = [{**state, "state": torch.from_numpy(state["state"])} for state, _ in self._env.get_attr("saved")]
        return {"envs": envs, "pending": torch.from_numpy(self._normal.pending.copy())}

    def load_state_dict(self, state: State) -> None:
        assert self.saves_state
        self._env.reset()  # clears the autoreset flags that Gymnasium keeps to itself
        self._seeds = None
        envs = [{**env, "state": env["state"].numpy()} for env in state["envs"]]
        self._normal.pending = state["pending"].numpy().copy()
        self._env.set_attr("saved", list(zip(envs, self._normal.pending.tolist(), strict=True)))

    def render(self) -> NDArray[np.uint8] | None:
        if not self._render:
            return None
        frame = self._env.call("render")[0]
        return None if frame is None else np.asarray(frame, dtype=np.uint8)

    def close(self) -> None:
        self._env.close()


def failures(info: Mapping[str, Any]) -> list[str]:
    """Return what happened to the environments that failed in a step, from its info in either autoreset mode."""
    told = (info.get(FAILURE, ()), info.get("final_info", {}).get(FAILURE, ()))
    return [cause for causes in told for cause in causes if cause]
