"""Starting real runs as subprocesses, with a deadline that ends all their processes, and their output on failure."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forked import Forked

from trainer.runtime.orphan import die_with_parent

ROOT = Path(__file__).parents[2]
MARK = "LOCKSTEP_TEST_RUN"
QUIET = ("--log.tensorboard", "False", "--log.plot", "False", "--log.video", "False")


@dataclass
class Program:
    """A program with any number of processes, all marked by a variable of their environment."""

    popen: subprocess.Popen[str] | Forked
    said: Path
    mark: str
    deadline: float  # of time.monotonic
    code: int | None = None
    took: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def output(self) -> str:
        return self.said.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.strip()]

    def processes(self) -> dict[int, dict[str, str]]:
        """pid -> environment of every living process of this program."""
        found = {}
        forked = self.popen.sessions if isinstance(self.popen, Forked) else {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                raw = (folder / "environ").read_bytes().decode(errors="replace")
                state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            environ = dict(pair.split("=", 1) for pair in raw.split("\0") if "=" in pair)
            if int(session) in forked:
                environ["RANK"] = str(forked[int(session)])
            elif environ.get(MARK) != self.mark:
                continue
            if state != "Z":
                found[int(folder.name)] = environ
        return found

    def rank_pid(self, rank: int) -> int:
        """The process of a rank (its environment workers are its children, with the same environment)."""
        pids = [pid for pid, environ in self.processes().items() if environ.get("RANK") == str(rank)]
        assert pids, f"no process of rank {rank}\n{self.output}"
        return min(pids)

    def wait(self) -> Program:
        """Wait for the end; at the deadline, end everything and fail."""
        try:
            self.code = self.popen.wait(max(0.1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            alive = {pid: e.get("RANK") for pid, e in self.processes().items()}
            self.kill()
            raise AssertionError(f"still running at the deadline: {alive} (pid: rank)\n{self.output}") from None
        self.took = time.monotonic() - self.began
        return self

    def wait_for(self, condition: Any, what: str) -> None:
        while not condition():
            if self.popen.poll() is not None or time.monotonic() > self.deadline:
                self.kill()
                raise AssertionError(f"ended or timed out before {what}\n{self.output}")
            time.sleep(0.05)

    def kill(self) -> None:
        for _ in range(3):
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)

    def expect(self, code: int) -> Program:
        """Wait; check the exit status and that no process is left over."""
        self.wait()
        assert self.code == code, f"status {self.code}, expected {code}\n{self.output}"
        return self.expect_nothing_left()

    def expect_nothing_left(self, seconds: float = 5.0) -> Program:
        until = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, f"left over: {list(left)}\n{self.output}"
        return self


def command(arguments: Sequence[str], ranks: int, launcher: str) -> list[str]:
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        return [*torchrun, *(("-m", "trainer") if not arguments[0].endswith(".py") else ()), *arguments]
    if launcher.startswith("local"):  # "local K": with K restarts
        restarts = launcher.partition(" ")[2] or "0"
        local = [sys.executable, "-m", "launch", "local", "--ranks", str(ranks), "--max-restarts", restarts]
        return [*local, "--", *arguments]
    if launcher == "forked":  # its ranks are configured by variables, as by torchrun
        return [*arguments, "--ranks", "1"] if arguments[0] == "train" and ranks == 1 else list(arguments)
    if launcher == "python":
        return [sys.executable, *arguments]
    alone = [sys.executable, "-m", "trainer", *arguments]
    if launcher == "alone":  # as many ranks as the arguments say
        return alone
    assert launcher == "spawn"
    return [*alone, "--ranks", str(ranks)]


@contextmanager
def started(
    arguments: Sequence[str],
    folder: Path,
    *,
    ranks: int = 1,
    launcher: str = "spawn",
    deadline: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """Start a run; its output goes into `folder`. Nothing of it is alive after the block."""
    mark = uuid.uuid4().hex
    said = folder / f"said-{mark[:6]}.txt"
    said.touch()
    path = f"{ROOT}:{Path(__file__).parent}"
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    environ |= {MARK: mark, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(env or {})}
    environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    popen = Forked(command(arguments, ranks, launcher), ranks, said, environ) if launcher == "forked" else None
    with said.open("a") as out:
        popen = popen or subprocess.Popen(
            command(arguments, ranks, launcher),
            cwd=ROOT,
            env=environ,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            preexec_fn=functools.partial(die_with_parent, signal.SIGKILL),  # if pytest itself is killed
        )
    program = Program(popen, said, mark, time.monotonic() + deadline)
    try:
        yield program
    finally:
        program.kill()
        popen.wait()


def run(arguments: Sequence[str], folder: Path, *, expect: int = 0, launcher: str = "forked", **options: Any) -> Program:
    """Run to the end and check the exit status."""
    with started(arguments, folder, launcher=launcher, **options) as program:
        return program.expect(expect)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without what depends on the clock."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/") and k != "charts/SPS"} for row in rows]


def checkpoints(run_dir: Path) -> list[Path]:
    """The folders of complete checkpoints, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"))
