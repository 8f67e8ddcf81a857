"""A process killed at every place where a save in the background touches the disk, links included."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from checkpoint_memory import actions_of_the_third, die_beside, save_all, whole_generation
from test_checkpoint_crash import CLEAN

from trainer.checkpoint import latest

EVERY = 5
"""The quick part tries every EVERY-th action, the slow one all."""


def killed_at(root: Path, at: int) -> int:
    """Kill a child there; return which generation is there afterwards."""
    child = CLEAN.Process(target=die_beside, args=(root, at))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL, "the child got past its end"
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert all("unfinished, its save was interrupted" in warning for warning in warnings), warnings
    generation = whole_generation(found.folder)
    save_all(root, [4])
    assert [path.name[-1] for path in sorted(root.iterdir())] == [str(generation), "4"], "nothing is left over"
    assert [whole_generation(path) for path in sorted(root.iterdir())] == [generation, 4]
    return generation


def tried(tmp_path: Path, every: int) -> None:
    actions = actions_of_the_third(tmp_path / "dry")
    assert actions.count("link") == 2 * 2, "half of the blocks"
    points = range(0, len(actions) - 1, every)
    seen = [killed_at(tmp_path / str(at), at) for at in points]
    assert set(seen) == {2, 3}
    assert seen == sorted(seen), "the old one up to some action, the new one from there on"


@pytest.mark.timeout(120)
def test_killed_here_and_there(tmp_path: Path) -> None:
    tried(tmp_path, EVERY)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_every_action(tmp_path: Path) -> None:
    tried(tmp_path, 1)
