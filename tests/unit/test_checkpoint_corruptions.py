"""Random corruptions of stored checkpoints: the newest untouched one is used, else it is an error; never silence."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_memory import save_all, whole_generation
from test_checkpoint_fakes import tree

from trainer.checkpoint import CheckpointError, latest

GOOD = (5, 6)
FOLDERS = {generation: f"step-{generation:012d}" for generation in GOOD}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints that refer to files of others, by hard links."""
    root = tmp_path_factory.mktemp("origin")
    save_all(root, range(1, 7))
    assert sorted(path.name for path in root.iterdir()) == sorted(FOLDERS.values())
    return root


def flip(dice: random.Random, file: Path, other: Path) -> None:
    raw = bytearray(file.read_bytes())
    for _ in range(dice.choice((1, 1, 3))):
        bit = dice.randrange(8 * len(raw))
        raw[bit // 8] ^= 1 << bit % 8
    file.write_bytes(raw)


def truncate(dice: random.Random, file: Path, other: Path) -> None:
    os.truncate(file, dice.randrange(file.stat().st_size))


def extend(dice: random.Random, file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes() + dice.randbytes(dice.choice((1, 8, 4096))))


def zero(dice: random.Random, file: Path, other: Path) -> None:
    """What a crash of some file systems leaves: the size is right, a part was never written."""
    raw = file.read_bytes()
    begin = dice.randrange(len(raw))
    file.write_bytes(raw[:begin] + bytes(len(raw) - begin))


def delete(dice: random.Random, file: Path, other: Path) -> None:
    file.unlink()


def mix(dice: random.Random, file: Path, other: Path) -> None:
    """A file of the other generation in its place."""
    shutil.copy(other, file)


def swap(dice: random.Random, file: Path, other: Path) -> None:
    """Another file of the same checkpoint in its place."""
    shutil.copy(dice.choice(sorted(file.parent.iterdir())), file.with_name("x"))
    file.with_name("x").rename(file)


def without_a_rank(dice: random.Random, file: Path, other: Path) -> None:
    shard = dice.choice(("shard-00000", "shard-00001"))
    for path in file.parent.glob(f"{shard}*"):
        path.unlink()


KINDS: tuple[Callable[[random.Random, Path, Path], None], ...] = (
    *(flip, flip, truncate, extend, zero, delete, mix, swap, without_a_rank),
)


def corrupt(seed: int, origin: Path, root: Path) -> None:
    shutil.copytree(origin, root)
    dice = random.Random(seed)
    victims = dice.choice(((6,), (6,), (6,), (5,), (5, 6)))
    for generation in victims:
        mine, theirs = (root / FOLDERS[g] for g in (generation, 11 - generation))
        for _ in range(dice.choice((1, 1, 2))):
            files = sorted(p for p in mine.iterdir() if (origin / FOLDERS[11 - generation] / p.name).exists())
            if files:
                file = dice.choice(files)
                if file.stat().st_size:
                    dice.choice(KINDS)(dice, file, origin / theirs.name / file.name)


def check(seed: int, origin: Path, root: Path) -> None:
    corrupt(seed, origin, root)
    untouched = [g for g in (6, 5) if tree(root / FOLDERS[g]) == tree(origin / FOLDERS[g])]
    warnings: list[str] = []
    if not untouched:
        with pytest.raises(CheckpointError, match="none of 2 checkpoints is good") as caught:
            latest(root, warnings.append)
        assert "\n" not in str(caught.value)
        return
    found = latest(root, warnings.append)
    assert found is not None
    assert whole_generation(found.folder) == untouched[0]
    assert len(warnings) == 6 - untouched[0], "one line for one that was passed over"
    assert all("\n" not in line and FOLDERS[6] in line for line in warnings)


@pytest.mark.parametrize("seed", range(24))
def test_never_a_silent_load(seed: int, origin: Path, tmp_path: Path) -> None:
    check(seed, origin, tmp_path / "run")


@pytest.mark.slow
def test_two_hundred_more(origin: Path, tmp_path: Path) -> None:
    for seed in range(100, 300):
        check(seed, origin, tmp_path / str(seed))
