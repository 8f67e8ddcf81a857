"""`lockstep doctor` on runs of two ranks that really died, through the command that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import QUIET, started

from trainer.__main__ import main


def dies(fault: str, folder: Path, *more: str, launcher: str = "spawn") -> Path:
    """Let a run of two ranks meet a fault; return its folder."""
    arguments = ["train", "debug", "--log.dir", str(folder), "--log.name", "run", "--total_env_steps", "2000000"]
    arguments += ["--checkpoint.every", "400", "--checkpoint.keep", "1", *QUIET, *more]
    asked = {"LOCKSTEP_FAULT": fault, "LOCKSTEP_TESTING": "1", "LOCKSTEP_FAULT_LOG": str(folder / "faults.jsonl")}
    with started(arguments, folder, ranks=2, launcher=launcher, deadline=75, env=asked) as program:
        program.wait().expect_nothing_left()
    assert program.code not in (0, None), program.output
    return folder / "run"


def doctor(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["doctor", str(run)]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_segmentation_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = dies("learn:1:150:segv", tmp_path, "--sync.shared_memory", "False")  # where the other one notices at once
    told = doctor(run, capsys)
    assert "died at step 150 (1,200 of 2,000,000 env steps)" in told, "to the step: rank 0 sees the page of rank 1"
    assert "Rank 1 died first, in learning, of a fatal signal: Segmentation fault (faults.py, line " in told
    assert "Meanwhile rank 0 was in a" in told
    assert "The newest good checkpoint is from step " in told
    assert f"continue with: lockstep train --resume {run}" in told
    rows = json.loads((run / "blackbox" / "life-0001" / "rank-00001.last.json").read_text())["steps"]
    assert all(row["all"] > 0 for row in rows)


def test_a_rank_that_hangs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = dies("replay:1:150:sleep", tmp_path, "--runtime.timeout", "4")
    told = doctor(run, capsys)
    assert "Rank 1 hung and was terminated: nothing happened for 4 s in replay at step 150." in told
    stacks = (run / "blackbox" / "life-0001" / "rank-00001.stacks.txt").read_text()
    assert "in _happen" in stacks, "where it slept"
    assert "in train" in stacks


@pytest.mark.slow
def test_each_life_keeps_its_own_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second life ends differently; what the first one left is still there."""
    fault = "env:1:150:kill,act:0:250:raise"
    run = dies(fault, tmp_path, "--resume", "auto", launcher="local 1")
    told = doctor(run, capsys)
    assert "in life 2" in told
    assert "Rank 0 failed first, in choosing actions: FaultInjected: requested by LOCKSTEP_FAULT=act:0:250:raise" in told
    first = run / "blackbox" / "life-0001"
    assert not (first / "rank-00001.end.json").exists(), "killed"
    assert (first / "rank-00001.last.json").exists()
