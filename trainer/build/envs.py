"""Environments of a run: looked at once before it begins, then one backend a shard."""

from __future__ import annotations

import json
from typing import Any

import torch

from trainer.config import Config, EnvConfig
from trainer.envs import EnvSpec, ShardedEnvs, env_spec, make_backend
from trainer.layout import Layout
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import cores_per_rank

EVAL_ENVS, EVAL_SETS = 2**14, 2**16
"""Environments in one set of evaluation seeds, and sets; together the 2^30 seeds that training never uses."""


def inspect_env(config: Config) -> EnvSpec:
    """Make one environment, look at it, close it. Raises ValueError with one line if it cannot be trained on."""
    return env_spec(
        config.env.backend,
        config.env.id,
        autoreset=config.env.autoreset,
        kwargs=json.loads(config.env.kwargs),
        sticky=config.env.sticky,
        full_action_space=config.env.full_action_space,
        frame_skip=config.env.frame_skip,
        frame_stack=config.env.frame_stack,
    )


def build_envs(
    config: Config,
    layout: Layout,
    spec: EnvSpec,
    device: torch.device,
    *,
    evaluation: bool = False,
    eval_set: int = 0,
    per_shard: int | None = None,
    render: bool = False,
) -> ShardedEnvs:
    """Make this rank's environments, one backend a shard; those of evaluation have seeds of their own, in sets."""
    count = per_shard or (layout.eval_envs_per_shard if evaluation else layout.envs_per_shard)
    first = eval_set * EVAL_ENVS
    env = config.env
    backends = {
        shard: make_backend(
            spec.kind,
            env.id,
            count,
            seeding.env_seeds(config.seed, first + shard * count, count, evaluation=evaluation),
            render=render,
            threads=env.threads or max(1, cores_per_rank(Launch.read()) // layout.shards_per_rank),
            **_env_options(env, evaluation),
        )
        for shard in layout.owned
    }
    return ShardedEnvs(backends, device, {shard: shard * count for shard in layout.owned})


def _env_options(env: EnvConfig, evaluation: bool) -> dict[str, Any]:
    return {
        "autoreset": env.autoreset,
        "kwargs": json.loads(env.kwargs),
        "sticky": env.sticky,
        "full_action_space": env.full_action_space,
        "frame_skip": env.frame_skip,
        "frame_stack": env.frame_stack,
        "noop_max": env.noop_max,
        "fire_reset": env.fire_reset,
        "life_loss": env.life_loss and not evaluation,
    }
