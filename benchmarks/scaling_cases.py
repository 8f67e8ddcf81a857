"""What the scaling benchmark compares, as data: strategies as flags, works as a preset with flags, and suites."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

STRATEGIES: dict[str, tuple[str, ...]] = {
    "flat": ("--sync.kind", "flat"),
    "sockets": ("--sync.kind", "flat", "--sync.shared_memory", "False"),
    "ddp": ("--sync.kind", "ddp"),
    "zero1": ("--sync.kind", "zero1"),
    "overlap": ("--sync.kind", "overlap"),
    "fp16": ("--sync.kind", "flat", "--sync.compress", "fp16"),
    "int8": ("--sync.kind", "flat", "--sync.compress", "int8"),
    "powersgd": ("--sync.kind", "flat", "--sync.compress", "powersgd"),
    "topk": ("--sync.kind", "flat", "--sync.compress", "topk"),
    "local_sgd": ("--sync.kind", "local_sgd", "--sync.period", "16"),
    "gossip": ("--sync.kind", "gossip"),
    "server": ("--sync.kind", "server"),
    "server-async": ("--sync.kind", "server", "--sync.asynchronous", "True"),
}
"""One way to keep replicas together -> the flags that choose it. One the trainer refuses is left out and reported."""

APART: dict[str, tuple[str, ...]] = {"apart": ("--sync.kind", "local_sgd", "--sync.period", "1000000000")}
"""Replicas that never meet: not for training, but to see what the machine leaves of a rank's speed next to others.
Never part of `all`."""

BASELINE = "flat"
"""What a single rank runs: there every strategy is the plain optimizer, bit for bit."""

PACED = "benchmarks.slow_env:PacedCatch-v0"
"""Catch whose steps take time without taking a core: it stands for a simulator or an accelerator."""

WORKS: dict[str, tuple[str, ...]] = {
    "paced": (
        *("debug", "--env.id", PACED, "--env.kwargs", '{"pace": 0.001}', "--env.num_envs", "8"),
        *("--runtime.device", "cpu", "--runtime.threads", "1"),
    ),
    "cartpole": (
        *("cartpole", "--replay.learning_starts", "1000", "--policy.epsilon_decay", "5000"),
        *("--runtime.device", "cpu", "--runtime.threads", "1"),
    ),
    "toy": ("debug", "--runtime.device", "cpu", "--runtime.threads", "1"),
}
"""Name -> preset and flags. Any other name is a preset as it stands."""

MODES = ("weak", "strong")

SUITES: dict[str, tuple[tuple[str, ...], ...]] = {
    "cpu": (
        ("scaling", "--work", "paced", "--modes", "weak", "--ranks", "1", "2", "4", "--env-steps", "5000"),
        (
            *("scaling", "--work", "paced", "--modes", "strong", "--ranks", "1", "2", "4", "--env-steps", "8000"),
            *("--strategies", "flat", "sockets", "ddp"),
        ),
        (
            *("scaling", "--work", "cartpole", "--ranks", "1", "2", "--env-steps", "10000"),
            *("--strategies", "flat", "sockets", "ddp"),
        ),
        ("slow", "--ranks", "4", "--seconds", "8"),
        ("comm", "--net", "mlp", "--strategies", "all"),
        ("report", "--image"),
    ),
    "short": (
        (
            *("scaling", "--work", "toy", "--ranks", "1", "2", "--env-steps", "1600", "--repeats", "1"),
            *("--modes", "weak", "--strategies", "flat"),
        ),
    ),
}
"""Name -> the benchmarks that it consists of, with their arguments, in this order."""


def chosen(names: Sequence[str], asks: argparse.ArgumentParser, more: Collection[str] = ()) -> list[str]:
    """Return the strategies asked for; more: others that may be named."""
    unknown = [name for name in names if name not in (*STRATEGIES, *more, "all")]
    if unknown:
        asks.error(f"--strategies {unknown[0]}: unknown; use all, or some of {', '.join((*STRATEGIES, *more))}")
    return list(STRATEGIES) if "all" in names else list(names)
