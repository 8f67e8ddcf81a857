"""A race: our env steps/s against other trainers', on the same machine, in the same minutes, with the same settings.

    python -m benchmarks.peers [--work cartpole|pong] [--peers NAME ...] [--envs N ...] [--repeats N] [--solve SEEDS]
    python -m benchmarks.peers --install        only makes the peers' environments

`cartpole` is CleanRL's setting: MLP 120-84, batch 128, one update per 10 env steps, Adam 2.5e-4, memory 10,000, target
every 500 env steps. `pong` is Atari's: Nature CNN, batch 32, one update per 4 env steps, frame skip 4. Each trainer has
1, 8 and 64 (32) environments at the same replay ratio. docs/performance.md says what is fair about it, and what is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.harness import cartpole, median, spread, table
from benchmarks.peers.venvs import PEERS, Worker
from benchmarks.rows import write_rows

OURS = ("lockstep", "lockstep-tensors", "lockstep-bfloat16")
"""The second steps environments written in PyTorch, in the graph of a compiled run (--env.backend torch); the third
computes products in bfloat16 (--runtime.dtype), which no peer does."""
ENVS = {"cartpole": (1, 8, 64), "pong": (1, 8, 32)}
CANNOT = {
    ("cleanrl", "cartpole", 8): "its dqn.py has one environment",
    ("cleanrl", "cartpole", 64): "its dqn.py has one environment",
    ("cleanrl", "pong"): "the dqn_atari.py of its wheel needs an ale-py of 2022",
    ("jax", "pong"): "there is no Atari in JAX",
    ("lockstep-tensors", "pong"): "there is no Atari written in PyTorch",
    ("lockstep-bfloat16", "cartpole"): "its layers are too small to gain by it",
    ("tianshou", "pong"): "its Atari extra needs ale-py < 0.9",
    ("torchrl", "pong"): "not set up here",
    ("rllib", "pong"): "not set up here",
}
"""(peer, work) or (peer, work, environments) -> why it is not in the race."""
PASSES = ((*OURS, "sb3", "cleanrl", "tianshou", "torchrl", "jax"), ("lockstep", "rllib"))
"""Who runs in turn with whom: RLlib's servers take time from others even while idle."""
SLOW = "rllib"
"""Being faster than this one alone is no win."""
OUTSIDE = ("jax",)
"""References from outside PyTorch."""
LIMITS = {"cartpole": {64: 6.0, 1: 2.5}, "pong": {8: 2.0}}
"""By our number of environments: at least how many times as fast as the fastest PyTorch peer at its best number."""
SOLVED, SOLVED_EPSILON, LIMIT = {"cartpole": 195.0}, 0.05, 180.0  # mean of 20 training episodes; [s]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=sorted(ENVS), default="cartpole")
    parser.add_argument("--peers", nargs="+", choices=sorted({who for each in PASSES for who in each}))
    parser.add_argument("--envs", nargs="+", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--solve", type=int, default=0, metavar="SEEDS", help="also the time until a return is reached")
    parser.add_argument("--install", action="store_true", help="only make the peers' environments")
    own = parser.parse_args(argv)
    passes = [[who for who in each if who in OURS or who in (own.peers or each)] for each in PASSES]
    passes = [each for each in passes if not set(OURS).issuperset(each)]
    for who in {who for each in passes for who in each}:
        PEERS[who].install()
    if own.install:
        return 0
    rows = []
    for names in passes:
        cases = [(who, n) for who in names for n in own.envs or ENVS[own.work] if runs(who, own.work, n)]
        if all(who in OURS for who, _ in cases):
            continue
        found = measure(own.work, cases, own.repeats, own.seconds, own.solve)
        print(f"rows: {write_rows('peers', found).name}", file=sys.stderr)
        rows += found
    print(report(own.work, rows))
    return 0 if all(row["pass"] for row in rows if "pass" in row) else 1


def runs(who: str, work: str, envs: int) -> bool:
    """Whether a peer is in the race with this many environments."""
    return (who, work) not in CANNOT and (who, work, envs) not in CANNOT


def measure(
    work: str, cases: Sequence[tuple[str, int]], repeats: int, seconds: float, seeds: int
) -> list[dict[str, Any]]:
    """Return one row for each trainer and number of environments, measured in turn; each in a process of its own."""
    epsilon = cartpole().policy.epsilon_start
    told: dict[tuple[str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    solved: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        workers = {case: stack.enter_context(Worker(PEERS[case[0]])) for case in cases}
        versions = {case: worker.ask("versions") for case, worker in workers.items()}
        for repeat in range(-1, repeats):  # the first sets up and warms up
            for case in cases:
                span = seconds if repeat >= 0 else 0.5
                answer = workers[case].ask("train", work=work, envs=case[1], seconds=span, epsilon=epsilon)
                if repeat >= 0:
                    told[case].append(answer)
                rate = f"{answer['env_steps'] / answer['seconds']:,.0f} env steps/s"
                turn = f"repeat {repeat + 1} of {repeats}" if repeat >= 0 else "warm-up"
                print(f"{turn}: {case[0]}, {case[1]} envs: {rate}", file=sys.stderr, flush=True)
        for who in dict.fromkeys(who for who, _ in cases) if seeds and work in SOLVED else ():
            best = max((case for case in cases if case[0] == who), key=lambda case: median(rates(told[case])))
            goal = {"epsilon": SOLVED_EPSILON, "target": SOLVED[work], "limit": LIMIT}
            solved[best] = [
                workers[best].ask("solve", work=work, envs=best[1], seed=seed, **goal) for seed in range(1, seeds + 1)
            ]
    fastest = (
        [max(rates(told[case])[i] for case in cases if pytorch(case[0])) for i in range(repeats)]
        if any(pytorch(who) for who, _ in cases)
        else None
    )
    rows, names = [], {who for who, _ in cases}
    for case in cases:
        who, envs = case
        mine = rates(told[case])
        row = {
            "work": work,
            "who": who,
            "envs": envs,
            "peer_versions": versions[case],
            "epsilon": epsilon,
            "seconds": seconds,
            "env_steps_per_s": mine,
            "updates_per_s": [answer["updates"] / answer["seconds"] for answer in told[case]],
            "peak_mb": max(answer["peak_mb"] for answer in told[case]),
        }
        if who in OURS and fastest:
            ratios = [one / other for one, other in zip(mine, fastest, strict=True)]
            row |= {"to_fastest_peer": median(ratios), "to_fastest_peer_spread": [min(ratios), max(ratios)]}
            if (limit := LIMITS[work].get(envs)) is not None and SLOW not in names:
                row |= {"limit": limit, "pass": median(ratios) >= limit}
        if case in solved:
            row["solved"] = solved[case]
        rows.append(row)
    return rows


def rates(answers: Sequence[dict[str, Any]]) -> list[float]:
    """Return the env steps/s of each repeat."""
    return [answer["env_steps"] / answer["seconds"] for answer in answers]


def pytorch(who: str) -> bool:
    """Whether this is a peer that uses PyTorch as well."""
    return who not in OURS and who not in OUTSIDE


def report(work: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = []
    for row in rows:
        to_peer = row.get("to_fastest_peer")
        verdict = {True: " pass", False: " FAIL", None: ""}[row.get("pass")]
        solved = row.get("solved", [])
        took = [f"{one['seconds']:.0f}" if one["solved"] else f">{one['seconds']:.0f}" for one in solved]
        lines.append(
            (
                row["who"],
                row["envs"],
                f"{median(row['env_steps_per_s']):,.0f}",
                spread(row["env_steps_per_s"], 0),
                f"{median(row['updates_per_s']):,.0f}",
                f"{row['peak_mb']:,.0f}",
                "" if to_peer is None else f"{to_peer:.2f} ({spread(row['to_fastest_peer_spread'])}){verdict}",
                " ".join(took),
            )
        )
    header = (work, "envs", "env steps/s", "spread", "updates/s", "peak MB", "to the fastest peer", "solved after s")
    absent = [f"not in the race: {key[0]} ({why})" for key, why in CANNOT.items() if key[1] == work]
    return "\n".join((table(header, lines), *dict.fromkeys(absent)))


if __name__ == "__main__":
    raise SystemExit(main())
