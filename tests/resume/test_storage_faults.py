"""A disk that is full, read-only or broken for a while: the run goes on, and ends as if nothing had happened."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import faulty_disk
import pytest
from launching import QUIET, Program, checkpoints, metrics, run
from test_resume import assert_same_checkpoint, outcome

from trainer import checkpoint

COMMON = (
    *("train", "debug", "--shards", "2", "--log.every", "200", "--total_env_steps", "2400", "--eval.episodes", "4"),
    *("--checkpoint.every", "400", *QUIET),
)
ALWAYS = 10**9


def go(
    folder: Path, name: str, fault: dict[str, object] | None, *more: str, ranks: int = 2, expect: int = 0
) -> Program:
    asked = {"rank": -1, "errno": 0, "part": "", "times": 0, "action": ""} | (fault or {})
    arguments = [faulty_disk.__file__, json.dumps(asked if "fill" not in asked else fault), *COMMON, *more]
    to = ["--log.dir", str(folder), "--log.name", name]
    return run([*arguments, *to], folder, ranks=ranks, deadline=90, expect=expect)


def told(program: Program) -> list[str]:
    return [line for line in program.lines if line.startswith("lockstep: saving the checkpoint")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a fault."""
    folder = tmp_path_factory.mktemp("whole")
    go(folder, "run", None)
    return folder / "run"


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("number", "action", "part"),
    [
        (errno.ENOSPC, "write", r"step-0*(100|150)/shard-00001-"),
        pytest.param(errno.EROFS, "create", r"step-0*(100|150)/", marks=pytest.mark.slow),
        pytest.param(errno.EIO, "fsync", r"step-0*(100|150)/shard-00001.json", marks=pytest.mark.slow),
    ],
)
def test_two_saves_that_fail_on_one_rank(whole: Path, tmp_path: Path, number: int, action: str, part: str) -> None:
    fault = {"rank": 1, "errno": number, "action": action, "part": part, "times": ALWAYS}
    said = told(go(tmp_path, "run", fault))
    assert len(said) == 2, "one line each"
    for line, step in zip(said, (100, 150), strict=True):
        assert f"of step {step} failed: rank 1: OSError: [Errno {number}] {os.strerror(number)}" in line
        assert "training continues, and the next save tries again" in line
    other = tmp_path / "run"
    assert [c.name for c in sorted((other / "checkpoints").iterdir())] == [c.name for c in checkpoints(whole)]
    for one, two in zip(checkpoints(whole), checkpoints(other), strict=True):
        assert_same_checkpoint(one, two)
    assert metrics(whole) == metrics(other)
    assert outcome(whole) == outcome(other)


@pytest.mark.timeout(200)
def test_too_many_in_a_row_end_the_run_and_the_last_good_one_goes_on(whole: Path, tmp_path: Path) -> None:
    fault = {"rank": 1, "errno": errno.ENOSPC, "action": "write", "part": r"step-0*(1..|2..|3..)/", "times": ALWAYS}
    program = go(tmp_path, "run", fault, "--checkpoint.failures", "2", expect=1)
    assert len(told(program)) == 2
    ends = [line for line in program.lines if "lockstep: 2 checkpoint(s) in a row could not be written" in line]
    assert len(ends) == 1, program.output
    assert "No space left on device; make room or repair the disk, then continue with --resume" in ends[0]
    assert "Traceback" not in program.output.partition(ends[0])[0], program.output
    run_dir = tmp_path / "run"
    assert json.loads((run_dir / "status.json").read_text())["state"] == "failed"
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000000000050"]
    said = run(["train", "--resume", str(run_dir)], tmp_path, ranks=2, deadline=90).output
    assert "resumed at 400 env steps" in said
    assert_same_checkpoint(checkpoints(whole)[-1], checkpoints(run_dir)[-1])


def test_the_last_one_is_tried_again_before_the_run_ends(whole: Path, tmp_path: Path) -> None:
    fault = {"rank": 0, "errno": errno.EIO, "action": "write", "part": "step-0*300/", "times": 2}
    program = go(tmp_path, "run", fault, ranks=1)
    assert len(told(program)) == 2
    assert_same_checkpoint(checkpoints(whole)[-1], checkpoints(tmp_path / "run")[-1], atol=1e-4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where that is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("not permitted to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_for_a_while(small_disk: Path, tmp_path: Path) -> None:
    """Checkpoints, metrics and all else on it; what is there afterwards is whole."""
    fault: dict[str, object] = {"fill": str(small_disk / "ballast"), "from": 90, "to": 210}
    program = go(small_disk, "run", fault, "--checkpoint.failures", "9", ranks=1)
    said = told(program)
    assert 2 <= len(said) <= 4, program.output
    assert all("No space left on device" in line for line in said)
    run_dir = small_disk / "run"
    found = checkpoint.latest(run_dir / "checkpoints", lambda line: pytest.fail(line))
    assert found is not None
    assert found.step == 300
    assert [c.name[-3:] for c in sorted((run_dir / "checkpoints").iterdir())] == ["250", "300"], "no leftovers"
    steps = [row["global_step"] for row in metrics(run_dir) if "charts/updates" in row]
    assert steps == sorted(set(steps)), "whole rows, none twice"
    assert steps[-1] == 2400
    assert json.loads((run_dir / "status.json").read_text())["state"] == "finished"
