"""The environments of a run: inspected once before it starts, then one backend per shard."""

from __future__ import annotations

import json
from typing import Any

import torch

from trainer.config import Config, EnvConfig
from trainer.envs import Backend, EnvSpec, Padded, Restarts, ShardedEnvs, env_spec, join_specs, make_backend
from trainer.layout import Layout
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import cores_per_rank

EVAL_ENVS, EVAL_SETS = 2**14, 2**16
"""Environments in one set of evaluation seeds, and number of sets: 2^30 seeds that training never uses."""


def inspect_env(config: Config) -> EnvSpec:
    """Make one environment (of each task), inspect it and close it; join the specs of several tasks into one.

    Raises ValueError, in one line, if it cannot be trained on.
    """

    def inspect(env_id: str) -> EnvSpec:
        return env_spec(
            config.env.backend,
            env_id,
            autoreset=config.env.autoreset,
            kwargs=_kwargs(config.env, env_id),
            sticky=config.env.sticky,
            full_action_space=config.env.full_action_space,
            frame_skip=config.env.frame_skip,
            frame_stack=config.env.frame_stack,
        )

    tasks = config.env.tasks
    return join_specs({task: inspect(task) for task in tasks}) if tasks else inspect(config.env.id)


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
    """Make this rank's environments, one backend per shard; evaluation has seeds of its own, in sets."""
    count = per_shard or (layout.eval_envs_per_shard if evaluation else layout.envs_per_shard)
    first = eval_set * EVAL_ENVS
    env = config.env
    restarts = Restarts(env.max_restarts)

    def backend(shard: int) -> Backend:
        task = shard % len(env.tasks) if env.tasks else None
        env_id, alone = (env.id, spec) if task is None else (env.tasks[task], spec.tasks[task])
        made = make_backend(
            alone.kind,
            env_id,
            count,
            seeding.env_seeds(config.seed, first + shard * count, count, evaluation=evaluation),
            render=render,
            restarts=restarts,
            timeout=env.timeout,
            device=device,
            threads=env.threads or max(1, cores_per_rank(Launch.read()) // layout.shards_per_rank),
            **_env_options(env, env_id, evaluation),
        )
        return made if task is None else Padded(made, spec)

    backends = {shard: backend(shard) for shard in layout.owned}
    return ShardedEnvs(backends, device, {shard: shard * count for shard in layout.owned}, restarts)


def task_of_lanes(layout: Layout, envs_per_shard: int, device: torch.device) -> torch.Tensor | None:
    """Return the task of each of this rank's environments, [N], `envs_per_shard` in each shard; None without tasks."""
    tasks = layout.tasks(envs_per_shard)
    return None if tasks is None else torch.tensor(tasks, device=device)


def _kwargs(env: EnvConfig, env_id: str) -> dict[str, Any]:
    """Return the constructor's arguments for `env_id`; with tasks, each has its own."""
    stated: dict[str, Any] = json.loads(env.kwargs)
    mine: dict[str, Any] = stated.get(env_id, {}) if env.tasks else stated
    return mine


def _env_options(env: EnvConfig, env_id: str, evaluation: bool) -> dict[str, Any]:
    return {
        "autoreset": env.autoreset,
        "kwargs": _kwargs(env, env_id),
        "sticky": env.sticky,
        "full_action_space": env.full_action_space,
        "frame_skip": env.frame_skip,
        "frame_stack": env.frame_stack,
        "noop_max": env.noop_max,
        "fire_reset": env.fire_reset,
        "life_loss": env.life_loss and not evaluation,
    }
