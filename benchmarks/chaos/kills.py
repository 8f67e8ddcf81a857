"""SIGKILL of a random rank at a random moment, from the start of its process to the end of the run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from launching import checkpoints

from benchmarks.chaos.row import ENVS, Draw, Outcome, Row, Trial, outcome
from benchmarks.chaos.running import (
    begun,
    files_left,
    final_state,
    ranks_up,
    resumes,
    same,
    steps_of,
    supervised,
    undisturbed,
    wait_until,
)


def killed(ranks: int) -> Trial:
    def trial(folder: Path, draw: Draw) -> Outcome:
        reference = undisturbed(ranks, *draw.size.flags)
        run_dir = folder / "run"
        (temporary := folder / "temporary").mkdir()
        with supervised(folder, ranks, *draw.size.flags, env={"TMPDIR": str(temporary)}) as program:
            program.wait_for(lambda: ranks_up(program, ranks), "all ranks")
            time.sleep(draw.uniform(0.0, 0.8 * reference.seconds))
            stored = steps_of(checkpoints(run_dir))
            os.kill(program.rank_pid(draw.randrange(ranks)), signal.SIGKILL)
            at = time.time()
            wait_until(program, lambda: begun(run_dir) > at, 60)
            recovery = begun(run_dir) - at
            program.wait().expect_nothing_left()
        went_on = resumes(program)
        newest = max(stored, default=0) * ENVS
        checks = {
            "the run ended well": program.code == 0,
            "it ended as the undisturbed one, bit for bit": same(final_state(run_dir), reference.state),
            f"no files in the temporary folder ({files_left(temporary)})": not files_left(temporary),
            "one restart for one kill": len(went_on) == (1 if newest else len(went_on)) and len(went_on) <= 1,
            "it went on where the newest checkpoint stood": not newest or min(went_on, default=-1) >= newest,
            "at most one interval was lost": not went_on
            or max(stored, default=0) * ENVS - min(went_on) < draw.size.every,
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
