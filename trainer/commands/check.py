"""`lockstep check`: say at once whether a run can work on so many ranks, without importing torch or making anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.cli import Request, parse_train
from trainer.combinations_sync import replicas
from trainer.config import Config, ConfigError
from trainer.layout import scaled
from trainer.runtime.launched import Launch
from trainer.validate import validate

_GPUS = (Path("/proc/driver/nvidia"), Path("/dev/kfd"), Path("/dev/dxg"))
"""Paths that exist if a driver is installed for GPUs that torch can use."""


def command(arguments: Sequence[str]) -> int:
    """Check the arguments of `lockstep train`. Raises ValueError for the first that cannot work."""
    request = parse_train(arguments)
    check(request.config, request.ranks or 1)
    return 0


def check(stated: Config, ranks: int) -> tuple[Config, Config]:
    """Return the config with its number of shards, and the same scaled to them. Raises ConfigError."""
    if stated.shards is None:
        stated = replace(stated, shards=replicas(stated, ranks))
    assert stated.shards is not None
    if stated.shards < 1:
        raise ConfigError("shards", stated.shards, "out of range", "use 1 or more")
    config = scaled(stated, stated.shards)
    validate(config, ranks)
    return stated, config


def check_early(request: Request, launch: Launch) -> None:
    """Raise ConfigError for what cannot work, as far as is known without torch, which has to count GPUs."""
    ranks = launch.world_size if launch.by_torchrun else request.ranks
    if ranks is None and (request.config.runtime.device == "cpu" or not any(path.exists() for path in _GPUS)):
        ranks = 1
    if ranks is not None:
        check(request.config, ranks)
