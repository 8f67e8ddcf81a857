"""For checkpoint tests: a memory whose blocks change now and then, and several saves of it by one `Saver` per rank."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from test_checkpoint_fakes import FakeRanks, on_ranks, replicated_state
from torch import Tensor

from trainer.checkpoint import CheckpointError, Saver, load
from trainer.checkpoint.disk import Disk
from trainer.types import State

BLOCKS = 4
SHARDS = 2


def value_of(generation: int, shard: int, block: int) -> int:
    """What a block holds: block 0 changes in every generation, the others in every third, in turn; the last never."""
    if block == 0:
        return 100 * generation + shard
    if block == BLOCKS - 1:
        return shard
    return 100 * max((g for g in range(generation + 1) if g % 3 == block), default=0) + 10 * block + shard


class FakeBlocks:
    """`types.Blocks` of one shard in one generation; records what is asked of it."""

    def __init__(self, generation: int, shard: int) -> None:
        self.generation, self.shard = generation, shard
        self.dtypes = {"frames": torch.int32, "reward/x": torch.float64}
        self.count = BLOCKS
        self.wanted: list[int] = []
        self.taken: list[int] = []
        self.released = False

    def want(self, since: FakeBlocks | None) -> list[int]:
        def differs(block: int) -> bool:
            assert since is not None
            return value_of(since.generation, self.shard, block) != value_of(self.generation, self.shard, block)

        self.wanted = [block for block in range(BLOCKS) if since is None or differs(block)]
        return list(reversed(self.wanted))

    def take(self, block: int) -> dict[str, Tensor]:
        assert block in self.wanted
        assert block not in self.taken
        assert not self.released
        self.taken.append(block)
        return stored_block(self.generation, self.shard, block)

    def release(self) -> None:
        self.released = True


def stored_block(generation: int, shard: int, block: int) -> dict[str, Tensor]:
    value = value_of(generation, shard, block)
    return {"frames": torch.full((3, 2), value, dtype=torch.int32), "reward/x": torch.tensor([value + 0.5]).double()}


def shard_state(generation: int, shard: int) -> State:
    return {
        "replay": {"generation": generation, "rows": FakeBlocks(generation, shard)},
        "rng": torch.tensor([generation]),
    }


Course = Callable[[Saver, FakeRanks], Any]


def savers(root: Path, course: Course, *, world: int = 2, disk: Disk | None = None, **options: Any) -> list[Any]:
    """Let every rank go through `course` with its own saver; return what each returned or raised."""
    told: list[str] = options.pop("told", [])

    def work(ranks: FakeRanks) -> Any:
        keep, failures = options.get("keep", 2), options.get("failures", 3)
        saver = Saver(root, ranks, {"a": 1}, keep=keep, failures=failures, warn=told.append, disk=disk or Disk())
        return course(saver, ranks)

    return on_ranks(world, work)


def save(saver: Saver, ranks: FakeRanks, generation: int) -> dict[int, FakeBlocks]:
    """Begin to save a generation as the step of that number; return the blocks of this rank."""
    shards = {s: shard_state(generation, s) for s in range(ranks.rank, SHARDS, ranks.world_size)}
    replicated = replicated_state(generation) if ranks.rank == 0 else {"unused": object()}
    saver.begin(generation, replicated, shards)
    return {s: state["replay"]["rows"] for s, state in shards.items()}


def save_all(root: Path, generations: Sequence[int], **options: Any) -> None:
    """Save generations one after the other and check that all are stored."""

    def course(saver: Saver, ranks: FakeRanks) -> list[bool]:
        stored = []
        for generation in generations:
            save(saver, ranks, generation)
            stored.append(saver.finish())
        return stored

    assert all(result == [True] * len(generations) for result in savers(root, course, **options))


def whole_generation(folder: Path) -> int:
    """Load all of a checkpoint and return its generation, if every part of it is of that one; else fail."""
    found = load(folder, range(SHARDS))
    generation = found.replicated["generation"]
    assert isinstance(generation, int)
    assert torch.equal(found.replicated["net"]["weight"], replicated_state(generation)["net"]["weight"])
    for shard, state in found.shards.items():
        assert state["rng"].tolist() == [generation]
        assert state["replay"]["generation"] == generation
        assert len(state["replay"]["rows"]) == BLOCKS
        for block, stored in enumerate(state["replay"]["rows"]):
            wanted = stored_block(generation, shard, block)
            assert stored.keys() == wanted.keys()
            assert all(torch.equal(stored[name], wanted[name]) for name in wanted)
    return generation


def refused(folder: Path) -> bool:
    """Whether a checkpoint cannot be loaded."""
    try:
        load(folder, range(SHARDS))
    except CheckpointError:
        return True
    return False


def die_beside(root: Path, at: int) -> None:
    """Save generations 1 and 2, then 3, and kill this process, as a whole, at action number `at` of that."""
    counter, lock = itertools.count(), threading.Lock()
    armed = threading.Event()

    def point(action: str, path: Path) -> None:
        with lock:
            if armed.is_set() and next(counter) == at:
                os.kill(os.getpid(), signal.SIGKILL)

    def course(saver: Saver, ranks: FakeRanks) -> None:
        for generation in (1, 2, 3):
            if generation == 3:
                armed.set()
            save(saver, ranks, generation)
            saver.finish()
            ranks.gather(None)

    savers(root, course, disk=Disk(point))


def actions_of_the_third(root: Path) -> list[str]:
    """The disk actions, in order, of a save that has something to refer to."""
    seen: list[str] = []

    def course(saver: Saver, ranks: FakeRanks) -> None:
        for generation in (1, 2, 3):
            if generation == 3:
                seen.clear()
            save(saver, ranks, generation)
            saver.finish()
            ranks.gather(None)

    savers(root, course, disk=Disk(lambda action, path: seen.append(action)))
    return seen
