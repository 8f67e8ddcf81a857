"""The replay memory, and the check that it fits before anything is built."""

from __future__ import annotations

import torch
from torch import nn

from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.replay import Frames, ReplayMemory, Ring, UniformSampler
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.memory import free_bytes, human
from trainer.types import Replay


def build_replay(
    config: Config, layout: Layout, spec: EnvSpec, net: nn.Module, device: torch.device, dtype: torch.dtype
) -> Replay:
    """Make what keeps experience, of the kind that `config` states."""
    return _transitions(config, layout, spec, device, dtype)


def _transitions(
    config: Config, layout: Layout, spec: EnvSpec, device: torch.device, dtype: torch.dtype
) -> ReplayMemory:
    where = torch.device("cpu") if config.replay.device == "cpu" else device
    frames = Frames(spec.obs_shape, spec.stack, spec.stack_pad)
    ring = Ring(
        layout.rows_per_lane(spec.stack),
        layout.envs_per_rank,
        frames.frame_shape,
        spec.obs_dtype,
        horizon=config.replay.n_step,
        stack=spec.stack,
        device=where,
        pin=where.type == "cpu" and device.type == "cuda",
    )
    streams = {shard: seeding.generator(config.seed, "replay", shard, where) for shard in layout.owned}
    return ReplayMemory(
        ring,
        frames,
        UniformSampler(ring, streams),
        updates=layout.updates,
        batch_size=layout.batch_per_rank,
        gamma=config.replay.gamma,
        clip_reward=config.env.clip_reward,
        dtype=dtype,
        device=device,
    )


def check_memory(config: Config, layout: Layout, spec: EnvSpec, device: torch.device, launch: Launch) -> str:
    """Return what the replay will take, in words. Raises ConfigError if this machine's ranks cannot hold it."""
    frames = Frames(spec.obs_shape, spec.stack, spec.stack_pad)
    row = Ring.row_bytes(frames.frame_shape, spec.obs_dtype)
    mine = layout.rows_per_lane(spec.stack) * layout.envs_per_rank * row
    where = torch.device("cpu") if config.replay.device == "cpu" else device
    sharing = launch.local_world_size if where.type == "cpu" else 1
    free = free_bytes(where)
    if mine * sharing > free:
        problem = f"{sharing} rank(s) here need {human(mine * sharing)} on {where.type}, {human(free)} are free"
        fits = int(config.replay.capacity * 0.9 * free / (mine * sharing))
        raise ConfigError("replay.capacity", config.replay.capacity, problem, f"use {fits} or less, or more machines")
    return (
        f"replay: {config.replay.capacity:,} transitions of {human(row)}, {human(mine * layout.world_size)} in all, "
        f"{human(mine)} on each of {layout.world_size} rank(s) ({where.type})"
    )
