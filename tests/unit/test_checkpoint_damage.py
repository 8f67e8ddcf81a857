"""Damage to a stored checkpoint: noticed, named in one line, and the one before is used."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from test_checkpoint_fakes import loaded_generation, saved

from trainer.checkpoint import CheckpointError, latest, layout, load, manifest
from trainer.checkpoint.errors import DamagedError

NEW, OLD = "step-000000000002", "step-000000000001"
FILES = ["manifest.json", "replicated.json", "replicated.safetensors", "shard-00001.json", "shard-00003.safetensors"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    saved(root, 1, 1)
    saved(root, 2, 2)
    return root


@pytest.fixture
def root(origin: Path, tmp_path: Path) -> Path:
    shutil.copytree(origin, tmp_path / "run")
    return tmp_path / "run"


def falls_back(root: Path, name: str) -> str:
    """Check that the older one is chosen, and the file named in one line of warning; return that line."""
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert found.folder.name == OLD
    assert loaded_generation(found.folder) == 1
    assert len(warnings) == 1
    assert f"{NEW}/{name}: " in warnings[0]
    assert "\n" not in warnings[0]
    with pytest.raises(CheckpointError):
        load(root / NEW, range(4))
    return warnings[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(12))
def test_one_flipped_bit(root: Path, name: str, seed: int) -> None:
    path = root / NEW / name
    raw = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(8 * len(raw))
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    falls_back(root, name)


def test_a_bit_of_every_byte_of_a_manifest(root: Path) -> None:
    path = root / NEW / "manifest.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        raw = bytearray(whole)
        raw[at] ^= 1 << at % 8
        path.write_bytes(raw)
        with pytest.raises(DamagedError):
            manifest.read(root / NEW)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0.0, 0.5, -1])
def test_truncated(root: Path, name: str, keep: float) -> None:
    size = (root / NEW / name).stat().st_size
    os.truncate(root / NEW / name, size - 1 if keep < 0 else int(size * keep))
    falls_back(root, name)


@pytest.mark.parametrize("name", FILES)
def test_grown(root: Path, name: str) -> None:
    with (root / NEW / name).open("ab") as file:
        file.write(b" ")
    falls_back(root, name)


@pytest.mark.parametrize("name", FILES)
def test_deleted(root: Path, name: str) -> None:
    (root / NEW / name).unlink()
    falls_back(root, name)


@pytest.mark.parametrize("name", FILES)
def test_replaced_by_that_of_another_generation(root: Path, name: str) -> None:
    shutil.copy(root / OLD / name, root / NEW / name)
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert found.folder.name == OLD
    assert len(warnings) == 1
    if name != "manifest.json":
        falls_back(root, name)


def test_a_whole_folder_under_the_name_of_another(root: Path) -> None:
    shutil.rmtree(root / NEW)
    shutil.copytree(root / OLD, root / NEW)
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert found.folder.name == OLD
    assert "belongs to step 1" in warnings[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_not_a_file(root: Path, name: str, kind: str) -> None:
    path = root / NEW / name
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "dangling link":
            path.symlink_to("nowhere")
    falls_back(root, name)


def test_a_file_in_place_of_a_folder(root: Path) -> None:
    shutil.rmtree(root / NEW)
    (root / NEW).touch()
    falls_back(root, "manifest.json")


def test_none_good_is_an_error_not_a_fresh_start(root: Path) -> None:
    (root / NEW / "replicated.json").unlink()
    (root / OLD / "shard-00000.json").unlink()
    warnings: list[str] = []
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is good") as caught:
        latest(root, warnings.append)
    assert f"{NEW}/replicated.json" in str(caught.value)
    assert len(warnings) == 2


def test_one_set_aside_comes_after_its_successor_and_before_older_ones(root: Path) -> None:
    for serial in (0, 1):
        shutil.copytree(root / NEW, root / f".old-{NEW}-{serial}")
    names = [entry.path.name for entry in layout.entries(root)]
    assert names == [NEW, f".old-{NEW}-1", f".old-{NEW}-0", OLD]
    (root / NEW / "replicated.json").unlink()
    (root / f".old-{NEW}-1" / "manifest.json").unlink()
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert found.folder.name == f".old-{NEW}-0"
    assert len(warnings) == 2
    assert loaded_generation(saved(root, 3, 3)) == 3
    assert sorted(path.name for path in root.iterdir()) == [OLD, "step-000000000003"]


def test_an_unfinished_one_alone_is_a_fresh_start(root: Path) -> None:
    shutil.rmtree(root / OLD)
    (root / NEW).rename(root / f".tmp-{NEW}")
    warnings: list[str] = []
    assert latest(root, warnings.append) is None
    assert len(warnings) == 1


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="NotADirectoryError"):
        latest(tmp_path / "file", print)
