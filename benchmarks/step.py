"""Time per step, split into env, act, replay, learn and sync: what the whole loop costs against its parts alone.

    python -m benchmarks.step [--work cartpole|minatar|atari|toy|PRESET] [--envs N] [--backend B] [--threads N]
                              [--alone] [--compile]

--alone measures the CPU time of one thread instead of wall time: what this costs by itself, whatever the load.
--compile uses graphs for all that can be compiled, and measures like --alone. --threads 1 leaves the other cores to
environments.

A repeat runs the whole loop as `trainer.train` does, with its logging and polls (`whole`), and then each part alone for
as many steps: `env` sends and receives with fixed actions, `act` calls the policy, `learn` samples the same number of
batches and updates on them, `replay` adds one timestep repeatedly, `sync` refreshes the target network as often as the
loop does. `in the loop` is what the run's own spans report.

The limit is on whole / all parts. Where environments step in their own threads (Atari), the loop overlaps them with
learning, and the limit is on whole / the slowest part.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import (
    WORKS,
    cpu_time,
    go,
    interleaved,
    median,
    of_preset,
    open_run,
    spread,
    table,
    timed,
    warm_up,
)
from benchmarks.rows import write_rows
from trainer.config import Config
from trainer.presets import PRESETS
from trainer.run import Run

OVERLAPS = ("atari",)
"""Works whose environments step while the update runs."""
LIMITS = {"cartpole": 1.15, "minatar": 1.15, "atari": 1.1}
"""The most that whole / all parts may be, or whole / the slowest part where they overlap."""
STEPS = {"cartpole": 200, "minatar": 60, "atari": 10, "toy": 50}
"""Steps in one measurement, about a second of the whole loop on a free machine."""
PARTS = ("env", "act", "learn", "replay", "sync")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=(*STEPS, *PRESETS), default="cartpole", metavar="NAME")
    parser.add_argument("--envs", type=int, help="override the number of environments")
    parser.add_argument("--backend", help="override --env.backend")
    parser.add_argument("--threads", type=int, help="threads that learn; by default as many as the run would take")
    parser.add_argument("--alone", action="store_true", help="one thread, its CPU time")
    parser.add_argument("--compile", action="store_true", help="use compiled graphs; implies --alone")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, help="steps in one measurement")
    options = parser.parse_args(argv)
    config = of_preset(options.work)
    env, backend = config.env, options.backend or config.env.backend
    config = replace(config, env=replace(env, num_envs=options.envs or env.num_envs, backend=backend))
    alone = options.alone or options.compile
    runtime = replace(config.runtime, threads=options.threads or config.runtime.threads)
    if alone:
        runtime = replace(runtime, device="cpu", threads=1, compile=options.compile)
    config = replace(config, runtime=runtime)
    row = measure(options.work, options.repeats, options.steps or STEPS.get(options.work, 100), config, alone=alone)
    print(report(row))
    print(f"rows: {write_rows('step', [row]).name}")
    return 0 if row["pass"] is not False else 1


def measure(
    work: str, repeats: int, steps: int, config: Config | None = None, *, alone: bool = False
) -> dict[str, Any]:
    """Return one row: milliseconds per step of the whole loop and of each part, and the ratio that is limited.

    config: other settings than those of the work; alone: measure CPU time.
    """
    clock = cpu_time if alone else timed
    with tempfile.TemporaryDirectory() as folder, open_run(config or WORKS[work](), Path(folder)) as run:
        warm_up(run, steps)
        parts = Parts(run, steps)
        inside: list[dict[str, float]] = []

        def whole() -> float:
            with spans_of(run) as seconds:
                took = clock(lambda: go(run, steps))
            inside.append({name: value / took for name, value in seconds.items()})
            return took

        each = {name: functools.partial(clock, getattr(parts, name)) for name in PARTS}
        took = interleaved({"whole": whole} | each, repeats)
        num_envs, threads, device = run.config.env.num_envs, torch.get_num_threads(), run.timestep.obs.device.type
        updates = sum(run.layout.updates(step) for step in parts.range()) / steps
    bound = max if work in OVERLAPS else sum
    ratios = [w / bound(parts) for w, *parts in zip(took["whole"], *(took[name] for name in PARTS), strict=True)]
    shares = {name: sum(one.get(name, 0.0) for one in inside) / repeats for name in PARTS}
    limit = LIMITS.get(work)
    return {
        "work": work,
        "envs": num_envs,
        "backend": run.config.env.backend,
        "updates_per_step": updates,
        "device": device,
        "compiled": run.config.runtime.compile is not False,
        "clock": "cpu" if alone else "wall",
        "threads": threads,
        "steps": steps,
        "repeats": repeats,
        "ms": {name: 1e3 * median(values) / steps for name, values in took.items()},
        "share_in_loop": shares | {"other": 1 - sum(shares.values())},
        "env_steps_per_s": num_envs * steps / median(took["whole"]),
        "to": "slowest part" if work in OVERLAPS else "all parts",
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "limit": limit,
        "pass": None if limit is None else median(ratios) <= limit,
    }


class Parts:
    """Each part of the loop alone, for as many steps as the last ones of the run."""

    def __init__(self, run: Run, steps: int) -> None:
        self.run, self.steps = run, steps
        device = run.timestep.obs.device
        shape = (min(steps, 64), run.envs.num_envs)
        self.actions = torch.randint(run.envs.num_actions, shape, generator=torch.Generator().manual_seed(0)).to(device)

    def range(self) -> range:
        return range(self.run.step - self.steps + 1, self.run.step + 1)

    def env(self) -> None:
        run = self.run
        for step in range(self.steps):
            run.envs.send(self.actions[step % len(self.actions)])
            run.timestep = run.envs.recv()

    def act(self) -> None:
        for step in self.range():
            self.run.policy.act(self.run.timestep, self.run.layout.rates(step))

    def learn(self) -> None:
        run = self.run
        for step in self.range():
            for batch in run.replay.batches(step):
                result = run.learner.update(batch, run.layout.rates(step))
                run.replay.reprioritize(batch.index, result)
        run.learner.drain()

    def replay(self) -> None:
        run = self.run
        choice = run.policy.act(run.timestep, run.layout.rates(run.step))
        for _ in range(self.steps):
            run.replay.add(run.timestep, choice, run.timestep)

    def sync(self) -> None:
        run = self.run
        for step in self.range():
            if run.layout.due(step, run.config.target.every):
                run.sync.refresh(run.config.target.tau)


@contextmanager
def spans_of(run: Run) -> Iterator[dict[str, float]]:
    """Collect the seconds per span that the run drains into its log."""
    seconds: dict[str, float] = {}
    drain = run.spans.drain

    def tally() -> tuple[float, dict[str, float]]:
        total, shares = drain()
        for name, share in shares.items():
            seconds[name] = seconds.get(name, 0.0) + share * total
        return total, shares

    drain()
    run.spans.drain = tally  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        run.spans.drain = drain  # type: ignore[method-assign]


def report(row: dict[str, Any]) -> str:
    """Return the row as text."""
    ms, inside = row["ms"], row["share_in_loop"]
    lines = [
        (name, f"{ms[name]:.3f}" if name in ms else "-", f"{share * ms['whole']:.3f}", f"{share:.0%}")
        for name, share in inside.items()
    ]
    lines.append(("whole", f"{ms['whole']:.3f}", f"{ms['whole']:.3f}", "100%"))
    verdict = {True: "pass", False: "FAIL", None: "no limit"}[row["pass"]]
    return "\n".join(
        (
            f"{row['work']}: {row['envs']} envs, {row['updates_per_step']:.2f} updates a step, {row['device']}, "
            f"{row['threads']} thread(s), {row['env_steps_per_s']:,.0f} env steps/s",
            table(("ms per step", "alone", "in the loop", "share"), lines),
            f"whole / {row['to']} = {row['ratio']:.3f} ({spread(row['ratio_spread'])} over "
            f"{row['repeats']} repeats), limit {row['limit']}: {verdict}",
        )
    )


if __name__ == "__main__":
    raise SystemExit(main())
