"""SIGKILL of a random rank at a random moment, from the start of its process to the end of the run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

from launching import checkpoints

from benchmarks.chaos.row import Outcome, Row, Trial, outcome
from benchmarks.chaos.running import (
    EVERY,
    begun,
    final_state,
    ranks_up,
    resumes,
    same,
    steps_of,
    supervised,
    undisturbed,
    wait_until,
)

ENVS = 8


def killed(ranks: int) -> Trial:
    def trial(folder: Path, random: Random) -> Outcome:
        reference = undisturbed(ranks)
        run_dir = folder / "run"
        with supervised(folder, ranks) as program:
            program.wait_for(lambda: ranks_up(program, ranks), "all ranks")
            time.sleep(random.uniform(0.0, 0.8 * reference.seconds))
            stored = steps_of(checkpoints(run_dir))
            os.kill(program.rank_pid(random.randrange(ranks)), signal.SIGKILL)
            at = time.time()
            wait_until(program, lambda: begun(run_dir) > at, 60)
            recovery = begun(run_dir) - at
            program.wait().expect_nothing_left()
        went_on = resumes(program)
        newest = max(stored, default=0) * ENVS
        checks = {
            "the run ended well": program.code == 0,
            "it ended as the undisturbed one, bit for bit": same(final_state(run_dir), reference.state),
            "one restart for one kill": len(went_on) == (1 if newest else len(went_on)) and len(went_on) <= 1,
            "it went on where the newest checkpoint stood": not newest or min(went_on, default=-1) >= newest,
            "at most one interval was lost": not went_on or max(stored, default=0) * ENVS - min(went_on) < EVERY,
        }
        return outcome(checks, **{"recovery s": recovery} if recovery > 0 else {})

    return trial


ROWS = [
    Row(
        f"kill-{ranks}",
        f"SIGKILL of a random rank at a random moment, {ranks} ranks",
        "all restart by themselves, resume from the last complete checkpoint",
        "bit-equal to an undisturbed run; <= 1 interval lost; recovery p95 <= 15 s; no spurious restart",
        killed(ranks),
        trials=25,
    )
    for ranks in (2, 4)
]
