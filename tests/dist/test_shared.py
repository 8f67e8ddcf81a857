"""Exchanges through memory that ranks of one machine share: equal to gloo's, bounded in time, and never half used."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import shared_ranks
import torch
from launching import run

from trainer.sync.shared import SharedMemory


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_shared_memory_stands_for_gloo(ranks: int, tmp_path: Path) -> None:
    run([shared_ranks.__file__, str(tmp_path)], tmp_path, ranks=ranks, deadline=90)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="not Linux")
def test_a_rank_that_dies_is_not_waited_for() -> None:
    peer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    memory = SharedMemory(mmap.mmap(-1, 2 * (64 + 2 * shared_ranks.SMALL) + 3 * 64), 0, 2, 64, 30.0, {1: os.pidfd_open(peer.pid)})
    peer.kill()  # and nobody has asked yet how it ended: a zombie counts as dead
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="rank 1 did not join an exchange: its process has ended"):
        memory.sum_(torch.zeros(3))
    assert time.monotonic() - began < 5
    peer.wait()
