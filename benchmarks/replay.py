"""What the replay memory costs: adding, sampling with the gather, priorities, and the bytes that a transition takes.

    python -m benchmarks.replay [--repeats N] [--calls N] [--small] [--work uniform prioritized]
    python -m benchmarks.replay --install

Uniform: CartPole vectors (64 environments, batch 128) and 84x84 frames stacked by four (8 environments, batch 32), each
with n-step 1 and 3. `add` is one step of all environments, `sample` one batch, `sample 8` a batch where eight of a step
are gathered at once, as in the loop. Bytes are counted on the tensors of a full memory. Compared, interleaved, with
cpprb and TorchRL (n = 1), and Stable-Baselines3's ReplayBuffer (NStepReplayBuffer for n = 3).

Prioritized: a million vectors (64 environments); `sample + update` draws 256 with all that belongs to them and gives
them new priorities. Compared, interleaved, with cpprb and TorchRL. See benchmarks/priorities.py.

Ours is measured with its defaults, and as compiled graphs (--runtime.compile). Peers take part if `--install` was run
(which also compiles TorchRL's tree, from the sources in its own wheel, if the wheel was built for another torch).
Memories are full before measuring; all return batches of the type that they store, uint8 frames included. One thread
each, and CPU time on all sides, so that other load on the machine counts little.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import priorities
from benchmarks.cases import Case, Filled
from benchmarks.harness import cpu_time, interleaved, median, spread, table
from benchmarks.peers.venvs import PEERS, Worker
from benchmarks.rows import write_rows
from trainer.replay import ReplayMemory

EAGER, COMPILED = "lockstep", "lockstep, compiled"
HOMES_OF = {"sb3": "sb3", "cpprb": "replay", "torchrl": "replay"}
"""Peer -> the environment in which it answers."""
HOMES = tuple(dict.fromkeys(HOMES_OF.values()))
LIMIT = 1.0
"""A peer has to take at least this many times our compiled time."""
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
    parser.add_argument("--eager", action="store_true", help="leave out our compiled graphs")
    parser.add_argument("--install", action="store_true", help="only create the peers' environments")
    options = parser.parse_args(argv)
    if options.install:
        for name in HOMES:
            PEERS[name].install()
        return 0
    torch.set_num_threads(1)
    rows = []
    with contextlib.ExitStack() as stack:
        there = {name: stack.enter_context(Worker(PEERS[name])) for name in HOMES if PEERS[name].is_installed()}
        for name in options.work:
            work = WORKS[name]
            for case in work.cases:
                wanted = replace(case, capacity=1_000) if options.small else case
                peers = {who: there[HOMES_OF[who]] for who in work.peers(case) if HOMES_OF[who] in there}
                ways = (EAGER,) if options.eager else (EAGER, COMPILED)
                rows += measure(name, wanted, peers, ways, options.repeats, options.calls)
    print(report(rows))
    for name in sorted(set(HOMES) - set(there)):
        print(f"{name} is absent: python -m benchmarks.replay --install")
    print(f"rows: {write_rows('replay', rows).name}")
    return 0 if all(row.get("pass", True) for row in rows) else 1


def measure(
    name: str, case: Case, peers: dict[str, Worker], ways: Sequence[str], repeats: int, calls: int
) -> list[dict[str, Any]]:
    """Return one row for each way of ours, and one for each peer; the limit is for the last way."""
    work = WORKS[name]
    ours = {way: work.ours(case, calls, compiled=way == COMPILED) for way in ways}
    each: dict[str, Callable[[], float]] = {
        f"{who}: {part}": functools.partial(cpu_time, getattr(mine, part))
        for who, mine in ours.items()
        for part in mine.parts
    }
    theirs: dict[str, list[dict[str, float]]] = {who: [] for who in peers}

    def ask(who: str) -> float:
        theirs[who].append(peers[who].ask(name, who=who, case=asdict(case), calls=calls))
        return 0.0

    each |= {who: functools.partial(ask, who) for who in peers}
    interleaved(each, 1)  # fills the peers' memories, warms up all
    for answers in theirs.values():
        answers.clear()
    took = interleaved(each, repeats)
    fixed = asdict(case) | {"work": name, "calls": calls, "repeats": repeats, "alpha": priorities.ALPHA, "threads": 1}
    rows = []
    for who, mine in ours.items():
        us = {part: 1e6 * median(took[f"{who}: {part}"]) / calls for part in mine.parts}
        rows.append(fixed | {"who": who, "us": us, "bytes_per_transition": bytes_of(mine.memory) / case.capacity})
    for who, answers in theirs.items():
        parts = [part for part in answers[0] if part != "bytes_per_transition"]
        us = {part: 1e6 * median([answer[part] for answer in answers]) / calls for part in parts}
        row = {"who": who, "peer_versions": peers[who].ask("versions"), "us": us}
        row |= {name: value for name, value in answers[0].items() if name == "bytes_per_transition"}
        for other in ours:
            pairs = zip(answers, took[f"{other}: {work.part}"], strict=True)
            ratios = [answer[work.part] / mine for answer, mine in pairs]
            row |= {f"to {other}": median(ratios), f"to {other}, spread": [min(ratios), max(ratios)]}
        row |= {"limit": LIMIT, "pass": row[f"to {ways[-1]}"] >= LIMIT}
        rows.append(fixed | row)
    return rows


class Ours:
    """A full memory, asked `calls` times."""

    parts = ("add", "sample", "sample_many")

    def __init__(self, case: Case, calls: int, *, compiled: bool) -> None:
        self.filled, self.calls = Filled(case, compiled=(1, AT_ONCE) if compiled else ()), calls
        self.memory = self.filled.memory

    def add(self) -> None:
        for i in range(self.calls):
            self.filled.add(i)

    def sample(self) -> None:
        self._sample(1, self.calls)

    def sample_many(self) -> None:
        """Draw as many batches, in groups: the time of `calls` batches is measured."""
        self._sample(AT_ONCE, -(-self.calls // AT_ONCE))

    def _sample(self, at_once: int, times: int) -> None:
        self.memory.updates = lambda step: at_once
        for step in range(times):
            for _ in self.memory.batches(step):
                pass


def bytes_of(memory: ReplayMemory) -> int:
    """Return the bytes of every tensor that the ring holds."""
    held: Sequence[object] = list(vars(memory.ring).values())
    return sum(t.numel() * t.element_size() for t in held if isinstance(t, Tensor))


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = []
    for row in rows:
        us = row["us"]
        parts = [f"{us[part]:.0f}" if part in us else "-" for part in ("add", "sample", "sample_many", "cycle", "tree")]
        size = f"{row['bytes_per_transition']:,.0f}" if "bytes_per_transition" in row else "-"
        against = [
            f"{row[f'to {who}']:.2f} ({spread(row[f'to {who}, spread'])})" if f"to {who}" in row else "-"
            for who in (EAGER, COMPILED)
        ]
        lines.append((f"{row['name']}: {row['who']}", *parts, size, *against))
    names = ("add", "sample", f"sample {AT_ONCE}", "sample + update", "tree")
    header = ("us per call", *names, "bytes", "to ours", "to compiled")
    return table(header, lines)


class Work(NamedTuple):
    """What is measured: the cases, our memory, and the part that the limit is for."""

    cases: Sequence[Case]
    ours: type[Ours] | type[priorities.Ours]
    part: str

    def peers(self, case: Case) -> tuple[str, ...]:
        """Return the peers that can do this: not all combine several environments with n-step returns."""
        return ("sb3",) if case.n_step > 1 else tuple(HOMES_OF) if self.part == "sample" else ("cpprb", "torchrl")


WORKS = {"uniform": Work(CASES, Ours, "sample"), "prioritized": Work((priorities.CASE,), priorities.Ours, "cycle")}


if __name__ == "__main__":
    raise SystemExit(main())
