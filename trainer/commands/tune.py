"""`lockstep tune PRESET`: find the fastest number of environments and threads, compiled or not, on this machine.

Each candidate is trained for some seconds, learning included, one choice at a time: compiled updates, then twice as
many environments for as long as that pays, or half as many, then threads. The replay ratio stays as stated, so a run
with more environments does as many updates for its env steps, with actions of staler policies; nothing else changes.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from trainer.cli import changes, parse_train, take
from trainer.commands.common import tell, write_json
from trainer.config import Config, ConfigError

GAIN = 1.03
"""Speed-up that a change has to exceed to be worth it."""
USAGE = "lockstep tune PRESET [--section.field VALUE ...] [--seconds S] [--out FILE]"


@dataclass(frozen=True)
class Way:
    """A candidate."""

    num_envs: int
    threads: int
    compile: bool

    def of(self, config: Config) -> Config:
        """Return `config` with these settings."""
        runtime = replace(config.runtime, threads=self.threads, compile=self.compile)
        return replace(config, env=replace(config.env, num_envs=self.num_envs), runtime=runtime)


Measure = Callable[[Way], float]
"""A way -> env steps/s. Raises ConfigError if it cannot work."""


def command(arguments: Sequence[str]) -> int:
    """Measure, report, and write a config for `lockstep train`. Raises ValueError, in one line, for bad input."""
    rest = list(arguments)
    seconds, out = _seconds(take(rest, "--seconds")), take(rest, "--out")
    config = parse_train(rest).config
    path = Path(out or f"{config.preset}.tuned.json")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: {path.parent} is not a folder; create it, or choose another")
    begin, problem = as_it_is(config)
    if problem:
        tell(f"trying eager updates only: {problem}")
    tried: dict[Way, float] = {}

    def measure(way: Way) -> float:
        if way not in tried:
            tried[way] = speed(way.of(small(config)), seconds)
            tell(f"{in_words(way)}: {tried[way]:,.0f} env steps/s")
        return tried[way]

    best = search(begin, measure, compiles=not problem, cores=len(os.sched_getaffinity(0)))
    tuned = best.of(config)
    write_json(path, tuned.to_dict())
    show(begin, best, tried, changes(config, tuned))
    print(f"written to {path}: lockstep train {path}")
    return 0


def as_it_is(config: Config) -> tuple[Way, str | None]:
    """Return how `config` would run untuned, and what keeps its updates from being compiled, if anything."""
    from trainer.build import inspect_env
    from trainer.build.compile import compiler_problem  # torch only now: bad input has been reported
    from trainer.build.nets import threads
    from trainer.compilable import obstacle
    from trainer.runtime.launched import Launch
    from trainer.runtime.ranks import choose_device

    launch = Launch.read()
    found = obstacle(config)
    problem = f"--{found[0]} {found[1]}: {found[2]}" if found else None
    problem = problem or compiler_problem(choose_device(config.runtime.device, launch))
    return Way(config.env.num_envs, threads(config, inspect_env(config), launch), False), problem


def search(begin: Way, measure: Measure, *, compiles: bool, cores: int) -> Way:
    """Return the fastest way found; a change has to pay by GAIN."""

    def better(way: Way, than: Way) -> bool:
        try:
            return measure(way) > GAIN * measure(than)
        except ConfigError:
            return False

    best = begin
    measure(begin)
    if compiles and better(way := replace(best, compile=True), best):
        best = way
    up = replace(best, num_envs=2 * best.num_envs)
    if better(up, best):
        while better(up, best):
            best, up = up, replace(up, num_envs=2 * up.num_envs)
    else:
        down = replace(best, num_envs=best.num_envs // 2)
        while down.num_envs and better(down, best):
            best, down = down, replace(down, num_envs=down.num_envs // 2)
    for threads in (1, cores):
        if threads != best.threads and better(way := replace(best, threads=threads), best):
            best = way
    return best


def small(config: Config) -> Config:
    """Return a config whose learning starts early; speed hardly depends on how much the memory holds."""
    replay = config.replay
    starts = min(replay.learning_starts, max(1_000, 4 * replay.batch_size))
    return replace(config, replay=replace(replay, learning_starts=starts, capacity=min(replay.capacity, 50_000)))


def speed(config: Config, seconds: float) -> float:
    """Train for `seconds`, learning included; return env steps/s of the fastest third: other processes disturb."""
    from trainer.commands.trial import go, open_run, warm_up

    with (
        contextlib.redirect_stdout(io.StringIO()),  # hides the live line
        tempfile.TemporaryDirectory() as folder,
        open_run(config, Path(folder)) as run,
    ):
        warm_up(run, max(1, 200 // config.env.num_envs))
        steps = max(1, 64 // config.env.num_envs)
        rates, began = [], time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            go(run, steps)
            took = time.monotonic() - now
            rates.append(steps * config.env.num_envs / took)
            steps = max(steps, int(steps * seconds / 20 / took))
    return sorted(rates)[-max(1, len(rates) // 3)]


def in_words(way: Way) -> str:
    return f"{way.num_envs} envs, {way.threads} thread(s), {'compiled' if way.compile else 'eager'}"


def show(begin: Way, best: Way, tried: dict[Way, float], told: dict[str, tuple[Any, Any]]) -> None:
    """Print what was tried, the fastest last, and what is changed."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("envs", "threads", "updates", "env steps/s", "vs preset"):
        table.add_column(column, justify="right")
    for way, rate in sorted(tried.items(), key=lambda pair: pair[1]):
        style = "bold" if way == best else None
        ratio = f"{rate / tried[begin]:.2f} x"
        kind = "compiled" if way.compile else "eager"
        table.add_row(str(way.num_envs), str(way.threads), kind, f"{rate:,.0f}", ratio, style=style)
    Console().print(table)
    for name, (old, new) in told.items():
        print(f"--{name}: {old} -> {new}")


def _seconds(text: str | None) -> float:
    try:
        seconds = 4.0 if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 3_600:
        raise ValueError(
            f"--seconds {text}: not a time of one trial; give a positive number, e.g. --seconds 4 ({USAGE})"
        )
    return seconds
