"""Run several runs in one process, some of which end by SIGKILL after a given step.

python killing.py '[[kill_at or 0, [arguments of lockstep]], ...]'. Under torchrun the last rank kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from trainer.__main__ import main
from trainer.run import Run
from trainer.runtime.launched import Launch

ADVANCE = Run.advance


def kill_at(step: int) -> None:
    launch = Launch.read()

    def advance(self: Run, at: int, timestep: object) -> object:
        if at == step and launch.rank == launch.world_size - 1:
            self.written()  # test_checkpoint_saver_crash.py covers what happens within a save
            os.kill(os.getpid(), signal.SIGKILL)
        return ADVANCE(self, at, timestep)  # type: ignore[arg-type]

    Run.advance = advance  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    for last_step, arguments in json.loads(sys.argv[1]):
        kill_at(last_step)
        status = main(arguments)
        if status:
            sys.exit(status)
