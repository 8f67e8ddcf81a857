"""What the batch script does with what the ranks leave: run by bash, with stand-ins for srun and scontrol."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launch.job import Job
from launch.status import read

DEADLINE = 30  # s
JOB = "77"
SRUN = """#!/bin/bash
case "$*" in *"trainer check"*) eval "${CHECK:-}"; exit "${CHECKED:-0}";; esac
eval "$TRAIN"
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") echo node1; echo node2;;
  "show job") echo "JobId=77 ${SHOWN:-JobState=RUNNING Reason=None}";;
  requeue*) echo "$2" >> requeued; exit "${REFUSES:-0}";;
esac
"""


def start(folder: Path, train: str, **environ: str) -> subprocess.Popen[str]:
    """Start the script in `folder`. train: what the ranks do, as shell lines; they run in the same folder."""
    (folder / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    text = Job(nodes=2, max_requeues=3).train("x", "run=runs/x\narguments=(debug)", "x.log", after="echo after >> ends")
    (folder / "job.sbatch").write_text(text)
    slurm = {"SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURMD_NODENAME": "node1"}
    with (folder / "x.log").open("w") as log:
        return subprocess.Popen(
            ["bash", "job.sbatch"],
            cwd=folder,
            env={"PATH": f"{folder}/bin:{os.environ['PATH']}", "TRAIN": train, **slurm, **environ},
            stdout=log,
            stderr=log,
            text=True,
        )


def left(state: str, code: int = 0) -> str:
    return f"""echo '{{"state": "{state}"}}' > runs/x/status.json; exit {code}"""


def requeued(folder: Path) -> list[str]:
    return (folder / "requeued").read_text().split() if (folder / "requeued").exists() else []


CANCELLED = "JobState=COMPLETING Reason=None"
TOO_LATE = "JobState=COMPLETING Reason=TimeLimit"
CASES = {
    "finished": (left("finished"), {}, 0, []),
    "saved": (left("stopped"), {}, 0, [JOB]),
    "saved by SIGTERM, which torchrun calls a failure": (left("stopped", 1), {}, 0, [JOB]),
    "saved in an array": (left("stopped"), {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "7"}, 0, ["70_7"]),
    "saved in the last life but one": (left("stopped"), {"SLURM_RESTART_COUNT": "2"}, 0, [JOB]),
    "saved in the last life": (left("stopped"), {"SLURM_RESTART_COUNT": "3"}, 1, []),
    "saved, and cancelled": (left("stopped"), {"SHOWN": CANCELLED}, 1, []),
    "killed with its node": (left("running", 137), {"SHOWN": CANCELLED}, 1, []),
    "saved behind the time limit": (left("stopped"), {"SHOWN": TOO_LATE}, 0, [JOB]),
    "saved, and refused": (left("stopped"), {"REFUSES": "1"}, 1, [JOB]),
    "broken": (left("running", 9), {}, 9, []),
    "broken, but with status 0": ("exit 0", {}, 1, []),
    "failed": (left("failed", 1), {}, 1, []),
    "does not fit": (left("finished"), {"CHECKED": "2"}, 2, []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_decides(case: str, tmp_path: Path) -> None:
    train, environ, code, expected = CASES[case]
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "status.json").write_text('{"state": "stopped"}')  # of the life before
    script = start(tmp_path, train, **environ)
    assert script.wait(DEADLINE) == code, (tmp_path / "x.log").read_text()
    assert requeued(tmp_path) == expected
    assert (tmp_path / "ends").read_text() == "after\n"


def test_a_finished_run_is_not_begun_again(tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "status.json").write_text('{\n "state": "finished",\n "env_steps": 8\n}\n')
    assert start(tmp_path, "touch begun").wait(DEADLINE) == 0
    assert not (tmp_path / "begun").exists()


CAUSES = {
    "rank 1 failed: KeyError: 'a \"b\" \\ c'": (
        "lockstep: rank 0 failed: an earlier attempt",
        "lockstep: rank 1 failed: KeyError: 'a \"b\" \\ c'",
        "lockstep: rank 0 stops because of rank 1: KeyError",
        "    traceback : Signal 15 (SIGTERM) received by PID 12",
    ),
    "--env.id X: unknown": ("lockstep: --env.id X: unknown",),
    "Signal 9 (SIGKILL) received by PID 12": (
        "lockstep: rank 0 failed: RuntimeError: Connection closed by peer",
        "    traceback : Signal 9 (SIGKILL) received by PID 12",
    ),
    "torchrun ended with status 1, see x.log": ("nothing of ours",),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_stands_in_the_run_folder(cause: str, tmp_path: Path) -> None:
    before = ("lockstep: rank 0 failed: in an earlier life", "batch: job 77, life 1, on here")
    (tmp_path / "said").write_text("\n".join([*before, *CAUSES[cause], ""]))
    assert start(tmp_path, "cat said; exit 1").wait(DEADLINE) == 1
    found = read(tmp_path / "runs" / "x")
    assert (found.state, found.note) == ("failed", cause)


REFUSALS = {
    "--shards 3: cannot be divided": ("a warning", "lockstep: --shards 3: cannot be divided"),
    "error: execve(): nowhere/python: No such file": ("error: execve(): nowhere/python: No such file",),
}


@pytest.mark.parametrize("cause", REFUSALS)
def test_what_does_not_fit_is_the_cause(cause: str, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("\n".join(["srun: error: node1: task 0: Exited", *REFUSALS[cause], ""]))
    assert start(tmp_path, "touch begun", CHECK="cat said >&2", CHECKED="2").wait(DEADLINE) == 2
    assert read(tmp_path / "runs" / "x").note == cause
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("sig", [signal.SIGUSR2, signal.SIGTERM])
def test_a_warning_raises_the_stop_file_and_waits(sig: signal.Signals, tmp_path: Path) -> None:
    """The ranks look for the file as long as they have not seen it; a file of an earlier life is gone."""
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "stop").touch()
    train = '[ "$LOCKSTEP_STOP_FILE" -ef runs/x/stop ] && exit 5; touch begun'
    train += f"; while [ ! -e $LOCKSTEP_STOP_FILE ]; do sleep 0.05; done; sleep 0.3; {left('stopped')}"
    script = start(tmp_path, train)
    until = time.monotonic() + DEADLINE
    while not (tmp_path / "begun").exists():
        assert script.poll() is None, (tmp_path / "x.log").read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    script.send_signal(sig)
    time.sleep(0.1)
    script.send_signal(sig)
    assert script.wait(DEADLINE) == 0, (tmp_path / "x.log").read_text()
    assert requeued(tmp_path) == [JOB]


def test_a_life_that_slurm_ended_is_not_called_broken(tmp_path: Path) -> None:
    start(tmp_path, left("running", 137), SHOWN=CANCELLED).wait(DEADLINE)
    assert read(tmp_path / "runs" / "x").state == "running"
