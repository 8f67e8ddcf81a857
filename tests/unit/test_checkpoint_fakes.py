"""Simulated ranks and states that the checkpoint tests share, and a test that the simulation is one."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import CheckpointError, load, save
from trainer.checkpoint.disk import Disk
from trainer.types import State

DEADLINE = 20.0  # seconds in which every rank must reach a gather


class FakeRanks:
    """One rank of a group of threads; a rank that waits in vain fails instead of hanging."""

    def __init__(self, rank: int, world_size: int, slots: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world_size = rank, world_size
        self._slots, self._barrier = slots, barrier

    def gather(self, obj: Any) -> list[Any]:
        self._slots[self.rank] = json.dumps(obj, allow_nan=False)
        self._barrier.wait(DEADLINE)
        gathered = [json.loads(text) for text in self._slots]
        self._barrier.wait(DEADLINE)
        return gathered


def on_ranks(world_size: int, work: Callable[[FakeRanks], Any]) -> list[Any]:
    """Run `work` on every rank at once; return results, an exception being the result of a rank that raised it."""
    results: list[Any] = [None] * world_size
    slots, barrier = [None] * world_size, threading.Barrier(world_size)

    def body(rank: int) -> None:
        try:
            results[rank] = work(FakeRanks(rank, world_size, slots, barrier))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE)
        assert not thread.is_alive(), "a rank hangs"
    return results


def replicated_state(generation: int) -> State:
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3) + generation
    return {"generation": generation, "net": {"weight": weight}, "rng": [2**100 + generation, None]}


def shard_state(generation: int, shard: int) -> State:
    return {"generation": generation, "ring": torch.full((4, 5), 10 * generation + shard, dtype=torch.int16)}


def save_generation(
    root: Path, step: int, generation: int, world: int = 2, shards: int = 4, keep: int = 2, disk: Disk | None = None
) -> list[Any]:
    """Save a state that says which generation it is; return what each rank returned or raised."""

    def work(ranks: FakeRanks) -> Path:
        mine = {s: shard_state(generation, s) for s in range(ranks.rank, shards, world)}
        info = {"generation": generation, "config": {"lr": 1e-4, "clip": float("inf")}}
        return save(root, step, replicated_state(generation), mine, info, ranks, keep, disk or Disk())

    return on_ranks(world, work)


def saved(root: Path, step: int, generation: int, **kwargs: Any) -> Path:
    """Save as above, and check that every rank succeeded."""
    results = save_generation(root, step, generation, **kwargs)
    assert all(isinstance(result, Path) for result in results), results
    folder = results[0]
    assert isinstance(folder, Path)
    return folder


def loaded_generation(folder: Path) -> int:
    """Load all of a checkpoint, and check that every part of it is of one generation."""
    found = load(folder, range(4))
    generation = found.info["generation"]
    assert isinstance(generation, int)
    assert found.replicated["rng"] == replicated_state(generation)["rng"]
    assert torch.equal(found.replicated["net"]["weight"], replicated_state(generation)["net"]["weight"])
    for shard, state in found.shards.items():
        assert state["generation"] == generation
        assert torch.equal(state["ring"], shard_state(generation, shard)["ring"])
    return generation


def tree(root: Path) -> dict[str, str]:
    """Every file and folder under the root, with the hash of its content."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in root.rglob("*")
    }


def test_gather_gives_every_rank_everything_in_order() -> None:
    results = on_ranks(3, lambda ranks: [ranks.gather(ranks.rank * 10), ranks.gather(ranks.rank)])
    assert results == [[[0, 10, 20], [0, 1, 2]]] * 3


def test_an_error_is_the_result_of_its_rank() -> None:
    def work(ranks: FakeRanks) -> int:
        if ranks.rank == 1:
            raise CheckpointError("no")
        return ranks.rank

    first, second = on_ranks(2, work)
    assert first == 0
    assert isinstance(second, CheckpointError)


def die_at(root: Path, step: int, at: int) -> None:
    """Save generation 9 and kill this process, as a whole, when it comes to action number `at`."""
    counter, lock = itertools.count(), threading.Lock()

    def point(action: str, path: Path) -> None:
        with lock:
            if next(counter) == at:
                os.kill(os.getpid(), signal.SIGKILL)

    save_generation(root, step, 9, disk=Disk(point))
