"""How fast two ranks of this machine exchange data, in each possible way: for `lockstep doctor`, not for training."""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.sync.shared import share

Way = Literal["shared memory", "gloo", "nccl"]
SMALL, LARGE = 4, 4 << 20
"""Bytes of the all-reduces that measure latency and bandwidth."""
_TIMES = {SMALL: 200, LARGE: 10}
_PATIENCE = 0.2  # s
_LIMIT = 20.0  # s for a process to start, and for an exchange


def backends() -> dict[str, str]:
    """Return the backends that torch can exchange tensors with, by name, with their version if they have one."""
    found = {"gloo": ""} if dist.is_gloo_available() else {}
    if dist.is_nccl_available():
        there = torch.cuda.is_available()
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if there else ""  # type: ignore[no-untyped-call]
    return found


class Met(NamedTuple):
    """What two ranks measured, or why they could not meet."""

    latency: float = 0.0  # s of a small all-reduce
    bandwidth: float = 0.0  # bytes of a large one per second
    problem: str = ""


def meet(ways: list[Way], limit: float) -> dict[Way, Met]:
    """Let two processes exchange data in each way, within `limit` [s] in all; report failures of each way."""
    found: dict[Way, Met] = {}
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="lockstep-probe-") as folder:
        ranks = [
            context.Process(target=_rank, args=(rank, ways, folder, answers), daemon=True, name=f"rank {rank}")
            for rank in range(2)
        ]
        for process in ranks:
            process.start()
        until = time.monotonic() + limit
        while len(found) < len(ways) and time.monotonic() < until:
            alive = all(process.is_alive() for process in ranks)
            try:
                way, met = answers.get(timeout=_PATIENCE)
                found[way] = met
            except queue.Empty:
                if not alive:
                    break
        ended = [f"{p.name} ended with status {p.exitcode}" for p in ranks if not p.is_alive() and p.exitcode]
        for process in ranks:
            process.kill()
            process.join()
    problem = ended[0] if ended else f"no answer within {limit:.0f} s"
    return {way: found.get(way, Met(problem=problem)) for way in ways}


def _rank(rank: int, ways: list[Way], folder: str, answers: Any) -> None:
    torch.set_num_threads(1)
    for way in ways:
        try:
            met = _measure(rank, way, Path(folder) / way.replace(" ", "-"))
        except Exception as error:
            met = Met(problem=" ".join(f"{type(error).__name__}: {error}".split())[:200])
        if rank == 0:
            answers.put((way, met))


def _measure(rank: int, way: Way, store: Path) -> Met:
    device = torch.device("cuda", rank) if way == "nccl" else torch.device("cpu")
    dist.init_process_group(
        "nccl" if way == "nccl" else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=_LIMIT),
        device_id=device if way == "nccl" else None,
    )
    try:
        exchange: Callable[[Tensor], object] = dist.all_reduce
        if way == "shared memory":
            memory = share(LARGE, _LIMIT)
            if memory is None:
                return Met(problem="the ranks cannot share memory")
            exchange = memory.sum_
        took = {size: _time(exchange, torch.zeros(size // 4, device=device), _TIMES[size]) for size in (SMALL, LARGE)}
    finally:
        dist.destroy_process_group()
    return Met(took[SMALL], LARGE / took[LARGE])


def _time(exchange: Callable[[Tensor], object], values: Tensor, times: int) -> float:
    """Return the median time of an exchange [s], without the first few."""
    took = []
    for _ in range(times + 3):
        began = time.perf_counter()
        exchange(values)
        if values.is_cuda:
            torch.cuda.synchronize(values.device)
        took.append(time.perf_counter() - began)
    return median(took[3:])
