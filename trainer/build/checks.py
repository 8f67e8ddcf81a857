"""What cannot work with this environment, told before any peer is met; `validate` tells what can never work."""

from __future__ import annotations

from trainer.build.demos import check_demos
from trainer.build.nets import check_torso, torso_kind
from trainer.build.teacher import check_teachers
from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec


def check_environment(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError for the first part of `config` that the environment cannot serve."""
    check_torso(config, spec)
    _check_pixels(config, spec)
    check_teachers(config, spec)
    check_demos(config, spec)


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
