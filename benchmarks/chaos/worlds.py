"""Changing numbers of ranks: at a resume, and during a run, when machines join and are lost."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from launching import ROOT, Program, checkpoints, started

from benchmarks.chaos.row import Draw, Outcome, Row, Size, outcome
from benchmarks.chaos.running import (
    SMALL,
    begun,
    close,
    final_state,
    resumes,
    status,
    supervised,
    undisturbed,
    wait_until,
)
from benchmarks.ports import free_port

F64 = ("--runtime.dtype", "float64")
ATOL = 1e-10
SIZES = ((4, 2), (2, 4), (4, 1), (2, 1), (1, 2))
LASTS = 20.0  # s added to a run, so that it lasts while machines come and go
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"


def resized(folder: Path, draw: Draw) -> Outcome:
    """Stopped at a random moment, and resumed by more or fewer ranks."""
    reference = undisturbed(1, *F64, *draw.size.flags)
    before, after = SIZES[draw.number % len(SIZES)]
    run_dir = folder / "run"
    with supervised(folder, before, *F64, *draw.size.flags) as program:
        wait_until(program, lambda: begun(run_dir) > 0, 90)
        time.sleep(draw.uniform(0.2, 3.0))
        with contextlib.suppress(ProcessLookupError):
            os.kill(program.popen.pid, signal.SIGTERM)
        program.wait().expect_nothing_left()
    stopped_at = [int(folder.name.removeprefix("step-")) for folder in checkpoints(run_dir)]
    with supervised(folder, after, *F64, *draw.size.flags) as again:
        again.wait().expect_nothing_left()
    checks = {
        "it was saved": bool(stopped_at),
        "the resumed run ended well": again.code == 0,
        "it went on with that": bool(stopped_at) and resumes(again) == [8 * max(stopped_at)],
        f"every transition is there once, and parameters are equal to {ATOL:g}": again.code == 0
        and close(final_state(run_dir), reference.state, ATOL),
    }
    found = outcome(checks)
    return Outcome(found.why and f"{before} -> {after} ranks: {found.why}\n{program.output}\n{again.output}")


def elastic(folder: Path, draw: Draw) -> Outcome:
    """One machine trains; a second one joins; the second one is lost, all at once."""
    reference = undisturbed(1, *F64, *draw.size.flags)
    run_dir, port = folder / "run", free_port()
    with _agent(folder, "one", port, draw.size) as one:
        wait_until(one, lambda: begun(run_dir) > 0, 90)
        time.sleep(draw.uniform(0.5, 3.0))
        joining = time.time()
        with _agent(folder, "two", port, draw.size) as two:
            wait_until(one, lambda: begun(run_dir) > joining and _world(one, two) == 2, 90)
            joined = begun(run_dir) - joining
            time.sleep(draw.uniform(0.5, 3.0))
            lost_at, lost_in = time.time(), status(run_dir)["state"]
            two.kill()
        wait_until(one, lambda: begun(run_dir) > lost_at, 90)
        left = begun(run_dir) - lost_at
        one.wait().expect_nothing_left()
    checks = {
        "two machines trained": joined > 0 and lost_in == "running",
        "the other one ended the run, alone": one.code == 0 and left > 0,
        f"every transition is there once, and parameters are equal to {ATOL:g}": one.code == 0
        and close(final_state(run_dir), reference.state, ATOL),
    }
    found = outcome(checks, **{"joined after s": joined, "alone again after s": left})
    return Outcome(found.why and f"{found.why}\n{one.output}\n---\n{two.output}", found.measures)


def _agent(folder: Path, name: str, port: int, size: Size) -> contextlib.AbstractContextManager[Program]:
    """Start torchrun as one machine of one or two, each with one rank, as in docs/distributed.md."""
    own = folder / name
    own.mkdir()
    torchrun = (
        *("-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "chaos"),
        *("--rdzv-conf", "last_call_timeout=3,keep_alive_interval=2,keep_alive_max_attempt=3"),
        *(f"--signals-to-handle={SIGNALS}", "-m", "trainer", "train"),
    )
    where = ("--log.dir", str(folder), "--log.name", "run", "--resume", "auto")
    paced = ROOT / "tests" / "slurm" / "paced"
    env = {"LOCKSTEP_TEST_PACE": str(LASTS / size.step(1)), "PYTHONPATH": f"{paced}:{ROOT}:{ROOT / 'tests' / 'dist'}"}
    return started([*torchrun, *SMALL, *F64, *size.flags, *where], own, launcher="python", env=env, deadline=240)


def _world(*programs: Program) -> int:
    """Return how many ranks the newest life has, according to rank 0, wherever it runs."""
    said = [line for program in programs for line in program.lines if " rank(s) on " in line]
    return 2 if any("2 rank(s) on " in line for line in said) else len(said) and 1


ROWS = [
    Row(
        "resized",
        "other world size at resume (4 -> 2, 2 -> 4, -> 1)",
        "shards change hands",
        f"0 transitions lost or doubled; the same parameters to {ATOL:g} in float64",
        resized,
        trials=10,
    ),
    Row(
        "elastic",
        "elastic join and loss during a run, 1 -> 2 -> 1 ranks",
        "the same",
        "the same",
        elastic,
        trials=5,
    ),
]
