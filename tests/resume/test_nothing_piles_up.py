"""A run that goes on holds no more than before: memory, files, threads. The long form is the chaos row `leak`."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from running import build, close, go

from trainer.run import Run
from trainer.runtime.ranks import Ranks

STEPS, SAVES = 250, 5  # a round
WARM_UP, ROUNDS = 4, 6
MEMORY, BLOCKS = 100_000, 600  # bytes, and blocks of Python: less than half of one for each step


class Allocated(ctypes.Structure):
    """What glibc's mallinfo2 reports [bytes]."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    ]


class Held(NamedTuple):
    """What a process holds."""

    memory: int  # bytes, of the main arena and mapped
    blocks: int  # Python's
    files: int
    threads: list[threading.Thread]


def held() -> Held:
    gc.collect()
    told = ctypes.CDLL(None).mallinfo2
    told.restype = Allocated
    now = told()
    files = len(os.listdir("/proc/self/fd"))
    return Held(now.uordblks + now.hblkhd, sys.getallocatedblocks(), files, threading.enumerate())


def go_on(run: Run) -> Held:
    for _ in range(SAVES):
        go(run, STEPS // SAVES)  # saves at its end
    run.written()
    run.learner.drain()
    return held()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc")
def test_nothing_piles_up(alone: Ranks, tmp_path: Path) -> None:
    arguments = ("debug", "--replay.capacity", "1000", "--log.every", "80")
    run = build((*arguments, "--eval.every", "800", "--eval.episodes", "8"), tmp_path, alone)
    held_behind = [go_on(run) for _ in range(WARM_UP + ROUNDS)]
    close(run)
    before, after = held_behind[WARM_UP - 1], held_behind[-1]
    assert after.memory - before.memory < MEMORY
    assert after.blocks - before.blocks < BLOCKS
    assert (after.files, after.threads) == (before.files, before.threads)
