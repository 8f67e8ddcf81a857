"""Run `lockstep` on a disk with faults, in the checkpoints of one rank or in the whole run folder.

python faulty_disk.py '{"rank": R, "errno": E, "part": P, "times": N, "action": A}' [arguments of lockstep]: on rank R
the first N actions A on paths that match the pattern P fail.
python faulty_disk.py '{"fill": FILE, "from": step, "to": step}' ...: at one step FILE takes all free space, at another
it is gone.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from trainer.__main__ import main as lockstep
from trainer.checkpoint.disk import Disk
from trainer.run import Run
from trainer.runtime.launched import Launch

ADVANCE = Run.advance


def fail(rank: int, number: int, part: str, times: int, kind: str) -> None:
    if Launch.read().rank != rank:
        return
    count = itertools.count()

    def point(action: str, path: Path) -> None:
        if action == kind and re.search(part, str(path)) and next(count) < times:
            raise OSError(number, os.strerror(number))

    make = Disk.__init__

    def init(self: Disk, *_: Any) -> None:
        make(self, point)

    Disk.__init__ = init  # type: ignore[method-assign, assignment]


def fill(ballast: Path, begin: int, end: int) -> None:
    def advance(self: Run, at: int, timestep: object) -> object:
        if at == begin:
            with ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass
        if at == end:
            ballast.unlink()
        return ADVANCE(self, at, timestep)  # type: ignore[arg-type]

    Run.advance = advance  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if "fill" in asked:
        fill(Path(asked["fill"]), asked["from"], asked["to"])
    else:
        fail(asked["rank"], asked["errno"], asked["part"], asked["times"], asked["action"])
    sys.exit(lockstep(sys.argv[2:]))
