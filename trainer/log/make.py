"""Builds the logger of one rank from plain values; knows neither config nor process group."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer.log.console import ConsoleView
from trainer.log.fanout import FanOut, Sink
from trainer.log.jsonl import JsonlSink
from trainer.log.null import NullLogger
from trainer.log.tensorboard import TensorBoardSink
from trainer.log.wandb import WandbSink
from trainer.types import Logger


def make_logger(
    rank: int,
    run_dir: Path,
    *,
    total_env_steps: int,
    title: str,
    config: Mapping[str, Any],
    tensorboard: bool,
    wandb: bool,
    wandb_project: str,
    console: Console | None = None,
) -> Logger:
    """Return rank 0's fan-out to every sink that is asked for, or a null object on the other ranks.

    Nothing is written before the first call, so that `load_state_dict` can still set where a resumed run continues.

    Args:
        rank: this process; only 0 writes.
        run_dir: folder of the run; created.
        total_env_steps: where the progress bar ends [env steps].
        title: one line printed now and the run's name on Weights & Biases.
        config: nested dict of plain values, stored with TensorBoard and Weights & Biases.
        console: where to print; standard output if None.
    """
    if rank != 0:
        return NullLogger()
    run_dir.mkdir(parents=True, exist_ok=True)
    # isatty alone decides: otherwise FORCE_COLOR would put control characters into a log file.
    console = console or Console(force_terminal=sys.stdout.isatty(), highlight=False)
    view = ConsoleView(console, total_env_steps)
    view.message(title)

    sinks: dict[str, Sink] = {"jsonl": JsonlSink(run_dir / "metrics.jsonl", view.message)}
    if tensorboard and find_spec("tensorboard") is None:
        view.message("No TensorBoard events: tensorboard is not installed (pip install 'lockstep[tensorboard]').")
    elif tensorboard:
        sinks["tensorboard"] = TensorBoardSink(run_dir / "tensorboard", config)
    if wandb:
        sinks["wandb"] = WandbSink(run_dir, wandb_project, title, config, view.message)
    return FanOut(view, sinks)
