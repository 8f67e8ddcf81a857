"""Checkpoints while training: how long the loop pauses, what is written, how much memory it takes.

    python -m benchmarks.checkpoint [--megabytes 400] [--repeats 5] [--short]

A replay of 84x84 frames stacked by four (8 environments) with priorities, and weights and moments of the Nature CNN, as
one rank has them. In turn: a full save that training waits for, and what a run does, a save in a background thread that
writes what changed since the last checkpoint but one (`trainer.checkpoint.Saver`). Between two saves `--env-steps` are
added, by default a minute's at 100 per second.

Meanwhile the loop adds, samples and gives new priorities, `--pace` times a second. `longest step` is the longest of
these while a checkpoint is being written, next to that of as many steps without one: what the thread costs training
besides the pause. `memory` is how far the resident set of the process grew during a save, less the copies of small
tensors, which are counted separately; training allocates meanwhile, so it scatters by a few MB. The last checkpoint is
read back and compared bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case, Filled
from benchmarks.harness import median, spread, table
from benchmarks.rows import write_rows
from trainer import checkpoint
from trainer.checkpoint import codec
from trainer.checkpoint.disk import Disk
from trainer.checkpoint.manifest import FileRecord
from trainer.config import ReplayConfig
from trainer.types import State, UpdateOut

LIMIT = 50.0
"""Pause of the loop [ms]."""
ROW = 84 * 84 + 17
"""Bytes of a stored transition, without its priority."""
ENVS, BATCH = 8, 32
WEIGHTS = 1_693_362
"""Of the Nature CNN with 18 actions; its target network and each of two moments have as many."""


class Alone:
    """A process group of one."""

    rank, world_size = 0, 1

    def gather(self, obj: Any) -> list[Any]:
        return [obj]


@dataclass(frozen=True)
class CountingDisk(Disk):
    """A disk that notes how many bytes are written."""

    sizes: list[int] = field(default_factory=list)

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> FileRecord:
        record = super().write(path, chunks)
        self.sizes.append(record.size)
        return record


class Trainer:
    """A full replay memory and the rest of a rank's state, with the part of a training step that touches them."""

    def __init__(self, megabytes: float) -> None:
        capacity = int(megabytes * 1e6 / ROW)
        case = Case("frames 84x84x4", (4, 84, 84), "uint8", 4, ENVS, BATCH, capacity, 1)
        replay = ReplayConfig(kind="prioritized", capacity=capacity, batch_size=BATCH, learning_starts=0)
        self.filled = Filled(case, replay)
        self.memory = self.filled.memory
        self.memory.updates = lambda step: 1
        self.replicated: State = {name: torch.randn(WEIGHTS) for name in ("net", "target_net", "exp_avg", "exp_avg_sq")}
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        for batch in self.memory.batches(self.steps):
            error = torch.rand(BATCH)
            self.memory.reprioritize(batch.index, UpdateOut(error, error.max()))
        self.filled.add(self.steps)

    def shards(self, *, moving: bool) -> dict[int, State]:
        state = self.memory.snapshot() if moving else self.memory.state_dict()
        return {int(shard): {"replay": part} for shard, part in state.items()}


def main(argv: Sequence[str] | None = None) -> int:
    asks = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asks.add_argument("--megabytes", type=float, default=400.0, help="of replay")
    asks.add_argument("--env-steps", type=int, default=6_000, help="between two saves")
    asks.add_argument(
        "--pace", type=float, default=50.0, help="steps of all environments a second while one is written"
    )
    asks.add_argument("--repeats", type=int, default=5)
    asks.add_argument("--short", action="store_true", help="60 MB and two repeats, for a quick look")
    asks.add_argument("--out", type=Path, help="folder for the row; default: benchmarks/results")
    options = asks.parse_args(argv)
    if options.short:
        options.megabytes, options.env_steps, options.pace, options.repeats = 60.0, 80, 50.0, 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        row = measure(options)
    finally:
        torch.set_num_threads(threads)
    print(report(row))
    print(f"rows: {write_rows('checkpoint', [row], options.out).name}")
    return 0 if row["pass"] and row["read_back"] else 1


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one run of the benchmark."""
    trainer = Trainer(options.megabytes)
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        beside, waited = Path(folder) / "beside", Path(folder) / "waited"
        disk = CountingDisk()
        saver = checkpoint.Saver(beside, Alone(), {}, keep=2, failures=1, warn=told.append, disk=disk)
        numbers: dict[str, list[float]] = {}

        def note(**found: float) -> None:
            for name, value in found.items():
                numbers.setdefault(name, []).append(value)

        for i in range(2 + options.repeats):  # the first two have nothing to refer to
            for _ in range(options.env_steps // ENVS):
                trainer.step()
            found = save_beside(trainer, saver, disk, i + 1, options.pace)
            if i < 2:
                note(first_pause=found["pause"], first_stored=found["stored"], first_memory=found["memory"])
                continue
            note(**found)
            note(**save_waiting(trainer, waited, i + 1))
        expected = copy.deepcopy(trainer.memory.state_dict())
        save_beside(trainer, saver, disk, 100, options.pace)
        same = read_back(beside, expected)
    assert not told, told
    pauses = numbers["pause"]
    fixed = {name: getattr(options, name) for name in ("megabytes", "env_steps", "pace", "repeats")}
    return {
        "name": "checkpoint",
        **fixed,
        "numbers": numbers,
        "pause_ms": median(pauses),
        "ratio": median([full / pause for full, pause in zip(numbers["waited"], pauses, strict=True)]),
        "written_share": median([w / t for w, t in zip(numbers["written"], numbers["total"], strict=True)]),
        "read_back": same,
        "limit_ms": LIMIT,
        "pass": max(pauses + numbers["first_pause"]) <= LIMIT,
    }


def save_beside(
    trainer: Trainer, saver: checkpoint.Saver, disk: CountingDisk, step: int, pace: float
) -> dict[str, float]:
    """Save as a run does and keep training until it is stored; times in ms, sizes in MB."""
    disk.sizes.clear()
    small, _, _ = codec.encode_with_blocks({"all": trainer.replicated, "own": trainer.shards(moving=True)})
    copies = sum(tensor.nbytes for tensor in small.values())
    before = _resident(reset=True)
    began = time.perf_counter()
    saver.begin(step, trainer.replicated, trainer.shards(moving=True))
    pause = time.perf_counter() - began
    during = _steps(trainer, pace, lambda count: saver._worker.busy())
    assert saver.finish()
    stored, memory = time.perf_counter() - began, _peak() - before
    quiet = _steps(trainer, pace, lambda count: count < len(during))
    return {
        "pause": 1e3 * pause,
        "stored": 1e3 * stored,
        "longest": 1e3 * max(during, default=0.0),
        "longest_without": 1e3 * max(quiet, default=0.0),
        "mean": 1e3 * sum(during) / max(1, len(during)),
        "mean_without": 1e3 * sum(quiet) / max(1, len(quiet)),
        "written": sum(disk.sizes) / 1e6,
        "total": sum(path.stat().st_size for path in (saver.root / f"step-{step:012d}").iterdir()) / 1e6,
        "copies": copies / 1e6,
        "memory": (memory - copies) / 1e6,
    }


def save_waiting(trainer: Trainer, root: Path, step: int) -> dict[str, float]:
    """Save everything while training waits."""
    began = time.perf_counter()
    checkpoint.save(root, step, trainer.replicated, trainer.shards(moving=False), {}, Alone(), 2)
    return {"waited": 1e3 * (time.perf_counter() - began)}


def read_back(root: Path, expected: State) -> bool:
    """Compare the newest checkpoint with the memory as it was."""
    found = checkpoint.latest(root, warn=print)
    assert found is not None
    replay = checkpoint.load(found, [0]).shards[0]["replay"]
    wanted = expected["0"]
    for name, value in wanted["ring"].items():
        blocks = replay["ring"]["numbers" if name == "slots" else "rows"]
        stored = replay["ring"][name] if name in replay["ring"] else torch.cat([block[name] for block in blocks])
        if not torch.equal(stored, value):
            return False
    return torch.equal(replay["sampler"]["priority"], wanted["sampler"]["priority"])


def _steps(trainer: Trainer, pace: float, more: Any) -> list[float]:
    """Train at `pace` steps per second while `more` is true; return how long each step took [s]."""
    took: list[float] = []
    while more(len(took)):
        began = time.perf_counter()
        trainer.step()
        took.append(time.perf_counter() - began)
        time.sleep(max(0.0, 1 / pace - took[-1]))
    return took


def _resident(*, reset: bool) -> int:
    """Return the resident set [bytes]; with `reset`, its peak is measured from here on (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def report(row: dict[str, Any]) -> str:
    """Return the row as text."""
    numbers = row["numbers"]

    def line(name: str, values: Sequence[float], digits: int) -> tuple[str, str, str]:
        return name, f"{median(values):.{digits}f}", spread(values, digits)

    lines = [
        line("pause of the loop [ms]", numbers["pause"], 1),
        line("  the same, with everything to write [ms]", numbers["first_pause"], 1),
        line("blocking full save [ms]", numbers["waited"], 0),
        line("until stored, while training [ms]", numbers["stored"], 0),
        line("written [MB]", numbers["written"], 1),
        line("  of [MB]", numbers["total"], 1),
        line("copies of small tensors [MB]", numbers["copies"], 1),
        line("additional memory [MB]", numbers["memory"], 1),
        line("  the same, with everything to write [MB]", numbers["first_memory"], 1),
        line("longest step meanwhile [ms]", numbers["longest"], 1),
        line("  without a save [ms]", numbers["longest_without"], 1),
        line("mean step meanwhile [ms]", numbers["mean"], 2),
        line("  without a save [ms]", numbers["mean_without"], 2),
    ]
    verdict = "met" if row["pass"] else "MISSED"
    same = "bit for bit" if row["read_back"] else "NOT what was saved"
    return (
        table((f"{row['megabytes']:.0f} MB of replay", "median", "range"), lines)
        + f"\nevery pause <= {row['limit_ms']:.0f} ms: {verdict}; read back: {same}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
