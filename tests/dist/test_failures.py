"""Whatever goes wrong on one rank soon ends all of them, reports the root cause last, and leaves no process."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from launching import QUIET, Program, checkpoints, started

from trainer.doctor.boxes import gather
from trainer.doctor.verdict import Stored, verdict

SOON = 30.0  # s between the fault and the end of everything


def arguments(env: str, folder: Path, *more: str, **kwargs: object) -> list[str]:
    kwargs = {"rank": 1, "at": 150, "note": str(folder / "fault"), **kwargs}
    return [
        *("train", "debug", "--env.id", f"tests_envs:{env}-v0", "--env.kwargs", json.dumps(kwargs)),
        *("--log.dir", str(folder), "--log.name", "run", "--total_env_steps", "2000000"),
        *("--runtime.timeout", "20", "--checkpoint.every", "0", "--env.max_restarts", "0", *QUIET, *more),
    ]


def fails(env: str, tmp_path: Path, launcher: str, *more: str, fault: str = "") -> Program:
    """fault: injected by the trainer itself (`trainer.runtime.faults`), if it is not the environment's."""
    log = tmp_path / "faults.jsonl"
    asked = {"LOCKSTEP_FAULT": fault, "LOCKSTEP_TESTING": "1", "LOCKSTEP_FAULT_LOG": str(log)}
    with started(
        arguments(env, tmp_path, *more), tmp_path, ranks=2, launcher=launcher, deadline=75, env=asked
    ) as program:
        program.wait()
        at = json.loads(log.read_text().splitlines()[0])["time"] if fault else (tmp_path / "fault").read_text()
        seconds = time.time() - float(at)
        program.expect_nothing_left()
    assert seconds < SOON, f"{seconds} s\n{program.output}"
    assert program.code not in (0, None), program.output
    assert not checkpoints(tmp_path / "run"), "a failed run must not save what it computed"
    state = json.loads((tmp_path / "run" / "status.json").read_text())["state"]
    assert state in ("failed", "running"), "rank 0 says so, unless it was ended first"
    return program


def doctor(tmp_path: Path) -> str:
    """What `lockstep doctor` says, from what the ranks left behind."""
    found = verdict(gather(tmp_path / "run"), Stored())
    assert found.state == "died"
    assert "There is no checkpoint to resume from" in found.text
    return found.text


def last_word(program: Program, launcher: str) -> str:
    """The end of the output: our last line, or torchrun's report of the root cause."""
    if launcher == "spawn":
        return program.lines[-1]
    assert "Root Cause" in program.output, program.output
    return " ".join(program.output.rpartition("Root Cause")[2].split())


@pytest.mark.parametrize("launcher", ["spawn", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_exception_in_an_environment(launcher: str, tmp_path: Path) -> None:
    program = fails("Crash", tmp_path, launcher)
    word = last_word(program, launcher)
    assert "rank 1 failed first" in word if launcher == "spawn" else "rank : 1 " in word, program.output
    assert "the environment failed in step" in word, program.output
    assert "RuntimeError: the walls came down" in program.output, "the traceback"
    assert "the walls came down" in word, program.output
    told = doctor(tmp_path)
    assert "Rank 1 failed first, in stepping its environments: " in told
    assert "the walls came down" in told
    assert "Meanwhile rank 0 was in " in told


@pytest.mark.parametrize("launcher", ["spawn", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_non_finite_loss_on_one_rank(launcher: str, tmp_path: Path) -> None:
    program = fails("Walk", tmp_path, launcher, fault="loss:1:150:nan+")
    word = last_word(program, launcher)
    assert "non-finite loss on rank 1 at update " in word, program.output
    assert "10 updates in a row skipped" in word, program.output
    before, told, _ = program.output.partition("lockstep: non-finite loss on rank 1")
    assert told, program.output
    assert "Traceback" not in before, "one clear message, not one traceback a rank"
    assert "All ranks found the same problem and stopped together: non-finite loss on rank 1" in doctor(tmp_path)
    assert program.output.count(told) == (2 if launcher == "spawn" else 1), "by rank 0, and by the launcher at the end"


@pytest.mark.parametrize("launcher", ["spawn", "torchrun"])
def test_a_killed_rank(launcher: str, tmp_path: Path) -> None:
    program = fails("Killed", tmp_path, launcher)
    word = last_word(program, launcher)
    assert "rank 1 failed first" in word if launcher == "spawn" else "rank : 1 " in word, program.output
    assert "Signal 9 (SIGKILL)" in word, program.output
    told = doctor(tmp_path)
    assert "Rank 1 vanished first, in stepping its environments, without a message" in told
    assert "Meanwhile rank 0 was in " in told
    assert " with the other ranks" in told


@pytest.mark.parametrize("launcher", ["spawn", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_silent_divergence(launcher: str, tmp_path: Path) -> None:
    program = fails("Drift", tmp_path, launcher)
    word = last_word(program, launcher)
    assert "replicas differ at step" in word, program.output
    assert "rank 1 differs from rank 0 in torso.layers.0.weight (1 of " in word, program.output
    assert "All ranks found the same problem and stopped together: replicas differ at step" in doctor(tmp_path)


@pytest.mark.slow
def test_a_crash_in_an_environment_worker(tmp_path: Path) -> None:
    program = fails("Crash", tmp_path, "spawn", "--env.backend", "async")
    assert "rank 1 failed first" in program.lines[-1], program.output
    assert "RuntimeError: the walls came down" in program.output, "the traceback"


def test_divergence_is_refused_before_a_save(tmp_path: Path) -> None:
    """`fails` checks that nothing was stored: the drift is found at a poll before the save, not after it."""
    more = ("--checkpoint.every", "2400", "--target.every", "100", "--log.every", "100000")
    fails("Drift", tmp_path, "spawn", *more, "--runtime.poll_every", "100000")
