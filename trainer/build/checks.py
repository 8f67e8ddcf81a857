"""What cannot work with this environment, told before any peer is met; `validate` tells what can never work."""

from __future__ import annotations

from trainer.build.nets import check_torso
from trainer.config import Config
from trainer.envs import EnvSpec


def check_environment(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError for the first part of `config` that the environment cannot serve."""
    check_torso(config, spec)
