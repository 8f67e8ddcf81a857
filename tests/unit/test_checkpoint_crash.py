"""A process killed at every place where a save touches the disk: the run can always resume."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from test_checkpoint_fakes import die_at, loaded_generation, saved

from trainer.checkpoint import latest
from trainer.checkpoint.disk import Disk


def nothing_stored(root: Path) -> None:
    root.mkdir()


def two_stored(root: Path) -> None:
    saved(root, 1, 1)
    saved(root, 2, 2)


def set_aside(root: Path) -> None:
    """What a crash between the two renames of a replacement leaves."""
    two_stored(root)
    saved(root, 3, 3)
    shutil.copytree(root / "step-000000000003", root / ".tmp-step-000000000003")
    (root / "step-000000000003").rename(root / ".old-step-000000000003-0")


def set_aside_and_replaced(root: Path) -> None:
    """What a crash right after the two renames of a replacement leaves, half-deleted trash as well."""
    two_stored(root)
    saved(root, 3, 3)
    shutil.copytree(root / "step-000000000003", root / ".old-step-000000000003-0")
    shutil.copytree(root / "step-000000000002", root / ".trash-step-000000000001-0")
    (root / ".trash-step-000000000001-0" / "manifest.json").unlink()


def count_points(root: Path, step: int) -> int:
    counter = itertools.count()
    saved(root, step, 9, disk=Disk(lambda action, path: next(counter) and None))
    return next(counter)


# children of a process that never ran a network: torch's threads, once started, do not survive a fork
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["torch", "pytest", "trainer.checkpoint"])


def save_and_die(root: Path, step: int, at: int) -> None:
    """Save generation 9 in a child with two ranks that dies, as a whole, when it comes to action number `at`."""
    child = CLEAN.Process(target=die_at, args=(root, step, at))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL, "the child got past its end"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("prepare", "step", "older"),
    [
        (nothing_stored, 1, None),
        (two_stored, 3, 2),
        pytest.param(two_stored, 2, 2, marks=pytest.mark.slow),
        (set_aside, 3, 3),
        pytest.param(set_aside, 4, 3, marks=pytest.mark.slow),
        (set_aside_and_replaced, 3, 3),
    ],
)
def test_killed_at_every_action(tmp_path: Path, prepare: Callable[[Path], None], step: int, older: int | None) -> None:
    prepare(tmp_path / "origin")
    shutil.copytree(tmp_path / "origin", tmp_path / "dry")
    points = count_points(tmp_path / "dry", step)
    assert points > 30
    seen = []
    for at in range(points):
        root = tmp_path / "run"
        shutil.copytree(tmp_path / "origin", root)
        save_and_die(root, step, at)
        warnings: list[str] = []
        found = latest(root, warnings.append)
        seen.append(None if found is None else loaded_generation(found.folder))
        assert all("unfinished, its save was interrupted" in warning for warning in warnings), (at, warnings)
        assert sorted(p.name for p in (tmp_path / "dry").iterdir()) == sorted(
            p.name for p in after_the_next_save(root, step)
        )
        shutil.rmtree(root)
    assert set(seen) == {older, 9}
    assert seen == sorted(seen, key=lambda generation: generation == 9)  # old up to some action, new from there on


def after_the_next_save(root: Path, step: int) -> list[Path]:
    """Save as the restarted run would; return what is there afterwards."""
    saved(root, step, 10)
    found = latest(root, lambda warning: pytest.fail(warning))
    assert found is not None
    assert loaded_generation(found.folder) == 10
    return list(root.iterdir())
