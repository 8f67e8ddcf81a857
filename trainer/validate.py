"""Checks of a config that need no torch, no environment and no peers; problems are reported in one line."""

from __future__ import annotations

import json
import math
from typing import Any

from trainer.combinations import check_combinations
from trainer.combinations_sync import check_stages, check_sync, replicas
from trainer.compilable import check_compile
from trainer.config import Config, ConfigError
from trainer.config.levels import parse_levels

# field -> (lowest, highest, whether the lowest itself is allowed)
_RANGES: dict[str, tuple[float, float, bool]] = {
    "seed": (0, 2**32 - 1, True),
    "total_env_steps": (1, math.inf, True),
    "env.num_envs": (1, math.inf, True),
    "env.sticky": (0, 1, True),
    "env.frame_skip": (1, math.inf, True),
    "env.frame_stack": (1, math.inf, True),
    "env.noop_max": (0, math.inf, True),
    "env.threads": (0, math.inf, True),
    "policy.epsilon_start": (0, 1, True),
    "policy.epsilon_end": (0, 1, True),
    "policy.epsilon_wait": (0, math.inf, True),
    "policy.epsilon_decay": (0, math.inf, True),
    "policy.ladder_base": (0, 1, False),
    "policy.ladder_alpha": (0, math.inf, True),
    "replay.capacity": (1, math.inf, True),
    "replay.batch_size": (1, math.inf, True),
    "replay.learning_starts": (0, math.inf, True),
    "replay.update_every": (0, math.inf, False),
    "replay.burst": (1, math.inf, True),
    "replay.n_step": (1, math.inf, True),
    "replay.gamma": (0, 1, True),
    "policy.zeta": (1, math.inf, False),
    "policy.zeta_max": (1, math.inf, True),
    "policy.risk": (0, 1, False),
    "replay.alpha": (0, 1, True),
    "replay.beta": (0, 1, True),
    "replay.beta_end": (0, 1, True),
    "replay.length": (1, math.inf, True),
    "replay.burn_in": (0, math.inf, True),
    "replay.stride": (1, math.inf, True),
    "replay.eta": (0, 1, True),
    "replay.rollout": (1, math.inf, True),
    "replay.epochs": (1, math.inf, True),
    "replay.trace": (0, 1, True),
    "net.noisy_sigma": (0, math.inf, True),
    "net.atoms": (2, math.inf, True),
    "net.quantiles": (1, math.inf, True),
    "net.cosines": (1, math.inf, True),
    "net.acting_fractions": (1, math.inf, True),
    "net.width": (1, math.inf, True),
    "net.pool": (0, math.inf, True),
    "net.ensemble": (1, math.inf, True),
    "net.lstm": (0, math.inf, True),
    "loss.munchausen_alpha": (0, 1, True),
    "loss.munchausen_tau": (0, math.inf, False),
    "loss.munchausen_min": (-math.inf, 0, True),
    "loss.kappa": (0, math.inf, True),
    "loss.fractions": (1, math.inf, True),
    "loss.target_fractions": (1, math.inf, True),
    "loss.bootstrap_mask": (0, 1, False),
    "pixels.shift": (0, math.inf, True),
    "pixels.spr": (0, math.inf, True),
    "pixels.spr_steps": (1, math.inf, True),
    "teacher.weight": (0, math.inf, True),
    "teacher.temperature": (0, math.inf, False),
    "teacher.act": (0, 1, True),
    "teacher.decay": (0, math.inf, True),
    "demos.ratio": (0, 1, True),
    "demos.weight": (0, math.inf, True),
    "demos.margin": (0, math.inf, True),
    "demos.pretrain": (0, math.inf, True),
    "optim.lr": (0, math.inf, False),
    "optim.lr_end": (0, math.inf, True),
    "optim.eps": (0, math.inf, True),
    "optim.rms_decay": (0, 1, True),
    "optim.rms_momentum": (0, 1, True),
    "optim.max_grad_norm": (0, math.inf, False),
    "optim.max_skipped": (1, math.inf, True),
    "target.every": (1, math.inf, True),
    "target.tau": (0, 1, False),
    "sync.period": (1, math.inf, True),
    "sync.local_after": (0, math.inf, True),
    "sync.outer_lr": (0, math.inf, False),
    "sync.outer_momentum": (0, 1, True),
    "sync.stages": (1, math.inf, True),
    "sync.microbatches": (1, math.inf, True),
    "sync.servers": (1, math.inf, True),
    "sync.staleness": (0, math.inf, True),
    "sync.compress_rank": (1, math.inf, True),
    "sync.compress_share": (0, 1, False),
    "runtime.threads": (0, math.inf, True),
    "runtime.timeout": (0, math.inf, False),
    "runtime.save_timeout": (0, math.inf, False),
    "env.max_restarts": (0, math.inf, True),
    "env.timeout": (0, math.inf, False),
    "runtime.poll_every": (1, math.inf, True),
    "log.every": (1, math.inf, True),
    "checkpoint.every": (0, math.inf, True),
    "checkpoint.keep": (1, math.inf, True),
    "checkpoint.failures": (1, math.inf, True),
    "eval.every": (0, math.inf, True),
    "eval.episodes": (0, math.inf, True),
    "eval.num_envs": (1, math.inf, True),
    "eval.epsilon": (0, 1, True),
    "eval.max_steps": (1, math.inf, True),
}
_MAY_BE_INFINITE = {"optim.max_grad_norm"}


def validate(config: Config, world_size: int) -> None:
    """Raise ConfigError for the first value that cannot work; `config` is already scaled to `world_size` ranks."""
    for name, (low, high, inclusive) in _RANGES.items():
        value = lookup(config, name)
        if value is not None:
            _check_range(name, value, low, high, inclusive)
    if config.shards is not None:
        _check_range("shards", config.shards, 1, math.inf, True)
    for i, beta in enumerate(config.optim.betas):
        if not 0 <= beta < 1:
            raise ConfigError("optim.betas", config.optim.betas, f"beta {i + 1} is not in [0, 1)", "use e.g. 0.9 0.999")
    for name in ("optim.rms_decay", "optim.rms_momentum", "sync.outer_momentum"):
        if (value := lookup(config, name)) == 1:
            raise ConfigError(name, value, "the average would never decay", "choose a value in [0, 1)")
    parse_levels(config.optim.levels)
    for name in ("net.hidden", "net.head_hidden"):
        if any(width < 1 for width in lookup(config, name)):
            raise ConfigError(name, lookup(config, name), "an empty layer", "give widths >= 1")
    _check_kwargs(config.env.kwargs)
    _check_division(config, replicas(config, world_size))
    check_combinations(config)
    check_sync(config, world_size)
    check_stages(config, replicas(config, world_size))
    check_compile(config)
    _check_replay(config)


def lookup(config: Config, name: str) -> Any:
    """Return the value of a dotted field name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _check_range(name: str, value: float, low: float, high: float, inclusive: bool) -> None:
    span = f"{'[' if inclusive else '('}{low:g}, {high:g}{')' if high == math.inf else ']'}"
    if math.isnan(value) or (math.isinf(value) and name not in _MAY_BE_INFINITE):
        raise ConfigError(name, value, "not a finite number", f"choose a value in {span}")
    if value < low or value > high or (value == low and not inclusive):
        raise ConfigError(name, value, "out of range", f"choose a value in {span}")


def _check_kwargs(text: str) -> None:
    try:
        valid = isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        valid = False
    if not valid:
        raise ConfigError("env.kwargs", text, "not a JSON object", """write e.g. '{"is_slippery": false}'""")


def _check_division(config: Config, world_size: int) -> None:
    shards = config.shards if config.shards is not None else world_size
    if shards % world_size:
        remedy = f"use a number of ranks that divides {shards}"
        if shards < world_size:
            remedy += f", or, for a new run, --shards {world_size}"
        raise ConfigError("shards", shards, f"cannot be divided among {world_size} ranks", remedy)
    for name in ("env.num_envs", "replay.batch_size"):
        value = lookup(config, name)
        if value % shards:
            nearest = max(shards, round(value / shards) * shards)
            raise ConfigError(name, value, f"does not divide over {shards} shards", f"use a multiple, e.g. {nearest}")


def _check_replay(config: Config) -> None:
    replay, envs = config.replay, config.env.num_envs
    if replay.kind == "rollout":
        if (replay.rollout * envs) % replay.batch_size:
            problem = f"does not divide a rollout of {replay.rollout} steps of {envs} environments"
            raise ConfigError("replay.batch_size", replay.batch_size, problem, f"use e.g. {replay.rollout * envs // 4}")
        if config.total_env_steps <= replay.rollout * envs:
            problem = f"learning would begin after a rollout of {replay.rollout * envs} env steps (--replay.rollout)"
            raise ConfigError("total_env_steps", config.total_env_steps, problem, "run longer, or learn earlier")
        return
    if replay.kind == "sequence":
        _check_sequence_replay(config)
    window = envs * (replay.n_step + 1)
    if replay.capacity < max(replay.batch_size, window):
        problem = f"smaller than a batch ({replay.batch_size}) or an n-step window of {envs} environments ({window})"
        raise ConfigError("replay.capacity", replay.capacity, problem, f"use {max(replay.batch_size, window)} or more")
    least = envs * (replay.n_step + (config.loss.target == "sarsa"))  # which needs one more action
    if replay.learning_starts < least:
        problem = f"before {envs} environments have one {replay.n_step}-step transition each"
        raise ConfigError("replay.learning_starts", replay.learning_starts, problem, f"use {least} or more")
    if replay.learning_starts > replay.capacity:
        problem = f"more than the replay can hold ({replay.capacity})"
        raise ConfigError("replay.learning_starts", replay.learning_starts, problem, "raise --replay.capacity")
    if replay.learning_starts >= config.total_env_steps:
        problem = f"learning would begin after {replay.learning_starts} env steps (--replay.learning_starts)"
        raise ConfigError("total_env_steps", config.total_env_steps, problem, "run longer, or start learning earlier")


def _check_sequence_replay(config: Config) -> None:
    replay, envs = config.replay, config.env.num_envs
    window = envs * (replay.burn_in + replay.length + replay.n_step + replay.stride)
    if replay.capacity < window:
        problem = f"{envs} environments cannot keep a sequence each until the next is complete"
        remedy = f"use {window} or more, or shorter --replay.length, burn_in and stride"
        raise ConfigError("replay.capacity", replay.capacity, problem, remedy)
    least = envs * (replay.length + replay.n_step)
    if replay.learning_starts < least:
        problem = f"before {envs} environments have a sequence of {replay.length} steps each"
        raise ConfigError("replay.learning_starts", replay.learning_starts, problem, f"use {least} or more")
