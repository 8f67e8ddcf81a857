"""The memory of PQN: the last rollout, valued by the online network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.build.envs import task_of_lanes
from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.replay import RolloutMemory
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.machine import human
from trainer.runtime.memory import free_bytes
from trainer.types import Given


def build_rollouts(
    config: Config, layout: Layout, spec: EnvSpec, net: nn.Module, device: torch.device, dtype: torch.dtype
) -> RolloutMemory:
    """Make the memory of the current rollout of this rank's environments."""

    def values(obs: Tensor, task: Tensor | None) -> Tensor:
        best: Tensor = net(obs, Given(task=task)).q.amax(1)
        return best

    storage, replay = _storage(config, device), config.replay
    return RolloutMemory(
        replay.rollout,
        layout.envs_per_rank,
        spec.obs_shape,
        spec.obs_dtype,
        {shard: seeding.generator(config.seed, "replay", shard, storage) for shard in layout.owned},
        values,
        updates=layout.updates,
        batch_size=layout.batch_per_rank,
        epochs=replay.epochs,
        gamma=replay.gamma,
        trace=replay.trace,
        clip_reward=config.env.clip_reward,
        # all other backends reset within the step
        resets=any(one.kind == "native" for one in spec.tasks or (spec,)) or config.env.autoreset == "next_step",
        dtype=dtype,
        storage=storage,
        device=device,
        task=task_of_lanes(layout, layout.envs_per_shard, storage),
    )


def check_rollout_memory(config: Config, layout: Layout, spec: EnvSpec, device: torch.device, launch: Launch) -> str:
    """Return the memory that a rollout takes, in words. Raises ConfigError if this machine's ranks cannot hold it."""
    steps, storage = config.replay.rollout, _storage(config, device)
    one = RolloutMemory.transition_bytes(spec.obs_shape, spec.obs_dtype)
    mine = steps * layout.envs_per_rank * one
    sharing = launch.local_world_size if storage.type == "cpu" else 1
    free = free_bytes(storage)
    if mine * sharing > free:
        problem = f"{sharing} rank(s) here need {human(mine * sharing)} on {storage.type}, {human(free)} are free"
        fits = int(steps * 0.9 * free / (mine * sharing))
        raise ConfigError("replay.rollout", steps, problem, f"use {fits} or less, or fewer --env.num_envs")
    return (
        f"rollout: {steps} steps of {config.env.num_envs} environments, {human(mine * layout.world_size)} in all, "
        f"{human(mine)} on each of {layout.world_size} rank(s) ({storage.type})"
    )


def _storage(config: Config, device: torch.device) -> torch.device:
    return torch.device("cpu") if config.replay.device == "cpu" else device
