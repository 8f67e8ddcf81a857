"""What the replay memory costs: adding, sampling with the gather, priorities, and the bytes that a transition takes.

    python -m benchmarks.replay [--repeats N] [--calls N] [--small] [--work uniform prioritized] [--install]

Uniform: CartPole vectors (64 environments, batch 128) and 84x84 frames stacked by four (8 environments, batch 32), each
with n-step 1 and 3. `add` is one step of all environments, `sample` one batch, `sample 8` a batch where eight of a step
are gathered at once, as the loop does. Bytes are counted on the tensors of a full memory. Beside it, interleaved,
Stable-Baselines3's ReplayBuffer (NStepReplayBuffer for n = 3), if `python -m benchmarks.peers --install` was run.

Prioritized: a million vectors (64 environments), `sample + update` draws 256 with all that belongs to them and gives
them new priorities. Beside it, interleaved, cpprb and TorchRL, if `--install` was run (which also compiles TorchRL's
tree, from the sources in its own wheel, where the wheel was built for another torch). See benchmarks/priorities.py.

Memories are full before measuring; both return batches of the type that they store, uint8 frames included.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import priorities
from benchmarks.cases import Case, Filled
from benchmarks.harness import interleaved, median, table, timed
from benchmarks.peers.venvs import PEERS, Worker
from benchmarks.rows import write_rows
from trainer.replay import ReplayMemory

AT_ONCE = 8
"""Batches that one gather serves in `sample 8`."""

CASES = tuple(
    Case(f"{name}, n={n_step}", shape, dtype, stack, envs, batch, capacity, n_step)
    for name, shape, dtype, stack, envs, batch, capacity in (
        ("vectors", (4,), "float32", 1, 64, 128, 100_000),
        ("frames 84x84x4", (4, 84, 84), "uint8", 4, 8, 32, 10_000),
    )
    for n_step in (1, 3)
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200, help="calls in one measurement")
    parser.add_argument("--small", action="store_true", help="memories of 1,000 transitions, for a quick look")
    parser.add_argument("--work", nargs="+", choices=tuple(WORKS), default=tuple(WORKS))
    parser.add_argument("--install", action="store_true", help="only create the environment of cpprb and TorchRL")
    options = parser.parse_args(argv)
    if options.install:
        PEERS["replay"].install()
        return 0
    torch.set_num_threads(1)
    rows = []
    for work in options.work:
        cases, take, tell, peer = WORKS[work]
        with contextlib.ExitStack() as stack:
            worker = stack.enter_context(Worker(PEERS[peer])) if PEERS[peer].is_installed() else None
            for case in cases:
                wanted = replace(case, capacity=1_000) if options.small else case
                rows += take(wanted, worker, options.repeats, options.calls)
        print(tell([row for row in rows if row["name"] in {case.name for case in cases}]))
        if worker is None:
            print(f"{peer} is absent: python -m benchmarks.{'peers' if peer == 'sb3' else 'replay'} --install")
    print(f"rows: {write_rows('replay', rows).name}")
    return 0 if all(row.get("pass", True) for row in rows) else 1


def measure(case: Case, worker: Worker | None, repeats: int, calls: int) -> list[dict[str, Any]]:
    """Return one row of ours and, where there is a worker, one of the peer's."""
    ours = Ours(case, calls)
    parts = ("add", "sample", "sample_many")
    works: dict[str, Callable[[], float]] = {part: functools.partial(timed, getattr(ours, part)) for part in parts}
    theirs: list[dict[str, Any]] = []
    if worker is not None:

        def ask() -> float:
            theirs.append(worker.ask("replay", case=asdict(case), calls=calls))
            return 0.0

        works["peer"] = ask
    interleaved(works, 1)  # fills the peer's memory, warms ours
    theirs.clear()
    took = interleaved(works, repeats)
    fixed = asdict(case) | {"calls": calls, "repeats": repeats}
    us = {part: 1e6 * median(took[part]) / calls for part in parts}
    rows = [fixed | {"who": "lockstep", "us": us, "bytes_per_transition": ours.bytes_per_transition()}]
    if worker is not None:
        us = {part: 1e6 * median([answer[part] for answer in theirs]) / calls for part in ("add", "sample")}
        size = theirs[0]["bytes_per_transition"]
        rows.append(fixed | {"who": "sb3", "us": us, "bytes_per_transition": size})
    return rows


class Ours:
    """A full memory, asked `calls` times."""

    def __init__(self, case: Case, calls: int) -> None:
        self.filled, self.calls = Filled(case), calls
        self.memory = self.filled.memory

    def add(self) -> None:
        for i in range(self.calls):
            self.filled.add(i)

    def sample(self) -> None:
        self._sample(1, self.calls)

    def sample_many(self) -> None:
        """As many batches, in groups: what `calls` batches take is what is measured."""
        self._sample(AT_ONCE, -(-self.calls // AT_ONCE))

    def _sample(self, at_once: int, times: int) -> None:
        self.memory.updates = lambda step: at_once
        for step in range(times):
            for _ in self.memory.batches(step):
                pass

    def bytes_per_transition(self) -> float:
        return bytes_of(self.memory) / self.filled.case.capacity


def bytes_of(memory: ReplayMemory) -> int:
    """Return the bytes of every tensor that the ring holds."""
    held: Sequence[object] = list(vars(memory.ring).values())
    return sum(t.numel() * t.element_size() for t in held if isinstance(t, Tensor))


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows in words."""
    lines = []
    for row in rows:
        us = row["us"]
        many = f"{us['sample_many']:.0f}" if "sample_many" in us else "-"
        size = f"{row['bytes_per_transition']:,.0f}"
        lines.append((f"{row['name']}: {row['who']}", f"{us['add']:.0f}", f"{us['sample']:.0f}", many, size))
    return table(("us per call", "add", "sample", f"sample {AT_ONCE}", "bytes per transition"), lines)


WORKS = {
    "uniform": (CASES, measure, report, "sb3"),
    "prioritized": ((priorities.CASE,), priorities.measure, priorities.report, "replay"),
}
"""What is measured -> cases, who measures and reports, beside which peer."""


if __name__ == "__main__":
    raise SystemExit(main())
