"""A run for measuring its speed: built as `lockstep train` builds it, without checkpoints, trained piece by piece."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from trainer.build import build_run, inspect_env
from trainer.config import Config, LogConfig
from trainer.layout import Layout, scaled
from trainer.run import Run
from trainer.runtime.garbage import rarely_collected
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import choose_device, process_group
from trainer.runtime.stop import SIGNALS
from trainer.train import train
from trainer.types import State
from trainer.validate import validate


@contextmanager
def open_run(stated: Config, folder: Path) -> Iterator[Run]:
    """Build this process's run with its log in `folder`. Raises ConfigError for a config that cannot work."""
    launch = Launch.read()
    handlers = {sig: signal.getsignal(sig) for sig in SIGNALS}
    stated = replace(stated, shards=launch.world_size, log=LogConfig(dir=str(folder), every=stated.log.every))
    config = scaled(stated, launch.world_size)
    validate(config, launch.world_size)
    spec = inspect_env(config)
    layout = Layout(config, launch.world_size, launch.world_size, launch.rank)
    threads = torch.get_num_threads()
    with process_group(choose_device(config.runtime.device, launch), launch, config.runtime.timeout) as ranks:
        try:
            run = build_run(config, layout, spec, ranks, folder, launch)
            run.write = _write_nothing
        finally:
            for sig, handler in handlers.items():
                signal.signal(sig, handler)  # nothing to save in a trial: Ctrl-C may end it
        try:
            with rarely_collected():
                yield run
        finally:
            run.logger.close()
            run.envs.close()
            torch.set_num_threads(threads)


def go(run: Run, steps: int) -> None:
    """Run `trainer.train` for `steps` more steps, with its logging, polls and target refreshes."""
    end = run.step + steps
    run.layout = replace(run.layout, config=replace(run.config, total_env_steps=run.layout.env_steps(end)))
    train(run)
    assert run.step == end, f"stopped by {run.stopped_by}"


def warm_up(run: Run, steps: int) -> None:
    """Run until learning has started and `steps` beyond."""
    go(run, -(-run.config.replay.learning_starts // run.config.env.num_envs) + steps)


def _write_nothing(step: int, replicated: State, shards: dict[int, State]) -> None:
    """Write no checkpoint: how often one is written is the user's choice."""
