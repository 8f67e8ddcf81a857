"""Saving and loading when nothing, or one thing, goes wrong."""

from __future__ import annotations

import errno
import json
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
    replicated_state,
    save_generation,
    saved,
    shard_state,
    tree,
)

from trainer.checkpoint import CheckpointError, latest, load, save
from trainer.checkpoint.disk import Disk
from trainer.types import State


def no_warning(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")


@pytest.mark.parametrize("world", [1, 2, 4])
def test_round_trip_on_any_world_size(tmp_path: Path, world: int) -> None:
    folder = saved(tmp_path, 1000, 7, world=world)
    assert folder == tmp_path / "step-000000001000"
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    found = latest(tmp_path, no_warning)
    assert found is not None
    assert (found.step, found.shards, found.world_size, found.folder) == (1000, 4, world, folder)
    assert found.versions["torch"] == torch.__version__
    assert found.info == {"generation": 7, "config": {"lr": 1e-4, "clip": float("inf")}}
    assert loaded_generation(folder) == 7
    for size in (1, 2, 4):  # any other world reads only what it owns
        for rank in range(size):
            mine = range(rank * 4 // size, (rank + 1) * 4 // size)
            part = load(found, mine)
            assert sorted(part.shards) == list(mine)
            assert all(torch.equal(part.shards[s]["ring"], shard_state(7, s)["ring"]) for s in mine)


def test_files_are_the_same_on_every_world_size(tmp_path: Path) -> None:
    trees = [tree(saved(tmp_path / str(world), 5, 1, world=world)) for world in (1, 2, 4)]
    for found in trees:
        found.pop("manifest.json")
    assert trees[0] == trees[1] == trees[2]
    assert len(trees[0]) == 10


def test_only_the_shards_asked_for_are_opened(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1, 1)
    (folder / "shard-00002.safetensors").unlink()
    assert load(folder, [0, 3]).shards.keys() == {0, 3}
    with pytest.raises(CheckpointError, match=r"shard-00002\.safetensors"):
        load(folder, [2])


@pytest.mark.parametrize("shard", [-1, 4, "0", True, None])
def test_a_shard_that_is_not_there(tmp_path: Path, shard: Any) -> None:
    folder = saved(tmp_path, 1, 1)
    with pytest.raises(CheckpointError, match="has shards 0 to 3"):
        load(folder, [shard])


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    assert latest(tmp_path / "missing", no_warning) is None
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "step-12.png").touch()
    assert latest(tmp_path, no_warning) is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for step in range(1, 6):
        saved(tmp_path, step, step, keep=keep)
        expected = [f"step-{s:012d}" for s in range(max(1, step - keep + 1), step + 1)]
        assert sorted(path.name for path in tmp_path.iterdir()) == expected
    (tmp_path / "notes").mkdir()
    saved(tmp_path, 6, 6, keep=keep)
    assert (tmp_path / "notes").is_dir()


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step, step, keep=3)
    (tmp_path / "step-000000000003" / "replicated.json").unlink()
    saved(tmp_path, 4, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000002", "step-000000000004"]


def test_what_was_just_saved_stays_even_below_a_later_step(tmp_path: Path) -> None:
    for step in (10, 30):
        saved(tmp_path, step, step, keep=2)
    saved(tmp_path, 20, 20, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000020", "step-000000000030"]


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    saved(tmp_path, 1, 1)
    folder = saved(tmp_path, 2, 2)
    assert saved(tmp_path, 2, 22) == folder
    assert loaded_generation(folder) == 22
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000001", folder.name]


def test_everything_is_on_the_device_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watch_fsync(descriptor: int) -> None:
        fsync(descriptor)
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def watch_rename(source: Path, target: Path) -> Path:
        done.append("rename")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "rename", watch_rename)
    root = tmp_path.resolve() / "new" / "root"
    folder = saved(root, 1, 1)
    before, after = done[: done.index("rename")], done[done.index("rename") + 1 :]
    written = str(root / ".tmp-step-000000000001")
    assert {f"{written}/{path.name}" for path in folder.iterdir()} <= set(before)
    assert before[-2:] == [f"{written}/manifest.json", written]
    assert after[0] == str(root)
    done.clear()
    saved(root, 2, 2, keep=1)
    first, second = (at for at, what in enumerate(done) if what == "rename")
    assert done[first + 1 : second] == [str(root)]  # the new name is durable before the old one goes
    assert {str(root.parent), str(root.parent.parent)} <= set(before)  # the root's own name is durable as well


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


def test_no_rank_needs_to_own_a_shard(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1, 1, world=4, shards=2)
    assert sorted(load(folder, [0, 1]).shards) == [0, 1]
    assert load(saved(tmp_path, 2, 2, shards=0), []).shards == {}


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


def test_the_manifest_is_readable_json(tmp_path: Path) -> None:
    fields = json.loads((saved(tmp_path, 3, 1) / "manifest.json").read_text())
    assert fields["format"] == "lockstep-checkpoint"
    assert fields["version"] == 1
    assert fields["info"]["config"]["lr"] == 1e-4
    assert fields["files"]["shard-00003.safetensors"].keys() == {"size", "sha256"}
    assert replicated_state(1)["generation"] == fields["info"]["generation"]
