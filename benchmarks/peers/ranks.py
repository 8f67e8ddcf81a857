"""The race on two cores: one training run, shared by two of our ranks and by two RLlib learners, against one each.

    python -m benchmarks.peers.ranks [--repeats N] [--seconds S] [--env-steps N]

CleanRL's CartPole settings with 64 environments, batch 128 and an update per 10 env steps, over all ranks together; one
thread per rank. Ours are real runs, read from their own log; RLlib's are measured as in `benchmarks.peers`, with its
one process of environments next to its learners. They run in turn, each ending before the next starts. None of the
other peers trains DQN on more than one rank: see CANNOT.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import cartpole, median, spread, table
from benchmarks.peers.venvs import PEERS, Worker
from benchmarks.rows import write_rows
from benchmarks.scaling_runs import QUIET, read, started

CANNOT = {
    "sb3": "one process",
    "cleanrl": "one process",
    "tianshou": "one process, which may copy its network to several GPUs",
    "torchrl": "no trainer of its own for it; its distributed examples collect, and learn on one",
    "jax": "ours, and written for one device",
}
"""Peer of `benchmarks.peers` -> why it is not in this race."""
ENVS, RANKS = 64, (1, 2)
DEADLINE = 300.0
"""After this a run of ours is ended and reported as failed [s]."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one measurement of RLlib")
    parser.add_argument("--env-steps", type=int, default=200_000, help="of one run of ours")
    own = parser.parse_args(argv)
    PEERS["rllib"].install()
    rates: dict[tuple[str, int], list[float]] = {(who, n): [] for who in ("lockstep", "rllib") for n in RANKS}
    for repeat in range(own.repeats):
        for who, ranks in rates:
            rate = ours(ranks, own.env_steps, repeat + 1) if who == "lockstep" else rllib(ranks, own.seconds)
            rates[who, ranks].append(rate)
            print(
                f"{repeat + 1} of {own.repeats}: {who}, {ranks}: {rate:,.0f} env steps/s", file=sys.stderr, flush=True
            )
    rows = [row(who, ranks, rates) for who, ranks in rates]
    print(report(rows))
    print(f"rows: {write_rows('peers_ranks', rows).name}")
    return 0


def ours(ranks: int, env_steps: int, seed: int) -> float:
    """Return env steps/s of a run on `ranks` ranks, once it learns."""
    epsilon = str(cartpole().policy.epsilon_start)
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            *("train", "cartpole-cleanrl", "--env.num_envs", str(ENVS), "--total_env_steps", str(env_steps)),
            *("--policy.epsilon_start", epsilon, "--policy.epsilon_end", epsilon, "--seed", str(seed)),
            *("--runtime.device", "cpu", "--runtime.threads", "1", "--runtime.compile", "True"),
            *("--log.every", str(env_steps // 20), "--log.dir", folder, "--log.name", "run", *QUIET),
            *("--eval.every", "0", "--eval.episodes", "0"),
        ]
        with started(flags, ranks, Path(folder) / "said") as processes:
            processes.wait(DEADLINE)
        return read(Path(folder) / "run").speed.env_steps_per_s


def rllib(learners: int, seconds: float) -> float:
    """Return env steps/s of RLlib, once it learns."""
    epsilon = cartpole().policy.epsilon_start
    with Worker(PEERS["rllib"]) as worker:
        for span in (0.5, seconds):  # the first sets up and warms up
            told = worker.ask("train", work=f"cartpole, {learners}", envs=ENVS, seconds=span, epsilon=epsilon)
    return float(told["env_steps"] / told["seconds"])


def row(who: str, ranks: int, rates: dict[tuple[str, int], list[float]]) -> dict[str, Any]:
    """Return one row; efficiency is against one rank, the ratio against RLlib's better one, each within a repeat."""
    mine, alone = rates[who, ranks], rates[who, RANKS[0]]
    best = [max(each) for each in zip(*(rates["rllib", n] for n in RANKS), strict=True)]
    return {
        "who": who,
        "ranks": ranks,
        "envs": ENVS,
        "env_steps_per_s": mine,
        "efficiency": [one / (ranks * other) for one, other in zip(mine, alone, strict=True)],
        "to_rllib": [one / other for one, other in zip(mine, best, strict=True)],
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [
        (
            one["who"],
            one["ranks"],
            f"{median(one['env_steps_per_s']):,.0f} ({spread(one['env_steps_per_s'], 0)})",
            f"{median(one['efficiency']):.2f} ({spread(one['efficiency'])})",
            f"{median(one['to_rllib']):.1f} ({spread(one['to_rllib'])})",
        )
        for one in rows
    ]
    absent = [f"not in the race: {who} ({why})" for who, why in CANNOT.items()]
    return "\n".join((table(("", "ranks", "env steps/s", "efficiency", "to RLlib at its best"), lines), *absent))


if __name__ == "__main__":
    raise SystemExit(main())
