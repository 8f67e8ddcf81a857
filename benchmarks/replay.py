"""What the replay memory costs: adding, uniform sampling with the gather, and the bytes that a transition takes.

    python -m benchmarks.replay [--repeats N] [--calls N] [--small]

Cases: CartPole vectors (64 environments, batch 128) and 84x84 frames stacked by four (8 environments, batch 32), each
with n-step 1 and 3. `add` is one step of all environments, `sample` one batch, `sample 8` a batch where eight of a step
are gathered at once, as the loop does. Bytes are counted on the tensors of a full memory. Beside it, interleaved,
Stable-Baselines3's ReplayBuffer (NStepReplayBuffer for n = 3), if `python -m benchmarks.peers --install` was run.

Memories are full before measuring; both return batches of the type that they store, uint8 frames included.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import interleaved, median, table, timed
from benchmarks.rows import write_rows
from benchmarks.venvs import PEERS, Worker
from trainer.build import build_replay
from trainer.config import Config, EnvConfig, ReplayConfig
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.replay import ReplayMemory
from trainer.types import Choice, Timestep

AT_ONCE = 8
"""Batches that one gather serves in `sample 8`."""
DONE = 0.01
"""Share of the steps that end an episode."""


@dataclass(frozen=True)
class Case:
    """A memory and what goes in and out of it."""

    name: str
    obs_shape: tuple[int, ...]
    dtype: str
    stack: int
    envs: int
    batch: int
    capacity: int
    n_step: int


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
    options = parser.parse_args(argv)
    cases = [replace(case, capacity=1_000) if options.small else case for case in CASES]
    torch.set_num_threads(1)
    peer = PEERS["sb3"]
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(Worker(peer)) if peer.is_installed() else None
        rows = [row for case in cases for row in measure(case, worker, options.repeats, options.calls)]
    print(report(rows))
    if worker is None:
        print(f"{peer.name} is absent: python -m benchmarks.peers --install")
    print(f"rows: {write_rows('replay', rows).name}")
    return 0


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
    """The replay that `trainer.build` makes for a case, full, with timesteps to feed it."""

    def __init__(self, case: Case, calls: int) -> None:
        self.case, self.calls = case, calls
        config = Config(
            env=EnvConfig(num_envs=case.envs),
            replay=ReplayConfig(capacity=case.capacity, batch_size=case.batch, n_step=case.n_step, learning_starts=0),
        )
        spec = EnvSpec("sync", case.obs_shape, getattr(torch, case.dtype), 4, case.stack, "repeat", False)
        device = torch.device("cpu")
        self.memory = build_replay(config, Layout(config, 1, 1, 0), spec, device, torch.float32)
        generator = torch.Generator().manual_seed(0)
        self.timesteps = [_timestep(case, spec.obs_dtype, generator) for _ in range(16)]
        self.choice = Choice(torch.zeros(case.envs, dtype=torch.int64))
        for i in range(self.memory.ring.rows + 8):
            self._add(i)

    def _add(self, i: int) -> None:
        self.memory.add(self.timesteps[i % 16], self.choice, self.timesteps[(i + 1) % 16])

    def add(self) -> None:
        for i in range(self.calls):
            self._add(i)

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
        return bytes_of(self.memory) / self.case.capacity


def _timestep(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Timestep:
    count = case.envs
    obs = (torch.rand(count, *case.obs_shape, generator=generator) * 255).to(dtype)
    never = torch.zeros(count, dtype=torch.bool)
    done = torch.rand(count, generator=generator) < DONE
    return Timestep(obs, torch.ones(count), done, never, never, never, obs)


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


if __name__ == "__main__":
    raise SystemExit(main())
