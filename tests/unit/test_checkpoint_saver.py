"""Checkpoints written while training: what was is stored, what did not change is shared, failures are survived."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_memory import FakeBlocks, refused, save, save_all, savers, whole_generation
from test_checkpoint_failures import Fault, full_disk
from test_checkpoint_fakes import DEADLINE, FakeRanks, tree

from trainer.checkpoint import CheckpointError, Saver, latest
from trainer.checkpoint.disk import Disk


def folder(root: Path, step: int) -> Path:
    return root / f"step-{step:012d}"


def inodes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in path.iterdir()}


def shared(root: Path, one: int, other: int) -> set[str]:
    """The files that two checkpoints have in common."""
    first, second = inodes(folder(root, one)), inodes(folder(root, other))
    return {name for name in first if first[name] == second.get(name)}


@pytest.mark.parametrize("world", [1, 2])
def test_each_generation_comes_back_whole(tmp_path: Path, world: int) -> None:
    save_all(tmp_path, [1, 2, 3, 4, 5, 6, 7], world=world, keep=7)
    assert [whole_generation(folder(tmp_path, g)) for g in range(1, 8)] == list(range(1, 8))


def test_only_what_changed_since_the_last_but_one_is_written(tmp_path: Path) -> None:
    def course(saver: Saver, ranks: FakeRanks) -> list[list[int]]:
        taken = []
        for generation in range(1, 7):
            (blocks,) = save(saver, ranks, generation).values()
            assert saver.finish()
            taken.append(sorted(blocks.taken))
            assert blocks.released
        return taken

    assert savers(tmp_path, course, keep=9) == [[[0, 1, 2, 3], [0, 1, 2, 3], [0, 2], [0, 1], [0, 1, 2], [0, 2]]] * 2
    assert shared(tmp_path, 3, 5) == {f"shard-0000{shard}-0-00003.safetensors" for shard in (0, 1)}
    assert shared(tmp_path, 2, 4) == {f"shard-0000{shard}-0-0000{b}.safetensors" for shard in (0, 1) for b in (2, 3)}
    for step in range(1, 6):
        assert not shared(tmp_path, step, step + 1), "the newest two are whole without each other"


def test_the_newest_two_never_share_what_can_be_damaged(tmp_path: Path) -> None:
    save_all(tmp_path, [1, 2, 3, 4, 5])
    for file in folder(tmp_path, 5).iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        with file.open("r+b") as same:  # in place: every name of the file sees it
            same.write(content)
    assert refused(folder(tmp_path, 5))
    warnings: list[str] = []
    found = latest(tmp_path, warnings.append)
    assert found is not None
    assert whole_generation(found.folder) == 4
    assert len(warnings) == 1


def test_with_one_kept_it_shares_with_the_one_before(tmp_path: Path) -> None:
    save_all(tmp_path, [1, 2], keep=1)
    before = inodes(folder(tmp_path, 2))
    save_all(tmp_path, [3], keep=1)  # another process: nothing to share with
    assert not set(before.values()) & set(inodes(folder(tmp_path, 3)).values())
    save_all(tmp_path, [4, 5], keep=1)
    assert whole_generation(folder(tmp_path, 5)) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000000005"]


def test_deleting_a_checkpoint_leaves_those_that_share_with_it(tmp_path: Path) -> None:
    save_all(tmp_path, range(1, 12))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000000010", "step-000000000011"]
    assert [whole_generation(folder(tmp_path, g)) for g in (10, 11)] == [10, 11]


def test_the_states_may_change_at_once(tmp_path: Path) -> None:
    """The thread is held until everything in the states has changed."""
    gate = threading.Event()

    def hold(action: str, path: Path) -> None:
        assert gate.wait(DEADLINE)

    def course(saver: Saver, ranks: FakeRanks) -> dict[str, Any]:
        weight, numbers, shard = torch.zeros(5), [1, 2], {"w": torch.zeros(4), "deep": {"count": 7}}
        view = torch.arange(6.0).view(2, 3).T
        saver.begin(1, {"weight": weight, "numbers": numbers, "view": view}, {0: shard})
        weight.fill_(9)
        view.fill_(9)
        numbers.append(3)
        shard["w"].fill_(9)
        shard["deep"]["count"] = 9
        gate.set()
        assert saver.finish()
        return {}

    assert savers(tmp_path, course, world=1, disk=Disk(hold)) == [{}]
    from trainer.checkpoint import load

    found = load(folder(tmp_path, 1), [0])
    assert found.replicated["weight"].tolist() == [0] * 5
    assert found.replicated["numbers"] == [1, 2]
    assert torch.equal(found.replicated["view"], torch.arange(6.0).view(2, 3).T)
    assert found.shards[0]["w"].tolist() == [0] * 4
    assert found.shards[0]["deep"] == {"count": 7}


def test_begin_returns_while_the_disk_sleeps_and_the_next_one_waits(tmp_path: Path) -> None:
    gate, order = threading.Event(), []

    def hold(action: str, path: Path) -> None:
        assert gate.wait(DEADLINE)

    def course(saver: Saver, ranks: FakeRanks) -> None:
        save(saver, ranks, 1)
        order.append("training")
        threading.Timer(0.2, lambda: (order.append("disk"), gate.set())).start()  # type: ignore[func-returns-value]
        save(saver, ranks, 2)
        order.append("second")
        assert saver.finish()

    assert savers(tmp_path, course, world=1, disk=Disk(hold)) == [None]
    assert order == ["training", "disk", "second"]
    assert [whole_generation(folder(tmp_path, g)) for g in (1, 2)] == [1, 2]


class Broken:
    """Fails some actions of one rank's files, or all, until it is repaired."""

    def __init__(self, action: str, part: str, error: OSError) -> None:
        self.action, self.part, self.error, self.on = action, part, error, False

    def __call__(self, action: str, path: Path) -> None:
        if self.on and action == self.action and self.part in str(path):
            raise self.error


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize(
    ("action", "part"), [("write", "shard-00001-0-00000"), ("fsync", "shard-00001"), ("rename", ".tmp"), ("mkdir", "")]
)
def test_a_fault_costs_one_save_and_all_ranks_know(tmp_path: Path, action: str, part: str, error: int) -> None:
    broken, told = Broken(action, part, OSError(error, os.strerror(error))), []

    def course(saver: Saver, ranks: FakeRanks) -> list[bool]:
        results = []
        for generation in range(1, 7):
            if ranks.rank == 0:
                broken.on = generation in (3, 5)
            ranks.gather(None)  # all see the same fault
            blocks = save(saver, ranks, generation)
            results.append(saver.finish())
            assert all(b.released for b in blocks.values())
        return results

    assert savers(tmp_path, course, disk=Disk(broken), told=told) == [[True, True, False, True, False, True]] * 2
    assert [whole_generation(folder(tmp_path, g)) for g in (4, 6)] == [4, 6]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000000004", "step-000000000006"], "no leftovers"
    assert len(told) == 2, "one line each"
    assert all(os.strerror(error) in line and "\n" not in line and "training continues" in line for line in told)


@pytest.mark.parametrize("failures", [1, 3])
def test_too_many_in_a_row_are_an_error_on_every_rank(tmp_path: Path, failures: int) -> None:
    save_all(tmp_path, [1, 2])
    before = tree(tmp_path)

    def course(saver: Saver, ranks: FakeRanks) -> int:
        for i in range(10):
            save(saver, ranks, 3 + i)  # finds out about the one before
        return 0

    told: list[str] = []
    disk = Disk(lambda action, path: Fault("write", "shard-00001", full_disk())(action, path))
    for result in savers(tmp_path, course, disk=disk, failures=failures, told=told):
        assert isinstance(result, CheckpointError)
        assert f"{failures} checkpoint(s) in a row could not be written" in str(result)
        assert "rank 1: OSError: [Errno 28] No space left on device" in str(result)
        assert "\n" not in str(result)
    assert len(told) == failures
    assert tree(tmp_path) == before


def test_a_success_forgives(tmp_path: Path) -> None:
    broken = Broken("write", "", full_disk())

    def course(saver: Saver, ranks: FakeRanks) -> list[bool]:
        results = []
        for generation in range(1, 10):
            broken.on = generation % 3 > 0  # two of three
            save(saver, ranks, generation)
            results.append(saver.finish())
        return results

    assert savers(tmp_path, course, world=1, disk=Disk(broken)) == [[False, False, True] * 3]
    assert [whole_generation(folder(tmp_path, g)) for g in (6, 9)] == [6, 9]


def test_old_ones_that_cannot_be_deleted_are_no_failure(tmp_path: Path) -> None:
    broken, told = Broken("remove", ".trash", OSError(errno.EIO, "no")), []

    def course(saver: Saver, ranks: FakeRanks) -> list[bool]:
        results = []
        for generation in range(1, 7):
            broken.on = generation in (3, 4)
            save(saver, ranks, generation)
            results.append(saver.finish())
        return results

    results = savers(tmp_path, course, world=1, disk=Disk(broken), told=told, failures=2)
    assert results == [[True, True, True, False, True, True]], "the fourth cannot begin: there is no room to be had"
    assert "step 3 is complete, but deleting older ones failed" in told[0]
    assert sorted(p.name[-1] for p in tmp_path.iterdir()) == ["5", "6"]
    assert [whole_generation(folder(tmp_path, g)) for g in (5, 6)] == [5, 6]


def test_what_a_rank_cannot_copy_fails_the_save_on_all(tmp_path: Path) -> None:
    class Greedy(torch.Tensor):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            raise MemoryError("no room for a copy")

    def course(saver: Saver, ranks: FakeRanks) -> bool:
        state = torch.zeros(2).as_subclass(Greedy) if ranks.rank else torch.zeros(2)
        saver.begin(1, {}, {ranks.rank: {"w": state}})
        return saver.finish()

    told: list[str] = []
    assert savers(tmp_path, course, told=told) == [False, False]
    assert "rank 1: MemoryError: no room for a copy" in told[0]


def test_a_missing_file_of_the_base_is_written_anew(tmp_path: Path) -> None:
    told: list[str] = []

    def course(saver: Saver, ranks: FakeRanks) -> list[bool]:
        results = []
        for generation in (1, 2, 3, 4, 5):
            if generation == 3 and ranks.rank == 0:
                (folder(tmp_path, 1) / "shard-00001-0-00003.safetensors").unlink()
            ranks.gather(None)
            save(saver, ranks, generation)
            results.append(saver.finish())
        return results

    assert savers(tmp_path, course, told=told) == [[True, True, False, True, True]] * 2
    assert len(told) == 1
    assert "shard-00001-0-00003.safetensors" in told[0]
    assert [whole_generation(folder(tmp_path, g)) for g in (4, 5)] == [4, 5]


class NoLinks(Disk):
    """A file system without hard links."""

    def link(self, source: Path, target: Path) -> bool:
        return False


def test_without_links_files_are_copied_and_compared(tmp_path: Path) -> None:
    told: list[str] = []

    def course(saver: Saver, ranks: FakeRanks) -> list[bool]:
        results = []
        for generation in (1, 2, 3, 4, 5, 6):
            if generation == 5:
                path = folder(tmp_path, 3) / "shard-00000-0-00003.safetensors"
                path.write_bytes(path.read_bytes()[:-1] + b"x")
            save(saver, ranks, generation)
            results.append(saver.finish())
        return results

    assert savers(tmp_path, course, world=1, disk=NoLinks(), told=told) == [[True, True, True, True, False, True]]
    assert "is not what was written" in told[0]
    assert not shared(tmp_path, 4, 6)
    assert [whole_generation(folder(tmp_path, g)) for g in (4, 6)] == [4, 6]


def test_a_lost_peer_is_no_matter_of_storage(tmp_path: Path) -> None:
    class Lonely:
        rank, world_size = 0, 2

        def gather(self, obj: Any) -> list[Any]:
            raise RuntimeError("Connection closed by peer")

    saver = Saver(tmp_path, Lonely(), {}, keep=1, failures=3, warn=pytest.fail)
    blocks = FakeBlocks(1, 0)
    saver.begin(1, {}, {0: {"rows": blocks}})
    with pytest.raises(RuntimeError, match="closed by peer"):
        saver.finish()
    assert blocks.released
    assert saver.finish()
