"""What goes in and out of a measured memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from trainer.build import build_replay
from trainer.build.inductor import compile_function
from trainer.config import Config, EnvConfig, ReplayConfig, RuntimeConfig
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.replay import CompiledMemory, ReplayMemory
from trainer.types import Choice, Timestep

DONE = 0.01
"""Share of the steps that end an episode."""


@dataclass(frozen=True)
class Case:
    """A memory and what goes in and out of it."""

    name: str
    obs_shape: tuple[int, ...]
    dtype: str
    stack: int
    envs: int
    batch: int
    capacity: int
    n_step: int


class Filled:
    """The replay that `trainer.build` makes for a case, full, with timesteps to feed it.

    compiled: use graphs, for these numbers of batches at once; empty: eager.
    """

    def __init__(self, case: Case, replay: ReplayConfig | None = None, *, compiled: Sequence[int] = ()) -> None:
        self.case = case
        runtime = RuntimeConfig(compile=bool(compiled))
        config = Config(env=EnvConfig(num_envs=case.envs), replay=replay or uniform(case), runtime=runtime)
        spec = EnvSpec("sync", case.obs_shape, getattr(torch, case.dtype), 4, case.stack, "repeat", False)
        memory = build_replay(
            config, Layout(config, 1, 1, 0), spec, torch.nn.Identity(), torch.device("cpu"), torch.float32
        )
        assert isinstance(memory, ReplayMemory)
        self.memory = memory
        if isinstance(memory, CompiledMemory):
            memory.compile(partial(compile_function, tried=False), compiled, _raise)
        generator = torch.Generator().manual_seed(0)
        self.timesteps = [_timestep(case, spec.obs_dtype, generator) for _ in range(16)]
        self.choice = Choice(torch.zeros(case.envs, dtype=torch.int64))
        for i in range(self.memory.ring.rows + 8):
            self.add(i)

    def add(self, i: int) -> None:
        """Add one step of all environments."""
        self.memory.add(self.timesteps[i % 16], self.choice, self.timesteps[(i + 1) % 16])


def uniform(case: Case) -> ReplayConfig:
    return ReplayConfig(capacity=case.capacity, batch_size=case.batch, n_step=case.n_step, learning_starts=0)


def _raise(error: Exception) -> None:
    raise error


def _timestep(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Timestep:
    count = case.envs
    obs = (torch.rand(count, *case.obs_shape, generator=generator) * 255).to(dtype)
    never = torch.zeros(count, dtype=torch.bool)
    done = torch.rand(count, generator=generator) < DONE
    return Timestep(obs, torch.ones(count), done, never, never, never, obs)
