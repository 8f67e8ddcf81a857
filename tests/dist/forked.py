"""Ranks that start with everything imported: forked from a server that has it, which saves each of them two seconds.

For tests of what ranks do, not of how they are started.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from benchmarks.ports import free_port

PRELOADED = ["torch.distributed", "trainer.__main__", "trainer.cli", "trainer.commands.train", "trainer.build"]
GRACE = 10.0
"""Time the others have to notice by themselves that one has failed [s]."""
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(PRELOADED)


class Forked:
    """Some ranks as one program, which ends when all have ended or one of them has failed."""

    def __init__(self, arguments: Sequence[str], ranks: int, said: Path, environ: Mapping[str, str]) -> None:
        group = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        group["LOCAL_WORLD_SIZE"] = str(ranks)
        self.processes = []
        for rank in range(ranks):
            own = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            task = (list(arguments), said, {**environ, **own})
            self.processes.append(FORKSERVER.Process(target=_rank, args=task, name=f"rank {rank}"))
        for process in self.processes:
            process.start()

    @property
    def sessions(self) -> dict[int, int]:
        """Session -> rank; each rank and its children are one."""
        return {process.pid: rank for rank, process in enumerate(self.processes) if process.pid is not None}

    @property
    def pid(self) -> int:
        return self.processes[0].pid or 0

    def poll(self) -> int | None:
        """Return the status of the first rank that failed, 0 when all have ended well, None while they run."""
        codes = [process.exitcode for process in self.processes]
        return next((code for code in codes if code), None if None in codes else 0)

    def wait(self, timeout: float | None = None) -> int:
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("ranks", timeout or 0.0)
            wait([p.sentinel for p in self.processes if p.exitcode is None], min(1.0, until - time.monotonic() + 0.01))
        until = time.monotonic() + GRACE
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        return code


def _rank(arguments: list[str], said: Path, environ: dict[str, str]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environ)
    sys.stdin = open(os.devnull)
    with said.open("a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if arguments[0].endswith(".py"):
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
        return
    from trainer.__main__ import main

    sys.exit(main(arguments))
