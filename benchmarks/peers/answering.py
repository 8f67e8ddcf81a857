"""How a peer's script answers: one JSON request per line in, one JSON line out. Nothing of ours is imported.

Every training peer understands {"what": "versions"}, {"what": "train", "work", "envs", "seconds", "epsilon"} and
{"what": "solve", "work", "envs", "epsilon", "target", "limit"}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

WINDOW = 20
"""Episodes whose mean return decides that a work is solved."""
CORE = 0
"""All peers, and ours, compute on this one core; those not asked sleep."""


class Cadence(NamedTuple):
    """How a work's replay ratio is kept: after `steps` steps of all environments, `updates` updates."""

    steps: int
    updates: int


class Training(Protocol):
    """One peer at one work."""

    env_steps: int
    updates: int
    returns: list[float]  # of all finished episodes, in order

    def advance(self) -> None:
        """Train a little further, a few tenths of a second."""

    def close(self) -> None:
        """Release what a successor needs."""


def cadence(envs: int, every: int) -> Cadence:
    """Return the shortest cycle that has one update for `every` env steps."""
    steps = next(n for n in range(1, every + 1) if n * envs % every == 0)
    return Cadence(steps, steps * envs // every)


def trainer(make: Callable[[str, int, float, int], Training]) -> dict[str, Callable[..., Any]]:
    """Return the answers of a peer that `make(work, envs, epsilon, seed)` sets up, with its memory filled."""
    held: list[Training] = []

    def begin(work: str, envs: int, epsilon: float, seed: int) -> Training:
        while held:
            held.pop().close()
        held.append(make(work, envs, epsilon, seed))
        return held[0]

    def train(work: str, envs: int, seconds: float, epsilon: float) -> dict[str, Any]:
        if not held:
            begin(work, envs, epsilon, 1).advance()  # what is compiled or made at first use
        training = held[0]
        before = training.env_steps, training.updates
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            training.advance()
        took = time.perf_counter() - began
        steps, updates = training.env_steps - before[0], training.updates - before[1]
        return {"seconds": took, "env_steps": steps, "updates": updates, "peak_mb": peak_mb()}

    def solve(work: str, envs: int, epsilon: float, seed: int, target: float, limit: float) -> dict[str, Any]:
        began = time.perf_counter()
        training = begin(work, envs, epsilon, seed)
        while (took := time.perf_counter() - began) < limit:
            training.advance()
            last = training.returns[-WINDOW:]
            if len(last) == WINDOW and sum(last) / WINDOW >= target:
                return {"seconds": took, "env_steps": training.env_steps, "solved": True}
        return {"seconds": took, "env_steps": training.env_steps, "solved": False}

    return {"train": train, "solve": solve}


def peak_mb() -> float:
    """Return the most memory that this process and its living descendants have held [MB].

    Those that have ended (compilers, say) do not count, nor does what a fork shares with its parent until it executes
    another program, which is what getrusage reports for children.
    """
    alive, pids = [os.getpid()], [os.getpid()]
    while pids:
        task = Path(f"/proc/{pids.pop()}/task")
        found = [int(pid) for each in task.glob("*/children") for pid in each.read_text().split()]
        alive += found
        pids += found
    return sum(map(_most_resident_mb, alive))


def _most_resident_mb(pid: int) -> float:
    """Return the most memory that a process has held [MB]; 0 for one that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def serve(answers: Mapping[str, Callable[..., Any]], *, core: int | None = CORE) -> None:
    """Answer requests until there are no more; on one core, or (None) on all of them."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    with os.fdopen(os.dup(1), "w") as said:
        os.dup2(2, 1)  # whatever is printed goes to stderr
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(answers[request.pop("what")](**request)), file=said, flush=True)
