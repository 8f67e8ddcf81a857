"""A request to stop, on any one rank or on the launcher: all stop at the same step, save once, and say how to go on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from launching import QUIET, checkpoints, started

from trainer import checkpoint

SLOW = json.dumps({"sleep": 0.001})


def arguments(folder: Path) -> list[str]:
    return [
        *("train", "debug", "--env.id", "tests_envs:Walk-v0", "--env.kwargs", SLOW, "--log.every", "200"),
        *("--log.dir", str(folder), "--log.name", "run", "--total_env_steps", "2000000", "--checkpoint.every", "0"),
        *QUIET,
    ]


@pytest.mark.parametrize(
    ("launcher", "name", "to"),
    [
        ("spawn", "SIGTERM", "rank 1"),
        pytest.param("spawn", "SIGUSR2", "launcher", marks=pytest.mark.slow),
        pytest.param("spawn", "SIGTERM", "launcher", marks=pytest.mark.slow),
        ("spawn", "SIGINT", "group"),
        pytest.param("torchrun", "SIGUSR2", "rank 1", marks=pytest.mark.slow),
        ("torchrun", "SIGTERM", "rank 0"),
    ],
)
def test_all_ranks_stop_save_once_and_leave_in_peace(launcher: str, name: str, to: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    number = signal.Signals[name]
    with started(arguments(tmp_path), tmp_path, ranks=2, launcher=launcher, deadline=75) as program:
        rows = run_dir / "metrics.jsonl"
        program.wait_for(lambda: rows.exists() and rows.read_text().count("\n") >= 2, "two rows")
        if to == "group":  # Ctrl-C reaches the launcher, which forwards it, and the ranks
            for pid in (program.popen.pid, program.rank_pid(0), program.rank_pid(1)):
                os.kill(pid, number)
        else:
            os.kill(program.popen.pid if to == "launcher" else program.rank_pid(int(to[-1])), number)
        program.expect(0)
    (only,) = checkpoints(run_dir)
    found = checkpoint.latest(run_dir / "checkpoints", warn=pytest.fail)
    assert found is not None
    assert (found.folder, found.world_size, found.shards) == (only, 2, 2)
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["state"], status["signal"], status["env_steps"]) == ("stopped", name, found.step * 8)
    assert program.output.count(f"{name}: saved at {found.step * 8:,} env steps") == 1, program.output
    hint = f"resume with: lockstep train --resume {run_dir}"
    assert any(line.strip() == hint for line in program.lines[-2:]), program.output
    assert "Traceback" not in program.output
    assert not (run_dir / "blackbox").exists(), "nothing went wrong"


@pytest.mark.slow
def test_torchrun_hands_its_own_sigterm_to_the_ranks(tmp_path: Path) -> None:
    """torchrun itself exits with an error whatever its ranks do; status.json says that all is saved."""
    run_dir = tmp_path / "run"
    with started(arguments(tmp_path), tmp_path, ranks=2, launcher="torchrun", deadline=75) as program:
        rows = run_dir / "metrics.jsonl"
        program.wait_for(lambda: rows.exists() and rows.read_text().count("\n") >= 1, "a row")
        os.kill(program.popen.pid, signal.SIGTERM)
        program.wait().expect_nothing_left()
    assert json.loads((run_dir / "status.json").read_text())["state"] == "stopped"
    assert len(checkpoints(run_dir)) == 1
    assert f"resume with: lockstep train --resume {run_dir}" in program.output


def test_ranks_do_not_outlive_a_killed_launcher(tmp_path: Path) -> None:
    with started(arguments(tmp_path), tmp_path, ranks=2, deadline=75) as program:
        rows = tmp_path / "run" / "metrics.jsonl"
        program.wait_for(lambda: rows.exists() and rows.read_text().count("\n") >= 1, "a row")
        os.kill(program.popen.pid, signal.SIGKILL)
        program.wait()
        program.expect_nothing_left(20)
    assert len(checkpoints(tmp_path / "run")) <= 1
