"""The environments of all shards of a rank behind one send/recv interface, with the statistics of their episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.envs.base import Backend, StackPad
from trainer.envs.device import DeviceBackend
from trainer.envs.padded import Padded
from trainer.envs.restarts import Restarts
from trainer.types import Compiler, Episode, Function, State, Timestep

UNCOUNTED = 1024
"""Steps whose rewards are kept uncounted, at most."""


class EpisodeStatistics:
    """Running return and length of each environment of one shard.

    A reset row is not a step; a lost life does not end an episode. Steps stay where they are and are counted on the
    CPU on request, because on a GPU that waits; after UNCOUNTED of them, they are counted in any case.
    """

    def __init__(self, num_envs: int, first_env: int) -> None:
        self._first_env = first_env
        self._ret = np.zeros(num_envs, dtype=np.float64)
        self._length = np.zeros(num_envs, dtype=np.int64)
        self._finished: list[Episode] = []
        self._uncounted: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def begin(self) -> None:
        """Forget the running episodes: all environments were reset."""
        self._count()
        self._ret[:], self._length[:] = 0.0, 0

    def step(self, timestep: Timestep) -> None:
        self._uncounted.append((timestep.reward, timestep.reset, timestep.terminated, timestep.truncated))
        if len(self._uncounted) == UNCOUNTED:
            self._count()

    def _count(self) -> None:
        if not self._uncounted:
            return
        fields = zip(*self._uncounted, strict=True)
        reward, reset, terminated, truncated = (torch.stack(field).cpu().numpy() for field in fields)
        self._uncounted = []
        begin = 0
        for step, env in np.argwhere(terminated | truncated).tolist():
            if step >= begin:
                self._add(reward[begin : step + 1], reset[begin : step + 1])
                begin = step + 1
            self._finished.append(Episode(self._first_env + env, float(self._ret[env]), int(self._length[env])))
            self._ret[env], self._length[env] = 0.0, 0
        self._add(reward[begin:], reset[begin:])

    def _add(self, reward: NDArray[Any], reset: NDArray[Any]) -> None:
        """Add the steps [T, N], one reward after the other, so that it does not matter how steps are grouped."""
        if len(reward) == 1:
            self._ret += reward[0]
        elif len(reward) > 1:
            self._ret[:] = np.concatenate((self._ret[None], reward)).cumsum(0)[-1]
        self._length += len(reset)
        if reset.any():
            self._length -= reset.sum(0)

    def drain(self) -> list[Episode]:
        """Return the episodes that have ended since the last call; waits for the device."""
        self._count()
        finished, self._finished = self._finished, []
        return finished

    def state_dict(self) -> State:
        self._count()
        return {
            "ret": torch.from_numpy(self._ret.copy()),
            "length": torch.from_numpy(self._length.copy()),
            "finished": [list(episode) for episode in self._finished],
        }

    def load_state_dict(self, state: State) -> None:
        self._uncounted = []
        self._ret[:] = state["ret"].numpy()
        self._length[:] = state["length"].numpy()
        self._finished = [Episode(*episode) for episode in state["finished"]]


class ShardedEnvs:
    """`types.Envs` over one backend per owned shard, in the order of the shard numbers.

    first_env is the global index of each shard's first environment; restarts: where the backends count failures.
    Timesteps arrive on `device`; statistics are kept on the CPU. The state has the shard numbers as keys. A shard
    whose backend cannot save its state loads the finished episodes only, and must be `reset`.
    """

    def __init__(
        self,
        backends: dict[int, Backend],
        device: torch.device,
        first_env: dict[int, int],
        restarts: Restarts | None = None,
    ) -> None:
        self._shards = sorted(backends)
        self._backends = [backends[shard] for shard in self._shards]
        self._statistics = [EpisodeStatistics(backends[shard].num_envs, first_env[shard]) for shard in self._shards]
        self._device = device
        self._restarts = restarts or Restarts()
        self._sizes = [backend.num_envs for backend in self._backends]
        first = self._backends[0]
        self.num_envs = sum(self._sizes)
        self.num_actions, self.obs_shape, self.obs_dtype = first.num_actions, first.obs_shape, first.obs_dtype
        self.stack: int = first.stack
        self.stack_pad: StackPad = first.stack_pad
        self.saves_state = all(backend.saves_state for backend in self._backends)
        for backend in self._backends:
            assert (backend.obs_shape, backend.num_actions) == (self.obs_shape, self.num_actions)
            assert backend.device == first.device
        self._acting = first.device

    def reset(self) -> Timestep:
        for statistics in self._statistics:
            statistics.begin()
        return self._join([backend.reset() for backend in self._backends])

    def send(self, action: Tensor) -> None:
        action = action.to(self._acting)  # waits for the device if environments on the CPU need the numbers
        parts = torch.split(action, self._sizes) if len(self._sizes) > 1 else (action,)
        for backend, part in zip(self._backends, parts, strict=True):
            backend.send(part)

    def recv(self) -> Timestep:
        timesteps = [backend.recv() for backend in self._backends]
        for statistics, timestep in zip(self._statistics, timesteps, strict=True):
            statistics.step(timestep)
        return self._join(timesteps)

    def compile(self, compiler: Compiler) -> None:
        """Compile each step that is tensor operations; shards that play the same game share its graph."""
        graphs: dict[str, Function] = {}
        for backend in self._backends:
            inner = backend.backend if isinstance(backend, Padded) else backend
            if isinstance(inner, DeviceBackend):
                if inner.env_id not in graphs:
                    graphs[inner.env_id] = compiler(inner.step, inner.example())
                inner.step = graphs[inner.env_id]

    def _join(self, timesteps: list[Timestep]) -> Timestep:
        """Concatenate and move to the device; final_obs stays the same tensor as obs if it was in every shard."""
        if len(timesteps) == 1 and self._acting.type == self._device.type:
            return timesteps[0]
        same = all(timestep.final_obs is timestep.obs for timestep in timesteps)
        fields: dict[str, Tensor] = {}
        for name, *parts in zip(Timestep._fields, *timesteps, strict=True):
            if name == "final_obs" and same:
                fields[name] = fields["obs"]
            else:
                fields[name] = self._move(parts[0] if len(parts) == 1 else torch.cat(parts))
        return Timestep(**fields)

    def _move(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == self._device.type:
            return tensor
        # torch's pinned allocator keeps the buffer until the copy is over.
        return tensor.pin_memory().to(self._device, non_blocking=True)

    @property
    def restarts(self) -> int:
        """How many environments have failed and been restarted."""
        return self._restarts.count

    def episodes(self) -> list[Episode]:
        return [episode for statistics in self._statistics for episode in statistics.drain()]

    def state_dict(self) -> State:
        return {
            str(shard): {
                "backend": backend.state_dict() if backend.saves_state else None,
                "episodes": statistics.state_dict(),
            }
            for shard, backend, statistics in zip(self._shards, self._backends, self._statistics, strict=True)
        }

    def load_state_dict(self, state: State) -> None:
        for shard, backend, statistics in zip(self._shards, self._backends, self._statistics, strict=True):
            mine: dict[str, Any] = state[str(shard)]
            statistics.load_state_dict(mine["episodes"])
            if backend.saves_state and mine["backend"] is not None:
                backend.load_state_dict(mine["backend"])
            else:
                statistics.begin()

    def render(self) -> NDArray[np.uint8] | None:
        """Return the picture of the first shard's env 0, if its backend draws one."""
        return self._backends[0].render()

    def close(self) -> None:
        for backend in self._backends:
            backend.close()
