"""What `lockstep doctor RUN` makes of a run folder, with made-up boxes."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import main
from trainer.doctor.boxes import gather
from trainer.doctor.verdict import Stored, Verdict, verdict
from trainer.runtime import machine

NOW = 1_700_000_000.0
STORED = Stored(100, 800)
TRACE = (
    'Traceback (most recent call last):\n  File "/a/run.py", line 1, in <module>\n  File "/a/walls.py", line 7, in go\n'
)
CRASH = (
    'Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n  File "/b.py", line 1 in wait\n'
)
CRASH += (
    'Current thread 0x2 (most recent call first):\n  File "/a/walls.py", line 9 in hit\n  File "/a/b.py", line 2 in c\n'
)
WAITING = {"kind": "all-reduce", "bytes": 26_400, "for": 2.5}


class Folder:
    """A run folder that is written by hand."""

    def __init__(self, run: Path) -> None:
        self.run = run
        run.mkdir()
        self.write("config.json", {"preset": "debug", "env": {"id": "Walk-v0", "num_envs": 8}})
        self.status("running", env_steps=0)

    def write(self, name: str, value: Any) -> None:
        path = self.run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))

    def status(self, state: str, at: float = NOW - 60, **more: Any) -> Folder:
        self.write("status.json", {"state": state, "total_env_steps": 8000, **more})
        os.utime(self.run / "status.json", (at, at))
        return self

    def rank(
        self,
        rank: int,
        *,
        at: float = NOW,
        step: int = 150,
        phase: str = "env",
        end: tuple[str, str] | None = None,
        fatal: str = "",
        life: int = 1,
        host: str = "elsewhere",
        trace: str = "",
        kills: int = 0,
        **last: Any,
    ) -> Folder:
        stem = f"blackbox/life-{life:04d}/rank-{rank:05d}"
        start = {"at": NOW - 100, "host": host, "ranks": 2, "envs": 8, "oom_kills": 0}
        self.write(f"{stem}.start.json", start)
        self.write(f"{stem}.last.json", {"at": at, "step": step, "phase": phase, "oom_kills": kills, **last})
        self.write(f"{stem}.fatal.txt", fatal + "\n" * 9)
        if end is not None:
            kind, cause = end
            told = {"kind": kind, "cause": cause, "at": at, "step": step, "phase": phase, "traceback": trace}
            self.write(f"{stem}.end.json", told)
        return self

    def told(self, stored: Stored = STORED) -> Verdict:
        return verdict(gather(self.run), stored)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run")


LOST = ("peer", "RuntimeError: Connection closed by peer")


def test_an_exception(folder: Folder) -> None:
    folder.rank(0, at=NOW + 2, end=("peer", "rank 1: RuntimeError: walls"), phase="learn/sync", exchange=WAITING)
    folder.rank(1, end=("failed", "RuntimeError: walls"), trace=TRACE)
    found = folder.told()
    assert found.state == "died"
    assert (
        "Rank 1 failed first, in stepping its environments: RuntimeError: walls (walls.py, line 7, in go)."
        in found.text
    )
    assert "died at step 150 (1,200 of 8,000 env steps)" in found.text
    others = "rank 0 was in an all-reduce of 26.4 kB with the other ranks while learning, after step 150, for 2.5 s."
    assert f"Meanwhile {others}" in found.text
    assert "The newest good checkpoint is from step 100 (800 env steps)." in found.text
    assert found.go_on == f"lockstep train --resume {folder.run}"


def test_a_fatal_signal(folder: Folder) -> None:
    found = folder.rank(0, at=NOW + 0.2, end=LOST).rank(1, at=NOW, fatal=CRASH).told(Stored())
    assert (
        "Rank 1 died first, last seen in stepping its environments less than 1 s before, of a fatal signal: "
        "Segmentation fault "
        "(walls.py, line 9, in hit)." in found.text
    )
    assert "--env.backend async" in found.text
    assert "There is no checkpoint to resume from." in found.text
    assert not found.go_on


@pytest.mark.parametrize(
    ("last", "word"),
    [
        (
            {"memory": [20e9, 25e9, False], "resident": 3e9},
            "It held 3 GB, and 20 GB of the 25 GB that the machine has were free.",
        ),
        ({"memory": [1e8, 6e9, True], "resident": 5e9}, "its control group allows were free. That is almost nothing"),
        (
            {"memory": [2e9, 6e9, True], "resident": 4e9, "oom_kills": 1},
            "the kernel killed 1 process(es) here because memory ran out",
        ),
    ],
)
def test_a_rank_that_was_killed(last: dict[str, Any], word: str, folder: Folder) -> None:
    """The launcher ends the others by SIGTERM, and by SIGKILL where they are stuck in an exchange."""
    kills = last.get("oom_kills", 0)
    gone = [{"rank": 1, "step": 151, "phase": "learn"}]
    folder.rank(0, at=NOW + 25, asked="SIGTERM", phase="sync", exchange=WAITING, gone=gone, kills=kills)
    found = folder.rank(1, at=NOW, phase="env", **last).told()
    assert "died at step 151 " in found.text
    assert "Rank 1 vanished first, in learning, without a message: it was killed from outside (SIGKILL)" in found.text
    assert (
        "Meanwhile rank 0 was in an all-reduce of 26.4 kB with the other ranks, after step 150, for 2.5 s."
        in found.text
    )
    assert word in found.text


def test_a_rank_that_was_missed_was_gone_before_the_one_that_failed_for_it(folder: Folder) -> None:
    """The last sign of life of a killed rank may be as recent as the failure of another."""
    folder.rank(0, at=NOW + 0.5, end=("failed", "ValueError: odd"), gone=[{"rank": 1, "step": 151, "phase": "learn"}])
    assert "Rank 1 vanished first" in folder.rank(1, at=NOW).told().text
    folder.rank(0, at=NOW + 0.5, end=("failed", "ValueError: odd"), gone=[])
    assert "Rank 0 failed first" in folder.told().text


def test_all_at_once(folder: Folder) -> None:
    found = folder.rank(0, at=NOW + 1).rank(1, at=NOW).told()
    assert "All ranks vanished at once" in found.text
    assert "machine" in found.text


def test_a_hung_rank_is_named_although_another_told_it(folder: Folder) -> None:
    folder.rank(0, at=NOW + 20, end=("watch", "rank 1 hangs: stopped for 20 s"), phase="sync", exchange=WAITING)
    found = folder.rank(1, at=NOW, phase="replay").told()
    assert "Rank 1 hung and was terminated: stopped for 20 s." in found.text
    assert "stack" in found.text
    own = folder.rank(1, at=NOW, end=("watch", "rank 1 hangs: nothing happened for 20 s in env at step 7")).told()
    assert "Rank 1 hung and was terminated: nothing happened for 20 s in env at step 7." in own.text


@pytest.mark.parametrize(
    ("kind", "cause", "word"),
    [
        (
            "agreed",
            "non-finite loss on rank 1 at update 57, and 10 updates",
            "stopped together: non-finite loss on rank 1",
        ),
        ("agreed", "3 checkpoint(s) in a row could not be written: No space left on device", "No space left on device"),
        ("watch", "rank 0: the launcher is gone", "lost its launcher"),
        ("failed", "KeyboardInterrupt: ", "second time (Ctrl-C)"),
        ("peer", "RuntimeError: Connection closed by peer", "lost a rank that left no box"),
    ],
)
def test_other_ends(kind: str, cause: str, word: str, folder: Folder) -> None:
    found = folder.rank(0, end=(kind, cause)).rank(1, end=(kind, cause)).told()
    assert found.state == "died"
    assert word in found.text


def test_asked_to_stop_and_killed_before_it_saved(folder: Folder) -> None:
    found = folder.rank(0, asked="SIGTERM", phase="save").rank(1, asked="SIGTERM", phase="save").told()
    assert (
        "was asked to stop (SIGTERM), and was killed before it had saved, last seen in saving a checkpoint"
        in found.text
    )


def test_who_was_asked_to_stop_is_not_the_first_cause_where_there_is_another(folder: Folder) -> None:
    folder.rank(0, at=NOW, asked="SIGTERM")
    found = folder.rank(1, at=NOW + 5, end=("failed", "OSError: x"), asked="SIGTERM").told()
    assert "Rank 1 failed first" in found.text


def test_finished_and_saved(folder: Folder) -> None:
    assert folder.status("finished", env_steps=8000).told().state == "finished"
    stopped = folder.status("stopped", env_steps=800, signal="SIGUSR2").told()
    assert stopped.state == "stopped"
    assert "asked to stop by SIGUSR2, saved at 800 env steps, and exited cleanly" in stopped.text
    assert stopped.go_on


def test_a_resumed_run_that_died_before_it_said_so(folder: Folder) -> None:
    """The marker is still that of the life before."""
    folder.status("stopped", at=NOW - 500, env_steps=800).rank(0, life=2, phase="start", step=0)
    found = folder.told()
    assert found.state == "died"
    assert "in life 2 before completing its first step" in found.text


def test_a_rank_that_died_behind_the_end(folder: Folder) -> None:
    found = folder.status("finished", at=NOW, env_steps=8000).rank(1, at=NOW + 5).told()
    assert found.state == "finished"
    assert "Rank 1 vanished" in found.text


def test_a_run_that_is_there(folder: Folder) -> None:
    now = time.time()
    steps = [{"step": 1, "all": 3000, "env": 2000, "learn": 900}]
    found = folder.rank(0, at=now, steps=steps, still=0.0).rank(1, at=now, still=9.0, steps=steps).told()
    assert found.state == "running"
    assert "is running: step 150 (1,200 of 8,000 env steps)." in found.text
    assert "Rank 1 has been in stepping its environments for 9 s." in found.text
    assert "The last 1 steps of rank 1 took 3.0 ms each (env 67 %, learn 30 %)." in found.text


def test_a_run_of_which_a_part_is_still_there(folder: Folder) -> None:
    """A rank that waits in an exchange may take half a minute to be ended."""
    found = folder.rank(0, at=time.time(), exchange=WAITING).rank(1, at=NOW).told()
    assert found.state == "died"
    assert "Rank 1 vanished first" in found.text
    assert "Still running: rank 0, until" in found.text
    assert not found.go_on, "two of them would write into one folder"


def test_on_its_own_machine_a_process_is_looked_up(folder: Folder) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    folder.rank(0, at=NOW)
    path = folder.run / "blackbox/life-0001/rank-00000.start.json"
    me = {"host": socket.gethostname(), "boot": boot, "pid": os.getpid(), "began": machine.began(os.getpid())}
    path.write_text(json.dumps(json.loads(path.read_text()) | me))
    assert folder.told().state == "running", "however long ago it spoke"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"began": "1"}))
    assert folder.told().state == "died", "that number is another process by now"


def test_a_run_without_boxes(folder: Folder) -> None:
    assert "reports that it is running" in folder.told().text
    assert "and left no black boxes to examine: OSError: x" in folder.status("failed", cause="OSError: x").told().text


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_run_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lockstep: doctor {tmp_path / name}: ")
    assert said.count("\n") == 1


def test_a_damaged_checkpoint_is_told(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write("checkpoints/step-000000000100/manifest.json", "{")
    folder.rank(0, end=("failed", "ValueError: x"))
    assert main(["doctor", str(folder.run)]) == 0
    said = capsys.readouterr().out
    assert "There is no checkpoint to resume from" in said
    assert "none of 1 checkpoints is good" in " ".join(said.split())
    assert f"evidence:      {folder.run}/blackbox/life-0001" in said
    assert "continue with" not in said
