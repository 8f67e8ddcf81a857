"""The launcher dies by SIGKILL: no process may outlive it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

from benchmarks.chaos.row import Outcome, Row, outcome
from benchmarks.chaos.running import ranks_up, supervised

SOON = 10.0  # s
ASYNC = ("--env.id", "CartPole-v1", "--env.backend", "async", "--total_env_steps", "2000000")


def launcher_killed(folder: Path, random: Random) -> Outcome:
    """At a random moment after the ranks have started; environments are processes as well."""
    with supervised(folder, 2, *ASYNC) as program:
        program.wait_for(lambda: ranks_up(program, 2), "all ranks")
        time.sleep(random.uniform(0.0, 8.0))
        there = len(program.processes())
        os.kill(program.popen.pid, signal.SIGKILL)
        began = time.monotonic()
        while program.processes() and time.monotonic() - began < 3 * SOON:
            time.sleep(0.1)
        took = time.monotonic() - began
        left = list(program.processes().values())
    checks = {f"nothing is left after {SOON:g} s (of {there} processes {len(left)})": not left and took <= SOON}
    found = outcome(checks, **{"gone after s": took})
    return Outcome(found.why and f"{found.why}\n{program.output}", found.measures)


ROWS = [
    Row(
        "launcher-killed",
        "launcher killed -9",
        "no orphan, trainer or env process",
        f"none left after {SOON:g} s",
        launcher_killed,
        trials=20,
    )
]
