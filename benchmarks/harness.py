"""What the benchmarks share: a run as `lockstep train` builds it, interleaved repeats, and tables.

Every number is a median over repeats that are interleaved (A B C, A B C, ...), so that a machine that slows down
slows all of them; ratios are taken within a repeat, then the median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from trainer.commands.trial import go, open_run, warm_up
from trainer.config import Config
from trainer.presets import PRESETS

__all__ = (
    "WORKS",
    "cpu_time",
    "go",
    "interleaved",
    "median",
    "of_preset",
    "open_run",
    "spread",
    "table",
    "timed",
    "warm_up",
)


def cartpole(num_envs: int = 64) -> Config:
    """CleanRL's CartPole settings on `num_envs` environments, at the same replay ratio; exploration is constant.

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
    """MinAtar Breakout as in its preset, on 16 environments and with a memory that fills quickly."""
    config = PRESETS["minatar"]()
    return replace(
        config,
        env=replace(config.env, num_envs=16),
        replay=replace(config.replay, capacity=20_000, learning_starts=1_000),
    )


def atari() -> Config:
    """Atari Breakout as in its preset, with a memory that fills quickly."""
    config = PRESETS["atari"]()
    return replace(config, replay=replace(config.replay, capacity=20_000, learning_starts=1_000))


def toy() -> Config:
    """The debug preset, for trying the benchmark itself."""
    return PRESETS["debug"]()


WORKS: dict[str, Callable[[], Config]] = {"cartpole": cartpole, "minatar": minatar, "atari": atari, "toy": toy}


def of_preset(name: str) -> Config:
    """Return a work, or a preset with a memory that fills quickly."""
    if name in WORKS:
        return WORKS[name]()
    config = PRESETS[name]()
    start, capacity = min(config.replay.learning_starts, 1_000), min(config.replay.capacity, 20_000)
    return replace(config, replay=replace(config.replay, capacity=capacity, learning_starts=start))


def cpu_time(work: Callable[[], object]) -> float:
    """Return the CPU time this process spends on `work` [s]: on one thread what it takes, whatever the load."""
    began = time.process_time()
    work()
    return time.process_time() - began


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
    """Call every work once per repeat, in turn; return what each returned, repeat by repeat."""
    told: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            told[name].append(work())
    return told


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return smallest and largest as text."""
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
