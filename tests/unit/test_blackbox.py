"""What a rank leaves behind when it ends badly, that it leaves nothing when it ends well, and is never in the way."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.doctor.boxes import read
from trainer.runtime import blackbox
from trainer.runtime.blackbox import Box, lives, next_life, telling
from trainer.runtime.failure import FailureWatch
from trainer.runtime.spans import LAST, Spans

SECRETS = {"NCCL_API_KEY": "1", "SLURM_JWT": "2", "LOCKSTEP_TOKEN": "3", "CUDA_PASSWORD": "4", "HOME": "/root"}
TOLD = {"RANK": "1", "NCCL_DEBUG": "INFO", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackbox, "EVERY", 0.02)


@pytest.fixture
def box(tmp_path: Path, quick: None) -> Iterator[Box]:
    made = Box(tmp_path, 1, 3, FailureWatch(None, 3, False), {"ranks": 4, "envs": 8})
    yield made
    made.discard()


def trained(steps: int) -> Spans:
    """Spans after this many steps."""
    spans = Spans()
    for step in range(1, steps + 1):
        with spans("env"):
            time.sleep(0.001)
        with spans("learn"), spans.exchanging("all-reduce", 400):
            pass
        spans.mark(step)
    return spans


def follow(box: Box, spans: Spans) -> None:
    box.follow(spans, lambda: None, [("here", 1, os.getpid())] * 4, [-1] * 4)


def wait_for(condition: Any) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_living_rank_says_where_it_stands(box: Box) -> None:
    spans = trained(40)
    follow(box, spans)
    with spans("learn"), spans.exchanging("all-gather", 1234):
        wait_for(lambda: (read(box.folder, 3).last.get("exchange") or {}).get("kind") == "all-gather")
    found = read(box.folder, 3)
    wait_for(lambda: read(box.folder, 3).phase == "other")
    assert read(box.folder, 3).step == 40, "what is shorter than before is whole as well"
    assert (found.step, found.phase, found.alive) == (40, "learn/sync", True)
    assert found.last["exchange"]["bytes"] == 1234
    rows = found.last["steps"]
    assert [row["step"] for row in rows] == list(range(40 - LAST + 2, 41))
    for row in rows:
        assert row["env"] >= 1000, "us"
        assert row["env"] + row.get("learn", 0) + row.get("sync", 0) <= row["all"] + 3, "each span alone, and rounding"
    assert "in wait_for" in (box.folder / "rank-00003.stacks.txt").read_text()
    assert found.start["ranks"] == 4
    assert found.last["resident"] > 10e6


def test_an_exchange_that_is_over_is_not_under_way(box: Box) -> None:
    follow(box, trained(2))
    wait_for(lambda: read(box.folder, 3).step == 2)
    assert read(box.folder, 3).last["exchange"] is None


def test_nothing_is_left_by_a_rank_that_ends_well(tmp_path: Path, quick: None) -> None:
    boxes = [Box(tmp_path, 1, rank, FailureWatch(None, rank, False), {}) for rank in range(2)]
    assert len(list((tmp_path / "blackbox" / "life-0001").iterdir())) == 10
    boxes[0].discard()
    assert {path.name[:10] for path in (tmp_path / "blackbox" / "life-0001").iterdir()} == {"rank-00001"}
    boxes[1].discard()
    assert not list(tmp_path.iterdir())


def test_what_was_raised_is_told_with_where_it_came_from(box: Box) -> None:
    spans = trained(5)
    follow(box, spans)
    try:
        with spans("learn"), spans.exchanging("all-reduce", 99):
            raise ArithmeticError("no")
    except ArithmeticError as error:
        box.close("failed", "ArithmeticError: no", error)
    box.close("peer", "too late", None)
    time.sleep(0.1)
    found = read(box.folder, 3)
    assert (found.end["kind"], found.end["cause"], found.end["step"]) == ("failed", "ArithmeticError: no", 5)
    assert found.phase == "learn/sync", "although both spans are closed by now"
    assert found.last["exchange"]["kind"] == "all-reduce"
    assert 'raise ArithmeticError("no")' in found.end["traceback"]
    assert not found.alive


DYING = """
    import os, signal, sys, time
    from pathlib import Path
    from trainer.runtime import blackbox
    from trainer.runtime.failure import FailureWatch
    from trainer.runtime.spans import Spans
    blackbox.EVERY = 0.02
    spans = Spans()
    box = blackbox.Box(Path(sys.argv[1]), 1, 0, FailureWatch(None, 0, False), {})
    box.follow(spans, lambda: "SIGTERM", [("here", 1, os.getpid())], [box.page])
    print(box.page, flush=True)
    for step in range(1, 8):
        spans.mark(step)
    def fall_asleep():
        print("asleep", flush=True)
        time.sleep(0.3 if sys.argv[2:] else 60)
        signal.raise_signal(int(sys.argv[2]))
    with spans("env"):
        fall_asleep()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_rank_that_a_signal_ends(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(DYING), str(tmp_path), str(int(number))]
    folder = tmp_path / "blackbox" / "life-0001"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: process.poll() is not None or read(folder, 0).alive)
        assert process.wait(20) == -number
    found = read(folder, 0)
    assert (found.step, found.phase, found.alive, found.last["asked"]) == (7, "env", False, "SIGTERM")
    assert not found.end
    assert "in fall_asleep" in (folder / "rank-00000.stacks.txt").read_text(), "the stack of a moment before"
    words = {signal.SIGSEGV: "Segmentation fault", signal.SIGABRT: "Aborted", signal.SIGBUS: "Bus error"}
    assert found.fatal == words.get(number, "")
    if number != signal.SIGKILL:
        assert found.crash[0].endswith("in fall_asleep")


def test_another_rank_knows_to_the_step_what_a_dead_one_did(tmp_path: Path, box: Box) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DYING), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        page = int(process.stdout.readline())
        me, there = ("here", 1, os.getpid()), ("here", 1, process.pid)
        box.follow(Spans(), lambda: None, [there, me, me, me], [page, -1, -1, -1])
        assert process.stdout.readline() == "asleep\n"
        assert not box._state()["gone"]
    finally:
        process.kill()
        process.wait()
    assert {"rank": 0, "step": 7, "phase": "env"} in box._state()["gone"]


def test_a_long_silence_of_the_interpreter_leaves_its_stack(box: Box) -> None:
    wait_for(lambda: (box.folder / "rank-00003.stacks.txt").read_text().strip())
    ctypes.PyDLL(None).usleep(1_500_000)  # holds the interpreter's lock all the while
    found = box.folder / "rank-00003.fatal.txt"
    assert "test_a_long_silence_of_the_interpreter" in found.read_text()
    assert read(box.folder, 3).fatal == "", "that is no fatal signal"


def test_a_crash_of_a_forked_process_is_not_the_ranks(box: Box) -> None:
    if (child := os.fork()) == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    os.waitpid(child, 0)
    assert read(box.folder, 3).fatal == ""


@pytest.mark.parametrize("place", ["run", "blackbox"])
def test_where_nothing_can_be_written_there_is_no_box_and_no_error(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run if place == "run" else run / "blackbox").parent.mkdir(exist_ok=True)
    (run if place == "run" else run / "blackbox").write_text("a file")
    assert next_life(run) == 1
    box = Box(run, 1, 0, FailureWatch(None, 0, False), {})
    box.close("failed", "why", ValueError("why"))
    box.discard()
    assert "no black box" in capsys.readouterr().err


def test_a_disk_that_is_full_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.pwrite", full)
    box = Box(tmp_path, 1, 0, FailureWatch(None, 0, False), {})
    box.close("failed", "why")
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_disk_that_becomes_full_and_has_room_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans()
    follow(box, spans)
    with monkeypatch.context() as broken:
        broken.setattr("os.pwrite", full)
        spans.mark(8)
        time.sleep(0.2)
        assert read(box.folder, 3).step in (None, 0)
    wait_for(lambda: read(box.folder, 3).step == 8)


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_disk_that_does_not_answer_holds_nobody_up(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackbox, "_WRITING", 0.3)
    monkeypatch.setattr(blackbox, "_JOIN", 0.1)
    with monkeypatch.context() as stuck:
        stuck.setattr("os.pwrite", lambda *_: time.sleep(2))
        time.sleep(0.1)
        began = time.monotonic()
        box.close("failed", "why")
        assert time.monotonic() - began < 1


def test_old_lives_make_room(tmp_path: Path) -> None:
    for life in range(1, 9):
        assert next_life(tmp_path) == life
        (tmp_path / "blackbox" / f"life-{life:04d}").mkdir(parents=True)
        (tmp_path / "blackbox" / f"life-{life:04d}" / "rank-00000.end.json").write_text("{}")
    assert [number for number, _ in lives(tmp_path)] == [4, 5, 6, 7, 8]


def test_no_secrets_are_written() -> None:
    assert telling({**SECRETS, **TOLD}) == TOLD
    assert telling({"LOCKSTEP_PROXY": "http://me:word@there/x"}) == {"LOCKSTEP_PROXY": "http://***@there/x"}


def test_a_half_written_box_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = tmp_path / "life-0001"
    folder.mkdir()
    (folder / "rank-00000.last.json").write_text('{"at": 12, "st')
    (folder / "rank-00000.start.json").write_text(json.dumps({"at": 5.0, "host": "elsewhere"}))
    found = read(folder, 0)
    assert (found.step, found.phase, found.alive) == (None, "start", False)
