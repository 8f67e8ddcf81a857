"""CleanRL's dqn.py, as shipped in its wheel, answering the benchmarks' requests. Runs in its own environment.

The wheel is from 2023 and requires Python < 3.11; it is installed without its dependencies, few of which the script
needs. The script runs unchanged, once per request: the memory's `sample` is watched to know when an update begins, and
to end the script.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from answering import WINDOW, peak_mb, serve
from stable_baselines3.common.buffers import ReplayBuffer

EVERY = 10  # env steps from update to update
FIRST = 20
"""Updates that are not timed."""


class EnoughError(Exception):
    """Ends the script."""


class Watcher(io.StringIO):
    """Counts updates, reads the returns that the script prints, and ends it when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.updates, self.began, self.now = 0, 0.0, 0.0
        self.returns: list[float] = []
        self.started = time.perf_counter()
        self.enough: Any = None

    def write(self, text: str) -> int:
        if "episodic_return=" in text:
            self.returns.append(float(text.partition("episodic_return=")[2].strip("[] \n")))
        return len(text)

    def sampled(self) -> None:
        self.updates, self.now = self.updates + 1, time.perf_counter()
        if self.updates == FIRST:
            self.began = self.now
        if self.updates > FIRST and self.enough(self):
            raise EnoughError


def run(epsilon: float, seed: int, enough: Any) -> Watcher:
    """Run the script until `enough` is true; it is called at every update."""
    watcher = Watcher()
    watcher.enough = enough
    sample = ReplayBuffer.sample

    def sampled(self: Any, *arguments: Any, **named: Any) -> Any:
        watcher.sampled()
        return sample(self, *arguments, **named)

    script = Path(str(metadata.distribution("cleanrl").locate_file("cleanrl/dqn.py")))
    arguments = [
        "--env-id",
        "CartPole-v1",
        "--start-e",
        str(epsilon),
        "--end-e",
        str(epsilon),
        "--cuda",
        "False",
        "--seed",
        str(seed),
    ]
    before = sys.argv
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(watcher):
        sys.argv, ReplayBuffer.sample = [str(script), *arguments, "--total-timesteps", "100000000"], sampled
        try:
            runpy.run_path(str(script), run_name="__main__")
        except EnoughError:
            pass
        finally:
            sys.argv, ReplayBuffer.sample = before, sample
    return watcher


def train(work: str, envs: int, seconds: float, epsilon: float) -> dict[str, Any]:
    assert (work, envs) == ("cartpole", 1)
    seen = run(epsilon, 1, lambda watcher: watcher.now - watcher.began >= seconds)
    updates = seen.updates - FIRST
    return {
        "seconds": seen.now - seen.began,
        "env_steps": updates * EVERY,
        "updates": updates,
        "peak_mb": peak_mb(),
    }


def solve(work: str, envs: int, epsilon: float, seed: int, target: float, limit: float) -> dict[str, Any]:
    assert (work, envs) == ("cartpole", 1)

    def solved(watcher: Watcher) -> bool:
        return len(watcher.returns) >= WINDOW and sum(watcher.returns[-WINDOW:]) / WINDOW >= target

    seen = run(epsilon, seed, lambda watcher: solved(watcher) or watcher.now - watcher.started >= limit)
    env_steps = 10_000 + seen.updates * EVERY
    return {"seconds": seen.now - seen.started, "env_steps": env_steps, "solved": solved(seen)}


def versions() -> dict[str, Any]:
    return {name: metadata.version(name) for name in ("cleanrl", "torch", "gymnasium", "stable-baselines3", "numpy")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"versions": versions, "train": train, "solve": solve})
