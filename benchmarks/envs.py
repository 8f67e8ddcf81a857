"""Environment steps per second of each backend, with random actions and nothing else going on.

    python -m benchmarks.envs [--env ID ...] [--num-envs N ...] [--seconds S] [--repeats R] [--threads T]

An env step is one environment stepped once (in Atari 4 frames). Medians; the rows go to results/envs.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.rows import write_rows
from trainer.envs import Backend, make_backend

CASES: tuple[tuple[str, str], ...] = (  # backend, environment
    ("sync", "CartPole-v1"),
    ("async", "CartPole-v1"),
    ("native", "CartPole-v1"),
    ("minatar", "MinAtar/Breakout-v1"),
    ("ale", "ALE/Breakout-v5"),
    ("toy", "toy/Catch"),
)


def measure(backend: Backend, seconds: float, repeats: int) -> list[float]:
    """Return env steps/s of each repeat; the first steps, which build caches, are not counted."""
    actions = torch.randint(backend.num_actions, (256, backend.num_envs), generator=torch.Generator().manual_seed(0))
    backend.reset()
    step = 0

    def play(until: float, at_least: int) -> int:
        nonlocal step
        first = step
        while step - first < at_least or time.perf_counter() < until:
            backend.send(actions[step % len(actions)])
            backend.recv()
            step += 1
        return step - first

    play(0.0, at_least=32)
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        steps = play(began + seconds, at_least=1)
        rates.append(steps * backend.num_envs / (time.perf_counter() - began))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", help="ids; default: one of each backend")
    parser.add_argument("--num-envs", nargs="+", type=int, default=[8, 64], help="environments of the vector env")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="ALE: emulator threads; 0: its own choice")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = CASES
    if args.env:
        known = {env_id for _, env_id in CASES}
        cases = tuple(case for case in CASES if case[1] in args.env)
        cases += tuple(("auto", env_id) for env_id in args.env if env_id not in known)
    rows: list[dict[str, Any]] = []
    print(f"{'environment':<22}{'backend':<10}{'envs':>6}{'env steps/s':>14}{'lowest':>12}{'highest':>12}")
    for kind, env_id in cases:
        for num_envs in args.num_envs:
            backend = make_backend(kind, env_id, num_envs, list(range(num_envs)), threads=args.threads)
            try:
                rates = measure(backend, args.seconds, args.repeats)
            finally:
                backend.close()
            row = {
                "env": env_id,
                "backend": kind,
                "num_envs": num_envs,
                "threads": args.threads,
                "env_steps_per_second": round(statistics.median(rates)),
                "repeats": [round(rate) for rate in rates],
                "seconds": args.seconds,
            }
            rows.append(row)
            low, high = round(min(rates)), round(max(rates))
            print(f"{env_id:<22}{kind:<10}{num_envs:>6}{row['env_steps_per_second']:>14,}{low:>12,}{high:>12,}")
    print(f"appended to benchmarks/results/{write_rows('envs', rows).name}")


if __name__ == "__main__":
    main()
