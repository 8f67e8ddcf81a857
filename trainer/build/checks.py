"""Checks of a config against the environment and machine, before ranks meet; `validate` checks the config alone."""

from __future__ import annotations

import torch

from trainer.build.compile import check_compiler
from trainer.build.demos import check_demos
from trainer.build.nets import build_net, check_torso, torso_kind
from trainer.build.stages import check_stages
from trainer.build.teacher import check_teachers
from trainer.config import Config, ConfigError
from trainer.config.levels import check_names, parse_levels
from trainer.envs import EnvSpec
from trainer.runtime.launched import Launch


def check_environment(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError for the first part of `config` that does not fit the environment."""
    check_torso(config, spec)
    _check_pixels(config, spec)
    check_teachers(config, spec)
    check_demos(config, spec)
    _check_levels(config, spec)
    check_stages(config, spec)


def check_device(config: Config, device: torch.device) -> None:
    """Raise ConfigError for the first part of `config` that cannot work on the device."""
    sync = config.sync
    if (sync.kind, sync.compress) == ("ddp", "bf16") and device.type != "cuda":
        problem = f"torch's hook of DistributedDataParallel needs NCCL, and this run is on {device.type}"
        raise ConfigError("sync.compress", "bf16", problem, "use --sync.kind flat, or --sync.compress fp16")
    check_compiler(config, device)


def check_nodes(config: Config, launch: Launch) -> None:
    """Raise ConfigError for the first part of `config` that needs as many ranks on every node, if they differ."""
    ranks, here = launch.world_size, launch.local_world_size
    if config.sync.hierarchical and ranks % here:
        problem = f"this node has {here} of {ranks} ranks, so others have more or fewer"
        raise ConfigError("sync.hierarchical", True, problem, "start the same number of ranks per node, or omit it")


def _check_levels(config: Config, spec: EnvSpec) -> None:
    if config.optim.levels:
        net, told = build_net(config, spec, torch.device("cpu")), config.optim.levels
        check_names(parse_levels(told), told, [name for name, _ in net.named_parameters()])


def _check_pixels(config: Config, spec: EnvSpec) -> None:
    shift, given = config.pixels.shift, f"{config.env.name} gives {spec.obs_shape}"
    if shift and len(spec.obs_shape) != 3:
        raise ConfigError("pixels.shift", shift, f"needs images, {given}", "use --pixels.shift 0")
    if shift and shift >= (side := min(spec.obs_shape[1:])):
        problem = f"nothing of an image would be left, {given}"
        raise ConfigError("pixels.shift", shift, problem, f"use {side - 1} or less")
    if config.pixels.spr > 0 and torso_kind(config, spec) == "mlp":
        problem = f"needs images and convolutions, {given}"
        raise ConfigError("pixels.spr", config.pixels.spr, problem, "use --pixels.spr 0, or another --net.torso")
