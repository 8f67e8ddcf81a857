"""Real runs of the trainer as processes: started, waited for under a deadline, and read from the run folder.

Ranks are started as torchrun starts them, with RANK and the like in their environment, so that each can be put where
it is wanted: here, into a network namespace, or (inside an allocation) next to the process that torchrun started.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from benchmarks.ports import free_port
from benchmarks.scaling_maths import Speed, curve, speed
from trainer.log.jsonl import read_rows
from trainer.runtime.orphan import die_with_parent

ROOT = Path(__file__).parents[1]
QUIET = ("--log.tensorboard", "False", "--log.plot", "False", "--log.video", "False", "--checkpoint.every", "0")
REFUSED = 2
"""Exit status of bad input, which the trainer reports in one line."""
MODULE = ("-m", "trainer")


class RunError(RuntimeError):
    """The run cannot be measured; refused: the trainer rejects this combination."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


@dataclass(frozen=True)
class Place:
    """Where ranks are started: the prefix of a rank's command, and the variables that it needs there."""

    address: str = "127.0.0.1"
    prefix: Callable[[int], tuple[str, ...]] = lambda rank: ()
    variables: Mapping[str, str] | None = None
    nodes: bool = False  # whether every rank counts as a node


class Result(NamedTuple):
    """What a finished run leaves."""

    speed: Speed
    curve: list[tuple[int, float, float]]
    evaluation: float | None
    seconds: float


class Processes:
    """The ranks of one run (inside an allocation: one of them). Nothing of it outlives `kill`."""

    def __init__(self, popens: list[subprocess.Popen[bytes]], said: list[Path]) -> None:
        self.popens, self.said = popens, said

    def wait(self, deadline: float) -> None:
        """Wait for all to end. Raises RunError with the trainer's own words, or at the deadline [s]."""
        ends = time.monotonic() + deadline
        for popen in self.popens:
            try:
                popen.wait(max(0.1, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill()
                raise RunError(f"still running after {deadline:.0f} s") from None
        self.check()

    def check(self) -> None:
        """Raise RunError if any has ended with an error."""
        codes = [popen.poll() for popen in self.popens]
        if any(codes):
            raise RunError(self.last_words(), refused=REFUSED in codes)

    def last_words(self) -> str:
        lines = [line for path in self.said for line in path.read_text(errors="replace").splitlines() if line.strip()]
        ours = [line.removeprefix("lockstep: ") for line in lines if line.startswith("lockstep: ")]
        causes = [line for line in ours if "stops because of" not in line]
        return (causes or ours or lines or ["it printed nothing"])[-1]

    def kill(self) -> None:
        for popen in self.popens:
            if popen.poll() is None:
                popen.send_signal(signal.SIGKILL)
        for popen in self.popens:
            popen.wait()


def leave_tidily() -> None:
    """Let SIGTERM end this process as an exception does, so that what it started ends as well."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)


@contextmanager
def started(
    arguments: Sequence[str],
    ranks: int,
    folder: Path,
    place: Place | None = None,
    module: Sequence[str] = MODULE,
) -> Iterator[Processes]:
    """Start all ranks of `trainer ARGUMENTS`; their output goes into `folder`."""
    place = place or Place()
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": place.address, "MASTER_PORT": str(free_port())}
    common |= {"LOCAL_WORLD_SIZE": "1" if place.nodes else str(ranks), **(place.variables or {})}
    variables = [{"RANK": str(i), "LOCAL_RANK": "0" if place.nodes else str(i), **common} for i in range(ranks)]
    commands = [[*place.prefix(i), sys.executable, *module, *arguments] for i in range(ranks)]
    with _processes(commands, variables, folder) as processes:
        yield processes


@contextmanager
def started_inside(arguments: Sequence[str], folder: Path, rank: int, port: int) -> Iterator[Processes]:
    """Start this rank's part of a run under torchrun, which sets everything but the port to meet at."""
    variables = {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    with _processes([[sys.executable, *MODULE, *arguments]], [variables], folder, first=rank) as processes:
        yield processes


@contextmanager
def _processes(
    commands: Sequence[Sequence[str]], variables: Sequence[Mapping[str, str]], folder: Path, first: int = 0
) -> Iterator[Processes]:
    folder.mkdir(parents=True, exist_ok=True)
    said = [folder / f"said-{first + i}.txt" for i in range(len(commands))]
    processes = Processes([], said)
    try:
        for command, more, path in zip(commands, variables, said, strict=True):
            with path.open("wb") as out:
                processes.popens.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        preexec_fn=functools.partial(die_with_parent, signal.SIGKILL),
                    )
                )
        yield processes
    finally:
        processes.kill()


def read(run: Path) -> Result:
    """Read a finished run. Raises RunError where it cannot be measured."""
    rows = read_rows(run / "metrics.jsonl")
    try:
        results: dict[str, Any] = json.loads((run / "results.json").read_text())
        return Result(speed(rows), curve(rows), results.get("evaluation", {}).get("mean"), results["seconds"])
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from None
