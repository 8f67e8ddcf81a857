"""Runs inside this process: as `lockstep train` makes them, without the second that a new process costs."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint
from trainer.build import build_run
from trainer.cli import parse_train
from trainer.commands.train import _check
from trainer.layout import Layout
from trainer.run import Run
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks
from trainer.train import train

QUIET = ("--log.tensorboard", "False", "--log.plot", "False", "--log.video", "False", "--checkpoint.every", "0")


def build(arguments: Sequence[str], folder: Path, ranks: Ranks) -> Run:
    """Make the run that `lockstep train ARGUMENTS` would make on these ranks; its folder is `folder`."""
    launch = replace(Launch.read(), rank=ranks.rank, world_size=ranks.world_size)
    _, layout, spec = _check(parse_train([*arguments, *QUIET]), launch)
    handlers = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        return build_run(layout.config, layout, spec, ranks, folder, launch)
    finally:
        for sig, handler in handlers.items():
            signal.signal(sig, handler)


@dataclass(frozen=True)
class Until(Layout):
    """A layout that ends early, whose rates are those of the whole run."""

    end: int

    @property
    def num_steps(self) -> int:
        return self.end


def go(run: Run, steps: int | None = None) -> Run:
    """Train to the end, or for `steps` more steps; writes a checkpoint there, as a run does."""
    layout = run.layout
    if steps is not None:
        known = {field.name: getattr(layout, field.name) for field in fields(layout)}
        run.layout = Until(**known, end=run.step + steps)
    train(run)
    run.layout = layout
    return run


def resumed(run: Run, folder: Path) -> Run:
    """Load the newest checkpoint of `folder` into a fresh run."""
    found = checkpoint.latest(folder / "checkpoints", warn=print)
    assert found is not None
    loaded = checkpoint.load(found, run.layout.owned)
    run.load(loaded.replicated, loaded.shards)
    return run


def close(*runs: Run) -> None:
    for run in runs:
        run.logger.close()
        run.envs.close()


def state(run: Run) -> dict[str, Any]:
    """The whole state of a run, by path, except the position in the log file."""
    with run.sync.agreed():
        replicated = {name: part for name, part in run.replicated_state().items() if name != "logger"}
    return leaves({"replicated": replicated, **{str(shard): part for shard, part in run.sharded_state().items()}})


def leaves(nested: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of nested containers by its path."""
    if isinstance(nested, dict):
        return {name: leaf for k, part in nested.items() for name, leaf in leaves(part, f"{prefix}/{k}").items()}
    if isinstance(nested, list | tuple):
        return leaves(dict(enumerate(nested)), prefix)
    if is_dataclass(nested) and not isinstance(nested, type):
        return leaves({field.name: getattr(nested, field.name) for field in fields(nested)}, prefix)
    return {prefix: nested}


def same(one: Any, other: Any) -> bool:
    """Whether two leaves are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)
