"""A run, as frozen dataclasses in the order of the data flow. Imports nothing else of the project, and never torch.

Every value is global: it means the same on 1, 2 or 64 ranks. Periods and horizons end in `_every` or are counted in
*env steps*: one environment, out of all environments on all ranks, stepped once. (A `step` is every environment
stepped once, an `update` one gradient step, a `frame` one emulator frame.) `Layout` derives each rank's share.
The text under a field is its documentation and its `--help`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from trainer.config.data import EnvConfig, PolicyConfig, ReplayConfig
from trainer.config.errors import ConfigError
from trainer.config.network import DemosConfig, LossConfig, NetConfig, PixelsConfig, TeacherConfig
from trainer.config.optimization import OptimConfig, ScaleConfig, SyncConfig, TargetConfig
from trainer.config.running import CheckpointConfig, EvalConfig, LogConfig, RuntimeConfig

__all__ = [
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "DemosConfig",
    "EnvConfig",
    "EvalConfig",
    "LogConfig",
    "LossConfig",
    "NetConfig",
    "OptimConfig",
    "PixelsConfig",
    "PolicyConfig",
    "ReplayConfig",
    "RuntimeConfig",
    "ScaleConfig",
    "SyncConfig",
    "TargetConfig",
    "TeacherConfig",
]


@dataclass(frozen=True)
class Config:
    preset: str = "cartpole"
    """Name of the preset this run derives from."""
    seed: int = 1
    """Every random stream is keyed by (seed, purpose, shard)."""
    shards: int | None = None
    """Units of ownership: each has its own environments, replay lanes and random streams. A run is the same on any
    number of ranks that divides it. None: the number of ranks of the first launch."""
    total_env_steps: int = 100_000
    """Length of the run [env steps]."""
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    net: NetConfig = field(default_factory=NetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    demos: DemosConfig = field(default_factory=DemosConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
