"""A rank or an environment that hangs."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.chaos.row import Draw, Outcome, Row, outcome
from benchmarks.chaos.running import (
    TIMEOUT,
    begun,
    faulty,
    final_state,
    happened,
    same,
    supervised,
    undisturbed,
    wait_until,
)

SLACK = 5.0  # s
ENV_TIMEOUT = 3.0  # s


def hung_rank(folder: Path, draw: Draw) -> Outcome:
    """Asleep or stopped, somewhere in a step or in an evaluation."""
    reference = undisturbed(2, *draw.size.flags)
    rank, action = draw.randrange(2), draw.choice(("sleep", "stop"))
    point = draw.choice(("act", "env", "learn", "replay", "poll", "eval"))
    run_dir = folder / "run"
    at_step = draw.randrange(draw.size.step(0.35), draw.size.step(0.6))
    fault = faulty(folder, f"{point}:{rank}:{at_step}:{action}")
    with supervised(folder, 2, *draw.size.flags, env=fault) as program:
        wait_until(program, lambda: bool(happened(folder)), 60)
        at = happened(folder)[0]["time"]
        wait_until(program, lambda: f"rank {rank} hangs" in program.output, 60)
        named = time.time() - at
        wait_until(program, lambda: begun(run_dir) > at, 60)
        restarted = begun(run_dir) - at
        program.wait().expect_nothing_left()
    checks = {
        f"rank {rank} is named": f"rank {rank} hangs" in program.output,
        f"within the timeout + {SLACK:g} s ({named:.1f})": named <= TIMEOUT + SLACK,
        "the run ended well": program.code == 0,
        "it ended as the undisturbed one, bit for bit": same(final_state(run_dir), reference.state),
    }
    measures = {"named behind the timeout s": named - TIMEOUT, "restarted behind the timeout s": restarted - TIMEOUT}
    found = outcome(checks, **measures)
    return Outcome(found.why and f"{action} in {point}: {found.why}\n{program.output}", found.measures)


def hung_env(folder: Path, draw: Draw) -> Outcome:
    """One process of an async vector env."""
    note = folder / "hung"
    kwargs = f'{{"fault": "hang", "at": {draw.randrange(50, 150)}, "note": "{note}"}}'
    env = ("--env.id", "benchmarks.chaos.faulty_env:Faulty-v0", "--env.kwargs", kwargs, "--env.backend", "async")
    with supervised(folder, 2, *env, "--env.timeout", str(ENV_TIMEOUT), "--total_env_steps", "4000") as program:
        wait_until(program, lambda: note.exists(), 60)
        at = time.time()
        wait_until(program, lambda: "hangs: no answer" in program.output, 60)
        took = time.time() - at
        program.wait().expect_nothing_left()
    checks = {
        "the environment is named": "environment worker " in program.output,
        f"within the timeout + {SLACK:g} s ({took:.1f})": took <= ENV_TIMEOUT + SLACK,
        "the run ended well, without a restart": program.code == 0 and "resumed at" not in program.output,
    }
    return outcome(checks, **{"restarted behind the timeout s": took - ENV_TIMEOUT})


ROWS = [
    Row(
        "hung-rank",
        "hung rank (sleep, SIGSTOP)",
        "named, ended, restarted",
        f"within the timeout + {SLACK:g} s",
        hung_rank,
        trials=10,
    ),
    Row(
        "hung-env",
        "hung env (async)",
        "named, ended, restarted; the run goes on",
        f"within the timeout + {SLACK:g} s",
        hung_env,
        trials=10,
    ),
]
