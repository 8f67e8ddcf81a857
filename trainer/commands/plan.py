"""The trainer's part of `lockstep plan`: what a run asks for, as plain values, and a report as tables."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from trainer.cli import changes, parse_train
from trainer.combinations_sync import check_sync
from trainer.config import Config, ConfigError, SyncConfig
from trainer.validate import validate

MAKES = ("env.", "net.", "loss.", "pixels.", "teacher.", "demos.")
MAKES_TOO = (
    "optim.kind",
    "optim.levels",
    "replay.kind",
    "replay.n_step",
    "replay.length",
    "replay.burn_in",
    "runtime.dtype",
)
"""Fields (or sections) that determine the network, its losses and its environments."""
MAKES_NOT = ("env.num_envs", "env.threads", "env.noop_max", "env.fire_reset", "env.sticky")


class Columns(Protocol):
    """A table as text; the first column is a name."""

    @property
    def header(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> Sequence[tuple[str, ...]]: ...


class Report(Protocol):
    """A report to print."""

    @property
    def title(self) -> str: ...
    @property
    def tables(self) -> Sequence[Columns]: ...
    @property
    def text(self) -> str: ...


class _Pace(NamedTuple):
    batch: int
    updates_per_env_step: float


def ask(arguments: Sequence[str], ranks: int = 1) -> dict[str, Any]:
    """Return what `lockstep train ARGUMENTS` would ask for. Raises ValueError; torch is not imported."""
    config = _config(arguments)
    check_sync(config, ranks)
    pace = _pace(config)
    return {
        "title": f"{config.preset} ({config.env.name})",
        "key": key(config),
        "sync": dataclasses.asdict(config.sync),
        "load": {
            "total_env_steps": config.total_env_steps,
            "num_envs": config.env.num_envs,
            "batch": pace.batch,
            "updates_per_env_step": pace.updates_per_env_step,
            "target_every": config.target.every,
            "weak": config.scale.world == "weak",
        },
    }


def count(arguments: Sequence[str]) -> dict[str, Any]:
    """Return how much work is in an update and in a step of that run, counted on a small one."""
    from trainer.build.counting import count as count_run

    with contextlib.redirect_stdout(io.StringIO()):
        return count_run(_config(arguments))


def key(config: Config) -> str:
    """Return the non-default fields that determine the network, its losses and its environments."""
    made = {
        name: after
        for name, (_, after) in changes(Config(), config).items()
        if name.startswith(MAKES + MAKES_TOO) and name not in MAKES_NOT
    }
    return json.dumps(made, sort_keys=True)


def show(report: Report) -> None:
    """Print a report."""
    console = Console(highlight=False)
    console.print(report.title, style="bold")
    for columns in report.tables:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for i, name in enumerate(columns.header):
            table.add_column(name, justify="left" if i == 0 or name == "gives up" else "right", no_wrap=True)
        for row in columns.rows:
            table.add_row(*row, style="bold" if "<- choose" in row[0] else None)
        console.print(table)
    console.print(report.text)


def _config(arguments: Sequence[str]) -> Config:
    config = parse_train(arguments).config
    if config.sync.stages > 1:
        problem = "the cluster model only supports one rank per replica"
        raise ConfigError("sync.stages", config.sync.stages, problem, "plan without it")
    shards = config.shards or len(config.env.tasks) or 1
    validate(dataclasses.replace(config, shards=shards, sync=SyncConfig()), 1)  # batches can be made to fit more ranks
    return config


def _pace(config: Config) -> _Pace:
    replay = config.replay
    if replay.kind == "rollout":
        return _Pace(replay.batch_size, replay.epochs / replay.batch_size)
    return _Pace(replay.batch_size, 1 / replay.update_every)
