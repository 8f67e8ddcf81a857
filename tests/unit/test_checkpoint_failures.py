"""A save in which something fails on one rank: it raises on all, and what was stored before stays."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint_fakes import (
    FakeRanks,
    loaded_generation,
    on_ranks,
    save_generation,
    saved,
    tree,
)

from trainer.checkpoint import CheckpointError, latest, save
from trainer.checkpoint.disk import Disk
from trainer.types import State


def no_warning(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")


class Fault:
    """Raise at the n-th action of a kind."""

    def __init__(self, action: str, part: str, error: Exception) -> None:
        self.action, self.part, self.error = action, part, error
        self.hit = False

    def __call__(self, action: str, path: Path) -> None:
        if action == self.action and self.part in str(path) and not self.hit:
            self.hit = True
            raise self.error


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("action", "part", "rank"),
    [
        ("mkdir", ".tmp-step", 0),
        ("create", "replicated.safetensors", 0),
        ("write", "shard-00001.safetensors", 1),
        ("write", "shard-00003.json", 1),
        ("fsync", "shard-00002.safetensors", 0),
        ("fsync", "shard-00003.safetensors", 1),
        ("write", "manifest.json", 0),
        ("sync", ".tmp-step", 0),
        ("rename", ".tmp-step", 0),
        ("rename", "/step-", 0),
    ],
)
def test_a_full_disk_on_one_rank_stops_all(tmp_path: Path, action: str, part: str, rank: int) -> None:
    saved(tmp_path, 1, 1)
    saved(tmp_path, 2, 2)
    before = tree(tmp_path)
    fault = Fault(action, part, full_disk())
    results = save_generation(tmp_path, 2, 22, disk=Disk(fault))
    assert fault.hit
    for result in results:
        assert isinstance(result, CheckpointError), result
        assert f"step 2 failed: rank {rank}: OSError: [Errno 28] No space left on device" in str(result)
    assert isinstance(results[rank].__cause__, OSError)
    assert tree(tmp_path) == before  # no leftovers, nothing lost
    assert loaded_generation(saved(tmp_path, 2, 22)) == 22


def test_ranks_that_fail_together_are_all_named(tmp_path: Path) -> None:
    def point(action: str, path: Path) -> None:
        if action == "create":
            raise MemoryError(threading.get_ident())

    for result in save_generation(tmp_path, 1, 1, world=3, disk=Disk(point)):
        assert isinstance(result, CheckpointError)
        assert all(f"rank {rank}: MemoryError" in str(result) for rank in range(3))
    assert latest(tmp_path, no_warning) is None
    assert tree(tmp_path) == {}


def test_the_clean_up_failing_hides_neither_cause(tmp_path: Path) -> None:
    def point(action: str, path: Path) -> None:
        if action == "fsync":
            raise full_disk()
        if action == "remove":
            raise PermissionError("read-only now")

    lead, other = save_generation(tmp_path, 1, 1, disk=Disk(point))
    assert "No space left" in str(lead)
    assert "cleaning up failed as well: PermissionError: read-only now" in str(lead)
    assert "No space left" in str(other)
    assert loaded_generation(saved(tmp_path, 1, 1)) == 1


def test_a_failing_deletion_says_that_the_checkpoint_is_good(tmp_path: Path) -> None:
    saved(tmp_path, 1, 1)
    results = save_generation(tmp_path, 2, 2, keep=1, disk=Disk(Fault("remove", ".trash", PermissionError("no"))))
    assert all("step 2 is complete, but deleting older ones failed: rank 0" in str(result) for result in results)
    found = latest(tmp_path, no_warning)
    assert found is not None
    assert loaded_generation(found.folder) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000002"]


def refused(tmp_path: Path, world: int, match: str, arguments: Callable[[int], dict[str, Any]]) -> None:
    def work(ranks: FakeRanks) -> Path:
        default: dict[str, Any] = {"step": 1, "replicated": {}, "shards": {ranks.rank: {}}, "info": {}, "keep": 1}
        return save(tmp_path, ranks=ranks, **(default | arguments(ranks.rank)))

    for result in on_ranks(world, work):
        assert isinstance(result, CheckpointError), result
        assert match in str(result)
        assert "\n" not in str(result)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("ranks disagree on the step to save: [0, 1]", lambda rank: {"step": rank}),
        ("each on one rank, not [[0], [0]]", lambda rank: {"shards": {0: {}}}),
        ("each on one rank, not [[0], [2]]", lambda rank: {"shards": {2 * rank: {}}}),
        ("rank 1: ValueError: shards are numbered by integers", lambda rank: {"shards": {"a" if rank else 0: {}}}),
        ("rank 0: ValueError: step must be at least 0 and keep at least 1", lambda rank: {"keep": rank}),
        ("rank 0: ValueError: step must be", lambda rank: {"step": -1}),
        ("rank 1: TypeError: /env: a checkpoint holds", lambda rank: {"shards": {rank: {"env": {1} if rank else 0}}}),
        ("rank 0: TypeError: /net: a checkpoint holds", lambda rank: {"replicated": {"net": object()}}),
        ("rank 0: TypeError: info/w: tensors belong", lambda rank: {"info": {"w": torch.zeros(1)}}),
    ],
)
def test_misuse_is_refused_on_every_rank(tmp_path: Path, match: str, arguments: Callable[[int], State]) -> None:
    refused(tmp_path, 2, match, arguments)


def test_a_root_that_the_ranks_do_not_share(tmp_path: Path) -> None:
    (tmp_path / "1" / ".tmp-step-000000000001").mkdir(parents=True)

    def work(ranks: FakeRanks) -> Path:
        return save(tmp_path / str(ranks.rank), 1, {}, {ranks.rank: {}}, {}, ranks, 1)

    for result in on_ranks(2, work):
        assert isinstance(result, CheckpointError)
        assert "rank 0: DamagedError" in str(result)
        assert "shard-00001.safetensors: No such file or directory" in str(result)


def test_the_system_refusing_a_write_half_way(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk: the kernel writes a part and then fails."""
    saved(tmp_path, 1, 1)
    before = tree(tmp_path)
    script = f"""
import resource, sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_checkpoint_fakes import on_ranks
from pathlib import Path
from trainer.checkpoint import save
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
state = {{"ring": torch.zeros(1_000_000)}}
print(on_ranks(2, lambda r: save(Path({str(tmp_path)!r}), 2, {{}}, {{r.rank: state if r.rank else {{}}}}, {{}}, r, 2)))
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.count("rank 1: OSError: [Errno 27] File too large") == 2, out
    assert tree(tmp_path) == before
