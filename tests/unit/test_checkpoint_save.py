"""Saving and loading when nothing goes wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint_fakes import (
    loaded_generation,
    replicated_state,
    saved,
    shard_state,
    tree,
)

from trainer.checkpoint import CheckpointError, latest, load


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
    (tmp_path / "step-12").mkdir()
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


def test_no_rank_needs_to_own_a_shard(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1, 1, world=4, shards=2)
    assert sorted(load(folder, [0, 1]).shards) == [0, 1]
    assert load(saved(tmp_path, 2, 2, shards=0), []).shards == {}


def test_the_manifest_is_readable_json(tmp_path: Path) -> None:
    fields = json.loads((saved(tmp_path, 3, 1) / "manifest.json").read_text())
    assert fields["format"] == "lockstep-checkpoint"
    assert fields["version"] == 2
    assert fields["info"]["config"]["lr"] == 1e-4
    assert fields["files"]["shard-00003.safetensors"].keys() == {"size", "sha256"}
    assert replicated_state(1)["generation"] == fields["info"]["generation"]
