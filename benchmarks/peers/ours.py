"""Lockstep answering the benchmarks' requests as its peers do, in a process of its own."""

from __future__ import annotations

import tempfile
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from answering import serve, trainer

from benchmarks.harness import atari, cartpole, go, open_run, warm_up
from benchmarks.rows import environment
from trainer.config import Config

CHUNK = {"cartpole": 6_400, "pong": 64}
"""Env steps between two looks at the clock."""


class Training:
    """A run as `lockstep train` builds it, with its log on the disk."""

    backend = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __init__(self, work: str, envs: int, epsilon: float, seed: int) -> None:
        self._open = ExitStack()
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        config = configured(work, envs, epsilon, seed)
        env, runtime = replace(config.env, backend=self.backend), replace(config.runtime, dtype=self.dtype)
        config = replace(config, env=env, runtime=runtime)
        self.run = self._open.enter_context(open_run(config, folder))
        self.run._returns = deque(maxlen=None)
        self.steps = CHUNK[work] // envs
        warm_up(self.run, 1)

    def advance(self) -> None:
        go(self.run, self.steps)

    def close(self) -> None:
        self._open.close()

    @property
    def env_steps(self) -> int:
        return self.run.step * self.run.config.env.num_envs

    @property
    def updates(self) -> int:
        return self.run.learner.updates

    @property
    def returns(self) -> list[float]:
        return list(self.run._returns)


def configured(work: str, envs: int, epsilon: float, seed: int) -> Config:
    """Return the work's config; updates are compiled, as this machine can."""
    config = cartpole(envs) if work == "cartpole" else pong(envs)
    policy = replace(config.policy, epsilon_start=epsilon, epsilon_end=epsilon)
    runtime = replace(config.runtime, device="cpu", threads=1, compile=True)
    return replace(config, seed=seed, policy=policy, runtime=runtime)


def pong(envs: int) -> Config:
    config = atari()
    env = replace(config.env, id="ALE/Pong-v5", num_envs=envs)
    return replace(config, env=env)


def versions() -> dict[str, Any]:
    return dict(environment()["versions"])


def main(kind: type[Training] = Training) -> None:
    """Answer requests."""
    torch.set_num_threads(1)
    serve({"versions": versions} | trainer(kind))


if __name__ == "__main__":
    main()
