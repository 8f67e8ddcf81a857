"""Requests to stop, by any signal, to any process, once or twice, while a run starts, trains, evaluates or saves."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

from launching import Program, checkpoints

from benchmarks.chaos.row import Draw, Outcome, Row, outcome
from benchmarks.chaos.running import (
    begun,
    faulty,
    final_state,
    happened,
    ranks_up,
    same,
    status,
    supervised,
    undisturbed,
    wait_until,
)

PAUSE = 0.3  # s between a signal and its repetition
CASES = list(
    itertools.product(("TERM", "USR2", "INT"), ("launcher", "worker", "all"), ("start", "train", "eval", "save"))
)


def stopped(folder: Path, draw: Draw) -> Outcome:
    """One of the cases at random, resumed and compared with a run that was not stopped."""
    reference = undisturbed(2, *draw.size.flags)
    name, to, when = draw.choice(CASES)
    times = draw.choice((1, 2))
    run_dir = folder / "run"
    # a fault that only leaves a mark tells when the phase begins
    marks = faulty(folder, f"{when}:0:{draw.size.step(0.45)}:mark") if when in ("eval", "save") else {}
    with supervised(folder, 2, *draw.size.flags, env=marks) as program:
        program.wait_for(lambda: ranks_up(program, 2), "all ranks")
        if when == "start":
            time.sleep(draw.uniform(0.0, 3.0))
        elif marks:
            wait_until(program, lambda: bool(happened(folder)), 60)
        else:
            wait_until(program, lambda: begun(run_dir) > 0, 60)
            time.sleep(draw.uniform(0.2, 1.5))
        began = time.monotonic()
        for _ in range(times):
            _send(program, to, signal.Signals[f"SIG{name}"])
            time.sleep(PAUSE)
        program.wait().expect_nothing_left()
        took = time.monotonic() - began
    state = status(run_dir)["state"]
    saved = len(checkpoints(run_dir))
    with supervised(folder, 2, *draw.size.flags) as again:
        again.wait().expect_nothing_left()
    checks = {
        f"out within 20 s ({took:.0f})": took <= 20,
        f"the marker says stopped, finished, or that nothing had begun ({state})": state
        in ("stopped", "finished", "none")
        or when == "start",
        "a stopped run has a checkpoint": state != "stopped" or saved > 0,
        "the resumed run ended well": again.code == 0,
        "it ended as the undisturbed one, bit for bit": same(final_state(run_dir), reference.state),
    }
    found = outcome(checks, **{"out s": took})
    return Outcome(found.why and f"{name} x{times} to {to} in {when}: {found.why}", found.measures)


def _send(program: Program, to: str, number: signal.Signals) -> None:
    ranks = [pid for pid, environ in program.processes().items() if "RANK" in environ]
    for pid in {"launcher": [program.popen.pid], "worker": ranks[-1:], "all": [program.popen.pid, *ranks]}[to]:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


ROWS = [
    Row(
        "signals",
        "TERM / USR2 / INT to the launcher, one worker or all, once or twice, in start, eval, save",
        "one save at the same step on all ranks",
        "resume bit-equal; out within 20 s; a marker tells saved from failed",
        stopped,
        trials=20,
    )
]
