"""The replay memory, and the check, before anything is built, that it fits."""

from __future__ import annotations

import torch
from torch import nn

from trainer.build.demos import with_demos
from trainer.build.envs import task_of_lanes
from trainer.build.rollouts import build_rollouts, check_rollout_memory
from trainer.build.sequences import build_sequences, check_sequence_memory
from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.replay import (
    CompiledMemory,
    Frames,
    HeadMask,
    PrioritizedSampler,
    ReplayMemory,
    Ring,
    SumTree,
    UniformSampler,
)
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.machine import human
from trainer.runtime.memory import free_bytes
from trainer.types import Replay


def build_replay(
    config: Config, layout: Layout, spec: EnvSpec, net: nn.Module, device: torch.device, dtype: torch.dtype
) -> Replay:
    """Make the replay memory that `config` states, with its demonstrations mixed in."""

    def own(config: Config, layout: Layout) -> Replay:
        return _own(config, layout, spec, net, device, dtype)

    return with_demos(config, layout, spec, device, dtype, own)


def _own(
    config: Config, layout: Layout, spec: EnvSpec, net: nn.Module, device: torch.device, dtype: torch.dtype
) -> Replay:
    """Make the memory of the run's own experience."""
    if config.replay.kind == "rollout":
        return build_rollouts(config, layout, spec, net, device, dtype)
    if config.replay.kind == "sequence":
        return build_sequences(config, layout, spec, device, dtype)
    return _transitions(config, layout, spec, device, dtype)


def _transitions(
    config: Config, layout: Layout, spec: EnvSpec, device: torch.device, dtype: torch.dtype
) -> ReplayMemory:
    where = torch.device("cpu") if config.replay.device == "cpu" else device
    frames = Frames(spec.obs_shape, spec.stack, spec.stack_pad)
    sarsa = config.loss.target == "sarsa"  # a transition waits until the action after its window is known
    ring = Ring(
        layout.rows_per_lane(spec.stack),
        layout.envs_per_rank,
        frames.frame_shape,
        spec.obs_dtype,
        horizon=config.replay.n_step + sarsa,
        stack=spec.stack,
        device=where,
        pin=where.type == "cpu" and device.type == "cuda",
    )
    streams = {shard: seeding.generator(config.seed, "replay", shard, where) for shard in layout.owned}
    sampler = (
        PrioritizedSampler(ring, streams, shards=layout.shards, alpha=config.replay.alpha)
        if config.replay.kind == "prioritized"
        else UniformSampler(ring, streams)
    )
    kind = ReplayMemory if config.runtime.compile is False else CompiledMemory
    return kind(
        ring,
        frames,
        sampler,
        updates=layout.updates,
        batch_size=layout.batch_per_rank,
        gamma=config.replay.gamma,
        clip_reward=config.env.clip_reward,
        dtype=dtype,
        device=device,
        future=config.pixels.spr_steps if config.pixels.spr > 0 else 0,
        task=task_of_lanes(layout, layout.envs_per_shard, where),
        heads=_head_mask(config, layout, where),
        next_action=sarsa,
    )


def _head_mask(config: Config, layout: Layout, where: torch.device) -> HeadMask | None:
    """Return the mask of which heads learn from which transition; None: all from all."""
    if config.net.ensemble == 1 or config.loss.bootstrap_mask == 1:
        return None
    return HeadMask(
        config.seed,
        config.net.ensemble,
        config.loss.bootstrap_mask,
        first_lane=layout.owned.start * layout.envs_per_shard,
        lanes=layout.envs_per_rank,
        device=where,
    )


def check_memory(config: Config, layout: Layout, spec: EnvSpec, device: torch.device, launch: Launch) -> str:
    """Return the memory that the replay takes, in words. Raises ConfigError if this machine's ranks cannot hold it."""
    if config.replay.kind == "rollout":
        return check_rollout_memory(config, layout, spec, device, launch)
    if config.replay.kind == "sequence":
        return check_sequence_memory(config, layout, spec, device, launch)
    frames = Frames(spec.obs_shape, spec.stack, spec.stack_pad)
    row = Ring.row_bytes(frames.frame_shape, spec.obs_dtype)
    rows = layout.rows_per_lane(spec.stack)
    mine = rows * layout.envs_per_rank * row
    if config.replay.kind == "prioritized":
        mine += SumTree.shard_bytes(rows * layout.envs_per_shard) * layout.shards_per_rank
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
