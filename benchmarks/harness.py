"""What the benchmarks share: a run as `lockstep train` builds it, interleaved repeats, and tables.

Every number is a median over repeats that are interleaved (A B C, A B C, ...), so that a machine that slows down
slows all of them; ratios are taken within a repeat, then the median.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from trainer.build import build_run, inspect_env
from trainer.config import Config, LogConfig
from trainer.layout import Layout, scaled
from trainer.presets import PRESETS
from trainer.run import Run
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import choose_device, process_group
from trainer.runtime.stop import SIGNALS
from trainer.train import train
from trainer.types import State
from trainer.validate import validate


def cartpole(num_envs: int = 64) -> Config:
    """CleanRL's CartPole settings on `num_envs` environments, at the same replay ratio; exploration does not change.

    Its epsilon is the mean of the schedule over a whole run, because a random action may cost less than a greedy one.
    """
    config = PRESETS["cartpole-cleanrl"]()
    policy = config.policy
    share = policy.epsilon_decay / config.total_env_steps
    epsilon = share * (policy.epsilon_start + policy.epsilon_end) / 2 + (1 - share) * policy.epsilon_end
    return replace(
        config,
        env=replace(config.env, num_envs=num_envs),
        policy=replace(policy, epsilon_start=epsilon, epsilon_end=epsilon),
    )


def minatar() -> Config:
    """MinAtar Breakout as its preset has it, on 16 environments and a memory that fills at once."""
    config = PRESETS["minatar"]()
    return replace(
        config,
        env=replace(config.env, num_envs=16),
        replay=replace(config.replay, capacity=20_000, learning_starts=1_000),
    )


def atari() -> Config:
    """Atari Breakout as its preset has it, with a memory that fills at once."""
    config = PRESETS["atari"]()
    return replace(config, replay=replace(config.replay, capacity=20_000, learning_starts=1_000))


def toy() -> Config:
    """The debug preset, for a look at the benchmark itself."""
    return PRESETS["debug"]()


WORKS: dict[str, Callable[[], Config]] = {"cartpole": cartpole, "minatar": minatar, "atari": atari, "toy": toy}


@contextmanager
def open_run(stated: Config, folder: Path) -> Iterator[Run]:
    """Build this process's run through `trainer.build`, with its log in `folder` and without checkpoints."""
    launch = Launch.read()
    handlers = {sig: signal.getsignal(sig) for sig in SIGNALS}
    stated = replace(stated, shards=launch.world_size, log=LogConfig(dir=str(folder), every=stated.log.every))
    config = scaled(stated, launch.world_size)
    validate(config, launch.world_size)
    spec = inspect_env(config)
    layout = Layout(config, launch.world_size, launch.world_size, launch.rank)
    threads = torch.get_num_threads()
    with process_group(choose_device(config.runtime.device, launch), launch, config.runtime.timeout) as ranks:
        run = build_run(config, layout, spec, ranks, folder, launch)
        run.write = _write_nothing
        for sig, handler in handlers.items():
            signal.signal(sig, handler)  # a benchmark has nothing to save: Ctrl-C may end it
        try:
            yield run
        finally:
            run.logger.close()
            run.envs.close()
            torch.set_num_threads(threads)


def _write_nothing(step: int, replicated: State, shards: dict[int, State]) -> None:
    """A checkpoint that is not written: how often one is, is the user's choice."""


def go(run: Run, steps: int) -> None:
    """Let `trainer.train` run for `steps` more steps, with its logging, polls and target refreshes."""
    end = run.step + steps
    run.layout = replace(run.layout, config=replace(run.config, total_env_steps=run.layout.env_steps(end)))
    train(run)
    assert run.step == end, f"stopped by {run.stopped_by}"


def warm_up(run: Run, steps: int) -> None:
    """Run until learning has started and `steps` beyond."""
    go(run, -(-run.config.replay.learning_starts // run.config.env.num_envs) + steps)


def timed(work: Callable[[], object]) -> float:
    """Return how long `work` takes [s], the device's work included."""
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(works: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call every work once a repeat, in turn; return what each returned, repeat by repeat."""
    told: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            told[name].append(work())
    return told


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return smallest and largest in words."""
    return f"{min(values):.{digits}f}-{max(values):.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as aligned text; the first column is a name, the others are numbers."""
    text = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in text
    ]
    return "\n".join(lines)
