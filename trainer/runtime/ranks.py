"""The process group: who this process is among its peers, and the small exchanges that control a run.

Gradients travel in `sync/`; here only flags and small objects do,
always over gloo, so that control traffic works while a GPU is busy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from trainer.runtime.failure import FailureWatch
from trainer.runtime.launched import Launch
from trainer.runtime.machine import usable_cores
from trainer.runtime.orphan import die_with_parent
from trainer.runtime.roll_call import roll_call

_PATIENCE = timedelta(hours=2)
NAMING = 5.0
"""How much longer than `runtime.timeout` an exchange waits: it cannot name the rank that hangs, the watch can [s]."""


@dataclass(frozen=True)
class Ranks:
    """This rank, its device and its peers."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    device: torch.device
    watch: FailureWatch
    patient: dist.ProcessGroup  # for collectives that ranks reach minutes apart
    beside: dist.ProcessGroup  # for those of one background thread per rank

    def gather(self, value: Any, *, patient: bool = False) -> list[Any]:
        """Return every rank's small object, in rank order. A collective.

        patient: wait for hours, not for `runtime.timeout`; a rank that fails meanwhile still ends all of them.
        """
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self._waiting("gather of objects"):
            dist.all_gather_object(values, value, group=self.patient if patient else None)
        return values

    def gather_beside(self, value: Any) -> list[Any]:
        """Do the same, as patiently, from one background thread per rank and no other. A collective of those."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.beside)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank. A collective."""
        if self.world_size == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.uint8)
        with self._waiting("vote"):
            dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return [bool(vote) for vote in votes.tolist()]

    @contextmanager
    def _waiting(self, kind: str) -> Iterator[None]:
        self.watch.waiting += 1
        self.watch.meeting = (kind, 0, time.perf_counter())
        try:
            yield
            self.watch.meeting = None  # after an exception it stays known
        finally:
            self.watch.waiting -= 1


def choose_device(wanted: Literal["auto", "cpu", "cuda"], launch: Launch) -> torch.device:
    """Return the device of this rank: a GPU if wanted and available, the CPU otherwise.

    A launcher that shows each rank only its own GPU leaves it as device 0. Raises ValueError if CUDA is demanded
    and absent.
    """
    gpus = torch.cuda.device_count()
    if wanted == "cuda" and gpus == 0:
        raise ValueError("--runtime.device cuda: no CUDA device is visible; use --runtime.device cpu")
    one_each = gpus >= launch.local_world_size or (gpus == 1 and launch.world_size > 1 and _shown_one(launch))
    if wanted == "cpu" or gpus == 0 or (wanted == "auto" and not one_each):
        return torch.device("cpu")
    return torch.device("cuda", launch.local_rank % gpus)


def _shown_one(launch: Launch) -> bool:
    """Return whether the launcher restricts each process to a GPU of its own (as SLURM's --gpus-per-task=1 does)."""
    return not launch.by_agent and "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")


def cores_per_rank(launch: Launch) -> int:
    """Return this rank's share of the cores that this process may use, at least 1."""
    return max(1, int(usable_cores()) // launch.local_world_size)


@contextmanager
def process_group(
    device: torch.device, launch: Launch, timeout: float, facts: Mapping[str, Any] | None = None
) -> Iterator[Ranks]:
    """Set the process group up, and tear it down again; without torchrun it is a group of one.

    CUDA tensors travel by NCCL (by gloo where ranks share a GPU, which NCCL refuses), CPU tensors by gloo.
    timeout: limit of a collective [s]; facts: what must be equal on all ranks, else ValueError (`roll_call`).
    """
    if launch.by_torchrun:
        die_with_parent()
        store, _, _ = next(iter(rendezvous("env://", launch.rank, launch.world_size)))
        if facts is not None:
            roll_call(PrefixStore("roll", store), launch.rank, launch.world_size, facts, timeout)
    else:
        store = HashStore()
    own_gpu = device.type == "cuda" and (torch.cuda.device_count() >= launch.local_world_size or _shown_one(launch))
    backend = "cpu:gloo,cuda:nccl" if own_gpu else "gloo"
    if backend == "gloo":
        # c10d would record the last 2,000 collectives with their stacks: megabytes that are of no use with gloo
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "0")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    watch = FailureWatch(PrefixStore("lockstep", store), launch.rank, launch.by_torchrun)
    dist.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=timedelta(seconds=timeout + NAMING),
    )
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    beside = dist.new_group(backend="gloo", timeout=_PATIENCE)
    who = (launch.rank, launch.local_rank, launch.world_size, launch.local_world_size)
    ranks = Ranks(*who, device, watch, patient, beside)
    dist.all_reduce(torch.zeros(1, device=device))  # NCCL ignores the timeout of its first collective
    try:
        with watch:
            yield ranks
    finally:
        dist.destroy_process_group()
