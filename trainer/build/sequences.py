"""The memory of R2D2: sequences with the recurrent states before them."""

from __future__ import annotations

from typing import Any

import torch

from trainer.build.nets import DTYPES
from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.replay import Frames, Ring, SequenceBook, SequenceMemory
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.machine import human
from trainer.runtime.memory import free_bytes


def build_sequences(
    config: Config, layout: Layout, spec: EnvSpec, device: torch.device, dtype: torch.dtype
) -> SequenceMemory:
    """Make the memory of this rank's sequences."""
    storage, replay = _storage(config, device), config.replay
    pin = storage.type == "cpu" and device.type == "cuda"
    frames, rows = Frames(spec.obs_shape, spec.stack, spec.stack_pad), layout.rows_per_lane(spec.stack)
    ring = Ring(
        rows,
        layout.envs_per_rank,
        frames.frame_shape,
        spec.obs_dtype,
        horizon=replay.n_step,
        stack=spec.stack,
        device=storage,
        pin=pin,
    )
    book = SequenceBook(
        rows, layout.envs_per_rank, **_cut(config), width=config.net.lstm, dtype=dtype, device=storage, pin=pin
    )
    return SequenceMemory(
        ring,
        frames,
        book,
        {shard: seeding.generator(config.seed, "replay", shard, storage) for shard in layout.owned},
        shards=layout.shards,
        updates=layout.updates,
        batch_size=layout.batch_per_rank,
        gamma=replay.gamma,
        alpha=replay.alpha,
        clip_reward=config.env.clip_reward,
        dtype=dtype,
        device=device,
    )


def check_sequence_memory(config: Config, layout: Layout, spec: EnvSpec, device: torch.device, launch: Launch) -> str:
    """Return the memory that sequences take, in words. Raises ConfigError if this machine's ranks cannot hold them."""
    storage, rows = _storage(config, device), layout.rows_per_lane(spec.stack)
    row = Ring.row_bytes(Frames(spec.obs_shape, spec.stack, spec.stack_pad).frame_shape, spec.obs_dtype)
    itemsize = DTYPES[config.runtime.dtype].itemsize
    each, slots = SequenceBook.record_bytes(config.net.lstm, itemsize), SequenceBook.sizes(rows, **_cut(config))[1]
    mine = layout.envs_per_rank * (rows * row + slots * each)
    sharing = launch.local_world_size if storage.type == "cpu" else 1
    free = free_bytes(storage)
    if mine * sharing > free:
        problem = f"{sharing} rank(s) here need {human(mine * sharing)} on {storage.type}, {human(free)} are free"
        fits = int(config.replay.capacity * 0.9 * free / (mine * sharing))
        raise ConfigError("replay.capacity", config.replay.capacity, problem, f"use {fits} or less, or more machines")
    return (
        f"replay: {config.replay.capacity:,} transitions of {human(row)} and the states of their sequences, "
        f"{human(each)} each, {human(mine * layout.world_size)} in all, "
        f"{human(mine)} on each of {layout.world_size} rank(s) ({storage.type})"
    )


def _cut(config: Config) -> dict[str, Any]:
    """Return how episodes are cut into sequences."""
    replay = config.replay
    return {
        "length": replay.length,
        "burn_in": replay.burn_in,
        "stride": replay.stride,
        "horizon": replay.n_step,
    }


def _storage(config: Config, device: torch.device) -> torch.device:
    return torch.device("cpu") if config.replay.device == "cpu" else device
