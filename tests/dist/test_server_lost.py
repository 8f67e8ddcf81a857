"""An asynchronous parameter server goes on without a worker that is lost; nobody goes on without a server."""

from __future__ import annotations

import json
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import server_lost_ranks
import torch
from launching import Program, started
from server_lost_ranks import LOST_AT, UPDATES

from benchmarks.ports import free_port

RANKS = 3


def lose(folder: Path, victim: int, how: signal.Signals, servers: int = 1) -> dict[int, Program]:
    """Start ranks as plain processes, one of which sends itself a signal; return the others, ended."""
    told = json.dumps({"victim": victim, "signal": how, "servers": servers})
    group = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    arguments = [server_lost_ranks.__file__, told, str(folder)]
    with ExitStack() as stack:
        programs = {}
        for rank in range(RANKS):
            options: Any = {"launcher": "python", "deadline": 150, "env": group | {"RANK": str(rank)}}
            programs[rank] = stack.enter_context(started(arguments, folder, **options))
        survivors = {rank: program for rank, program in programs.items() if rank != victim}
        for program in survivors.values():
            program.wait()
        if how == signal.SIGSTOP:
            assert programs[victim].popen.poll() is None, "it never died"
        return survivors


@pytest.mark.timeout(200)
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_the_others_finish_without_a_lost_worker(how: signal.Signals, tmp_path: Path) -> None:
    survivors = lose(tmp_path, 2, how)
    for program in survivors.values():
        assert program.code == 0, program.output
    said = [line for program in survivors.values() for line in program.lines if line.startswith("lockstep:")]
    why = "Connection" if how == signal.SIGKILL else "Timed out waiting 6000ms"
    assert len(said) == 1, said
    assert said[0].startswith("lockstep: the parameter server on rank 0 continues without rank 2: rank 2, a worker, is")
    assert why in said[0] or "reset by peer" in said[0]
    ends = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in survivors]
    lost, version, oldest = ends[0]["service"]
    assert lost == [2]
    assert version == (RANKS - 1) * UPDATES + LOST_AT, "every gradient that was pushed, once"
    assert oldest == 1
    assert all(torch.equal(end["weights"], ends[0]["weights"]) for end in ends)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("victim", "servers"), [(0, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_all_end_with_the_cause_when_a_server_is_lost(victim: int, servers: int, tmp_path: Path) -> None:
    began = time.monotonic()
    survivors = lose(tmp_path, victim, signal.SIGKILL, servers)
    for program in survivors.values():
        assert program.code not in (0, None), program.output
        # the first survivor to end may be a server itself
        assert re.search(rf"PeerLostError: rank [0-{servers - 1}], which holds weights, is gone: ", program.output)
    cause = f"PeerLostError: rank {victim}, which holds weights, is gone: "
    assert any(cause in program.output for program in survivors.values())
    assert time.monotonic() - began < 120
