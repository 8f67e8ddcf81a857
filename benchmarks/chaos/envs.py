"""Environments that raise, crash or return nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from benchmarks.chaos.faulty_env import FAULTS
from benchmarks.chaos.row import Outcome, Row, outcome
from benchmarks.chaos.running import cost_beside, final_state, finite, supervised

STEPS = 100_000
P_CRASH = 0.001
IN_PROCESS = ("raise", "nan", "reward", "shape")


def once(folder: Path, random: Random) -> Outcome:
    """One failure of one environment, stepped in the rank's process or in its own."""
    fault = random.choice([fault for fault in FAULTS if fault != "hang"])
    backend = random.choice(("sync", "async")) if fault in IN_PROCESS else "async"
    kwargs = json.dumps({"fault": fault, "at": random.randrange(40, 200), "note": str(folder / "fault")})
    with supervised(folder, 2, *_env(backend, kwargs), "--total_env_steps", "4000") as program:
        program.wait().expect_nothing_left()
    checks = {
        "the fault happened": (folder / "fault").exists(),
        "the run ended well, without a restart": program.code == 0 and "resumed at" not in program.output,
        "one environment began anew": _restarts(folder) == 1,
        "all numbers are finite": program.code == 0 and finite(final_state(folder / "run")),
    }
    found = outcome(checks)
    return Outcome(found.why and f"{fault}, {backend}: {found.why}\n{program.output}")


def always(folder: Path, random: Random) -> Outcome:
    """More failures than are tolerated."""
    fault = random.choice(IN_PROCESS)
    kwargs = json.dumps({"fault": fault, "p": 0.05})
    with supervised(folder, 2, *_env("sync", kwargs), "--env.max_restarts", "5", restarts=0) as program:
        program.wait().expect_nothing_left()
    words = {"raise": "the walls came down", "shape": "an observation of shape", "reward": "a reward of nan"}
    checks = {
        "the run failed": program.code != 0,
        "the first cause is told": words.get(fault, "an observation that is not finite") in program.output,
    }
    found = outcome(checks)
    return Outcome(found.why and f"{fault}: {found.why}\n{program.output}")


def often(folder: Path, random: Random) -> Outcome:
    """One crash per thousand steps, and at the same time a run without; one rank each, the speeds give the cost."""

    def arguments(p: float) -> list[str]:
        env = _env("sync", json.dumps({"fault": "raise", "p": p}))
        return [*env, "--total_env_steps", str(STEPS), "--env.max_restarts", "100000"]

    cost = cost_beside(folder, {"calm": arguments(0.0), "rough": arguments(P_CRASH)})
    restarts = _restarts(folder, "rough")
    checks = {f"about {P_CRASH * STEPS:g} restarts ({restarts})": 0.5 < restarts / (P_CRASH * STEPS) < 2}
    return outcome(checks, restarts=restarts, **{"cost %": cost})


def _env(backend: str, kwargs: str) -> tuple[str, ...]:
    env = ("--env.id", "benchmarks.chaos.faulty_env:Faulty-v0", "--env.kwargs", kwargs, "--env.backend", backend)
    return (*env, "--env.timeout", "3")


def _restarts(folder: Path, name: str = "run") -> int:
    rows = (folder / name / "metrics.jsonl").read_text().splitlines()
    return int(max(json.loads(row).get("charts/env_restarts", 0) for row in rows))


ROWS = [
    Row(
        "env-once",
        "env raises, segfaults (async), returns NaN or a wrong shape",
        "that env is restarted, its episode closed as truncated and counted",
        "all",
        once,
        trials=10,
    ),
    Row("env-always", "the same, again and again", "stop with the first traceback", "all", always, trials=3),
    Row(
        "env-often",
        f"env raises with p = {P_CRASH:g}, {STEPS:g} steps",
        "the run finishes",
        "<= 5 % cost",
        often,
        trials=3,
        short=0,
    ),
]
